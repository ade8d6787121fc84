"""The driver of a job: starts the roles, hands out ready work, and writes the report. Read `run` first.

    prior service    asked by a thread of the driver, set after set of examples, while the burn-in already trains
    train group      `train_worker` on every rank, in one TorchTrainer run; waits for priors and labels
    labelers         label shards and evaluate slices that `Plan` says are ready
    coordinator      the only writer of the ledger

What is decided here is only which ready item goes to which idle labeler; what an item does is fixed by its name, so the
result does not depend on timing. Who dies or falls silent is replaced (`liveness`); an error raised on purpose, or a
role that fails too often, ends the run with its message; what is committed stays, and the same command with `--resume`
continues.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from l2l_ray.actors.background import Background
from l2l_ray.actors.cluster import (
    actor_options,
    device_for,
    namespace_of,
    needs,
    node_resources,
    prior_of_actors,
    require_fit,
    start_actor,
    wait_for_room,
    wait_ready,
)
from l2l_ray.actors.connection import connected
from l2l_ray.actors.coordinator import ACTOR_OPTIONS, NAME, Coordinator, News, RunStopped, answer, kept_alive
from l2l_ray.actors.labelers import LabelerPool
from l2l_ray.actors.logs import Relay
from l2l_ray.actors.priors import PriorPool
from l2l_ray.actors.train_group import RayHost, fit
from l2l_ray.config import RunConfig
from l2l_ray.errors import ClusterError, L2LError
from l2l_ray.loop.evaluation.evaluate import Evaluations, finish
from l2l_ray.loop.inference.engine import EvalPart, InferenceEngine
from l2l_ray.loop.inference.priors import LocalMllm, Mllm, fill_all_priors, known_mllm, lacks_priors
from l2l_ray.loop.progress import Console, Status, closing_text, finished_text
from l2l_ray.loop.state.heal import heal, is_settled
from l2l_ray.loop.state.lease import require_current
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.loop.state.opening import opening_text
from l2l_ray.loop.state.plan import EvalItem, Plan, WorkItem
from l2l_ray.loop.state.prepare import RunData, prepare, require_same_data
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.training.train import train

logger = logging.getLogger(__name__)

TICK_S = 0.5  # longest nap of the driver: news and finished work wake it, the terminal and heartbeats need looks
LONG_S = 3.0  # who has something in work for longer is named
STOP_TIMEOUT_S = 5.0  # how long a role may take to notice that the run ended early; it ends with the job anyway


def run(config: RunConfig) -> Path:
    """Run the whole job on Ray and return its folder; a finished one is left alone.

    Raises:
        L2LError: Bad input or config, a cluster too small, a role that failed for good, a full disk.
        KeyboardInterrupt: Ctrl-C, SIGTERM or a closed terminal; everything has been released.
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
            require_fit(needs(config.cluster), config.cluster, node_resources())
            console.say(f"dashboard  {dashboard}")
            heal(folder, console.say)
            data = prepare(config, folder)
            console.say(f"run folder {folder.path}\n{opening_text(config, data, folder.skips())}")
            plan, evaluations = data.plan(config, folder.methods), Evaluations(folder)
            published = {method: folder.published(method) for method in folder.methods}
            plan.restore(Ledger(folder.ledger_path), evaluations.mean_ious(), published)
            with started_roles(config, folder, data, console) as roles:
                hand_out_work(plan, evaluations, roles, folder, data, console)
        # The head's GPU, if it has one, may be somebody else's.
        figures = finish(config, folder, plan, evaluations, InferenceEngine(config, folder.path, device_for({})))
        console.say(closing_text(folder, figures))
    return folder.path


def train_worker(given: dict[str, Any]) -> str:
    """Train on one rank, from the resume point to the last round; TorchTrainer calls this in every train worker.

    When a rank is killed or raises, it is called again on all ranks. An error raised on purpose would recur: the driver
    is told, and ends the run.
    """
    config: RunConfig = given["config"]
    coordinator: ActorHandle[Coordinator] = given["coordinator"]
    folder = RunFolder(config.run_dir, config, given["epoch"])
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
    prior_filling: Background[None]  # ends when every example has its prior
    training: Background[str]
    watch: Background[None]  # over the coordinator

    @property
    def all_has_happened(self) -> bool:
        """Whether no more versions or priors will come."""
        return self.training.done and self.prior_filling.done

    def check(self) -> None:
        """Raise what a role failed with.

        Raises:
            L2LError: It failed for good.
        """
        for role in (self.prior_filling, self.training, self.watch):
            role.check()


@contextmanager
def started_roles(config: RunConfig, folder: RunFolder, data: RunData, console: Console) -> Iterator[Roles]:
    """Start all roles once the cluster has room for them, and release them at the end whatever happens."""
    mllm = _mllm_without_actors(config, folder, data)
    demand = [need for need in needs(config.cluster) if need.role != "prior" or mllm is None]
    wait_for_room(
        demand,
        config.cluster,
        lambda what: console.update(Status(shards_total=0, now=f"waiting for {what}"), 0),
    )
    namespace = namespace_of(config)
    options = actor_options(NAME, namespace, {}) | ACTOR_OPTIONS
    coordinator = start_actor(Coordinator, options, config, data.num_shards(config), folder.epoch)
    pools: list[PriorPool | LabelerPool] = []
    threads: list[Background[Any]] = []
    reason = "the driver ended the run early"

    def fill_priors() -> None:
        if (answering := priors or mllm) is not None:
            fill_all_priors(config, folder, data, answering, note_priors)
        if priors is not None:
            priors.close()  # others on this cluster may wait for its resources

    def note_priors(name: str, answered: int, total: int) -> None:
        answer(coordinator.priors_progress.remote(name, answered, total))

    with kept_alive(coordinator, config.cluster) as watch:
        try:
            wait_ready("coordinator", [coordinator], config.cluster.start_timeout_s)
            priors = PriorPool(config, namespace) if mllm is None else None
            pools += [priors] if priors is not None else []
            pools.append(labelers := LabelerPool(config, coordinator, namespace, folder.epoch))
            prior_filling = Background("prior service", fill_priors)
            training = Background("train group", lambda: fit(train_worker, config, folder, coordinator))
            threads = [prior_filling, training]
            yield Roles(coordinator, labelers, prior_filling, training, watch)
            reason = "all work is done"
        finally:
            _release(coordinator, reason, pools, threads)


def _mllm_without_actors(config: RunConfig, folder: RunFolder, data: RunData) -> Mllm | None:
    """Return who needs no loading where every prior is known already; None = prior actors have to be asked."""
    if not lacks_priors(folder, data):
        return LocalMllm(config.prior)
    return known_mllm(config, prior_of_actors(config), folder, data)


def hand_out_work(
    plan: Plan, evaluations: Evaluations, roles: Roles, folder: RunFolder, data: RunData, console: Console
) -> None:
    """Give labelers what is ready, until every figure of the final table exists.

    Raises:
        L2LError: A role failed for good.
    """
    status, told, train_losses, relay = Status(shards_total=0), time.monotonic(), 0, Relay()
    asked: ray.ObjectRef[News] = roles.coordinator.news.remote(0, TICK_S)
    while not (plan.finished and roles.training.done):
        roles.check()
        require_current(folder.path, folder.epoch)
        if is_last := roles.all_has_happened:  # looked at before the news: none comes after it
            asked = roles.coordinator.news.remote(0, TICK_S)
        if is_last or ray.wait([asked], timeout=0)[0]:
            news = answer(asked)
            asked = roles.coordinator.news.remote(news.number, TICK_S)
            status, told = news.status, time.monotonic()
            relay.say(news.notes)
            take_in(news, plan, folder, data)
            if news.train_losses > train_losses:
                logger.warning("a train worker was lost or did not answer; the group starts again from what is saved")
            train_losses = news.train_losses
        while roles.labelers.has_room and (item := plan.next()) is not None:
            roles.labelers.submit(item)
        if roles.labelers.has_room:
            roles.labelers.double()
        if is_last and roles.labelers.has_room and not roles.labelers.busy and not plan.finished:
            raise ClusterError(
                f"nothing is left to do in {folder.path}, but figures of the final table are missing; expected every "
                "version and all priors on disk: has something been removed there? --resume makes what is missing"
            )
        for item, result in roles.labelers.finished(TICK_S, [asked]):
            note_finished(item, result, plan, evaluations, roles)
        console.update(_with_who(status, time.monotonic() - told, roles.labelers), roles.labelers.busy)


def take_in(news: News, plan: Plan, folder: RunFolder, data: RunData) -> None:
    """Tell the plan what has happened.

    Raises:
        L2LError: What training failed with on purpose.
    """
    if news.training_error is not None:
        raise news.training_error
    for name in data.prior_order:
        if folder.priors_path(name).exists():
            plan.priors_ready(name)
    for method, version in sorted(news.published):
        plan.publish(method, version)


def _with_who(status: Status, silent_s: float, labelers: LabelerPool) -> Status:
    """Add who has what in work for long, and that the coordinator is silent, if it is."""
    long = [held.sentence() for held in labelers.held() if held.seconds > LONG_S]
    now = f"waiting for the coordinator, which has not answered for {silent_s:.0f} s" if silent_s > LONG_S else ""
    return replace(status, held_by=long[0] if long else "", now=now)


def note_finished(item: WorkItem, result: EvalPart | int, plan: Plan, evaluations: Evaluations, roles: Roles) -> None:
    """Book finished work; the last slice of an evaluation makes a figure."""
    if isinstance(item, EvalItem):
        assert isinstance(result, EvalPart), f"an evaluation gave {type(result)}"
        evaluations.add(item, result)
        if plan.done(item):
            mean_iou = evaluations.close(item.group)["mean_iou"]
            plan.record(*item.group, mean_iou)
            answer(roles.coordinator.evaluated.remote(*item.group, mean_iou))


def _release(
    coordinator: ActorHandle[Coordinator],
    reason: str,
    pools: list[PriorPool | LabelerPool],
    threads: list[Background[Any]],
) -> None:
    """End all roles in order: nobody goes while somebody waits for its answer."""
    try:
        answer(coordinator.stop.remote(reason), STOP_TIMEOUT_S)  # waiting train workers return
    except ClusterError as error:
        logger.info("%s", error)
    for pool in pools:
        pool.close()
    for thread in threads:
        if not thread.join(STOP_TIMEOUT_S):  # a train group that is still starting cannot be told
            logger.info("the %s did not stop within %g s; it ends with this job", thread.name, STOP_TIMEOUT_S)
