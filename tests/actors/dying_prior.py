"""Stands for `PriorActor` in tests of the pool: the expression says what happens. Imports little: starts fast."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from l2l_ray.config import PriorConfig
from l2l_ray.loop.inference.asking import Question
from l2l_ray.prior.prompt import PromptFormat, prompt_for
from l2l_ray.prior.reply import MllmIdentity, Reply

FINE, HANGS, KILLS, STOPS_ONCE, SLOW = "fine", "hangs", "kills", "stops once", "slow"
DEVICE_FAILS_ONCE = "device fails once"
SLOW_S = 6.0


def _prompt() -> PromptFormat:
    return prompt_for("qwen2_vl", "auto", "box")


class DyingPrior:
    """Answers every question with its key, unless an expression is one of the above."""

    def __init__(self, config: PriorConfig, num_threads: int, name: str, run: str) -> None:
        self._busy = asyncio.Lock()  # one batch at a time, as one accelerator does

    async def ready(self) -> MllmIdentity:
        return MllmIdentity("f00d", _prompt())

    async def beat(self) -> int:
        return os.getpid()

    async def ask(self, questions: list[Question]) -> tuple[list[Reply], MllmIdentity, list[str]]:
        async with self._busy:
            asked = {question.expression for question in questions}
            if HANGS in asked:
                await asyncio.sleep(3600.0)
            if SLOW in asked:
                await asyncio.sleep(SLOW_S)
            if KILLS in asked:
                os._exit(9)
            for question in questions:
                marker = Path(question.image_path)
                if question.expression == DEVICE_FAILS_ONCE and not marker.exists():
                    from l2l_ray.device import DeviceFailed

                    marker.touch()
                    raise DeviceFailed("the device of the language model failed")
                if question.expression == STOPS_ONCE and not marker.exists():
                    marker.touch()
                    os.kill(os.getpid(), signal.SIGSTOP)
            return [Reply((question.key,), (-0.1,), 8, 8) for question in questions], await self.ready(), []


class WithoutReplacement(DyingPrior):
    """Only the first of each name comes up; those that take a lost one's place wait, as for a node that never comes."""

    def __init__(self, config: PriorConfig, num_threads: int, name: str, run: str) -> None:
        super().__init__(config, num_threads, name, run)
        if "." in name:
            time.sleep(3600.0)


class OtherReplacement(DyingPrior):
    """Those that take a lost one's place hold another model."""

    def __init__(self, config: PriorConfig, num_threads: int, name: str, run: str) -> None:
        super().__init__(config, num_threads, name, run)
        self._fingerprint = "beef" if "." in name else "f00d"

    async def ready(self) -> MllmIdentity:
        return MllmIdentity(self._fingerprint, _prompt())


class NeverStarts(DyingPrior):
    """Fails at its start."""

    def __init__(self, config: PriorConfig, num_threads: int, name: str, run: str) -> None:
        raise RuntimeError("it was started")
