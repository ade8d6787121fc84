"""Where the paths of a config lead, in one place: they are made absolute once, before any other process sees them.

What lies below the run root is decided here, too: runs in folders of up to `MAX_DEPTH` names, and beside them what runs
share. A run anywhere else would be in no list.

Processes of a run work in other folders than the command did: Ray changes those of train workers, and a submitted job
runs in a copy of what was sent, or where the cluster's head was started. So a relative path of a submitted job is
refused by name, unless it names a file that was sent along.
"""

from __future__ import annotations

import os
from pathlib import Path

from l2l_ray.errors import ConfigError
from l2l_ray.storage import StorePath, at_home, place

SHARED = ("cache", "data")  # below a run root: what runs share, and the data sets of `l2l label`
MAX_DEPTH = 4  # compare/<data set>/<row> is three levels deep


def require_folder_name(name: str, max_depth: int = 1) -> None:
    """Refuse a name that cannot be a folder's, or leads out of the folder that it is to lie in.

    Args:
        name: One name, or several with slashes between.
        max_depth: How many.
    Raises:
        ValueError: With what is accepted.
    """
    parts = name.split("/")
    are_plain = all(part and part == part.strip() and part[0] != "." for part in parts)
    if not are_plain or len(parts) > max_depth or not name.isprintable():  # what UTF-8 cannot write is not printable
        several = f", or up to {max_depth} with slashes between" if max_depth > 1 else ""
        raise ValueError(
            f"must be the plain name of a folder{several}, got {name!r}; give printable text without a dot or a blank "
            "at the beginning"
        )


def require_run_name(name: str) -> None:
    """Refuse a name under which no list of runs would find a run.

    Raises:
        ValueError: With what is accepted.
    """
    require_folder_name(name, MAX_DEPTH)
    if name.split("/")[0] in SHARED:
        raise ValueError(f"must not begin with {' or '.join(SHARED)}, which runs share, got {name!r}; choose another")


def settled(setting: str, words: str) -> str:
    """Return a folder's path, absolute.

    Args:
        setting: The field that names it, for messages.
        words: A path, relative to where the command was given, or a place in an object store.
    Raises:
        ConfigError: It is relative, and nobody knows to what.
    """
    path = at_home(place(words))
    if path.is_absolute():
        return str(path)
    if is_submitted():
        raise ConfigError(
            f"{setting} is relative, got {words!r}, and a submitted job does not run in the folder it was submitted "
            f"from, but in {Path.cwd()}; give an absolute path that every node has, or a place such as s3://bucket/runs"
        )
    return str(path.absolute())


def settled_model(setting: str, words: str) -> str:
    """Return a model's folder as `settled` does; what is no folder here is a hub id or a name, and stays."""
    path = place(words)
    is_here = bool(words) and not isinstance(path, StorePath) and at_home(path).is_dir()
    return settled(setting, words) if is_here else words


def settled_file(setting: str, words: str) -> str:
    """Return a file's path as `settled` does; one that was sent along with a submitted job stays relative to it."""
    if is_submitted() and not at_home(place(words)).is_absolute():
        if Path(words).exists():
            return words
        raise ConfigError(
            f"{setting} is {words!r}, and there is no such file in {Path.cwd()}, where this submitted job runs; send "
            "it along by `ray job submit --working-dir .`, or give an absolute path"
        )
    return settled(setting, words)


def given_in() -> str | None:
    """Return the folder that relative paths of this command are of; None for a submitted job: its own is soon gone."""
    return None if is_submitted() else str(Path.cwd())


def is_submitted() -> bool:
    """Whether this process was started by `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
