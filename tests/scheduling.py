"""How test processes share the tests: by file, and the files with tests on Ray all in one process.

Each process with such a test starts a Ray cluster, which takes as long as many tests; on its own it is undisturbed, as
tests look at its actors and its free resources.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling


@cache
def _uses_ray(file: str, root: str) -> bool:
    return "ray_local" in (Path(root) / file).read_text()


class RayTogether(LoadFileScheduling):
    """As `--dist loadfile`, but the files that name the fixture `ray_local` count as one."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)  # why: it is what a scheduler of one's own is to override
        return "tests on Ray" if _uses_ray(file, str(self.config.rootpath)) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> RayTogether | None:
    """Take the place of `--dist loadfile`; other ways are left as they are."""
    return RayTogether(config, log) if config.getoption("dist") == "loadfile" else None
