"""The command that began a run, as its `env.json` keeps it, and how it is given once more from any folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def words_of(env: Mapping[str, Any]) -> list[str]:
    """Return the words of the command that began a run; `l2l run` where it is not known."""
    command = str(env.get("command") or "l2l run")
    try:
        return shlex.split(command)
    except ValueError:  # of an earlier version, which did not quote them
        return command.split()


def in_its_folder(facts: Mapping[str, Any]) -> str:
    """Return what goes before a command whose paths may be relative; "" where it is not known where it was given."""
    directory = facts.get("directory")
    return f"cd {shlex.quote(directory)} && " if isinstance(directory, str) else ""


def label_command(env: Mapping[str, Any], run_root: Any) -> str:
    """Return the `l2l label` that began a run, to be given once more; "" where something else did.

    Args:
        env: From env.json.
        run_root: From config.yaml; it is added where the command left it to the environment.
    """
    program, *words = words_of(env)
    if Path(program).name not in ("l2l", "cli.py") or words[:1] != ["label"]:
        return ""
    is_given = any(word.partition("=")[0] == "--run_root" for word in words)
    root = ["--run_root", run_root] if isinstance(run_root, str) and not is_given else []
    return in_its_folder(env) + shlex.join(["l2l", *words, *root])
