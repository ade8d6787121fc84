"""A whole run in this process, without Ray: `run_local`, and the host it trains under."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import nn

from l2l_ray.config import RunConfig
from l2l_ray.device import pick_device
from l2l_ray.loop.evaluation.evaluate import Evaluations, finish
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.inference.priors import LocalMllm, fill_all_priors
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.loop.state.opening import opening_text
from l2l_ray.loop.state.plan import EvalItem, LabelItem, Plan
from l2l_ray.loop.state.position import Position, Stage
from l2l_ray.loop.state.prepare import prepare, require_same_data
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.versions import Write, log_versions, newest_checkpoint, publish
from l2l_ray.loop.training.train import train

logger = logging.getLogger(__name__)
T = TypeVar("T")


def run_local(
    config: RunConfig,
    make_engine: Callable[[RunConfig, Path], InferenceEngine] = InferenceEngine,
    say: Callable[[str], object] = logger.info,
) -> RunFolder:
    """Run the whole job in this process: prepare, ask priors, train, label, evaluate, report.

    Args:
        config: The run's config.
        make_engine: Makes what labels and evaluates, from the config and the run's folder.
        say: Is told what the run works on, once that is settled.
    Raises:
        L2LError: Anything wrong with input, config or disk; what is committed stays.
    """
    run = RunFolder.open(config)
    with run.removed_when_refused():
        if run.finished:
            require_same_data(config, run)
            say(f"{run.path} is finished; nothing to do")
            return run
        data = prepare(config, run)
        say(f"run folder {run.path}\n{opening_text(config, data, run.skips())}")
        fill_all_priors(config, run, data, LocalMllm(config.prior))
        engine = make_engine(config, run.path)
        ledger, evaluations = Ledger(run.ledger_path), Evaluations(run)
        plan = data.plan(config, run.methods)
        for name in data.prior_order:
            plan.priors_ready(name)
        plan.restore(ledger.keys(), evaluations.mean_ious(), {method: run.published(method) for method in run.methods})
        log_versions(run)
        host = LocalHost(run, plan, ledger, evaluations, engine)
        train(config, run.path, host)
        host.work()
        finish(config, run, plan, evaluations, engine)
    return run


class LocalHost:
    """One rank, in this process; labels and evaluates inline."""

    rank = 0
    world_size = 1

    def __init__(
        self, run: RunFolder, plan: Plan, ledger: Ledger, evaluations: Evaluations, engine: InferenceEngine
    ) -> None:
        self.device = pick_device()
        self._run = run
        self._plan = plan
        self._ledger = ledger
        self._evaluations = evaluations
        self._engine = engine

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Return the model as it is."""
        return model

    def barrier(self) -> None:
        """Do nothing: there is one rank."""

    def broadcast(self, value: T) -> T:
        """Return the value."""
        return value

    def priors(self, name: str) -> Path:
        """Return the file; all priors are filled before training."""
        return self._run.priors_path(name)

    def labels(self, method: str, round_index: int) -> list[Path]:
        """Label the round's open shards now."""
        self.work()
        assert self._ledger.complete(method, round_index, self._plan.num_shards), "the version that labels is missing"
        return [self._run.path / entry.path for entry in self._ledger.entries(method, round_index)]

    def publish(self, position: Position, write: Write, metrics: dict[str, float]) -> None:
        """Write the training state; a version is then evaluated and labels what it unlocks."""
        publish(self._run, position, write, metrics)
        if position.step == 0:
            log_versions(self._run)
            self._plan.publish(str(position.method), position.version)
            self.work()

    def resume_point(self) -> Path | None:
        """Return the newest folder by (method, version, step)."""
        return newest_checkpoint(self._run)

    def progress(self, stage: Stage, done: int, total: int, values: dict[str, float]) -> None:
        """Log about five times a stage."""
        if done == total or done % max(1, total // 5) == 0:
            logger.info("%s %d/%d %s", stage.label, done, total, {k: round(v, 3) for k, v in values.items()})

    def work(self) -> None:
        """Do everything that is ready."""
        while (item := self._plan.next()) is not None:
            if isinstance(item, LabelItem):
                self._ledger.commit(self._engine.label(item.method, item.round, item.shard, item.version))
                self._plan.done(item)
            else:
                self._evaluate(item)

    def _evaluate(self, item: EvalItem) -> None:
        self._evaluations.add(item, self._engine.evaluate(item.method, item.version, item.split, item.start, item.stop))
        if self._plan.done(item):
            self._plan.record(*item.group, self._evaluations.close(item.group)["mean_iou"])
