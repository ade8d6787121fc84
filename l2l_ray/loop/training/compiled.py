"""The student's passes made by `torch.compile`: what it made is said once, and where it fails the steps go on without.

Compiled are `encode` and `decode`, tensors in and tensors out; words become tokens before them. The first steps take
minutes, and a batch of another size may be compiled again. The teacher is not compiled: it is called with whatever
sizes come.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from l2l_ray.segmenter.model import Segmenter

logger = logging.getLogger(__name__)
PASSES = ("encode", "decode")


class Compiled:
    """The compiled passes of a student.

    Args:
        student: Its passes are compiled where they are first called.
    """

    def __init__(self, student: Segmenter) -> None:
        from torch._dynamo.utils import counters  # here, because it takes seconds to import

        self._student = student
        self._since: float | None = time.monotonic()  # until the first step is told of
        counters.clear()
        for name in PASSES:
            setattr(student, name, torch.compile(getattr(student, name)))

    def tell(self) -> None:
        """Say, after the first step, what was compiled, where it breaks off, and how long it took."""
        from torch._dynamo.utils import counters

        if self._since is None:
            return
        breaks = counters["graph_break"]
        first = f" (the first: {' '.join(next(iter(breaks)).split())[:200]})" if breaks else ""
        logger.info(
            "the student is compiled: %d graphs, %d graph breaks%s; the first step took %.0f s",
            counters["stats"]["unique_graphs"],
            breaks.total(),
            first,
            time.monotonic() - self._since,
        )
        self._since = None

    def give_up(self, error: BaseException) -> None:
        """Go back to the passes as they are written, and say why."""
        for name in PASSES:
            delattr(self._student, name)
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
        logger.warning(
            "torch.compile failed, and training goes on without it, slower: %s; set loop.compile=false, or mend its "
            "compiler (on CPUs it needs a C++ one)",
            why,
        )


def failed_to_compile(error: BaseException) -> bool:
    """Return whether an error comes from the compiler and not from what was compiled."""
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException) or type(error).__module__.startswith("torch._inductor")
