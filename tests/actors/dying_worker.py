"""Stands for `LabelerActor` in tests of the pool: the shard number says what happens. Imports little: starts fast."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import ray

from l2l_ray.actors.liveness import HEARTBEAT
from l2l_ray.config import RunConfig
from l2l_ray.errors import LedgerError
from l2l_ray.loop.state.ledger import Attempt
from l2l_ray.loop.state.plan import EvalItem, WorkItem
from l2l_ray.selector.registry import PRIOR_ONLY

KILLS_ONCE, HANGS_ONCE, STOPS_ONCE, SLOW_ONCE, LATE_ERROR, A_WHILE, KILLS_ALWAYS, DISK_FULL = 1, 2, 3, 4, 8, 9, 66, 77
HANGS_ALWAYS, FAILS_ONCE, FAILS_ALWAYS = 67, 68, 69
SLOW_S = 600.0
A_WHILE_S = 11.0
SLICE_S = 3.0  # of a version; a slice of the prior alone takes no time


class DyingWorker:
    """Answers a slice with its start, a label item with its shard number, unless that number is one of the above."""

    def __init__(self, config: RunConfig, coordinator: object, name: str) -> None:
        self._scratch = Path(config.run_dir)

    def ready(self) -> int:
        return os.getpid()

    @ray.method(concurrency_group=HEARTBEAT)
    def beat(self) -> int:
        return os.getpid()

    def work(self, item: WorkItem, attempt: Attempt) -> int:
        if isinstance(item, EvalItem):
            time.sleep(0.0 if item.method == PRIOR_ONLY else SLICE_S)
            return item.start
        marker = self._scratch / f"tried-{item.shard}-{attempt.number}"
        assert not marker.exists(), "no two attempts have one number"
        marker.touch()
        first = attempt.number == 0
        if item.shard == KILLS_ALWAYS or (item.shard == KILLS_ONCE and first):
            os._exit(9)
        if item.shard == HANGS_ALWAYS or (item.shard == HANGS_ONCE and first):
            time.sleep(3600.0)
        if item.shard == STOPS_ONCE and first:
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(3600.0)
        if item.shard == SLOW_ONCE and first:
            time.sleep(SLOW_S)
        if item.shard == A_WHILE:
            time.sleep(A_WHILE_S)
        if item.shard == LATE_ERROR and first:
            while not (self._scratch / f"tried-{item.shard}-1").exists():
                time.sleep(0.1)
            time.sleep(1.0)
            raise LedgerError("this one's disk is full")
        if item.shard == FAILS_ALWAYS or (item.shard == FAILS_ONCE and first):
            raise OSError("the disk of this node cannot be read")
        if item.shard == DISK_FULL:
            raise LedgerError("no space left on device")
        return item.shard


class WithoutReplacement(DyingWorker):
    """Only the first of each name comes up; those that take a lost one's place wait, as for a node that never comes."""

    def __init__(self, config: RunConfig, coordinator: object, name: str) -> None:
        super().__init__(config, coordinator, name)
        if "." in name:
            time.sleep(3600.0)
