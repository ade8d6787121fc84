"""The train group: one long TorchTrainer run per job, with the rounds inside its loop.

Versions are folders under `train/` that rank 0 writes under another name and renames: a folder with its final name is
whole, and those folders alone say where training stands. Rank 0 then tells the coordinator. A worker that died in
between is made good for when the group starts again: each worker begins by letting the coordinator look.

Ray is told of each folder as a checkpoint that lies in place already (`NO_UPLOAD`; its own upload copies file by file
into the final name, and a kill would leave half a version). It keeps a list of them in a snapshot file, rewritten in
place. That file is removed when a driver starts, because a torn one would end the run, and nothing in it is needed.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.actor import ActorHandle
from ray.train import Checkpoint, CheckpointUploadMode, LoggingConfig
from torch import nn

from l2l_ray.actors.cluster import LOST, cannot_start
from l2l_ray.actors.coordinator import ANSWER_TIMEOUT_S, Coordinator, answer
from l2l_ray.actors.logs import hand_on, log_as
from l2l_ray.config import RunConfig
from l2l_ray.errors import ClusterError
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.loop.state.position import Position, Stage
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.versions import Write, newest_checkpoint, publish
from l2l_ray.loop.state.visibility import seen, wait_seen
from l2l_ray.storage import StorePath, file_system

logger = logging.getLogger(__name__)
T = TypeVar("T")
# Type checkers see Train v1's classes behind these names; at run time they are Train v2's.
train_api: Any = ray.train

WAIT_SLICE_S = 20.0  # one waiting call to the coordinator; repeated until the driver finishes or dies
WAIT_TIMEOUT_S = WAIT_SLICE_S + ANSWER_TIMEOUT_S
PROGRESS_EVERY_S = 0.5
SNAPSHOT = "checkpoint_manager_snapshot.json"


class RayHost:
    """One rank of the train group, as `loop.training.train` sees it."""

    def __init__(self, config: RunConfig, run: RunFolder, coordinator: ActorHandle[Coordinator]) -> None:
        """Take this rank's place and device.

        Raises:
            RunStopped: The driver ended the run while the group was starting.
        """
        torch.set_num_threads(config.cluster.threads_per_worker)
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        log_as(config.run_name, f"trainer-{self.rank}")
        hand_on(coordinator.noted.remote)
        self.world_size: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # `cuda` without a number then means this rank's own
        self._run = run
        self._coordinator = coordinator
        self._last_progress = 0.0
        self._told_of_end = False
        self._told: ray.ObjectRef[None] | None = None
        answer(coordinator.find_versions.remote())

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Move the model to this rank's device; wrap it in DDP where there are several ranks."""
        wrapped: nn.Module = ray.train.torch.prepare_model(model)
        return wrapped

    def barrier(self) -> None:
        """Wait for all ranks."""
        ray.train.collective.barrier()

    def broadcast(self, value: T) -> T:
        """Return rank 0's value on every rank."""
        if self.world_size == 1:
            return value
        shared: T = ray.train.collective.broadcast_from_rank_zero(value)
        return shared

    def priors(self, name: str) -> Path:
        """Wait until the driver has written the priors of an example set.

        Raises:
            LedgerError: This process does not see the file (`seen`).
        """
        path = self._run.priors_path(name)
        while not (path.exists() or answer(self._coordinator.wait_priors.remote(name, WAIT_SLICE_S), WAIT_TIMEOUT_S)):
            pass
        return seen(path)

    def labels(self, method: str, round_index: int) -> list[Path]:
        """Wait until every shard of a round is committed.

        Raises:
            LedgerError: This process does not see them all (`wait_seen`).
        """
        num: int | None = None
        while num is None:
            num = answer(self._coordinator.wait_labels.remote(method, round_index, WAIT_SLICE_S), WAIT_TIMEOUT_S)
        ledger = self._run.ledger_path
        wait_seen(
            lambda: Ledger(ledger).complete(method, round_index, num),
            str(ledger),
            f"lacks shards of round {round_index} that are committed",
        )
        return [seen(self._run.path / entry.path) for entry in Ledger(ledger).entries(method, round_index)]

    def publish(self, position: Position, write: Write, metrics: dict[str, float]) -> None:
        """Write the folder and tell the coordinator, on rank 0; tell Ray, on every rank and equally often."""
        name, checkpoint = position.folder_name, None
        if self.rank == 0:
            folder = publish(self._run, position, write, metrics)
            logger.info("published %s", name)
            answer(self._coordinator.find_versions.remote())
            # Ray compares file systems, and two of one store are not equal to it: so its own.
            storage = train_api.get_context().get_storage()
            checkpoint = Checkpoint(in_store(folder)[0], storage.storage_filesystem)
        ray.train.report(
            metrics,
            checkpoint=checkpoint,
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )

    def resume_point(self, method: str) -> Path | None:
        """Return the folder from which a method goes on, as rank 0 sees it."""
        return self.broadcast(newest_checkpoint(self._run, method))

    def leaves_soon(self) -> bool:
        """Whether Ray was told that a rank's node will be taken away, such as a spot machine; once per notice."""
        told = train_api.get_preemption_info() is not None
        is_new, self._told_of_end = told and not self._told_of_end, told
        return is_new

    def waits_for(self, what: str) -> None:
        """Have the coordinator show it.

        Raises:
            RunStopped: The driver ended the run.
        """
        answer(self._coordinator.training_waits.remote(what))

    def progress(self, stage: Stage, done: int, total: int, values: dict[str, float]) -> None:
        """Tell the coordinator now and then, without waiting for it.

        Raises:
            RunStopped: The driver ended the run; learned from the answer to an earlier call.
        """
        now = time.monotonic()
        if self.rank != 0 or (done < total and now - self._last_progress < PROGRESS_EVERY_S):
            return
        if self._told is not None and ray.wait([self._told], timeout=0)[0]:
            answer(self._told)
        self._last_progress = now
        self._told = self._coordinator.progress.remote(stage, done, total, values)


class LossTeller(train_api.UserCallback):  # type: ignore[misc]  # why: Ray Train is Any to type checkers, see above
    """Lets the screen say that a worker was lost; Ray Train's controller calls it and starts the group again.

    Example: `RunConfig(callbacks=[LossTeller(coordinator)])`
    """

    def __init__(self, coordinator: ActorHandle[Coordinator]) -> None:
        self._coordinator = coordinator

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Tell the coordinator, without waiting: training does not depend on it."""
        self._coordinator.train_worker_lost.remote()


def in_store(path: Path) -> tuple[str, Any]:
    """Return a folder as Ray takes it: its path, and Arrow's file system of its store; None = that of this machine."""
    if not isinstance(path, StorePath):
        return str(path), None
    return path.key, PyFileSystem(FSSpecHandler(file_system(path.scheme)))


def fit(
    worker: Callable[[dict[str, Any]], str], config: RunConfig, run: RunFolder, coordinator: ActorHandle[Coordinator]
) -> str:
    """Run `worker` on every rank until all return; return what rank 0 returned.

    It blocks; the driver calls it in a thread.

    Args:
        worker: Called with `config`, `coordinator` and the driver's `epoch`; again on every rank after one failed.
        config: The run's config.
        run: Its folder.
        coordinator: Whom the ranks wait at.
    Raises:
        ClusterError: The workers were lost or failed more than `cluster.max_train_restarts` times.
    """
    cluster = config.cluster
    # Ray reads it here, in the driver, and hands it to the controller.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(cluster.start_timeout_s)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(cluster.heartbeat_timeout_s)
    loop_config = {"config": config, "coordinator": coordinator, "epoch": run.epoch}
    lost = 0  # how often Ray Train gave up; what it makes good for by itself, it counts by itself
    while True:
        (run.train_dir / SNAPSHOT).unlink(missing_ok=True)
        try:
            return str(_trainer(worker, loop_config, run, cluster.max_train_restarts - lost).fit().return_value)
        except (train_api.TrainingFailedError, *LOST) as error:
            if lost == cluster.max_train_restarts or not (ray.is_initialized() and _is_loss(error)):
                raise ClusterError(
                    f"the train workers failed more often than cluster.max_train_restarts={cluster.max_train_restarts} "
                    f"allows: {error}; what is committed stays, --resume continues"
                ) from error
            lost += 1
            is_worker = isinstance(error, train_api.TrainingFailedError)
            who = "a train worker, before its loop was called" if is_worker else "its controller"
            logger.warning("Ray Train lost %s; the group starts again", who)


def _trainer(
    worker: Callable[[dict[str, Any]], str], loop_config: dict[str, Any], run: RunFolder, restarts: int
) -> Any:
    cluster = run.config.cluster
    storage_path, storage_filesystem = in_store(run.path.parent)
    use_gpu = cluster.worker_resources.get("GPU", 0) > 0
    return train_api.torch.TorchTrainer(
        worker,
        train_loop_config=loop_config,
        torch_config=train_api.torch.TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=train_api.ScalingConfig(
            num_workers=cluster.num_workers, use_gpu=use_gpu, resources_per_worker=dict(cluster.worker_resources)
        ),
        run_config=train_api.RunConfig(
            name=f"{run.path.name}/{run.train_dir.name}",  # what Ray's dashboard shows, and a folder
            storage_path=storage_path,
            storage_filesystem=storage_filesystem,
            failure_config=train_api.FailureConfig(max_failures=restarts, controller_failure_limit=restarts),
            callbacks=[LossTeller(loop_config["coordinator"])],
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _is_loss(error: Exception) -> bool:
    """Whether Ray Train gave up though nothing but a process was lost.

    It starts a group again whose worker dies in its loop, but not where one dies between its creation and the first
    call of its loop, nor where its own controller does.
    """
    if isinstance(error, train_api.ControllerError):
        error = error.controller_failure
    return isinstance(error, LOST) and not cannot_start(error)
