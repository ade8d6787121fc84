"""The labeling pool: workers that label one shard, or evaluate one slice, per call.

A shard is the unit of work, of retry and of the ledger. The pool is ours because Ray's ActorPool does not replace a
dead actor and ray.data commits by output block. A dead worker is replaced and its item handed out again; an item that
kills its worker too often ends the run with its name. Doing an item twice is harmless: the ledger keeps the first.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from l2l_ray.actors.cluster import actor_options, device_for, own_error, start_actor, wait_ready
from l2l_ray.actors.coordinator import Coordinator, answer
from l2l_ray.actors.logs import about, log_as
from l2l_ray.actors.telemetry import Meters
from l2l_ray.config import RunConfig
from l2l_ray.errors import ClusterError
from l2l_ray.loop.inference.engine import EvalPart, InferenceEngine
from l2l_ray.loop.state.plan import EvalItem, LabelItem, WorkItem

logger = logging.getLogger(__name__)


class LabelerActor:
    """An `InferenceEngine` in a process of its own.

    Example: `ray.remote(LabelerActor).options(name="labeler-0", ...).remote(config, coordinator, "labeler-0")`
    """

    def __init__(self, config: RunConfig, coordinator: ActorHandle[Coordinator], name: str) -> None:
        import torch

        torch.set_num_threads(config.cluster.threads_per_labeler)
        log_as(config.run_name, name)
        self._name = name
        self._coordinator = coordinator
        self._meters = Meters(config.run_name)
        self._engine = InferenceEngine(config, config.run_dir, device_for(config.cluster.labeler_resources))

    def ready(self) -> int:
        """Return this actor's process id: its models can be built."""
        return os.getpid()

    def work(self, item: WorkItem) -> EvalPart | int:
        """Evaluate a slice and return its figures, or label and commit a shard and return how many labels it has.

        Raises:
            L2LError: See `InferenceEngine` and `Ledger`.
        """
        if isinstance(item, EvalItem):
            return self._engine.evaluate(item.method, item.version, item.split, item.start, item.stop)
        return self._label(item)

    def _label(self, item: LabelItem) -> int:
        # A repeated call may find its shard committed: the first attempt died between commit and answer.
        if answer(self._coordinator.has.remote((item.method, item.round, item.shard))):
            return 0
        with about(item.method, item.round, item.shard):
            entry = self._engine.label(item.method, item.round, item.shard, item.version)
            logger.info("labeled %d texts in %.1f s", entry.num, entry.seconds)
        first = answer(self._coordinator.commit.remote(entry))
        self._meters.observe("l2l_label_shard_s", entry.seconds, actor=self._name)
        return entry.num if first else 0


class Decision(Enum):
    """What to do with an item whose call failed."""

    RETRY = "retry on a fresh worker"
    GIVE_UP = "end the run"


def after_failure(error: Exception, num_deaths: int, max_deaths: int) -> Decision:
    """Decide: a worker's death is retried up to `max_deaths` times, an error the code raised never (it would recur)."""
    died = isinstance(error, RayActorError | TimeoutError)
    return Decision.RETRY if died and num_deaths <= max_deaths else Decision.GIVE_UP


@dataclass(frozen=True, slots=True)
class _Call:
    worker: int
    item: WorkItem
    since: float


class LabelerPool:
    """The driver's side of the workers.

    Example: `pool.submit(item)` while `pool.has_room`; `for item, result in pool.finished(0.2): ...`
    """

    def __init__(self, config: RunConfig, coordinator: ActorHandle[Coordinator], namespace: str) -> None:
        self._config = config
        self._coordinator = coordinator
        self._namespace = namespace
        self._workers = [self._start(index) for index in range(config.cluster.num_labelers)]
        self._idle = list(range(config.cluster.num_labelers))
        self._calls: dict[ray.ObjectRef[Any], _Call] = {}
        self._deaths: Counter[WorkItem] = Counter()

    @property
    def has_room(self) -> bool:
        """Whether a worker is idle."""
        return bool(self._idle)

    @property
    def busy(self) -> int:
        """How many items are in work."""
        return len(self._calls)

    def submit(self, item: WorkItem) -> None:
        """Give an item to an idle worker."""
        self._call(self._idle.pop(), item)

    def finished(self, timeout_s: float) -> Iterator[tuple[WorkItem, EvalPart | int]]:
        """Yield what has finished, waiting up to `timeout_s` for the first.

        Raises:
            ClusterError: An item killed or hung its workers too often.
            L2LError: What a worker raised on purpose.
        """
        if not self._calls:
            time.sleep(timeout_s)
            return
        done, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout_s)
        for ref in {*done, *self._overdue()}:
            call = self._calls.pop(ref)
            try:
                result = ray.get(ref, timeout=0)
            except RayTaskError as error:
                raise own_error(error) from None
            except (RayActorError, TimeoutError) as error:
                self._retry(call, error)
                continue
            self._idle.append(call.worker)
            yield call.item, result

    def pids(self) -> list[int]:
        """Return the workers' process ids."""
        return wait_ready("labeler", self._workers, self._config.cluster.start_timeout_s)

    def close(self) -> None:
        """Release the workers."""
        for worker in self._workers:
            ray.kill(worker)

    def _start(self, index: int) -> ActorHandle[LabelerActor]:
        name = f"labeler-{index}"
        options = actor_options(name, self._namespace, self._config.cluster.labeler_resources)
        return start_actor(LabelerActor, options, self._config, self._coordinator, name)

    def _call(self, worker: int, item: WorkItem) -> None:
        self._calls[self._workers[worker].work.remote(item)] = _Call(worker, item, time.monotonic())

    def _overdue(self) -> list[ray.ObjectRef[Any]]:
        limit = self._config.cluster.work_timeout_s
        return [ref for ref, call in self._calls.items() if time.monotonic() - call.since > limit]

    def _retry(self, call: _Call, error: Exception) -> None:
        self._deaths[call.item] += 1
        limit = self._config.cluster.max_item_retries
        if after_failure(error, self._deaths[call.item], limit) is Decision.GIVE_UP:
            raise ClusterError(
                f"{call.item} lost its labeler {self._deaths[call.item]} times, and cluster.max_item_retries={limit} "
                f"allows {limit} more tries; last: {error}; if it took longer than "
                f"cluster.work_timeout_s={self._config.cluster.work_timeout_s:g}, raise that; --resume continues"
            ) from error
        logger.warning("labeler-%d was lost at %s; a fresh one takes over", call.worker, call.item)
        ray.kill(self._workers[call.worker])  # no effect on the dead; ends one that hangs
        self._workers[call.worker] = self._start(call.worker)
        self._call(call.worker, call.item)
