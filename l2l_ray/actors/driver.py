"""The driver of a job: starts the roles, hands out ready work, and writes the report.

    prior service    asked by a thread of the driver, table by table, while the burn-in already trains
    train group      one TorchTrainer run in a thread; waits at the coordinator for priors and labels
    labelers         label shards and evaluate slices that `Plan` says are ready
    coordinator      the only writer of the ledger

What is decided here is only which ready item goes to which idle worker; what an item does is fixed by its name, so the
result does not depend on timing. A failure of any role ends the run with its message; what is committed stays, and the
same command with `--resume` continues.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError

from l2l_ray.actors.background import Background
from l2l_ray.actors.cluster import (
    actor_options,
    check_resources,
    connected,
    namespace_of,
    start_actor,
    wait_ready,
)
from l2l_ray.actors.coordinator import NAME, Coordinator
from l2l_ray.actors.labelers import LabelerPool
from l2l_ray.actors.priors import PriorPool
from l2l_ray.actors.progress import Console, closing_text, opening_text
from l2l_ray.actors.train_group import fit
from l2l_ray.config import RunConfig
from l2l_ray.errors import ClusterError
from l2l_ray.loop.evaluation.evaluate import Evaluations, finish
from l2l_ray.loop.inference.engine import EvalPart
from l2l_ray.loop.local import restore_plan
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.loop.state.plan import EvalItem, Plan, WorkItem
from l2l_ray.loop.state.prepare import Answered, Ask, Question, RunData, fill_priors, open_store, prepare
from l2l_ray.loop.state.run_folder import RunFolder

logger = logging.getLogger(__name__)
T = TypeVar("T")

POLL_S = 0.2  # longest nap of the driver between two looks at what is new
ANSWER_TIMEOUT_S = 120.0  # the coordinator answers in milliseconds; it may be restarting
STOP_TIMEOUT_S = 20.0  # how long the train group may take to notice that the run ended early


def run(config: RunConfig) -> Path:
    """Run the whole job on Ray and return its folder; a finished one is left alone.

    Raises:
        L2LError: Bad input or config, a cluster too small, a role that failed for good, a full disk.
    """
    folder = RunFolder.open(config)
    console = Console(config)
    console.say(f"run root   {config.root}\nrun folder {folder.path}")
    if folder.finished:
        console.say(f"this run is finished: nothing to do; its report is {folder.path / 'report.html'}")
        return folder.path
    with connected(config.cluster) as dashboard:
        check_resources(config.cluster)
        console.say(f"dashboard  {dashboard}")
        tables = prepare(config, folder)
        console.say(opening_text(config, tables))
        with crew(config, folder, tables) as roles:
            plan, evaluations = tables.plan(config, folder.methods), Evaluations(folder)
            restore_plan(config, folder, plan, Ledger(folder.ledger_path), evaluations)
            dispatch(plan, evaluations, roles, console)
    table = finish(config, folder, plan, evaluations)
    console.say(closing_text(folder, table))
    return folder.path


def dispatch(plan: Plan, evaluations: Evaluations, roles: Crew, console: Console) -> None:
    """Hand out ready work until every figure of the final table exists.

    Raises:
        L2LError: A role failed for good.
    """
    while not (plan.finished and roles.trainer.done):
        roles.check()
        settled = roles.trainer.done and roles.filler.done
        for table in list(roles.filled):
            plan.priors_ready(table)
        published: set[tuple[str, int]] = _answer(roles.coordinator.published.remote())
        for method, version in sorted(published):
            plan.publish(method, version)
        while roles.labelers.has_room and (item := plan.next()) is not None:
            roles.labelers.submit(item)
        assert roles.labelers.busy or plan.finished or not settled, "nothing is left to do, but figures are missing"
        for item, result in roles.labelers.finished(POLL_S):
            _note(item, result, plan, evaluations, roles)
        console.update(_answer(roles.coordinator.state.remote()), roles.labelers.busy)


def _note(item: WorkItem, result: EvalPart | int, plan: Plan, evaluations: Evaluations, roles: Crew) -> None:
    """Book finished work; a complete evaluation group becomes a figure."""
    if isinstance(item, EvalItem):
        assert isinstance(result, EvalPart), f"an evaluation gave {type(result)}"
        evaluations.add(item, result)
    if plan.done(item) and isinstance(item, EvalItem):
        mean_iou = evaluations.close(item.group)["mean_iou"]
        plan.record(*item.group, mean_iou)
        roles.coordinator.evaluated.remote(*item.group, mean_iou)


@dataclass
class Crew:
    """Everybody who works on a run."""

    coordinator: ActorHandle[Coordinator]
    labelers: LabelerPool
    greeter: Background[list[int]]  # ends when all labelers are up
    filler: Background[None]
    trainer: Background[str]
    filled: list[str]  # tables whose priors are complete; grown by the filler's thread

    def check(self) -> None:
        """Raise what a background role died of."""
        for role in (self.greeter, self.filler, self.trainer):
            role.check()


@contextmanager
def crew(config: RunConfig, folder: RunFolder, tables: RunData) -> Iterator[Crew]:
    """Start all roles, and release them at the end whatever happens."""
    namespace = namespace_of(config)
    options = actor_options(NAME, namespace, {}) | {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": 1000}
    coordinator = start_actor(Coordinator, options, config, tables.num_shards(config))
    pools: list[PriorPool | LabelerPool] = []
    trainer: Background[str] | None = None
    try:
        wait_ready("coordinator", [coordinator], config.cluster.start_timeout_s)
        missing = [table for table in tables.prior_order if not folder.priors_path(table).exists()]
        priors = PriorPool(config, namespace) if missing else None  # a resumed run that has them all loads no MLLM
        if priors is not None:
            pools.append(priors)
        pools.append(labelers := LabelerPool(config, coordinator, namespace))
        greeter = Background("labelers", labelers.pids)
        filled: list[str] = []
        filler = Background("priors", lambda: fill_all_priors(config, folder, tables, priors, coordinator, filled))
        trainer = Background("train group", lambda: fit(config, folder, coordinator))
        yield Crew(coordinator, labelers, greeter, filler, trainer, filled)
    finally:
        _stop(coordinator, trainer)
        for pool in pools:
            pool.close()
        ray.kill(coordinator)


def fill_all_priors(
    config: RunConfig,
    folder: RunFolder,
    tables: RunData,
    pool: PriorPool | None,
    coordinator: ActorHandle[Coordinator],
    filled: list[str],
) -> None:
    """Ask for every table's missing priors, in the order in which they are needed; without a pool none is missing."""
    if pool is None:
        filled += tables.prior_order
        return
    identity = pool.identity()
    with open_store(config) as store:
        for table in tables.prior_order:
            total = len(tables.examples(table))
            ask = _reporting(pool, table, total, coordinator)
            fill_priors(table, tables, folder, store, identity, ask, config.prior.batch_size)
            _answer(coordinator.priors_progress.remote(table, total, total))
            filled.append(table)


def _reporting(pool: PriorPool, table: str, total: int, coordinator: ActorHandle[Coordinator]) -> Ask:
    """Ask the pool and tell the coordinator how far it is."""

    def ask(batches: Iterator[list[Question]]) -> Iterator[Answered]:
        done = 0
        for batch, replies in pool.ask(batches):
            yield batch, replies
            done += len(batch)
            coordinator.priors_progress.remote(table, min(done, total - 1), total)

    return ask


def _answer(ref: ray.ObjectRef[T]) -> T:
    try:
        return ray.get(ref, timeout=ANSWER_TIMEOUT_S)
    except (GetTimeoutError, RayActorError) as error:
        raise ClusterError(f"the coordinator is gone ({ANSWER_TIMEOUT_S:g} s): {error}; --resume continues") from error


def _stop(coordinator: ActorHandle[Coordinator], trainer: Background[Any] | None) -> None:
    """Let waiting train workers return instead of failing and being restarted."""
    if trainer is None or trainer.done:
        return
    coordinator.stop.remote("the driver ended the run")
    if not trainer.join(STOP_TIMEOUT_S):
        logger.warning("the train group did not stop within %g s; it ends with this job", STOP_TIMEOUT_S)
