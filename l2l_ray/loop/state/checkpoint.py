"""What lies in a version folder, and how it is written and read.

    teacher.safetensors  selector.safetensors   what labels: published together as one version
    student.safetensors  train_state.pt         what training needs to continue (optimisers, position)
    version.json                                a `Position`, and the digest of every file beside it; written last, so
                                                a folder with it is whole

Labelers read the first two (safetensors maps them into memory); nothing travels through an object store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from l2l_ray.errors import FREE_SPACE, HEALS, CheckpointError
from l2l_ray.files import replacing
from l2l_ray.loop.state.digests import Digest, sealed, unsealed
from l2l_ray.loop.state.position import Position
from l2l_ray.storage import local_copy

TRAINING_FILES = ("student.safetensors", "train_state.pt")  # of a version folder: what only training needs


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state as safetensors.

    Raises:
        CheckpointError: The file could not be written.
    """
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in module.state_dict().items()}
    try:
        save_file(_without_aliases(state), path)
    except (OSError, SafetensorError) as error:
        raise _not_written(path, error) from error


def load_weights(module: nn.Module, path: Path, device: str | torch.device = "cpu") -> None:
    """Load `path` into `module`, which must have exactly these tensors.

    Raises:
        CheckpointError: Missing or damaged file, or tensors that do not fit (the first few are named).
    """
    try:
        state = load_file(_whole(path), device=str(device))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read weights {path}: {error}; {HEALS}") from error
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
        raise _not_written(path, error) from error


def load_train_state(path: Path) -> dict[str, Any]:
    """Read what `save_train_state` wrote, to the CPU whatever device wrote it; tensors and plain containers only.

    Raises:
        CheckpointError: Missing or damaged file.
    """
    try:
        state: dict[str, Any] = torch.load(_whole(path), map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise CheckpointError(f"cannot read training state {path}: {error}; {HEALS}") from error
    return state


def write_position(folder: Path, position: Position) -> None:
    """Write version.json, the sign that the folder is whole, with the digests of all that lies in it.

    Raises:
        CheckpointError: The file could not be written.
    """
    path = folder / "version.json"
    try:
        files = {file.name: asdict(Digest.of(file)) for file in sorted(folder.iterdir()) if file != path}
        path.write_text(json.dumps(sealed({**asdict(position), "files": files})))
    except OSError as error:
        raise _not_written(path, error) from error


def read_position(folder: Path) -> Position:
    """Read version.json.

    Raises:
        CheckpointError: The folder is not a whole version.
    """
    return _read_version(folder)[0]


def problems_in(folder: Path, name: str | None = None, content: Path | None = None) -> dict[str, str]:
    """Say what is wrong with the files of a version folder: name -> problem, nothing where all is as it was written.

    Where version.json itself is damaged, nothing can be said of the others. Of a folder of an older version nothing is
    known.

    Args:
        folder: The folder.
        name: The one file to look at; None = all that version.json lists.
        content: A copy of this one file, to be looked at instead.
    """
    version = folder / "version.json"
    if not version.exists():
        return {version.name: "it is missing"}
    try:
        digests = _read_version(folder)[1]
    except CheckpointError:
        return {version.name: "its content is damaged" if version.stat().st_size else "it is empty"}
    wanted = [each for each in digests if name in (None, each)]
    found = {each: digests[each].problem(content or folder / each) for each in wanted}
    return {each: problem for each, problem in found.items() if problem is not None}


def forget_files(folder: Path, names: Iterable[str]) -> None:
    """Leave files out of version.json: they are about to be removed, and the folder is whole without them.

    Raises:
        CheckpointError: The folder is not a whole version, or the file could not be written.
    """
    path = folder / "version.json"
    position, digests = _read_version(folder)
    files = {name: asdict(digest) for name, digest in digests.items() if name not in set(names)}
    try:
        with replacing(path, durable=True) as temporary:
            temporary.write_text(json.dumps(sealed({**asdict(position), "files": files})))
    except OSError as error:
        raise _not_written(path, error) from error


def _read_version(folder: Path) -> tuple[Position, dict[str, Digest]]:
    try:
        record = unsealed((folder / "version.json").read_text())
        files = {name: Digest(**digest) for name, digest in record.pop("files", {}).items()}
        return Position(**record), files
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} is not a whole version: {error}; {HEALS}") from error


def _whole(path: Path) -> Path:
    """Return a file of this machine with the content of `path`.

    Raises:
        CheckpointError: It is not what version.json beside it says; where there is none, it cannot be told.
        OSError: It is missing, or its store does not answer.
    """
    found = local_copy(path)
    if (path.parent / "version.json").exists():
        problems = problems_in(path.parent, path.name, found)
        if problems:
            told = ", ".join(f"{name}: {what}" for name, what in problems.items())
            raise CheckpointError(f"cannot read {path}: {told}; {HEALS}")
    return found


def _misfit(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} does not fit this model: {what}; it was written with another segmenter or selector config"
    )


def _not_written(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"cannot write {path}: {error}; {FREE_SPACE}")


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
