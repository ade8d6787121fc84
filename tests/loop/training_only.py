"""A host for training alone, and where its burn-in lies; shared by the tests of `loop/training`."""

from __future__ import annotations

from pathlib import Path

from l2l_ray.loop.evaluation.evaluate import Evaluations
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.local import LocalHost, Watch
from l2l_ray.loop.progress import Console
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.loop.state.plan import Plan
from l2l_ray.loop.state.position import Stage
from l2l_ray.loop.state.prepare import RunData
from l2l_ray.loop.state.run_folder import RunFolder

BURN_IN_PARTS = ("base", "fold0", "fold1")


class TrainingOnly(LocalHost):
    """A host whose plan knows no evaluation; labels come from the ledger alone. Dies at a named step of a stage."""

    def __init__(self, run: RunFolder, dies_at: tuple[Stage, int] | None = None) -> None:
        ledger, config = Ledger(run.ledger_path), run.config
        num_shards = 1 + max((shard for _, _, shard in ledger.keys()), default=0)
        plan = Plan(run.methods, config.loop.rounds, config.loop.lag, num_shards, {}, 1)
        plan.restore(ledger.keys(), {}, {})
        watch = Watch(config, run, RunData([], [], {}), Console(config, stream=None))
        super().__init__(run, plan, ledger, Evaluations(run), InferenceEngine(config, run.path), watch)
        self._dies_at = dies_at
        self.waited_for: list[str] = []

    def progress(self, stage: Stage, done: int, total: int, values: dict[str, float]) -> None:
        if (stage, done) == self._dies_at:
            raise KeyboardInterrupt

    def waits_for(self, what: str) -> None:
        super().waits_for(what)
        self.waited_for.append(what)


def burn_in_of(run: RunFolder) -> Path:
    (folder,) = (run.config.cache_dir / "burn_in").iterdir()
    return folder
