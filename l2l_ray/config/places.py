"""Where the paths of a config lead, in one place: they are made absolute once, before any other process sees them.

Processes of a run work in other folders than the command did: Ray changes those of train workers, and a submitted job
runs in a copy of what was sent, or where the cluster's head was started. So a relative path of a submitted job is
refused by name, unless it names a file that was sent along.
"""

from __future__ import annotations

import os
from pathlib import Path

from l2l_ray.errors import ConfigError
from l2l_ray.storage import StorePath, place


def settled(setting: str, words: str) -> str:
    """Return a folder's path, absolute.

    Args:
        setting: The field that names it, for messages.
        words: A path, relative to where the command was given, or a place in an object store.
    Raises:
        ConfigError: It is relative, and nobody knows to what.
    """
    path = place(words).expanduser()
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
    is_here = bool(words) and not isinstance(path, StorePath) and path.expanduser().is_dir()
    return settled(setting, words) if is_here else words


def settled_file(setting: str, words: str) -> str:
    """Return a file's path as `settled` does; one that was sent along with a submitted job stays relative to it."""
    if is_submitted() and not place(words).expanduser().is_absolute():
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
