"""Weights and training states: the tensors of a version folder, written and read.

Labelers read teacher and selector (safetensors maps them into memory); nothing travels through an object store. What
else lies in such a folder: `version_record`.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from l2l_ray.checkpoints import give_usual_mode
from l2l_ray.errors import HEALS, CheckpointError
from l2l_ray.loop.state.version_record import not_written, whole_copy


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state as safetensors.

    Raises:
        CheckpointError: The file could not be written.
    """
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in module.state_dict().items()}
    try:
        save_file(_without_aliases(state), path)
        give_usual_mode(path)
    except (OSError, SafetensorError) as error:
        raise not_written(path, error) from error


def load_weights(module: nn.Module, path: Path, device: str | torch.device = "cpu", remedy: str = HEALS) -> None:
    """Load `path` into `module`, which must have exactly these tensors.

    Args:
        module: Takes the weights.
        path: The file.
        device: Where they are read to.
        remedy: What to do when the file cannot be read; the end of the message.
    Raises:
        CheckpointError: Missing or damaged file, or tensors that do not fit (the first few are named).
    """
    try:
        state = load_file(whole_copy(path), device=str(device))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read weights {path}: {error}; {remedy}") from error
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:  # tensors of other shapes, strict or not
        raise _misfit(path, " ".join(str(error).split())) from error
    aliases = _aliases(module)
    missing = [name for name in missing if aliases.get(name, name) in missing]
    if missing or unexpected:
        raise _misfit(path, f"missing {missing[:3]}, unexpected {unexpected[:3]}")


def save_train_state(path: Path, state: dict[str, Any]) -> None:
    """Write optimiser states and position.

    Raises:
        CheckpointError: The file could not be written.
    """
    try:
        torch.save(state, path)
    except (OSError, RuntimeError) as error:
        raise not_written(path, error) from error


def load_train_state(path: Path) -> dict[str, Any]:
    """Read what `save_train_state` wrote, to the CPU whatever device wrote it; tensors and plain containers only.

    Raises:
        CheckpointError: Missing or damaged file.
    """
    try:
        state: dict[str, Any] = torch.load(whole_copy(path), map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise CheckpointError(f"cannot read training state {path}: {error}; {HEALS}") from error
    return state


def _misfit(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} does not fit this model: {what}; it was written with another segmenter or selector config"
    )


def _without_aliases(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop tied tensors after their first name: safetensors refuses shared memory."""
    first: dict[int, str] = {}
    for name, tensor in state.items():
        first.setdefault(tensor.data_ptr() if tensor.numel() else id(tensor), name)
    return {name: state[name] for name in first.values()}


def _aliases(module: nn.Module) -> dict[str, str]:
    """Map each tied tensor's later names to its first."""
    first: dict[int, str] = {}
    state = module.state_dict()
    return {n: first.setdefault(t.data_ptr() if t.numel() else id(t), n) for n, t in state.items()}
