"""Ways to harm a file of a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from l2l_ray.loop.state.run_folder import RunFolder
from tests.whole_run import changed, copy_file


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
