"""A whole run in this process, without Ray: `run_local`, the host it trains under, and what it says meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import nn

from l2l_ray.config import RunConfig
from l2l_ray.loop.evaluation.evaluate import Evaluations, Group, finish
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.inference.priors import LocalMllm, Mllm, fill_all_priors, lacks_priors
from l2l_ray.loop.progress import (
    Console,
    LabelProgress,
    LabelRate,
    Status,
    TrainProgress,
    closing_text,
    finished_text,
)
from l2l_ray.loop.state.heal import heal, is_settled
from l2l_ray.loop.state.ledger import Attempt, Ledger, LedgerEntry
from l2l_ray.loop.state.opening import opening_text
from l2l_ray.loop.state.plan import EvalItem, LabelItem, Plan
from l2l_ray.loop.state.position import Position, Stage
from l2l_ray.loop.state.prepare import RunData, prepare, require_same_data
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.versions import Write, log_versions, newest_checkpoint, publish
from l2l_ray.loop.training.train import train
from l2l_ray.selector.registry import stores_labels

T = TypeVar("T")


def run_local(
    config: RunConfig,
    make_engine: Callable[[RunConfig, Path], InferenceEngine] = InferenceEngine,
    console: Console | None = None,
    mllm: Mllm | None = None,
) -> RunFolder:
    """Run the whole job in this process: prepare, ask priors, train, label, evaluate, report.

    Args:
        config: The run's config.
        make_engine: Makes what labels and evaluates, from the config and the run's folder; training uses its device.
        console: Shows what goes on; None = nobody looks.
        mllm: Who is asked for priors; None = the config's model, in this process.
    Raises:
        L2LError: Anything wrong with input, config or disk; what is committed stays.
    """
    config = config.rooted()
    console = console or Console(config, stream=None)
    run = RunFolder.open(config)
    if is_settled(run):
        require_same_data(config, run)
        console.say(finished_text(run))
        return run
    with run.held("a local run", console.say) as run:
        heal(run, console.say)
        data = prepare(config, run)
        console.say(f"run folder {run.path}\n{opening_text(config, data, run.skips())}")
        watch = Watch(config, run, data, console)
        watch.begin("the language model is loading" if lacks_priors(run, data) else "the models are loading")
        fill_all_priors(config, run, data, mllm or LocalMllm(config.prior), watch.asked)
        engine = make_engine(config, run.path)
        ledger, evaluations = Ledger(run.ledger_path, run.epoch), Evaluations(run)
        plan = data.plan(config, run.methods)
        for name in data.prior_order:
            plan.priors_ready(name)
        plan.restore(ledger, evaluations.mean_ious(), {method: run.published(method) for method in run.methods})
        log_versions(run)
        watch.committed(ledger)
        host = LocalHost(run, plan, ledger, evaluations, engine, watch)
        train(config, run.path, host)
        host.work()
        watch.begin("the report is written")
        figures = finish(config, run, plan, evaluations, engine)
        console.say(closing_text(run, figures))
    return run


class Watch:
    """Keeps what is known of a run in one process, and shows it.

    Args:
        config: The run's config.
        run: Its folder.
        data: What it works on.
        console: Where it is shown.
    """

    def __init__(self, config: RunConfig, run: RunFolder, data: RunData, console: Console) -> None:
        labeling = [method for method in run.methods if stores_labels(method)]
        self._status = Status(shards_total=len(labeling) * config.loop.rounds * data.num_shards(config))
        self._console = console
        self._rate = LabelRate()

    def begin(self, what: str) -> None:
        """Note what this process does now; "" = it trains."""
        self._status.now = what
        self._show()

    def asked(self, name: str, done: int, total: int) -> None:
        """Note how many examples of a set have their prior."""
        self._status.now = ""
        self._status.priors[name] = done, total
        self._show()

    def trained(self, stage: Stage, done: int, total: int, values: dict[str, float]) -> None:
        """Note how many steps of a stage are done."""
        self._status.now = ""
        self._status.train = TrainProgress(stage, done, total, values)
        self._show()

    def committed(self, ledger: Ledger, entry: LedgerEntry | None = None) -> None:
        """Note what the ledger holds, and the shard that came to it."""
        self._status.shards_committed = len(ledger)
        if entry is not None:
            per_s = self._rate.add(entry.num)
            self._status.labels = LabelProgress(entry.method, entry.round, entry.accepted_frac, per_s)
        self._show()

    def evaluated(self, group: Group, mean_iou: float) -> None:
        """Note a figure."""
        method, version, split = group
        self._status.mean_iou[f"{method} v{version} {split}"] = mean_iou
        self._show()

    def _show(self) -> None:
        self._console.update(self._status, busy=1)


class LocalHost:
    """One rank, in this process; labels and evaluates inline."""

    rank = 0
    world_size = 1

    def __init__(
        self,
        run: RunFolder,
        plan: Plan,
        ledger: Ledger,
        evaluations: Evaluations,
        engine: InferenceEngine,
        watch: Watch,
    ) -> None:
        self.device = engine.device
        self._run = run
        self._plan = plan
        self._ledger = ledger
        self._evaluations = evaluations
        self._engine = engine
        self._watch = watch

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

    def resume_point(self, method: str) -> Path | None:
        """Return the folder from which a method goes on."""
        return newest_checkpoint(self._run, method)

    def leaves_soon(self) -> bool:
        """Return False: nobody tells a process that is alone."""
        return False

    def waits_for(self, what: str) -> None:
        """Show it."""
        self._watch.begin(what and f"waiting for {what}")

    def progress(self, stage: Stage, done: int, total: int, values: dict[str, float]) -> None:
        """Show how far training is."""
        self._watch.trained(stage, done, total, values)

    def work(self) -> None:
        """Do everything that is ready."""
        while (item := self._plan.next()) is not None:
            if isinstance(item, LabelItem):
                self._label(item)
            else:
                self._evaluate(item)
        self._watch.begin("")

    def _label(self, item: LabelItem) -> None:
        self._watch.begin(f"labels of {Stage(item.method, item.round).label}")
        attempt = Attempt(epoch=self._run.epoch)
        entry = self._engine.label(item.method, item.round, item.shard, item.version, attempt)
        self._ledger.commit(entry)
        self._watch.committed(self._ledger, entry)

    def _evaluate(self, item: EvalItem) -> None:
        self._watch.begin(f"{item.method} v{item.version} is measured on {item.split}")
        self._evaluations.add(item, self._engine.evaluate(item.method, item.version, item.split, item.start, item.stop))
        if self._plan.done(item):
            mean_iou = self._evaluations.close(item.group)["mean_iou"]
            self._plan.record(*item.group, mean_iou)
            self._watch.evaluated(item.group, mean_iou)
