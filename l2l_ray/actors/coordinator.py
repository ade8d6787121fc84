"""The one place that knows what is committed and what is published; the only writer of the ledger.

A named actor of the run. Train workers and labelers wait here instead of polling a disk. Everything it answers is
derived from the run folder when it starts (ledger lines, whole version folders, complete prior files), so a killed and
restarted coordinator gives the same answers, and every call may safely be repeated.

It lives as long as its driver: when the driver dies, waiting workers get an error instead of waiting for ever.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from l2l_ray.actors.telemetry import Meters
from l2l_ray.config import RunConfig
from l2l_ray.errors import L2LError
from l2l_ray.files import replacing
from l2l_ray.loop.state.ledger import Key, Ledger, LedgerEntry
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.selector.registry import makes_labels

NAME = "coordinator"
STATE_EVERY_S = 2.0  # how often state.json is rewritten at most
REFRESH_EVERY_S = 1.0  # how often gauges are set again at most
_RATE_WINDOW_S = 30.0


class RunStopped(L2LError):
    """The driver ended the run while somebody was still waiting for it."""


class Coordinator:
    """Ledger, versions and progress of one run.

    Example: `ray.remote(Coordinator).options(name="coordinator").remote(config, 12)`
    """

    def __init__(self, config: RunConfig, num_shards: int) -> None:
        """Read everything that lies in the run folder.

        Args:
            config: The run's config.
            num_shards: Labelling shards of one round.
        """
        self._run = RunFolder(config.run_dir, config)
        self._num_shards = num_shards
        labeling = [method for method in self._run.methods if makes_labels(method)]
        self._shards_total = len(labeling) * config.loop.rounds * num_shards
        self._ledger = Ledger(self._run.ledger_path)
        self._changed = asyncio.Condition()
        self._stopped = ""
        self._meters = Meters(config.run_name)
        self._rate: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._logged = {(e["method"], e["version"]) for e in self._run.events() if e.get("event") == "train"}
        self._versions: set[tuple[str, int]] = set()
        self._state: dict[str, Any] = {"train": {}, "labels": {}, "priors": {}, "mean_iou": {}}
        self._state_written = self._refreshed = 0.0
        self._learn_versions()

    def ready(self) -> int:
        """Return this actor's process id: it is up."""
        return os.getpid()

    async def committed(self) -> set[Key]:
        """Return the keys of all committed shards."""
        return self._ledger.keys()

    async def has(self, key: Key) -> bool:
        """Whether this shard is committed; labelers ask before they work."""
        return self._ledger.has(key)

    async def commit(self, entry: LedgerEntry) -> bool:
        """Commit a shard; False when it was committed before.

        Raises:
            LedgerError: The ledger could not be written.
        """
        first = self._ledger.commit(entry)
        if first:
            self._count_labels(entry)
            await self._announce()
        return first

    async def published(self) -> set[tuple[str, int]]:
        """Return all (method, version) that lie whole on disk."""
        return set(self._versions)

    async def rescan(self) -> None:
        """Look for versions on disk and tell who waits."""
        self._learn_versions()
        await self._announce()

    async def join(self) -> None:
        """Greet a starting train worker: its predecessor may have died between writing a version and reporting it.

        Raises:
            RunStopped: The driver ended the run.
        """
        self._check_running()
        await self.rescan()

    async def wait_labels(self, method: str, round_index: int, timeout_s: float) -> list[str] | None:
        """Wait until a round is complete; return its files in shard order, or None after `timeout_s`.

        Raises:
            RunStopped: The driver ended the run.
        """
        if await self._wait_until(lambda: self._ledger.complete(method, round_index, self._num_shards), timeout_s):
            return [str(self._run.path / entry.path) for entry in self._ledger.entries(method, round_index)]
        return None

    async def wait_priors(self, table: str, timeout_s: float) -> bool:
        """Wait until the priors of a table are complete; False after `timeout_s`.

        Raises:
            RunStopped: The driver ended the run.
        """
        return await self._wait_until(lambda: self._run.priors_path(table).exists(), timeout_s)

    async def priors_progress(self, table: str, done: int, total: int) -> None:
        """Note how many examples of a table have their prior; at the end, wake those who wait for it."""
        self._state["priors"][table] = {"done": done, "total": total}
        await self._announce()

    async def progress(self, stage: str, done: int, total: int, values: dict[str, float]) -> None:
        """Note how far training is; shown by the driver and in state.json.

        Raises:
            RunStopped: The driver ended the run.
        """
        self._check_running()
        self._state["train"] = {"stage": stage, "done": done, "total": total, **values}
        self._meters.set("l2l_train_done_frac", done / max(1, total), stage=stage)
        for name, value in values.items():
            self._meters.set("l2l_train", value, name=name)
        self._write_state()

    async def evaluated(self, method: str, version: int, split: str, mean_iou: float) -> None:
        """Note a finished evaluation."""
        self._meters.set("l2l_mean_iou", mean_iou, method=method, split=split)
        self._state["mean_iou"][f"{method} v{version} {split}"] = mean_iou
        self._write_state()

    async def state(self) -> dict[str, Any]:
        """Return a summary of the run so far. The driver asks every fraction of a second."""
        if time.monotonic() - self._refreshed >= REFRESH_EVERY_S:
            self._refreshed = time.monotonic()
            self._meters.refresh()
        return self._summary()

    async def stop(self, reason: str) -> None:
        """Make every present and future wait raise `RunStopped`."""
        self._stopped = reason
        self._write_state(force=True)
        await self._announce()

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()
        self._write_state()

    async def _wait_until(self, true: Callable[[], bool], timeout_s: float) -> bool:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: bool(self._stopped) or true()), timeout_s)
            except TimeoutError:
                return False
        self._check_running()
        return True

    def _check_running(self) -> None:
        if self._stopped:
            raise RunStopped(self._stopped)

    def _learn_versions(self) -> None:
        found = {(method, version) for method in self._run.methods for version in self._run.published(method)}
        for method, version in sorted(found - self._versions):
            self._meters.set("l2l_round", version, method=method)
            if (method, version) not in self._logged:
                self._log_training(method, version)
        self._versions = found

    def _log_training(self, method: str, version: int) -> None:
        """Copy the figures that came with a version into metrics.jsonl, once per version."""
        path = self._run.version_dir(method, version) / "metrics.json"
        figures = json.loads(path.read_text()) if path.exists() else {}
        self._run.log_event({"event": "train", "method": method, "version": version, **figures})
        self._logged.add((method, version))
        for name, value in figures.items():
            if "reward/" in name:
                self._meters.set("l2l_reward", value, method=method, term=name.rsplit("/", 1)[1])
            elif isinstance(value, int | float):
                self._meters.set("l2l_train", value, name=name)

    def _count_labels(self, entry: LedgerEntry) -> None:
        now = time.monotonic()
        self._rate.append((now, self._rate[-1][1] + entry.num))
        while len(self._rate) > 2 and now - self._rate[0][0] > _RATE_WINDOW_S:
            self._rate.popleft()
        self._meters.add("l2l_labels_total", entry.num)
        self._meters.set("l2l_labels_per_s", self._labels_per_s())
        self._meters.set("l2l_accepted_frac", entry.accepted_frac, method=entry.method)
        self._state["labels"] = {
            "method": entry.method, "round": entry.round, "accepted_frac": entry.accepted_frac,
            "per_s": self._labels_per_s(),
        }  # fmt: skip

    def _labels_per_s(self) -> float:
        (start, before), (end, after) = self._rate[0], self._rate[-1]
        return (after - before) / max(1e-3, end - start)

    def _write_state(self, force: bool = False) -> None:
        if not force and time.monotonic() - self._state_written < STATE_EVERY_S:
            return
        self._state_written = time.monotonic()
        shown = {"run": str(self._run.path), "updated_unix_s": round(time.time(), 1), "stopped": self._stopped}
        with replacing(self._run.path / "state.json") as temporary:
            temporary.write_text(json.dumps({**shown, **self._summary()}, indent=1))

    def _summary(self) -> dict[str, Any]:
        newest: dict[str, int] = {}
        for method, version in sorted(self._versions):
            newest[method] = version
        shards = {"shards_committed": len(self._ledger.keys()), "shards_total": self._shards_total}
        return {**shards, "newest_version": newest, **self._state}
