"""A step in pieces: samples go through the student a few at a time and their gradients add up, as memory allows.

Every loss is a sum over samples divided by the size of the global batch, so the pieces of a batch add up to the batch:
the same step, but for rounding. Where memory runs out, the pieces are halved, then and for the rest of the process; one
line says so. With several ranks that would need all of them to agree in the middle of a step, so there it is an error
that names the setting.

Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch.nn.parallel import DistributedDataParallel

from l2l_ray.device import halved, is_out_of_memory
from l2l_ray.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn


class Pieces:
    """How many samples go through the student at once.

    Args:
        size: As many; None = all of a step.
    """

    def __init__(self, size: int | None) -> None:
        self.size = size

    def sum_of(
        self,
        losses_of: Callable[[slice], tuple[Float[Tensor, ""], Float[Tensor, " 3"]]],
        count: int,
        student: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> Float[Tensor, " 3"]:
        """Set the gradients of a step and return the sum of its pieces' terms.

        Args:
            losses_of: Returns the loss of some samples, whose gradients are wanted, and terms to be summed.
            count: Samples of the step.
            student: The segmenter, or its DDP wrapper, whose ranks exchange gradients once, at the last piece.
            optimizer: Whose gradients are set.
        Raises:
            ConfigError: There is not enough memory, and nothing is left to halve.
        """
        while True:
            size = min(self.size or count, count)
            try:
                return self._once(losses_of, count, size, student, optimizer)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if isinstance(student, DistributedDataParallel) and size > 1:
                    raise ConfigError(
                        f"{size} samples at once do not fit into the memory of a train worker: "
                        f"{str(error).splitlines()[0][:200]}; set loop.micro_batch={size // 2}, which changes memory "
                        "and not the step"
                    ) from error
                self.size = halved(size, "loop.micro_batch", error)
            optimizer.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _once(
        self,
        losses_of: Callable[[slice], tuple[Float[Tensor, ""], Float[Tensor, " 3"]]],
        count: int,
        size: int,
        student: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> Float[Tensor, " 3"]:
        total: Tensor | None = None
        for start in range(0, count, size):
            more = start + size < count
            with student.no_sync() if more and isinstance(student, DistributedDataParallel) else nullcontext():
                loss, terms = losses_of(slice(start, start + size))
                if total is None:
                    # Not before the forward pass: there the memory would go back to the system and be fetched again.
                    optimizer.zero_grad(set_to_none=True)
                loss.backward()
            total = terms if total is None else total + terms
        assert total is not None, "a step has samples"
        return total
