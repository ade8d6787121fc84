"""What training needs from whoever hosts it, and the host that needs nothing: `LocalHost`, one process, no Ray.

`train` is the same code under both. Where the Ray runtime waits for labelers, `LocalHost` labels on the spot; where
Ray's driver evaluates a published version, it evaluates on the spot. Both walk the same `Plan`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from torch import nn

from l2l_ray.config import RunConfig
from l2l_ray.device import pick_device
from l2l_ray.loop.evaluation.evaluate import Evaluations, finish
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.loop.state.plan import EvalItem, LabelItem, Plan
from l2l_ray.loop.state.position import Position, Stage
from l2l_ray.loop.state.prepare import Answered, Question, RunData, answer_batch, fill_priors, open_store, prepare
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.versions import Write, log_versions, newest_checkpoint, place, prune_train_states
from l2l_ray.loop.training.train import train
from l2l_ray.prior.mllm import MllmIdentity, MllmPrior

logger = logging.getLogger(__name__)
T = TypeVar("T")


class LocalHost:
    """One rank, in this process; labels and evaluates inline."""

    rank = 0
    world_size = 1

    def __init__(
        self, run: RunFolder, plan: Plan, ledger: Ledger, evaluations: Evaluations, labeler: InferenceEngine
    ) -> None:
        self.device = pick_device()
        self._run = run
        self._plan = plan
        self._ledger = ledger
        self._evaluations = evaluations
        self._labeler = labeler

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Return the model as it is."""
        return model

    def barrier(self) -> None:
        """Do nothing: there is one rank."""

    def broadcast(self, value: T) -> T:
        """Return the value."""
        return value

    def priors(self, table: str) -> Path:
        """Return the file; the local driver fills all priors before training."""
        return self._run.priors_path(table)

    def labels(self, method: str, round_index: int) -> list[Path]:
        """Label the round's open shards now."""
        self.work()
        assert self._ledger.complete(method, round_index, self._plan.num_shards), "the version that labels is missing"
        return [self._run.path / entry.path for entry in self._ledger.entries(method, round_index)]

    def publish(self, position: Position, write: Write, metrics: dict[str, float]) -> None:
        """Write the training state; a version is then evaluated."""
        place(self._run.train_dir / position.folder_name, write, metrics)
        prune_train_states(self._run)
        if position.step == 0:
            log_versions(self._run)
            self._plan.publish(str(position.method), position.version)
            self.work()

    def resume_point(self) -> Path | None:
        """Return the newest folder by (method, version, step)."""
        return newest_checkpoint(self._run)

    def progress(self, stage: Stage, done: int, total: int, values: dict[str, float]) -> None:
        """Log now and then."""
        if done == total or done % max(1, total // 5) == 0:
            logger.info("%s %d/%d %s", stage.label, done, total, {k: round(v, 3) for k, v in values.items()})

    def work(self) -> None:
        """Do everything that is ready."""
        while (item := self._plan.next()) is not None:
            if isinstance(item, LabelItem):
                self._ledger.commit(self._labeler.label(item.method, item.round, item.shard, item.version))
                self._plan.done(item)
            else:
                self._evaluate(item)

    def _evaluate(self, item: EvalItem) -> None:
        part = self._labeler.evaluate(item.method, item.version, item.split, item.start, item.stop)
        self._evaluations.add(item, part)
        if self._plan.done(item):
            summary = self._evaluations.close(item.group)
            self._plan.record(*item.group, summary["mean_iou"])


def restore_plan(config: RunConfig, run: RunFolder, plan: Plan, ledger: Ledger, evaluations: Evaluations) -> None:
    """Tell a fresh plan everything that lies on disk."""
    plan.committed(ledger.keys())
    for group, summary in evaluations.closed().items():
        plan.record(*group, summary["mean_iou"])
    for method in run.methods:
        for version in sorted(run.published(method)):
            plan.publish(method, version)


def run_local(
    config: RunConfig, make_engine: Callable[[RunConfig, Path], InferenceEngine] = InferenceEngine
) -> RunFolder:
    """Run the whole job in this process: prepare, ask priors, train, label, evaluate, report.

    Raises:
        L2LError: Anything wrong with input, config or disk; what is committed stays.
    """
    run = RunFolder.open(config)
    if run.finished:
        logger.info("%s is finished; nothing to do", run.path)
        return run
    tables = prepare(config, run)
    _ask_priors(config, run, tables)
    labeler = make_engine(config, run.path)
    ledger, evaluations = Ledger(run.ledger_path), Evaluations(run)
    plan = tables.plan(config, run.methods)
    for name in tables.prior_order:
        plan.priors_ready(name)
    restore_plan(config, run, plan, ledger, evaluations)
    log_versions(run)
    host = LocalHost(run, plan, ledger, evaluations, labeler)
    train(config, run.path, host)
    host.work()
    finish(config, run, plan, evaluations, labeler)
    return run


def _ask_priors(config: RunConfig, run: RunFolder, tables: RunData) -> None:
    """Complete the priors of every table; a resumed run that has them all does not load the MLLM."""
    missing = [name for name in tables.prior_order if not run.priors_path(name).exists()]
    if not missing:
        return
    mllm = MllmPrior.load(config.prior)

    def ask(batches: Iterator[list[Question]]) -> Iterator[Answered]:
        for batch in batches:
            yield batch, answer_batch(mllm, batch)

    with open_store(config) as store:
        for name in missing:
            fill_priors(name, tables, run, store, MllmIdentity.of(mllm), ask, config.prior.batch_size)
