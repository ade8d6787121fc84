"""How long a run would take on this machine: a trial with the run's own models on a few of its items, scaled up.

The trial is a whole run, shrunk, in a folder that is removed, so nothing that takes time is forgotten but what comes
once. Each part is measured by what the terminal is told (`loop.progress.Status`) or what the run logs, and multiplied
by how often the real run does it. Expect the truth within a factor of two.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from l2l_ray.config import RunConfig
from l2l_ray.loop.local import run_local
from l2l_ray.loop.progress import Console, Status, duration
from l2l_ray.loop.state.example_files import write_examples
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.loop.state.prepare import RunData
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.selector.base import make_selector
from l2l_ray.selector.registry import spec_of, stores_labels
from l2l_ray.types import Example

E = TypeVar("E", bound=Example)
NUM_TRIED = 8  # items of each set
STEPS_TRIED = 4
QUESTION, LABEL, UPDATE = "question to the language model", "prediction", "selector update"
ALONE, MIXED = "step on masks alone", "step on masks and labels"
_SPLIT = "split that is measured"


@dataclass(frozen=True)
class Part:
    """One kind of work of a run.

    Example: `Part("training steps", 640, 0.21)`
    """

    what: str
    num: int
    seconds_each: float

    @property
    def seconds(self) -> float:
        """What all of it takes."""
        return self.num * self.seconds_each


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Example: `estimate(config, data).line`
    """

    once_s: float  # what comes once: loading models, writing the report
    parts: tuple[Part, ...]

    @property
    def seconds(self) -> float:
        """The whole run."""
        return self.once_s + sum(part.seconds for part in self.parts)

    @property
    def line(self) -> str:
        """The time in words, part by part."""
        told = ", ".join(f"{p.num} x {p.what} in {duration(p.seconds)}" for p in self.parts if p.seconds >= 1)
        return f"about {duration(self.seconds)} on this machine, by a trial with a few items ({told or 'seconds'})"


def estimate(config: RunConfig, data: RunData) -> Estimate:
    """Return how long a run would take in one process of this machine; takes as long as loading the models, and more.

    Args:
        config: The run's config.
        data: Its example sets.
    Raises:
        L2LError: What the run itself would end with: a model that is not there, a photo that cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="l2l-trial-") as place:
        trial = _trial_config(config, Path(place))
        run, few = RunFolder(trial.run_dir, trial).create(), _trial_data(data)
        run.save_skips([])
        for name in reversed(few.prior_order):
            write_examples(run.examples_path(name), few.examples(name))
        watch, started = _Stopwatch(trial), time.monotonic()
        run_local(trial, console=watch)
        speeds = _speeds(run, watch, few)
        tried = sum(num * speeds[kind] for kind, num in _counts(trial, few).items())
        once_s = max(0.0, time.monotonic() - started - tried)
    return Estimate(once_s, tuple(Part(kind, num, speeds[kind]) for kind, num in _counts(config, data).items()))


class _Stopwatch(Console):
    """A console nobody sees, which notes when each step was taken and each answer came."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config, stream=None)
        # Kind of work -> (time, how many until then).
        self._told: dict[str, list[tuple[float, int]]] = defaultdict(list)

    def update(self, status: Status, busy: int) -> None:
        """Note what is new."""
        now = time.monotonic()
        if status.now:
            if "is measured on" in status.now:  # told before and after
                self._told[_SPLIT].append((now, len(status.mean_iou)))
            return
        if status.train is not None:
            self._told[ALONE if status.train.stage.method is None else MIXED].append((now, status.train.done))
        elif status.priors:
            self._told[QUESTION].append((now, sum(done for done, _ in status.priors.values())))

    def seconds_each(self, kind: str) -> float:
        """Return the median time of one; 0 where there were fewer than two."""
        pairs = pairwise(self._told[kind])
        gaps = [(later - earlier) / (more - less) for (earlier, less), (later, more) in pairs if more > less]
        return statistics.median(gaps) if gaps else 0.0


def _trial_config(config: RunConfig, place: Path) -> RunConfig:
    steps = {"rounds": 1, "burn_in_steps": STEPS_TRIED, "fold_steps": 1, "round_steps": STEPS_TRIED}
    fields = {
        "run_root": str(place),
        "name": "trial",
        "resume": True,
        "loop": config.loop.model_copy(update=steps | {"checkpoint_steps": 0}),
        "selector": config.selector.model_copy(update={"warmup_updates": 1, "round_updates": 1}),
        "prior": config.prior.model_copy(update={"batch_size": min(config.prior.batch_size, NUM_TRIED // 2)}),
    }
    return config.model_copy(update=fields)


def _trial_data(data: RunData) -> RunData:
    splits = {name: _some(rows) for name, rows in data.splits.items()}
    return RunData(_some(data.labeled), _some(data.unlabeled), splits, data.facts)


def _some(examples: Sequence[E]) -> list[E]:
    """Return a few items, the first of each photo first: what learns needs two photos."""
    place: dict[int, int] = defaultdict(int)
    ranked = []
    for number, example in enumerate(examples):
        ranked.append((place[example.image_id], number))
        place[example.image_id] += 1
    return [examples[number] for _, number in sorted(ranked)[:NUM_TRIED]]


def _counts(config: RunConfig, data: RunData) -> dict[str, int]:
    """Return how often a run does each kind of work."""
    loop, selector = config.loop, config.selector
    methods = (*config.compare, selector.name)
    learners = sum(spec_of(method).learns for method in methods)
    labelers = sum(stores_labels(method) for method in methods)
    num_folds = min(selector.num_folds, len({e.image_id for e in data.labeled})) if learners else 0
    every = [example for name in data.prior_order for example in data.examples(name)]
    # A selector that learns looks at labeled items once, and at some unlabeled ones for each of its versions.
    looked_at = len(data.labeled) + (loop.rounds + 1) * min(selector.max_unlabeled, len(data.unlabeled))
    num_measured = sum(len(rows) for rows in data.splits.values())
    return {
        QUESTION: sum(e.hint is None or e.hint.box_xyxy_frac is None for e in every),
        ALONE: loop.burn_in_steps + num_folds * loop.fold_steps,
        MIXED: len(methods) * loop.rounds * loop.round_steps,
        LABEL: labelers * loop.rounds * len(data.unlabeled)
        + learners * looked_at
        + len(methods) * (loop.rounds + 1) * num_measured,
        UPDATE: sum(_num_updates(config, method) for method in methods),
    }


def _num_updates(config: RunConfig, method: str) -> int:
    """Return how many updates of its selector a method takes; one that settles alone looks once for each version."""
    if not spec_of(method).learns:
        return 0
    section = config.selector.model_copy(update={"name": method})
    if not make_selector(section).learns_by_batch:
        return 1 + config.loop.rounds
    return section.warmup_updates + config.loop.rounds * section.round_updates


def _speeds(run: RunFolder, watch: _Stopwatch, few: RunData) -> dict[str, float]:
    """Return the seconds that each kind of work took once."""
    entries = list(Ledger(run.ledger_path).all_entries())
    predicted = sum(entry.seconds for entry in entries), sum(entry.num for entry in entries)
    if not entries:  # no method stores labels
        measured = [len(rows) for rows in few.splits.values() if rows]
        predicted = len(measured) * watch.seconds_each(_SPLIT), sum(measured)
    alone = watch.seconds_each(ALONE)
    updates = [float(event.get("seconds/update selector", 0.0)) for event in run.events()]
    return {
        QUESTION: watch.seconds_each(QUESTION),
        ALONE: alone,
        MIXED: watch.seconds_each(MIXED) or alone,
        LABEL: predicted[0] / max(1, predicted[1]),
        UPDATE: max(updates, default=0.0),
    }
