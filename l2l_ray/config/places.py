"""Where the paths of a config lead, in one place: they are made absolute once, before any other process sees them.

What lies below the run root is decided here, too: runs in folders of up to `MAX_DEPTH` names, and beside them what runs
share. A run anywhere else would be in no list.

Processes of a run work in other folders than the command did: Ray changes those of train workers, and a submitted job
runs in a copy of what was sent, or where the cluster's head was started. So a relative path of a submitted job is
refused by name, unless it names a file that was sent along.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePosixPath

from l2l_ray.errors import ConfigError
from l2l_ray.storage import StorePath, at_home, place

SHARED = ("cache", "data")  # below a run root: what runs share, and the data sets of `l2l label`
MAX_DEPTH = 4  # compare/<data set>/<row> is three levels deep


def below(name: str) -> str:
    """Return the name of a folder below another one in its shortest form: `a/b` of `./a//b/`.

    Raises:
        ValueError: It leads elsewhere, or nowhere.
    """
    path = PurePosixPath(name)
    if path == PurePosixPath() or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"must name a folder below another one, got {name!r}; choose a plain name")
    return str(path)


def require_run_name(option: str, name: str, max_depth: int = MAX_DEPTH) -> None:
    """Refuse to begin what no list of runs would find, or nobody could read there.

    Args:
        option: Which names it, for the message.
        name: As `below` returns it.
        max_depth: How many names with slashes between it may have.
    Raises:
        ConfigError: With the reason.
    """
    parts = name.split("/")
    reasons = {
        f"{' and '.join(SHARED)} hold what runs share": parts[0] in SHARED,
        f"it has {len(parts)} names with slashes between, and runs are looked for {max_depth} deep": (
            len(parts) > max_depth
        ),
        "folders that begin with a dot are not looked into": any(part.startswith(".") for part in parts),
        "a name in it begins or ends with a blank": any(part != part.strip() for part in parts),
        "it has a character that ends a line or controls a terminal": any(
            unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in name
        ),
    }
    if why := next((reason for reason, holds in reasons.items() if holds), None):
        raise ConfigError(f"{option} cannot be {name!r}: {why}; choose another")


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
