"""Work on rows, batch by batch; where memory runs out the batches are halved, and one line says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from l2l_ray.device import halved, is_out_of_memory

T = TypeVar("T")


class Batches:
    """How many samples one forward pass outside of training takes.

    Example: `Batches(config.loop.eval_batch).each([0, 1, 2], predict_rows)`

    Args:
        size: As many at first.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def each(self, rows: list[int], work: Callable[[list[int]], T]) -> Iterator[T]:
        """Yield what `work` makes of each batch of rows, in order.

        Raises:
            ConfigError: One sample does not fit into memory.
        """
        start = 0
        while start < len(rows):
            part = rows[start : start + self.size]
            try:
                made = work(part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.size = halved(len(part), "loop.eval_batch", error)
            else:
                yield made
                start += len(part)
                continue
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
