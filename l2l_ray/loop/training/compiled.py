"""The student's passes made by `torch.compile`: what it made is said once, and where it fails the steps go on without.

Compiled are `encode` and `decode`, tensors in and tensors out; words become tokens before them. The first steps take
minutes, and a batch of another size may be compiled again. The teacher is not compiled: it is called with whatever
sizes come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from l2l_ray.errors import ConfigError

if TYPE_CHECKING:
    from l2l_ray.segmenter.model import Segmenter

logger = logging.getLogger(__name__)
T = TypeVar("T")
PASSES = ("encode", "decode")


class Compiled:
    """The compiled passes of a student.

    Args:
        student: Its passes are compiled where they are first called.
    """

    def __init__(self, student: Segmenter) -> None:
        from torch._dynamo.utils import counters  # here, because it takes seconds to import

        self._student = student
        self._is_new = self._is_on = True
        counters.clear()
        for name in PASSES:
            setattr(student, name, torch.compile(getattr(student, name)))

    def run(self, step: Callable[[], T], several_ranks: bool) -> T:
        """Return what a step returns; where the compiler fails, take it again without, from then on.

        Args:
            step: Takes a step with the student; it changes no weight before both passes and their gradients are done.
            several_ranks: Whether other processes take the same step: then nothing is taken again.
        Raises:
            ConfigError: The compiler fails on one of several ranks.
        """
        started = time.monotonic()
        try:
            made = step()
        except Exception as error:
            if not (self._is_on and _is_of_compiler(error)):
                raise
            why = next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
            if several_ranks:
                raise ConfigError(f"torch.compile failed in a train worker: {why}; set loop.compile=false") from error
            self._give_up(why)
        else:
            if self._is_new and self._is_on:
                self._tell(time.monotonic() - started)
            return made
        return step()

    def _tell(self, seconds: float) -> None:
        from torch._dynamo.utils import counters

        self._is_new = False
        breaks = counters["graph_break"]
        first = f" (the first: {' '.join(next(iter(breaks)).split())[:200]})" if breaks else ""
        logger.info(
            "the student is compiled: %d graphs, %d graph breaks%s; the first step took %.0f s",
            counters["stats"]["unique_graphs"],
            breaks.total(),
            first,
            seconds,
        )

    def _give_up(self, why: str) -> None:
        self._is_on = False
        for name in PASSES:
            delattr(self._student, name)
        logger.warning(
            "torch.compile failed, and training goes on without it, slower: %s; set loop.compile=false, or mend its "
            "compiler (on CPUs it needs a C++ one)",
            why,
        )


def _is_of_compiler(error: BaseException) -> bool:
    """Return whether an error comes from the compiler and not from what was compiled."""
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException) or type(error).__module__.startswith("torch._inductor")
