"""One frozen MLLM in an actor, with SAM where it draws masks: a micro-batcher merges the calls of several clients.

One actor owns one accelerator (or one `prior_gpu` slot). Generation runs in a thread, so the actor answers heartbeats
and statistics meanwhile. Who asks it is `actors.priors.PriorPool`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time

from l2l_ray.actors.batching import MicroBatcher
from l2l_ray.actors.logs import KeptNotes, log_as
from l2l_ray.actors.telemetry import Meters
from l2l_ray.config import PriorConfig
from l2l_ray.loop.inference.asking import Question, answer_batch
from l2l_ray.prior.loading import PriorModels
from l2l_ray.prior.reply import MllmIdentity, Reply

logger = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0  # Ray's agent forgets a gauge that is not set for two report intervals


class PriorActor:
    """One frozen MLLM, with SAM where that draws masks, behind a micro-batcher.

    Example: `ray.remote(PriorActor).options(name="prior-0", ...).remote(config.prior, 1, "prior-0", "run")`
    """

    def __init__(self, config: PriorConfig, num_threads: int, name: str, run: str) -> None:
        import torch

        torch.set_num_threads(num_threads)
        log_as(run, name)
        self._notes = KeptNotes()
        self._name, self._run = name, run
        self._meters = Meters(run)
        self._models = PriorModels(config)
        self._models.load()
        self._identity = self._models.identity()
        self._batcher = MicroBatcher(self._generate, config.batch_size, config.max_wait_s)
        self._reporter: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        """Return whose prior actor it is, for Ray's dashboard."""
        return f"{self._name} of {self._run}"

    async def beat(self) -> int:
        """Return this actor's process id: it answers, also while it generates."""
        return os.getpid()

    async def ready(self) -> MllmIdentity:
        """Return which models these are: they are loaded."""
        return self._identity

    async def ask(self, questions: list[Question]) -> tuple[list[Reply], MllmIdentity, list[str]]:
        """Answer questions, in order; return also whose answers these are, and what was noted since the last one."""
        if self._reporter is None:
            self._reporter = asyncio.create_task(self._report())
        return await self._batcher.submit(questions), self._identity, self._notes.taken()

    async def _report(self) -> None:
        """Show the queue and the last batch about once a second, also while nothing is asked."""
        while True:
            self._meters.set("l2l_prior_queue", self._batcher.queue_length, actor=self._name)
            self._meters.refresh()
            await asyncio.sleep(REPORT_EVERY_S)

    def _generate(self, questions: list[Question]) -> list[Reply]:
        started = time.monotonic()
        replies = answer_batch(self._models, questions)
        logger.info("answered %d questions in %.1f s", len(replies), time.monotonic() - started)
        self._meters.observe("l2l_prior_latency_s", time.monotonic() - started, actor=self._name)
        self._meters.set("l2l_prior_batch", len(replies), actor=self._name)
        self._meters.add("l2l_prior_answers_total", len(replies), actor=self._name)
        return replies
