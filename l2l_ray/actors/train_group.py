"""The train group: one long TorchTrainer run per job, with the rounds inside its loop.

Versions are folders under `train/` that rank 0 writes under another name and renames: a folder with its final name is
whole, and those folders alone say where training stands. Ray is told of each as a checkpoint that lies in place already
(`NO_UPLOAD`; its own upload copies file by file into the final name, and a kill would leave half a version). The
announcement to labelers goes through the controller's `after_report`; a worker that died between the rename and the
report is made good for by `rescan` when the group starts again.

Ray keeps a list of checkpoints in a snapshot file, rewritten in place. It is removed when a driver starts, because a
torn one would end the run, and nothing in it is needed.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
from ray.actor import ActorHandle
from ray.train import Checkpoint, CheckpointUploadMode, LoggingConfig
from torch import nn

from l2l_ray.actors.announce import Announce
from l2l_ray.actors.coordinator import Coordinator, RunStopped
from l2l_ray.config import RunConfig
from l2l_ray.errors import ClusterError
from l2l_ray.loop.state.run_folder import RunFolder, version_name
from l2l_ray.loop.state.versions import Write, newest_checkpoint, place, prune_train_states
from l2l_ray.loop.training.train import train

logger = logging.getLogger(__name__)
T = TypeVar("T")
# Type checkers see Train v1's classes behind these names; at run time they are Train v2's.
train_api: Any = ray.train

WAIT_SLICE_S = 20.0  # one waiting call to the coordinator; repeated until the driver finishes or dies
ANSWER_TIMEOUT_S = 120.0  # the coordinator is restarted when it dies; more than this means it cannot be
PROGRESS_EVERY_S = 0.5
SNAPSHOT = "checkpoint_manager_snapshot.json"


class RayHost:
    """One rank of the train group, as `loop.training.train` sees it."""

    def __init__(self, config: RunConfig, run: RunFolder, coordinator: ActorHandle[Coordinator]) -> None:
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self._run = run
        self._coordinator = coordinator
        self._last_progress = 0.0
        self._told: ray.ObjectRef[None] | None = None

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

    def priors(self, table: str) -> Path:
        """Wait until the driver has written the priors of a table."""
        path = self._run.priors_path(table)
        while not path.exists():
            self._ask(self._coordinator.wait_priors.remote(table, WAIT_SLICE_S))
        return path

    def labels(self, method: str, round_index: int) -> list[Path]:
        """Wait until every shard of a round is committed."""
        while True:
            files: list[str] | None = self._ask(self._coordinator.wait_labels.remote(method, round_index, WAIT_SLICE_S))
            if files is not None:
                return [Path(file) for file in files]

    def publish(self, method: str, version: int, write: Write, metrics: dict[str, float]) -> None:
        """Place a version and report it; the controller's callback announces it."""
        self._report(version_name(method, version), write, metrics)

    def checkpoint(self, method: str, version: int, step: int, write: Write, metrics: dict[str, float]) -> None:
        """Place a training state inside a round."""
        self._report(f"{version_name(method, version)}-s{step:05d}", write, metrics)

    def resume_point(self) -> Path | None:
        """Return the newest folder with a training state, as rank 0 sees it."""
        return self.broadcast(newest_checkpoint(self._run))

    def progress(self, stage: str, done: int, total: int, values: dict[str, float]) -> None:
        """Tell the coordinator now and then, without waiting for it.

        Raises:
            RunStopped: The driver ended the run; learned from the answer to an earlier call.
        """
        now = time.monotonic()
        if self.rank != 0 or (done < total and now - self._last_progress < PROGRESS_EVERY_S):
            return
        if self._told is not None and ray.wait([self._told], timeout=0)[0]:
            ray.get(self._told)
        self._last_progress = now
        self._told = self._coordinator.progress.remote(stage, done, total, values)

    def _ask(self, ref: ray.ObjectRef[T]) -> T:
        return ray.get(ref, timeout=WAIT_SLICE_S + ANSWER_TIMEOUT_S)

    def _report(self, name: str, write: Write, metrics: dict[str, float]) -> None:
        """Every rank calls this equally often; only rank 0 brings a checkpoint."""
        checkpoint = None
        if self.rank == 0:
            folder = place(self._run.train_dir / name, write, metrics)
            prune_train_states(self._run)
            checkpoint = Checkpoint.from_directory(folder)
        ray.train.report(
            metrics,
            checkpoint=checkpoint,
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )


def train_worker(given: dict[str, Any]) -> str:
    """Run one rank; the function TorchTrainer starts in every worker."""
    config: RunConfig = given["config"]
    torch.set_num_threads(config.cluster.threads_per_worker)
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # `cuda` without a number then means this rank's own
    run = RunFolder(Path(given["run_path"]), config)
    coordinator: ActorHandle[Coordinator] = given["coordinator"]
    try:
        ray.get(coordinator.join.remote(), timeout=ANSWER_TIMEOUT_S)
        train(config, run.path, RayHost(config, run, coordinator))
    except RunStopped as stop:
        return f"stopped: {stop}"
    return "done"


def fit(config: RunConfig, run: RunFolder, coordinator: ActorHandle[Coordinator]) -> str:
    """Train to the end of the last round; return rank 0's word. Blocks; the driver calls it in a thread.

    Raises:
        ClusterError: The workers were lost or failed more than `cluster.max_train_restarts` times.
    """
    cluster = config.cluster
    (run.train_dir / SNAPSHOT).unlink(missing_ok=True)
    # Ray reads it here, in the driver, and hands it to the controller.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(cluster.start_timeout_s)
    use_gpu = cluster.worker_resources.get("GPU", 0) > 0
    trainer = train_api.torch.TorchTrainer(
        train_worker,
        train_loop_config={"config": config, "run_path": str(run.path), "coordinator": coordinator},
        torch_config=train_api.torch.TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=train_api.ScalingConfig(
            num_workers=cluster.num_workers, use_gpu=use_gpu, resources_per_worker=dict(cluster.worker_resources)
        ),
        run_config=train_api.RunConfig(
            name=run.train_dir.name,
            storage_path=str(run.path),
            failure_config=train_api.FailureConfig(
                max_failures=cluster.max_train_restarts, controller_failure_limit=cluster.max_train_restarts
            ),
            callbacks=[Announce(coordinator)],
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        result = trainer.fit()
    except train_api.TrainingFailedError as error:
        raise ClusterError(
            f"the train workers failed more often than cluster.max_train_restarts={cluster.max_train_restarts} allows: "
            f"{error}; what is committed stays, --resume continues"
        ) from error
    return str(result.return_value)
