"""A run that was killed in its last round, and ways to harm a file of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.loop.local import run_local
from l2l_ray.loop.state.run_folder import RunFolder
from tests.whole_run import changed, copy_file


class Killed(BaseException):
    """Stands in for SIGKILL: nothing of ours catches it."""


def killed_before(config: RunConfig, target: str) -> RunFolder:
    """Run until the file or folder whose path ends in `target` would get its name."""
    replace = os.replace

    def dies(source: str | Path, final: str | Path) -> None:
        if str(final).endswith(target):
            raise Killed
        replace(source, final)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", dies)
        run_local(config)
    return RunFolder(config.run_dir, config)


def copy_of(run: RunFolder, name: str) -> RunFolder:
    """Copy a run beside itself, where it shares the cache, to be continued; its weights are links."""
    config = changed(run.config, name=name, resume=True)
    shutil.copytree(run.path, config.run_dir, copy_function=copy_file)
    return RunFolder(config.run_dir, config)


def _changed(path: Path, content: bytes) -> None:
    path.unlink()  # it may be a link
    path.write_bytes(content)


def flip(path: Path) -> None:
    """Flip one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    _changed(path, content)


def cut(path: Path) -> None:
    """Lose the second half."""
    content = path.read_bytes()
    _changed(path, content[: len(content) // 2])


def empty(path: Path) -> None:
    """Lose everything but the name."""
    _changed(path, b"")


HARMS: dict[str, Callable[[Path], None]] = {"flipped": flip, "cut": cut, "empty": empty, "missing": Path.unlink}
