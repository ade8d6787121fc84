"""What a computation needs of memory: the most bytes that its tensors held at once, the same on every machine.

On GPUs torch counts itself. On CPUs the process's own size says little, since it keeps what it freed; so every result
of every operation is followed from its making to its end. What a kernel takes for itself meanwhile is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(compute: Callable[[], Any], device: torch.device) -> int:
    """Return the most bytes that `compute` held at once, beyond what was there before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        compute()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with _Followed() as followed:
        compute()
    return followed.peak


class _Followed(TorchDispatchMode):
    """Counts the bytes of the tensors that were made under it and are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(storage) for storage in map(_storage, tree_leaves((args, kwargs))) if storage is not None}
        made = func(*args, **(kwargs or {}))
        for storage in map(_storage, tree_leaves(made)):
            # A view, or what was changed in place, is no new memory.
            if storage is not None and id(storage) not in given and id(storage) not in self._known:
                self._known.add(id(storage))
                self._now += storage.nbytes()
                weakref.finalize(storage, self._end, id(storage), storage.nbytes())
        self.peak = max(self.peak, self._now)
        return made

    def _end(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


def _storage(value: object) -> torch.UntypedStorage | None:
    return value.untyped_storage() if isinstance(value, Tensor) else None
