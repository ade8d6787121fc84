"""The prior service: frozen MLLMs in named actors, asked in batches by everybody who needs an answer.

One actor owns one accelerator (or one `prior_gpu` slot). Calls of several clients are merged into one `generate` call
by a micro-batcher; generation runs in a thread, so the actor answers health checks and statistics meanwhile. A killed
actor is restarted by Ray and its open calls are asked again: an answer is a pure function of the question, so asking
twice is harmless. Who stores answers, and that nothing stored is asked again, is `loop.inference.priors`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from l2l_ray.actors.cluster import actor_options, device_for, own_error, start_actor, wait_answers
from l2l_ray.actors.telemetry import Meters
from l2l_ray.config import PriorConfig, RunConfig
from l2l_ray.errors import ClusterError
from l2l_ray.loop.inference.priors import Answered, Question, answer_batch
from l2l_ray.prior.mllm import MllmIdentity, MllmPrior, Reply

T = TypeVar("T")
R = TypeVar("R")

# Batches per actor that are asked but not answered: one in work, one waiting, so the accelerator never idles.
IN_FLIGHT_PER_ACTOR = 2
CLOSE_TIMEOUT_S = 20.0  # how long cancelled questions may take to end; a moment, unless an actor hangs
REPORT_EVERY_S = 1.0  # Ray's agent forgets a gauge that is not set for two report intervals


class MicroBatcher(Generic[T, R]):
    """Merge concurrent small calls into few large ones.

    Args:
        run: Called in a thread with at most `max_batch` items; returns one result per item.
        max_batch: Items per call of `run`.
        max_wait_s: How long a first item waits for company.
    """

    def __init__(self, run: Callable[[list[T]], Sequence[R]], max_batch: int, max_wait_s: float) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._queue: asyncio.Queue[tuple[T, asyncio.Future[R]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._worker: asyncio.Task[None] | None = None

    @property
    def queue_length(self) -> int:
        """Items that wait for a batch."""
        return self._queue.qsize()

    async def submit(self, items: Sequence[T]) -> list[R]:
        """Return the result of every item, in order.

        Raises:
            Exception: Whatever `run` raised for a batch with one of these items.
        """
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        futures: list[asyncio.Future[R]] = [asyncio.get_running_loop().create_future() for _ in items]
        for pair in zip(items, futures, strict=True):
            self._queue.put_nowait(pair)
        return list(await asyncio.gather(*futures))

    async def _work(self) -> None:
        while True:
            await self._answer(await self._collect())

    async def _collect(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch = [await self._queue.get()]
        deadline = time.monotonic() + self._max_wait_s
        while len(batch) < self._max_batch:
            left_s = deadline - time.monotonic()
            try:
                if self._queue.empty() and left_s > 0:
                    batch.append(await asyncio.wait_for(self._queue.get(), left_s))
                else:
                    batch.append(self._queue.get_nowait())
            except (TimeoutError, asyncio.QueueEmpty):
                break
        return batch

    async def _answer(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        batch = [(item, future) for item, future in batch if not future.done()]  # nobody waits for the others any more
        if not batch:
            return
        try:
            items = [item for item, _ in batch]
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, items)
        except Exception as error:  # every kind of failure belongs to the callers who asked, not to this loop
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)


class PriorActor:
    """One frozen MLLM behind a micro-batcher.

    Example: `ray.remote(PriorActor).options(name="prior-0", ...).remote(config.prior, 1, "prior-0", "run")`
    """

    def __init__(self, config: PriorConfig, num_threads: int, name: str, run: str) -> None:
        import torch

        torch.set_num_threads(num_threads)
        self._name = name
        self._meters = Meters(run)
        self._mllm = MllmPrior.load(config)
        self._batcher = MicroBatcher(self._generate, config.batch_size, config.max_wait_s)
        self._num_batches = self._num_answers = 0
        self._reporter: asyncio.Task[None] | None = None

    async def ready(self) -> MllmIdentity:
        """Return which model this is: it is loaded."""
        return MllmIdentity.of(self._mllm)

    async def ask(self, questions: list[Question]) -> list[Reply]:
        """Answer questions, in order."""
        if self._reporter is None:
            self._reporter = asyncio.create_task(self._report())
        return await self._batcher.submit(questions)

    async def stats(self) -> dict[str, int]:
        """Return process id, number of batches, number of answers, queue length."""
        return {
            "pid": os.getpid(),
            "batches": self._num_batches,
            "answers": self._num_answers,
            "queue": self._batcher.queue_length,
        }

    async def _report(self) -> None:
        """Show the queue about once a second, also while it is empty."""
        while True:
            self._meters.set("l2l_prior_queue", self._batcher.queue_length, actor=self._name)
            await asyncio.sleep(REPORT_EVERY_S)

    def _generate(self, questions: list[Question]) -> list[Reply]:
        started = time.monotonic()
        replies = answer_batch(self._mllm, questions)
        self._num_batches += 1
        self._num_answers += len(replies)
        self._meters.observe("l2l_prior_latency_s", time.monotonic() - started, actor=self._name)
        self._meters.set("l2l_prior_batch", len(replies), actor=self._name)
        self._meters.add("l2l_prior_answers_total", len(replies), actor=self._name)
        return replies


class PriorPool:
    """The driver's side: some prior actors, asked with a bounded number of batches in flight.

    Example: `fill_all_priors(config, run, data, pool)`
    """

    def __init__(self, config: RunConfig, namespace: str) -> None:
        """Start the actors; they load while the caller goes on.

        Args:
            config: The run's config.
            namespace: Ray namespace of the run.
        """
        self._cluster = cluster = config.cluster
        self._actors: list[ActorHandle[PriorActor]] = []
        self._asked: dict[ray.ObjectRef[Any], tuple[ActorHandle[PriorActor], list[Question]]] = {}
        self._closing = threading.Lock()  # held while a question is sent, so that none is sent after `close`
        self._closed = False
        self._greetings: list[ray.ObjectRef[Any]] = []  # one question to each actor: who are you
        prior = config.prior
        if prior.device == "auto":
            prior = prior.model_copy(update={"device": device_for(cluster.prior_resources)})
        for index in range(cluster.num_priors):
            name = f"prior-{index}"
            options = actor_options(name, namespace, cluster.prior_resources)
            # A question has no side effect, so it may be asked again; one that kills its actor must come to an end.
            options |= {"max_restarts": -1, "max_task_retries": cluster.max_item_retries, "max_concurrency": 64}
            args = (prior, cluster.threads_per_prior, name, config.run_name)
            self._actors.append(start_actor(PriorActor, options, *args))

    def identity(self) -> MllmIdentity:
        """Wait until the actors are up; return which model they hold.

        Raises:
            ClusterError: One did not come up, they hold different models, or the pool was closed.
        """
        with self._closing:
            self._require_open()
            if not self._greetings:
                self._greetings = [actor.ready.remote() for actor in self._actors]
        identities: list[MllmIdentity] = wait_answers("prior actor", self._greetings, self._cluster.start_timeout_s)
        if len(set(identities)) > 1:
            raise ClusterError(f"the prior actors hold different models: {identities}; give all nodes the same files")
        return identities[0]

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        """Yield every batch with its replies, as they finish; for one caller at a time.

        Raises:
            ClusterError: An actor hangs, a batch killed its actor too often, or the pool was closed meanwhile.
        """
        free = self._actors * IN_FLIGHT_PER_ACTOR
        source = iter(batches)
        while True:
            while free and (batch := next(source, None)) is not None:
                actor = free.pop()
                with self._closing:
                    self._require_open()
                    self._asked[actor.ask.remote(batch)] = actor, batch
            if not self._asked:
                return
            ready, _ = ray.wait(list(self._asked), num_returns=1, timeout=self._cluster.work_timeout_s)
            if not ready:
                raise ClusterError(
                    f"no prior actor answered within cluster.work_timeout_s={self._cluster.work_timeout_s:g}; "
                    "lower prior.batch_size, or raise cluster.work_timeout_s"
                )
            actor, batch = self._asked.pop(ready[0])
            yield batch, self._replies(ready[0])
            free.append(actor)

    def stats(self) -> list[dict[str, int]]:
        """Return the statistics of every actor."""
        return ray.get([actor.stats.remote() for actor in self._actors], timeout=self._cluster.start_timeout_s)

    def close(self) -> None:
        """Cancel what is still asked, whose thread then gets an error; release the actors and what they hold."""
        with self._closing:
            self._closed = True
            asked = [*self._greetings, *self._asked]
        for ref in asked:
            ray.cancel(ref)
        if asked:
            ray.wait(asked, num_returns=len(asked), timeout=CLOSE_TIMEOUT_S)
        for actor in self._actors:
            ray.kill(actor)

    def _require_open(self) -> None:
        if self._closed:
            raise ClusterError("the prior service was closed while it was asked; start the run again")

    def _replies(self, ref: ray.ObjectRef[Any]) -> list[Reply]:
        try:
            replies: list[Reply] = ray.get(ref)
        except RayTaskError as error:
            raise own_error(error) from None
        except RayActorError as error:
            limit = self._cluster.max_item_retries
            raise ClusterError(
                f"a batch of questions lost its prior actor more than cluster.max_item_retries={limit} times: {error}"
            ) from error
        return replies
