"""The labeling pool: workers that label one shard, or evaluate one slice, per call.

A shard is the unit of work, of retry and of the ledger. The pool is ours because Ray's ActorPool does not replace a
dead actor and ray.data commits by output block. A worker that died, is silent (`liveness`), takes far longer than its
like or fails with an error that nobody raised on purpose is replaced and its item handed out again, to whoever is up
first; an item that costs too many workers ends the run with its name. When nothing else is left to do, what takes long
is given to an idle worker as well. Doing an item twice is harmless: each attempt writes a file of its own, and the
ledger keeps the first.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError

from l2l_ray.actors.cluster import (
    LOST,
    actor_options,
    device_for,
    end_in_order,
    own_error,
    require_startable,
    start_actor,
    wait_ready,
)
from l2l_ray.actors.coordinator import Coordinator, answer
from l2l_ray.actors.liveness import (
    HEARTBEAT,
    HEARTBEAT_GROUP,
    LEAST_PATIENCE_S,
    Durations,
    Heartbeats,
    limit_words,
)
from l2l_ray.actors.logs import about, hand_on, log_as
from l2l_ray.actors.telemetry import Meters
from l2l_ray.config import RunConfig
from l2l_ray.errors import ClusterError, L2LError
from l2l_ray.loop.inference.engine import EvalPart, InferenceEngine
from l2l_ray.loop.state.ledger import FIRST, Attempt
from l2l_ray.loop.state.plan import EvalItem, LabelItem, WorkItem
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.visibility import SEEN_TIMEOUT_S, seen
from l2l_ray.selector.registry import PRIOR_ONLY

logger = logging.getLogger(__name__)

# Nice levels: a version is measured while the next one is trained, perhaps on the same cores, and nobody waits for it.
GIVES_WAY = 4


class LabelerActor:
    """An `InferenceEngine` in a process of its own.

    Example: `ray.remote(LabelerActor).options(name="labeler-0", ...).remote(config, coordinator, "labeler-0")`
    """

    def __init__(self, config: RunConfig, coordinator: ActorHandle[Coordinator], name: str) -> None:
        log_as(config.run_name, name)
        hand_on(coordinator.noted.remote)
        os.nice(GIVES_WAY)
        self._num_threads = config.cluster.threads_per_labeler
        self._run = config.run_name
        self._name = name
        self._coordinator = coordinator
        self._meters = Meters(config.run_name)
        self._folder = RunFolder(config.run_dir, config)
        self._seen = set[Path]()
        self._engine = InferenceEngine(config, config.run_dir, device_for(config.cluster.labeler_resources))

    def __repr__(self) -> str:
        """Return whose labeler it is, for Ray's dashboard."""
        return f"{self._name} of {self._run}"

    def ready(self) -> int:
        """Return this actor's process id: its models can be built."""
        return os.getpid()

    @ray.method(concurrency_group=HEARTBEAT)
    def beat(self) -> int:
        """Return this actor's process id: it answers, also while it works."""
        return os.getpid()

    def work(self, item: WorkItem, attempt: Attempt = FIRST) -> EvalPart | int:
        """Evaluate a slice and return its figures, or label and commit a shard and return how many labels it has.

        Args:
            item: What to do.
            attempt: Which try it is.
        Raises:
            L2LError: See `InferenceEngine` and `Ledger`; or this node does not see what the item needs (`seen`).
        """
        import torch

        torch.set_num_threads(self._num_threads)  # of the thread that works, which is not the one of `__init__`
        for path in files_of(item, self._folder):
            if path not in self._seen:
                self._seen.add(seen(path))
        if isinstance(item, EvalItem):
            return self._engine.evaluate(item.method, item.version, item.split, item.start, item.stop)
        return self._label(item, attempt)

    def _label(self, item: LabelItem, attempt: Attempt) -> int:
        # An earlier attempt may have died between commit and answer.
        if attempt.number and answer(self._coordinator.has.remote((item.method, item.round, item.shard))):
            return 0
        with about(item.method, item.round, item.shard):
            entry = self._engine.label(item.method, item.round, item.shard, item.version, attempt)
            logger.info("labeled %d texts in %.1f s", entry.num, entry.seconds)
        first: bool = answer(self._coordinator.commit.remote(entry))
        self._meters.observe("l2l_label_shard_s", entry.seconds, actor=self._name)
        return entry.num if first else 0


def files_of(item: WorkItem, run: RunFolder) -> list[Path]:
    """Return the files of a run that an item is done with, as far as others write them while the run goes on."""
    name = item.split if isinstance(item, EvalItem) else "unlabeled"
    found = [run.examples_path(name), run.priors_path(name), run.priors_path("labeled")]
    if item.method != PRIOR_ONLY:
        found.append(run.version_dir(item.method, item.version) / "version.json")
    return found


class _Failed(Exception):
    """What a labeler's error was, in words: none that somebody raised on purpose."""


Kind = tuple[type[WorkItem], bool]


def kind_of(item: WorkItem) -> Kind:
    """Return what tells how long an item may take: labels or figures, and whether a network has to be asked.

    Figures of the prior alone need none, and come first.
    """
    return type(item), item.method == PRIOR_ONLY


@dataclass(frozen=True, slots=True)
class _Call:
    worker: int
    item: WorkItem
    since: float


@dataclass(frozen=True, slots=True)
class Held:
    """Who has what in work, and for how long.

    Example: `Held("labeler-1", LabelItem("l2l", 2, 7, 2), 40.0)`
    """

    who: str
    item: WorkItem
    seconds: float

    def sentence(self) -> str:
        """Return e.g. `labeler-1 has had shard 7 of l2l round 2 for 40 s`."""
        return f"{self.who} has had {self.item} for {self.seconds:.0f} s"


class LabelerPool:
    """The driver's side of the workers.

    Args:
        config: The run's config.
        coordinator: Whom the workers commit at.
        namespace: Ray namespace of the run.
        epoch: Of who holds the run's folder.
    Example: `pool.submit(item)` while `pool.has_room`; `for item, result in pool.finished(0.2): ...`
    """

    labeler: type[Any] = LabelerActor  # benchmarks/scale_stand_ins.py has one that labels nothing

    def __init__(
        self, config: RunConfig, coordinator: ActorHandle[Coordinator], namespace: str, epoch: int = 0
    ) -> None:
        self._config = config
        self._epoch = epoch
        self._coordinator = coordinator
        self._namespace = namespace
        cluster = config.cluster
        self._beats = Heartbeats(cluster.heartbeat_timeout_s, cluster.start_timeout_s)
        self._names = [f"labeler-{index}" for index in range(cluster.num_labelers)]
        self._fresh = Counter[int]()  # how often a worker was replaced
        self._workers = [self._start(name) for name in self._names]
        self._idle = list(range(cluster.num_labelers))
        self._calls: dict[ray.ObjectRef[Any], _Call] = {}
        self._attempts = Counter[WorkItem]()
        self._losses = Counter[WorkItem]()
        self._again: list[WorkItem] = []  # lost with their workers; they are handed out before anything else
        # A file that another node wrote is waited for, too.
        self._took = defaultdict[Kind, Durations](lambda: Durations(LEAST_PATIENCE_S + SEEN_TIMEOUT_S))

    @property
    def has_room(self) -> bool:
        """Whether a worker can be given something."""
        return not self._again and bool(self._ready())

    @property
    def busy(self) -> int:
        """How many items are in work, or about to be again."""
        return len({*(call.item for call in self._calls.values()), *self._again} & self._attempts.keys())

    def held(self) -> list[Held]:
        """Return who has what in work, the longest first."""
        found = [
            Held(self._names[c.worker], c.item, self._seconds(c)) for c in self._calls.values() if self._is_open(c)
        ]
        return sorted(found, key=lambda held: -held.seconds)

    def submit(self, item: WorkItem) -> None:
        """Give an item to an idle worker; only while `has_room`."""
        worker = self._ready()[-1]
        self._idle.remove(worker)
        self._call(worker, item)

    def double(self) -> None:
        """Give what takes far longer than its like to an idle worker as well.

        Call it when nothing else is left to do.
        """
        counts = Counter(call.item for call in self._calls.values())
        for call in sorted(self._calls.values(), key=lambda call: call.since):
            if not (ready := self._ready()):
                return
            is_slow = self._seconds(call) > self._took[kind_of(call.item)].slow_s()
            if self._is_open(call) and counts[call.item] == 1 and is_slow:
                self._idle.remove(ready[-1])
                logger.info("%s takes long; %s tries it too", call.item, self._names[ready[-1]])
                self._call(ready[-1], call.item)

    def finished(
        self, timeout_s: float, also: Sequence[ray.ObjectRef[Any]] = ()
    ) -> Iterator[tuple[WorkItem, EvalPart | int]]:
        """Yield what has finished, each item once, waiting up to `timeout_s` for the first.

        Args:
            timeout_s: Longest wait, seconds.
            also: What else ends the wait.
        Raises:
            ClusterError: An item cost too many workers, or workers do not come up.
            L2LError: What a worker raised on purpose; it is not tried again.
        """
        while self._again and self._ready():
            self.submit(self._again.pop(0))
        waiting = [*self._calls, *also]
        done, _ = ray.wait(waiting, num_returns=1, timeout=timeout_s) if waiting else ([], [])
        if not waiting:
            time.sleep(timeout_s)
        self._replace_silent()
        for ref in {*done, *self._overdue()} & self._calls.keys():
            call = self._calls.pop(ref)
            try:
                result = ray.get(ref, timeout=0)
            except RayTaskError as error:
                who, found = self._names[call.worker], own_error(error)
                if not self._is_open(call):
                    logger.warning("%s failed at %s, which another one has done: %s", who, call.item, found)
                elif isinstance(found, L2LError):
                    raise found from None
                else:  # of its node, perhaps: an accelerator that failed, a disk
                    logger.warning("%s failed at %s: %s", who, call.item, found)
                    self._lost(call, _Failed(f"{type(error.cause).__name__}: {error.cause}"))
                    continue
            except LOST as error:
                self._lost(call, error)
                continue
            except TimeoutError:
                limit = limit_words(self._limit_s(call), self._config.cluster.work_timeout_s)
                logger.warning("%s has been at %s for longer than %s", self._names[call.worker], call.item, limit)
                self._lost(call, TimeoutError(f"it took longer than {limit}; if it needs longer, raise that"))
                continue
            self._idle.append(call.worker)
            if self._attempts.pop(call.item, 0):  # the slower of two attempts finds nothing here any more
                self._took[kind_of(call.item)].add(self._seconds(call))
                yield call.item, result

    def pids(self) -> list[int]:
        """Wait until all workers are up, which a run does not; return their process ids. Errors as `wait_ready`."""
        return wait_ready("labeler", self._workers, self._config.cluster.start_timeout_s)

    def close(self) -> None:
        """Release the workers: idle ones leave by themselves; those that work or load are killed."""
        busy = {call.worker for call in self._calls.values()}
        idle = {w for w, name in enumerate(self._names) if w not in busy and self._beats.is_up(name)}
        for worker in set(range(len(self._workers))) - idle:
            ray.kill(self._workers[worker])
        end_in_order([self._workers[worker] for worker in idle])

    def _start(self, name: str) -> ActorHandle[Any]:
        options = actor_options(name, self._namespace, self._config.cluster.labeler_resources)
        options["concurrency_groups"] = HEARTBEAT_GROUP
        actor: ActorHandle[Any] = start_actor(self.labeler, options, self._config, self._coordinator, name)
        self._beats.watch(name, actor)
        return actor

    def _call(self, worker: int, item: WorkItem) -> None:
        ref: ray.ObjectRef[Any] = self._workers[worker].work.remote(item, Attempt(self._attempts[item], self._epoch))
        self._attempts[item] += 1
        self._calls[ref] = _Call(worker, item, time.monotonic())

    def _is_open(self, call: _Call) -> bool:
        """Whether no other attempt has ended the item meanwhile."""
        return call.item in self._attempts

    def _seconds(self, call: _Call) -> float:
        return time.monotonic() - call.since

    def _limit_s(self, call: _Call) -> float:
        """Return how long an item may take; a last try has all the time there is."""
        cluster = self._config.cluster
        if self._losses[call.item] >= cluster.max_item_retries:
            return cluster.work_timeout_s
        return self._took[kind_of(call.item)].patience_s(cluster.work_timeout_s)

    def _overdue(self) -> list[ray.ObjectRef[Any]]:
        return [ref for ref, call in self._calls.items() if self._seconds(call) > self._limit_s(call)]

    def _ready(self) -> list[int]:
        return [worker for worker in self._idle if self._beats.is_up(self._names[worker])]

    def _replace_silent(self) -> None:
        """Replace who is silent, and who died while idle; the call of one that died while it worked fails by itself."""
        for name in self._beats.silent():
            fault = self._beats.fault(name)
            logger.warning("%s %s", name, fault)
            worker = self._names.index(name)
            if worker in self._idle:
                self._replace_idle(worker, fault)
            for ref in [ref for ref, call in self._calls.items() if call.worker == worker]:
                self._lost(self._calls.pop(ref), TimeoutError(fault))
        for name, error in self._beats.dead().items():
            if (worker := self._names.index(name)) in self._idle:
                require_startable(name, error)
                self._replace_idle(worker, f"died: {error}")
                logger.warning("%s was lost while idle; %s takes its place", name, self._names[worker])

    def _replace_idle(self, worker: int, fault: str) -> None:
        self._beats.failed_start(self._names[worker], fault, self._config.cluster.max_item_retries)
        self._replace(worker)

    def _lost(self, call: _Call, error: Exception) -> None:
        """Replace a lost worker and hand its item out again, unless another attempt is under way or has ended."""
        before = self._names[call.worker]
        require_startable(before, error)
        is_open = self._is_open(call)
        self._losses[call.item] += 1
        limit, losses = self._config.cluster.max_item_retries, self._losses[call.item]
        if is_open and losses > limit:
            what, remedy = "lost its labeler", ""
            if isinstance(error, _Failed):
                what, remedy = "could not be done", "look at the errors above and correct what they name; "
            raise ClusterError(
                f"{call.item} {what} {losses} times, and cluster.max_item_retries={limit} allows {limit} more tries; "
                f"last: {error}; {remedy}--resume continues"
            ) from error
        self._replace(call.worker)
        self._idle.append(call.worker)
        others = any(other.item == call.item for other in self._calls.values())
        if is_open and not others:
            self._again.append(call.item)
        again = "; its item is handed out again" if is_open and not others else ""
        logger.warning("%s was lost with %s; %s takes its place%s", before, call.item, self._names[call.worker], again)

    def _replace(self, worker: int) -> None:
        ray.kill(self._workers[worker])  # no effect on the dead; ends one that hangs
        self._beats.forget(self._names[worker])
        self._fresh[worker] += 1
        self._names[worker] = f"labeler-{worker}.{self._fresh[worker]}"  # the old name is taken until Ray has buried it
        self._workers[worker] = self._start(self._names[worker])
