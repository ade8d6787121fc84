"""The driver of a job: starts the roles, hands out ready work, and writes the report. Read `run` first.

    prior service    asked by a thread of the driver, set after set of examples, while the burn-in already trains
    train group      `train_worker` on every rank, in one TorchTrainer run; waits for priors and labels
    labelers         label shards and evaluate slices that `Plan` says are ready
    coordinator      the only writer of the ledger

What is decided here is only which ready item goes to which idle labeler; what an item does is fixed by its name, so the
result does not depend on timing. A failure of any role ends the run with its message; what is committed stays, and the
same command with `--resume` continues.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from l2l_ray.actors.background import Background
from l2l_ray.actors.cluster import actor_options, check_resources, connected, namespace_of, start_actor, wait_ready
from l2l_ray.actors.coordinator import ACTOR_OPTIONS, NAME, Coordinator, RunStopped, answer
from l2l_ray.actors.labelers import LabelerPool
from l2l_ray.actors.priors import PriorPool
from l2l_ray.actors.train_group import RayHost, fit
from l2l_ray.config import RunConfig
from l2l_ray.errors import ClusterError, L2LError
from l2l_ray.loop.evaluation.evaluate import Evaluations, finish
from l2l_ray.loop.inference.engine import EvalPart
from l2l_ray.loop.inference.priors import fill_all_priors, lacks_priors
from l2l_ray.loop.progress import Console, closing_text, finished_text
from l2l_ray.loop.state.heal import heal, is_settled
from l2l_ray.loop.state.lease import require_current
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.loop.state.opening import opening_text
from l2l_ray.loop.state.plan import EvalItem, Plan, WorkItem
from l2l_ray.loop.state.prepare import RunData, prepare, require_same_data
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.training.train import train

logger = logging.getLogger(__name__)

POLL_S = 0.2  # longest nap of the driver between two looks at what is new
STOP_TIMEOUT_S = 5.0  # how long a role may take to notice that the run ended early; it ends with the job anyway


def run(config: RunConfig) -> Path:
    """Run the whole job on Ray and return its folder; a finished one is left alone.

    Raises:
        L2LError: Bad input or config, a cluster too small, a role that failed for good, a full disk.
        KeyboardInterrupt: Ctrl-C or SIGTERM; everything has been released.
    """
    config = config.rooted()  # actors, train workers and trials find the folder where this process does
    folder = RunFolder.open(config)
    console = Console(config, every_s=config.cluster.progress_every_s)
    if is_settled(folder):
        require_same_data(config, folder)
        console.say(finished_text(folder))
        return folder.path
    with folder.held("a Ray job", console.say) as folder:
        with connected(config.cluster) as dashboard:
            check_resources(config.cluster)
            console.say(f"dashboard  {dashboard}")
            heal(folder, console.say)
            data = prepare(config, folder)
            console.say(f"run folder {folder.path}\n{opening_text(config, data, folder.skips())}")
            plan, evaluations = data.plan(config, folder.methods), Evaluations(folder)
            published = {method: folder.published(method) for method in folder.methods}
            plan.restore(Ledger(folder.ledger_path).keys(), evaluations.mean_ious(), published)
            with started_roles(config, folder, data) as roles:
                hand_out_work(plan, evaluations, roles, folder, data, console)
        figures = finish(config, folder, plan, evaluations)
        console.say(closing_text(folder, figures))
    return folder.path


def train_worker(given: dict[str, Any]) -> str:
    """Train on one rank, from the resume point to the last round; TorchTrainer calls this in every train worker.

    When a rank is killed or raises, it is called again on all ranks. An error raised on purpose would recur: the driver
    is told, and ends the run.
    """
    config: RunConfig = given["config"]
    coordinator: ActorHandle[Coordinator] = given["coordinator"]
    folder = RunFolder(Path(given["run_path"]), config)
    try:
        train(config, folder.path, RayHost(config, folder, coordinator))
    except RunStopped as stop:
        return f"stopped: {stop}"
    except ClusterError:
        raise  # the coordinator cannot be told
    except L2LError as error:
        answer(coordinator.report_error.remote(error))
        raise
    return "done"


@dataclass
class Roles:
    """Everybody who works on a run."""

    coordinator: ActorHandle[Coordinator]
    labelers: LabelerPool
    labelers_start: Background[list[int]]  # ends when every labeler is up
    prior_filling: Background[None]  # ends when every example has its prior
    training: Background[str]

    def check(self) -> None:
        """Raise what a role failed with.

        Raises:
            L2LError: It failed for good.
        """
        error: L2LError | None = answer(self.coordinator.training_error.remote())
        if error is not None:
            raise error
        for role in (self.labelers_start, self.prior_filling, self.training):
            role.check()


@contextmanager
def started_roles(config: RunConfig, folder: RunFolder, data: RunData) -> Iterator[Roles]:
    """Start all roles, and release them at the end whatever happens."""
    namespace = namespace_of(config)
    options = actor_options(NAME, namespace, {}) | ACTOR_OPTIONS
    coordinator = start_actor(Coordinator, options, config, data.num_shards(config), folder.epoch)
    pools: list[PriorPool | LabelerPool] = []
    threads: list[Background[Any]] = []
    reason = "the driver ended the run early"

    def fill_priors() -> None:
        if priors is not None:
            fill_all_priors(config, folder, data, priors, note_priors)

    def note_priors(name: str, answered: int, total: int) -> None:
        answer(coordinator.priors_progress.remote(name, answered, total))

    try:
        wait_ready("coordinator", [coordinator], config.cluster.start_timeout_s)
        priors = PriorPool(config, namespace) if lacks_priors(folder, data) else None
        pools += [priors] if priors is not None else []
        pools.append(labelers := LabelerPool(config, coordinator, namespace))
        labelers_start = Background("labelers", labelers.pids)
        prior_filling = Background("prior service", fill_priors)
        training = Background("train group", lambda: fit(train_worker, config, folder, coordinator))
        threads = [labelers_start, prior_filling, training]
        yield Roles(coordinator, labelers, labelers_start, prior_filling, training)
        reason = "all work is done"
    finally:
        _release(coordinator, reason, pools, threads)


def hand_out_work(
    plan: Plan, evaluations: Evaluations, roles: Roles, folder: RunFolder, data: RunData, console: Console
) -> None:
    """Give labelers what is ready, until every figure of the final table exists.

    Raises:
        L2LError: A role failed for good.
    """
    while not (plan.finished and roles.training.done):
        roles.check()
        require_current(folder.path, folder.epoch)
        all_is_told = roles.training.done and roles.prior_filling.done  # looked at before the news: none comes after it
        for name in data.prior_order:
            if folder.priors_path(name).exists():
                plan.priors_ready(name)
        published: set[tuple[str, int]] = answer(roles.coordinator.published.remote())
        for method, version in sorted(published):
            plan.publish(method, version)
        while roles.labelers.has_room and (item := plan.next()) is not None:
            roles.labelers.submit(item)
        assert roles.labelers.busy or plan.finished or not all_is_told, "nothing is left to do, but figures are missing"
        for item, result in roles.labelers.finished(POLL_S):
            note_finished(item, result, plan, evaluations, roles)
        console.update(answer(roles.coordinator.status.remote()), roles.labelers.busy)


def note_finished(item: WorkItem, result: EvalPart | int, plan: Plan, evaluations: Evaluations, roles: Roles) -> None:
    """Book finished work; the last slice of an evaluation makes a figure."""
    if isinstance(item, EvalItem):
        assert isinstance(result, EvalPart), f"an evaluation gave {type(result)}"
        evaluations.add(item, result)
    if plan.done(item) and isinstance(item, EvalItem):
        mean_iou = evaluations.close(item.group)["mean_iou"]
        plan.record(*item.group, mean_iou)
        answer(roles.coordinator.evaluated.remote(*item.group, mean_iou))


def _release(
    coordinator: ActorHandle[Coordinator],
    reason: str,
    pools: list[PriorPool | LabelerPool],
    threads: list[Background[Any]],
) -> None:
    """End all roles in order: nobody is killed while somebody waits for its answer."""
    try:
        answer(coordinator.stop.remote(reason), STOP_TIMEOUT_S)  # waiting train workers return
    except ClusterError as error:
        logger.info("%s", error)
    for pool in pools:
        pool.close()
    for thread in threads:
        if not thread.join(STOP_TIMEOUT_S):  # a train group that is still starting cannot be told
            logger.info("the %s did not stop within %g s; it ends with this job", thread.name, STOP_TIMEOUT_S)
    ray.kill(coordinator)
