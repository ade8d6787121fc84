"""Stands for `LabelerActor` in tests of the pool: the shard number says what happens. Imports little: starts fast."""

from __future__ import annotations

import os
import time
from pathlib import Path

from l2l_ray.config import RunConfig
from l2l_ray.errors import LedgerError
from l2l_ray.loop.state.plan import LabelItem, WorkItem

KILLS_ONCE, HANGS_ONCE, KILLS_ALWAYS, DISK_FULL = 1, 2, 66, 77


class DyingWorker:
    """Answers a label item with its shard number, unless that number is one of the above."""

    def __init__(self, config: RunConfig, coordinator: object, name: str) -> None:
        self._scratch = Path(config.run_dir)

    def ready(self) -> int:
        return os.getpid()

    def work(self, item: WorkItem) -> int:
        assert isinstance(item, LabelItem)
        marker = self._scratch / f"tried-{item.shard}"
        first = not marker.exists()
        marker.touch()
        if item.shard == KILLS_ALWAYS or (item.shard == KILLS_ONCE and first):
            os._exit(9)
        if item.shard == HANGS_ONCE and first:
            time.sleep(3600.0)
        if item.shard == DISK_FULL:
            raise LedgerError("no space left on device")
        return item.shard
