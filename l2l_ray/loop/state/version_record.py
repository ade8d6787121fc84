"""version.json: where training stands, and the digest of every file beside it. It is written last.

teacher.safetensors  selector.safetensors   what labels: published together as one version
student.safetensors  train_state.pt         what training needs to continue (optimisers, position)
version.json                                a `Position` and the digests, so a folder with it is whole
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from l2l_ray.errors import HEALS, CheckpointError, run_remedy
from l2l_ray.files import replacing
from l2l_ray.loop.state.digests import Digest, sealed, unsealed
from l2l_ray.loop.state.position import Position
from l2l_ray.storage import local_copy

TEACHER = "teacher.safetensors"
TRAINING_FILES = ("student.safetensors", "train_state.pt")  # of a version folder: what only training needs


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
        raise not_written(path, error) from error


def read_position(folder: Path) -> Position:
    """Read version.json.

    Raises:
        CheckpointError: The folder is not a whole version.
    """
    return _read_version(folder)[0]


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 of the weights that a version labels with; "" where version.json does not say.

    A model that was trained anew has other ones than the one before, whatever its name and number.

    Raises:
        CheckpointError: version.json is damaged.
    """
    if not (folder / "version.json").exists():
        return ""
    found = _read_version(folder)[1].get(TEACHER)
    return "" if found is None else found.sha256


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
        raise not_written(path, error) from error


def _read_version(folder: Path) -> tuple[Position, dict[str, Digest]]:
    try:
        record = unsealed((folder / "version.json").read_text())
        files = {name: Digest(**digest) for name, digest in record.pop("files", {}).items()}
        return Position(**record), files
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} is not a whole version: {error}; {HEALS}") from error


def whole_copy(path: Path) -> Path:
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


def not_written(path: Path, error: Exception) -> CheckpointError:
    """Return the error of a file of a version that could not be written."""
    return CheckpointError(f"cannot write {path}: {error}; {run_remedy(error)}")
