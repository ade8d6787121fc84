"""The one place that knows what is committed and what is published; the only writer of the ledger.

A named actor of the run. Train workers and labelers wait here instead of polling a disk. Everything it answers is
derived from the run folder when it starts (ledger lines, whole version folders, complete prior files), so a killed and
restarted coordinator gives the same answers, and every call may safely be repeated.

Files are written and read in threads, one at a time, so that everybody else is answered meanwhile.

It lives as long as its driver: when the driver dies, waiting workers get an error instead of waiting for ever. One that
is stopped answers nobody; the driver finds out by its heartbeat and lets Ray start it again (`kept_alive`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayTaskError

from l2l_ray.actors.background import Background
from l2l_ray.actors.cluster import LOST, MAX_RESTARTS, end_in_order, own_error
from l2l_ray.actors.liveness import LOOK_S, Heartbeats
from l2l_ray.actors.logs import about, hand_on, log_as
from l2l_ray.actors.telemetry import Meters
from l2l_ray.config import ClusterConfig, RunConfig
from l2l_ray.errors import ClusterError, L2LError, run_remedy
from l2l_ray.files import replacing
from l2l_ray.loop.progress import LabelProgress, LabelRate, Status, TrainProgress
from l2l_ray.loop.state.ledger import Key, Ledger, LedgerEntry
from l2l_ray.loop.state.position import Stage
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.versions import log_versions
from l2l_ray.loop.state.visibility import seen
from l2l_ray.selector.registry import stores_labels

logger = logging.getLogger(__name__)

NAME = "coordinator"
ANSWER_TIMEOUT_S = 120.0  # it answers in milliseconds; it may hang for `cluster.heartbeat_timeout_s` and be restarted
# A killed coordinator is restarted and asked again. A call that kills it every time must come to an end.
ACTOR_OPTIONS = {"max_restarts": MAX_RESTARTS, "max_task_retries": 10, "max_concurrency": 1000}
STATE_EVERY_S = 2.0  # how often state.json is rewritten at most
REFRESH_EVERY_S = 1.0  # how often gauges are set again at most
MOST_NOTES = 100  # what is noted beyond stands in the actors' logs alone

T = TypeVar("T")


class RunStopped(L2LError):
    """The driver ended the run while somebody was still waiting for it."""


@dataclass(frozen=True, slots=True)
class News:
    """What a driver wants to know at once, and how far the run is.

    Example: `News(4, frozenset({("l2l", 0)}), None, 0, (), Status(shards_total=6))`
    """

    number: int  # of what happened since the coordinator started
    published: frozenset[tuple[str, int]]  # (method, version) that lie whole on disk
    training_error: L2LError | None  # what training failed with on purpose
    train_losses: int  # how often Ray Train lost a worker, since the coordinator started
    notes: tuple[str, ...]  # what the run's actors have warned of, each line once
    status: Status


def answer(ref: ray.ObjectRef[T], timeout_s: float = ANSWER_TIMEOUT_S) -> T:
    """Return what the coordinator answered to a call.

    Raises:
        RunStopped: The driver ended the run.
        L2LError: What the coordinator raised on purpose.
        ClusterError: The coordinator is gone for good, or gave no answer in time.
    """
    try:
        return ray.get(ref, timeout=timeout_s)
    except GetTimeoutError:
        raise ClusterError(f"the coordinator did not answer within {timeout_s:g} s; --resume continues") from None
    except RayTaskError as error:
        raise own_error(error) from None
    except LOST as error:
        raise ClusterError(f"the coordinator is gone: {error}; --resume continues") from error


@contextmanager
def kept_alive(coordinator: ActorHandle[Coordinator], config: ClusterConfig) -> Iterator[Background[None]]:
    """Say so when the coordinator was lost, and let Ray start it again when it is silent, while the block runs.

    A thread looks, because the driver itself may be waiting for the coordinator's answer. After the block it ends.
    """
    ended = threading.Event()
    beats = Heartbeats(config.heartbeat_timeout_s, config.start_timeout_s)
    beats.watch(NAME, coordinator)

    def look() -> None:
        known = 0  # id of its process
        while not ended.wait(LOOK_S):
            for _ in beats.silent():
                logger.warning(
                    "the coordinator has not answered for cluster.heartbeat_timeout_s=%g s; it is started again",
                    config.heartbeat_timeout_s,
                )
                ray.kill(coordinator, no_restart=False)
                beats.watch(NAME, coordinator)
                known = 0
            if known and beats.pid(NAME) != known:
                logger.warning("the coordinator was lost and started again; it goes on from the ledger")
            known = beats.pid(NAME)

    watch = Background("watch over the coordinator", look)
    try:
        yield watch
    finally:
        ended.set()
        watch.join(LOOK_S)
        end_in_order([coordinator])


class Coordinator:
    """Ledger, versions and progress of one run.

    Example: `ray.remote(Coordinator).options(name="coordinator").remote(config, 12, 1)`
    """

    def __init__(self, config: RunConfig, num_shards: int, epoch: int) -> None:
        """Read everything that lies in the run folder.

        Args:
            config: The run's config.
            num_shards: Labelling shards of one round.
            epoch: That of the driver, who holds the folder.
        Raises:
            LedgerError: This node does not see the folder (`seen`), or the driver was taken over.
        """
        log_as(config.run_name, NAME)
        self._run = RunFolder(config.run_dir, config, epoch)
        seen(self._run.path / "config.yaml", config.cluster.start_timeout_s / 2)  # the driver waits that long for all
        self._num_shards = num_shards
        labeling = [method for method in self._run.methods if stores_labels(method)]
        self._ledger = Ledger(self._run.ledger_path, epoch)
        self._changed = asyncio.Condition()
        self._files = asyncio.Lock()  # held by whoever reads or writes files; others are answered meanwhile
        self._news = 1
        self._waits: list[str] = []  # what train workers wait for now, one entry per waiting rank
        self._outside = ""  # what training waits for that is no part of the run
        self._meters = Meters(config.run_name)
        self._rate = LabelRate()
        self._versions: set[tuple[str, int]] = set()
        self._training_error: L2LError | None = None
        self._train_losses = 0
        self._notes: dict[str, None] = {}
        hand_on(self._note)
        self._status = Status(shards_total=len(labeling) * config.loop.rounds * num_shards)
        self._state_written = self._refreshed = 0.0
        self._read_versions()

    def __repr__(self) -> str:
        """Return whose coordinator it is, for Ray's dashboard."""
        return f"{NAME} of {self._run.config.run_name}"

    async def ready(self) -> int:
        """Return this actor's process id: it is up."""
        return os.getpid()

    async def beat(self) -> int:
        """Return this actor's process id: it answers."""
        return os.getpid()

    async def has(self, key: Key) -> bool:
        """Whether this shard is committed; labelers ask before they work."""
        return key in self._ledger

    async def commit(self, entry: LedgerEntry) -> bool:
        """Commit a shard; False when it was committed before.

        Raises:
            LedgerError: The ledger could not be written, or the driver was taken over.
        """
        async with self._files:
            first = await asyncio.to_thread(self._ledger.commit, entry)
        with about(entry.method, entry.round, entry.shard):
            logger.info("committed" if first else "was committed before")
        if first:
            self._count_labels(entry)
            if self._ledger.complete(entry.method, entry.round, self._num_shards):
                await self._wake_waiting()
            await self._write_state()
        return first

    async def news(self, seen: int, timeout_s: float) -> News:
        """Return what is known, as soon as something other than progress has happened since `seen`.

        Args:
            seen: `News.number` of the last answer; 0 = none.
            timeout_s: After which to answer anyway, seconds.
        """
        try:
            async with self._changed:
                await asyncio.wait_for(self._changed.wait_for(lambda: self._news != seen), timeout_s)
        except TimeoutError:
            pass
        if time.monotonic() - self._refreshed >= REFRESH_EVERY_S:
            self._refreshed = time.monotonic()
            self._meters.refresh()
        return News(
            self._news,
            frozenset(self._versions),
            self._training_error,
            self._train_losses,
            tuple(self._notes),
            self._current_status(),
        )

    async def find_versions(self) -> None:
        """Look for new versions on disk; a train worker calls when it has written one.

        Each train worker also calls when it starts: its predecessor may have died between writing and calling.

        Raises:
            RunStopped: The driver ended the run.
        """
        self._check_running()
        async with self._files:
            await asyncio.to_thread(self._read_versions)
        await self._tell_driver()

    async def wait_labels(self, method: str, round_index: int, timeout_s: float) -> int | None:
        """Wait until a round is complete; return its number of shards, which may be 0, or None after `timeout_s`.

        Whoever waits reads the ledger's file then.

        Raises:
            RunStopped: The driver ended the run.
        """
        what = f"the labels of {Stage(method, round_index).label}"
        is_complete = await self._wait(
            lambda: self._ledger.complete(method, round_index, self._num_shards), what, timeout_s
        )
        return self._num_shards if is_complete else None

    async def wait_priors(self, name: str, timeout_s: float) -> bool:
        """Wait until the priors of an example set are complete; False after `timeout_s`.

        Raises:
            RunStopped: The driver ended the run.
        """
        self._check_running()
        if await asyncio.to_thread(self._run.priors_path(name).exists):  # of a run that goes on
            return True

        def are_complete() -> bool:  # the driver says so when the file is there, which this node may not see
            done, total = self._status.priors.get(name, (0, -1))
            return done == total

        return await self._wait(are_complete, f"the priors of {name}", timeout_s)

    async def priors_progress(self, name: str, done: int, total: int) -> None:
        """Note how many examples of a set have their prior; at the end, wake those who wait for it."""
        self._status.priors[name] = done, total
        await (self._tell_driver() if done == total else self._write_state())

    async def training_waits(self, what: str) -> None:
        """Show what outside of this run training waits for; "" = nothing any more.

        Raises:
            RunStopped: The driver ended the run.
        """
        self._check_running()
        if what != self._outside:
            self._outside = what
            await self._tell_driver()

    async def progress(self, stage: Stage, done: int, total: int, values: dict[str, float]) -> None:
        """Note how many steps of a training stage are done; shown by the driver and in state.json.

        Raises:
            RunStopped: The driver ended the run.
        """
        self._check_running()
        self._status.train = TrainProgress(stage, done, total, values)
        self._meters.set("l2l_train_done_frac", done / max(1, total), stage=stage.label)
        for name, value in values.items():
            self._meters.set("l2l_train", value, name=name)
        await self._write_state()

    async def train_worker_lost(self) -> None:
        """Note that Ray Train lost a worker and starts the group again; not where training failed on purpose."""
        if self._training_error is None:
            self._train_losses += 1
            await self._tell_driver()

    async def noted(self, line: str) -> None:
        """Keep what an actor warned of; the driver learns it with the next news."""
        self._note(line)

    async def report_error(self, error: L2LError) -> None:
        """Note what training failed with on purpose: the driver ends the run with it, for it would recur."""
        self._training_error = error
        await self._tell_driver()

    async def evaluated(self, method: str, version: int, split: str, mean_iou: float) -> None:
        """Note a finished evaluation."""
        self._meters.set("l2l_mean_iou", mean_iou, method=method, split=split)
        self._status.mean_iou[f"{method} v{version} {split}"] = mean_iou
        await self._write_state()

    async def stop(self, reason: str) -> None:
        """End the run: every present and future wait raises `RunStopped`, and state.json is written once more."""
        self._status.stopped = reason
        await self._write_state(force=True)
        await self._wake_waiting()

    def _note(self, line: str) -> None:
        if len(self._notes) < MOST_NOTES:
            self._notes[line] = None
        else:
            self._notes["there is more to warn of; it stands in the actors' logs, which Ray's dashboard shows"] = None

    async def _tell_driver(self) -> None:
        """Wake the driver, too."""
        self._news += 1
        await self._wake_waiting()

    async def _wake_waiting(self) -> None:
        async with self._changed:
            self._changed.notify_all()
        await self._write_state()

    async def _wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> bool:
        """Wait until `condition` holds, showing meanwhile what training waits for; False after `timeout_s`."""
        self._waits.append(what)
        try:
            async with self._changed:
                stopped_or_true = self._changed.wait_for(lambda: bool(self._status.stopped) or condition())
                await asyncio.wait_for(stopped_or_true, timeout_s)
        except TimeoutError:
            return False
        finally:
            self._waits.remove(what)
        self._check_running()
        return True

    def _check_running(self) -> None:
        if self._status.stopped:
            raise RunStopped(self._status.stopped)

    def _read_versions(self) -> None:
        found = {(method, version) for method in self._run.methods for version in self._run.published(method)}
        if new := found - self._versions:
            log_versions(self._run)
            for event in self._run.events():
                if event.get("event") == "train" and (event["method"], event["version"]) in new:
                    self._show_training(event)
        self._versions = found

    def _show_training(self, event: dict[str, Any]) -> None:
        """Set the gauges to the figures that came with a version."""
        method = event["method"]
        self._meters.set("l2l_round", event["version"], method=method)
        for name, value in event.items():
            if "reward/" in name:
                self._meters.set("l2l_reward", value, method=method, term=name.rsplit("/", 1)[1])
            elif isinstance(value, int | float) and name != "version":
                self._meters.set("l2l_train", value, name=name)

    def _count_labels(self, entry: LedgerEntry) -> None:
        per_s = self._rate.add(entry.num)
        self._meters.add("l2l_labels_total", entry.num)
        self._meters.set("l2l_labels_per_s", per_s)
        self._meters.set("l2l_accepted_frac", entry.accepted_frac, method=entry.method)
        self._status.labels = LabelProgress(entry.method, entry.round, entry.accepted_frac, per_s)

    async def _write_state(self, force: bool = False) -> None:
        if not force and time.monotonic() - self._state_written < STATE_EVERY_S:
            return
        self._state_written = time.monotonic()
        content, path = self._current_status().to_json(), self._run.path / "state.json"
        async with self._files:
            await asyncio.to_thread(_write, path, content)

    def _current_status(self) -> Status:
        """Bring up to date what follows from the ledger, the versions and the open waits."""
        self._status.newest_version = dict(sorted(self._versions))  # the last of a method stays
        self._status.shards_committed = len(self._ledger)
        self._status.training_waits_for = self._outside or (self._waits[0] if self._waits else "")
        return self._status


def _write(path: Path, content: str) -> None:
    try:
        with replacing(path) as temporary:
            temporary.write_text(content)
    except OSError as error:  # it only shows; whoever keeps something fails with a remedy, and `stop` must wake all
        logger.warning("cannot write %s: %s; %s", path, error, run_remedy(error))
