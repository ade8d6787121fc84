"""The prior service: frozen MLLMs in actors (`prior_actor`), asked in batches with a bounded number in flight.

An answer is a pure function of the question, so asking twice is harmless: an actor that died, is silent (`liveness`) or
takes far longer than its like is replaced, and what it was asked is asked again, alone from the third time on. A
question that costs an actor more often than `cluster.max_item_retries` allows gets no prior, with the reason. Only who
is up is asked: an actor that does not come up costs no question anything. Who stores answers, and that nothing stored
is asked again, is `loop.inference.priors`.

Time is counted as it is seen to pass, so a driver that was itself held up accuses nobody (`LOOK_S`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayTaskError, TaskCancelledError

from l2l_ray.actors.cluster import (
    LOST,
    actor_options,
    end_in_order,
    own_error,
    prior_of_actors,
    require_startable,
    start_actor,
)
from l2l_ray.actors.liveness import LEAST_PATIENCE_S, LOOK_S, Durations, Heartbeats, Looks, limit_words
from l2l_ray.actors.logs import Relay
from l2l_ray.actors.prior_actor import PriorActor
from l2l_ray.config import RunConfig
from l2l_ray.device import DeviceFailed
from l2l_ray.errors import ClusterError
from l2l_ray.loop.inference.asking import Question, Who
from l2l_ray.loop.inference.priors import Answered
from l2l_ray.prior.mllm import MllmIdentity, Reply
from l2l_ray.wording import counted

logger = logging.getLogger(__name__)

# Batches per actor that are asked but not answered: one in work, one waiting, so the accelerator never idles.
IN_FLIGHT_PER_ACTOR = 2
LOOK_AGAIN_S = 0.2  # while nobody is up
CLOSE_TIMEOUT_S = 20.0  # how long cancelled questions may take to end; a moment, unless an actor hangs
TRIES_TOGETHER = 2  # a batch may be lost with its actor so often before its questions are asked one by one
MAX_GIVEN_UP_IN_A_ROW = 8  # questions; then it is not the questions


@dataclass
class _Batch:
    """Questions that are asked together, and how often that cost their actor."""

    questions: list[Question]
    losses: int = 0

    @property
    def who(self) -> Who:
        """Whom it is for: a batch is for one model, and each takes its own time."""
        return self.questions[0].who


@dataclass
class _Worker:
    """One prior actor, and what it is asked, the oldest first: that one is in work."""

    name: str
    actor: ActorHandle[PriorActor]
    asked: list[tuple[ray.ObjectRef[tuple[list[Reply], MllmIdentity, list[str]]], _Batch]] = field(default_factory=list)
    seconds: float = 0.0  # how long the oldest has been in work
    fault: str = ""  # why it was killed


class PriorPool:
    """The driver's side: some prior actors, asked with a bounded number of batches in flight.

    `given_up` holds what came instead of answers, by the questions' keys.

    Example: `fill_all_priors(config, run, data, pool)`
    """

    def __init__(self, config: RunConfig, namespace: str) -> None:
        """Start the actors; they load while the caller goes on.

        Args:
            config: The run's config.
            namespace: Ray namespace of the run.
        """
        self.given_up: dict[str, Reply] = {}
        self._cluster = cluster = config.cluster
        self._namespace = namespace
        self._run = config.run_name
        self._beats = Heartbeats(cluster.heartbeat_timeout_s, cluster.start_timeout_s)
        # A server's answers have limits of their own (`prior.timeout_s`), and its being busy is no fault of an actor.
        least_s = math.inf if config.prior.url else LEAST_PATIENCE_S
        self._took = defaultdict[Who, Durations](lambda: Durations(least_s))
        self._looks = Looks()
        self._open: list[_Batch] = []  # to be asked next: lost with their actors, or the next one
        self._given_up_in_a_row = 0
        self._num_started = 0
        self._relay = Relay()
        self._closing = threading.Lock()  # held while a question is sent, so that none is sent after `close`
        self._closed = False
        self._identity: MllmIdentity | None = None
        self._greeting: list[ray.ObjectRef[Any]] = []  # the question who it is, which an actor answers when it is up
        self._prior = prior_of_actors(config)
        self._workers = [self._start(f"prior-{index}") for index in range(cluster.num_priors)]

    def identity(self) -> MllmIdentity:
        """Wait until an actor is up; return which model it holds. That the others hold it too, their answers say.

        It is asked once: one that hangs later is noticed, and replaced, while it is asked for priors.

        Raises:
            ClusterError: None comes up, or the pool was closed.
        """
        self._require_open()
        while self._identity is None:
            self._require_open()
            self._kill_late()
            self._identity = next((found for worker in self._up() if (found := self._greet(worker)) is not None), None)
            if self._identity is None:
                time.sleep(LOOK_AGAIN_S)
        return self._identity

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        """Yield every batch with its replies, as they finish; for one caller at a time.

        Raises:
            ClusterError: Actors are lost whatever they are asked, do not come up or hold different models, or the pool
                was closed meanwhile.
        """
        source = iter(batches)
        self.identity()
        while True:
            while (worker := self._least_busy()) is not None and self._has_more(source):
                self._send(worker, self._open.pop(0))
            if waiting := [ref for worker in self._workers for ref, _ in worker.asked]:
                ray.wait(waiting, num_returns=1, timeout=LOOK_S)
            elif self._has_more(source):  # and nobody is up
                time.sleep(LOOK_AGAIN_S)
            else:
                return
            self._count_time()
            for worker in list(self._workers):
                while self._has_answered(worker):
                    if (answered := self._take(worker)) is not None:
                        self.given_up |= {q.key: r for q, r in zip(*answered, strict=True) if r.failure}
                        yield answered
            self._kill_late()

    def close(self) -> None:
        """Cancel what is still asked, whose thread then gets an error; release the actors and what they hold."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            asked = [*self._greeting, *(ref for worker in self._workers for ref, _ in worker.asked)]
        for ref in asked:
            ray.cancel(ref)
        if asked:
            ray.wait(asked, num_returns=len(asked), timeout=CLOSE_TIMEOUT_S)
        for worker in self._workers:
            if not self._beats.is_up(worker.name):  # it may load for long yet
                ray.kill(worker.actor)
        end_in_order([worker.actor for worker in self._workers if self._beats.is_up(worker.name)])

    def _start(self, name: str) -> _Worker:
        options = actor_options(name, self._namespace, self._cluster.prior_resources) | {"max_concurrency": 64}
        args = (self._prior, self._cluster.threads_per_prior, name, self._run)
        worker = _Worker(name, start_actor(PriorActor, options, *args))
        self._beats.watch(name, worker.actor)
        return worker

    def _greet(self, worker: _Worker) -> MllmIdentity | None:
        """Return which model an actor that is up holds; None = it does not say, and its heartbeat tells why."""
        with self._closing:
            self._require_open()
            self._greeting = [worker.actor.ready.remote()]
        try:
            identity: MllmIdentity = ray.get(self._greeting[0], timeout=LOOK_S)
        except TaskCancelledError:
            raise _closed() from None
        except (GetTimeoutError, *LOST):
            return None
        return identity

    def _require_open(self) -> None:
        if self._closed:
            raise _closed()

    def _up(self) -> list[_Worker]:
        """Return who can be asked at all."""
        return [worker for worker in self._workers if self._beats.is_up(worker.name) and not worker.fault]

    def _least_busy(self) -> _Worker | None:
        """Return who can be asked what comes next; None = nobody now.

        A batch that cost an actor is asked by itself, so that it alone is to blame.
        """
        least = min(self._up(), key=lambda worker: len(worker.asked), default=None)
        if least is None or not least.asked:
            return least
        is_suspect = least.asked[0][1].losses or (self._open and self._open[0].losses)
        return None if is_suspect or len(least.asked) >= IN_FLIGHT_PER_ACTOR else least

    def _has_more(self, source: Iterator[list[Question]]) -> bool:
        """Whether there is something to ask; a batch is taken from the caller only when it is."""
        if not self._open and (questions := next(source, None)) is not None:
            self._open.append(_Batch(questions))
        return bool(self._open)

    def _send(self, worker: _Worker, batch: _Batch) -> None:
        with self._closing:
            self._require_open()
            if not worker.asked:
                worker.seconds = 0.0
            worker.asked.append((worker.actor.ask.remote(batch.questions), batch))

    def _take(self, worker: _Worker) -> Answered | None:
        """Return what the oldest question of a worker came to; None where it is asked again."""
        ref, batch = worker.asked[0]
        try:
            replies, identity, notes = ray.get(ref)
        except TaskCancelledError:
            raise _closed() from None
        except RayTaskError as error:
            if not isinstance(found := own_error(error), DeviceFailed):
                raise found from None
            logger.warning("%s: %s", worker.name, found)
            ray.kill(worker.actor)
            return self._lost(worker, batch, found)
        except LOST as error:
            return self._lost(worker, batch, error)
        if identity != (first := self.identity()):
            got, expected = (f"{one.fingerprint} {one.sam}".rstrip() for one in (identity, first))
            raise ClusterError(
                f"{worker.name} holds another model than the prior actor that came up first: fingerprint {got}, "
                f"expected {expected}; give all nodes the same files, and name prior.dtype where machines differ; what "
                "was answered before is stored, --resume continues"
            )
        self._relay.say(notes)
        worker.asked.pop(0)
        self._took[batch.who].add(worker.seconds)
        worker.seconds = 0.0
        self._given_up_in_a_row = 0
        return batch.questions, replies

    def _has_answered(self, worker: _Worker) -> bool:
        """Whether the oldest question of a worker has come to an end."""
        return bool(worker.asked and ray.wait([worker.asked[0][0]], timeout=0)[0])

    def _count_time(self) -> None:
        passed = self._looks.passed_s()
        for worker in self._workers:
            worker.seconds += passed

    def _kill_late(self) -> None:
        """Kill who is silent or takes too long: its calls fail then."""
        most_tries, most_s = self._cluster.max_item_retries, self._cluster.work_timeout_s
        for name in self._beats.silent():
            worker = next(worker for worker in self._workers if worker.name == name)
            if not worker.fault:
                self._beats.failed_start(name, self._beats.fault(name), most_tries)
                self._kill(worker, self._beats.fault(name))
        for name, error in self._beats.dead().items():
            worker = next(worker for worker in self._workers if worker.name == name)
            if not worker.asked:  # else its calls fail
                require_startable(name, error)
                self._beats.failed_start(name, f"died: {error}", most_tries)
                logger.warning("%s was lost while idle; another one takes its place", name)
                self._replace(worker)
        for worker in self._workers:
            if worker.fault or not worker.asked or self._has_answered(worker):
                continue
            batch = worker.asked[0][1]
            if worker.seconds > (limit_s := self._took[batch.who].patience_s(most_s)):
                limit = limit_words(limit_s, most_s)
                self._kill(worker, f"has been at {len(batch.questions)} questions for longer than {limit}")

    def _kill(self, worker: _Worker, fault: str) -> None:
        worker.fault = fault
        logger.warning("%s %s; another one takes its place", worker.name, fault)
        ray.kill(worker.actor)
        if not worker.asked:
            self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        self._beats.forget(worker.name)
        self._num_started += 1
        name = f"{worker.name.split('.')[0]}.{self._num_started}"  # the old one is taken until Ray has buried it
        with self._closing:
            self._require_open()
            self._workers[self._workers.index(worker)] = self._start(name)

    def _lost(self, worker: _Worker, batch: _Batch, error: Exception) -> Answered | None:
        """Put a fresh actor in a lost one's place; return "no prior" for a question that has cost too many.

        Raises:
            ClusterError: It is not the questions: many in a row were given up.
        """
        require_startable(worker.name, error)
        if not worker.fault:  # else it was said
            questions = counted(len(batch.questions), "question")
            logger.warning("%s was lost with %s; another one takes its place", worker.name, questions)
        batch.losses += 1
        self._open[:0] = [other for _, other in worker.asked[1:]]  # they only waited there
        worker.asked.clear()
        self._replace(worker)
        if len(batch.questions) > 1:
            alone = batch.losses >= TRIES_TOGETHER
            self._open[:0] = [_Batch([q], batch.losses) for q in batch.questions] if alone else [batch]
            return None
        if batch.losses <= self._cluster.max_item_retries:
            self._open.insert(0, batch)
            return None
        self._given_up_in_a_row += 1
        if self._given_up_in_a_row > MAX_GIVEN_UP_IN_A_ROW:
            remedy = (
                "look at the device of their machine"
                if isinstance(error, DeviceFailed)
                else "lower prior.batch_size, raise cluster.work_timeout_s where that was the limit, or look at the "
                "memory of their machine"
            )
            raise ClusterError(
                f"prior actors were lost at each of {self._given_up_in_a_row} questions in a row, the last because it "
                f"{worker.fault or 'died'}: {error}; expected answers: {remedy}; --resume continues"
            ) from error
        reply = Reply.failed(
            "hung" if worker.fault else "died", f"{batch.losses} prior actors; {worker.fault or error}"
        )
        return batch.questions, [reply]


def _closed() -> ClusterError:
    return ClusterError("the prior service was closed while it was asked; start the run again")
