"""What `make compare` compares: every row is the schedule's own config with a few fields changed.

A row of your own is one more `Row` in `ROWS`. The selectors come from the package's registry, so a new one is a row
at once.

A *task* is one row of one seed on one data set under one schedule. A schedule is a preset; the label curve has
schedules of its own, presets with another share of labeled images (`SCHEDULES`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from benchmarks.compare.records import Record
from l2l_ray.config import PRESETS, RunConfig
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.selector.registry import label_of, selectors

THRESHOLDS = (0.7, 0.9, 0.95)
# Schedule -> preset, and the share of labeled images where it is not the preset's.
SCHEDULES: dict[str, tuple[str, float | None]] = {
    "5pct": ("5pct", None),
    "1pct": ("1pct", None),
    "0.5pct": ("1pct", 0.005),
    "2pct": ("1pct", 0.02),
    "10pct": ("5pct", 0.1),
    "smoke": ("smoke", None),
}
CURVE = ("0.5pct", "1pct", "2pct", "5pct", "10pct")
CURVE_ROWS = ("l2l", "accept_all", "supervised")
GROUPS = ("main", "selectors", "ablations", "ceilings", "biased", "cost")
REPORT_SEEDS = (11, 12, 13, 14, 15)  # the method was tuned on seeds 0 to 2 and 10

Records = Mapping[str, Record]  # row -> record, of one seed, data set and schedule
Fields = dict[str, Any]  # config path -> value


@dataclass(frozen=True)
class Row:
    """One row of the comparison.

    Example: `Row("l2l_no_gate", "L2L, gate off", "ablations", {"selector.gate": False})`
    """

    name: str
    label: str
    group: str
    fields: Fields = field(default_factory=dict)
    oracle: str = ""  # a name of `oracles.ORACLES`; "" = labels by the selector alone
    is_biased: bool = False  # priors moved on purpose, see `biased_prior`
    needs: tuple[str, ...] = ()  # rows of the same seed whose records `measured` reads
    measured: Callable[[RunConfig, Records], Fields] | None = None  # fields that follow from them
    versus: str = "l2l"  # the row it is compared with


def _random_rate(_: RunConfig, records: Records) -> Fields:
    """L2L's share of used labels, mean over its rounds."""
    rate = records["l2l"].mean_used_frac()
    if not 0 < rate < 1:
        raise DataError(
            f"L2L uses {rate:.0%} of its labels on this seed; expected some and not all: no gate is random then"
        )
    return {"selector.rate": rate}


def _cost_rows(name: str, label: str) -> Row:
    def more_steps(config: RunConfig, records: Records) -> Fields:
        """As many more steps per round as L2L's extra seconds buy; none where L2L is cheaper."""
        steps = config.loop.rounds * config.loop.round_steps
        record, of_folds = records[name], records["l2l"].folds_s()
        if of_folds is None:
            raise DataError(
                f"{name} at L2L's cost, seed {config.loop.seed}: what the folds' teachers cost is not known, for a row "
                "before L2L's may have trained a part of them; remove this seed's records and burn-ins, and run L2L's "
                "row first"
            )
        bought = max(0.0, records["l2l"].cost_s() + of_folds - record.cost_s()) / (record.training_s() / steps)
        return {"loop.round_steps": config.loop.round_steps + ceil(bought / config.loop.rounds)}

    fields = {"selector.name": name}
    return Row(f"{name}_same_cost", f"{label}, at L2L's cost", "cost", fields, needs=("l2l", name), measured=more_steps)


def _selector_rows() -> list[Row]:
    """Return a row per registered selector but L2L, in the registry's order."""
    rows = []
    for spec in selectors():
        if spec.name == "fixed_threshold":
            for value in THRESHOLDS:
                fields = {"selector.name": spec.name, "selector.threshold": value}
                rows.append(Row(f"{spec.name}_{value:g}", f"{spec.label} {value:g}", "selectors", fields))
        elif spec.name == "random_gate":
            label, fields = f"{spec.label} at L2L's rate", {"selector.name": spec.name}
            rows.append(Row(spec.name, label, "selectors", fields, needs=("l2l",), measured=_random_rate))
        elif spec.name != "l2l":
            rows.append(Row(spec.name, spec.label, "selectors", {"selector.name": spec.name}))
    return rows


def _rounds(count: int) -> Callable[[RunConfig, Records], Fields]:
    def same_steps(config: RunConfig, _: Records) -> Fields:
        """The same student steps in fewer rounds."""
        return {"loop.rounds": count, "loop.round_steps": ceil(config.loop.rounds * config.loop.round_steps / count)}

    return same_steps


def _biased(name: str) -> Row:
    versus = "" if name == "l2l" else "l2l_biased"
    label = f"{label_of(name)}, biased prior"
    return Row(f"{name}_biased", label, "biased", {"selector.name": name}, is_biased=True, versus=versus)


_PLAIN = {"segmenter.guidance": False}


def _plain(name: str) -> Row:
    """Return a selector's row without guidance, which is compared with that selector's own."""
    label = f"{label_of(name).removesuffix(', with guidance')}, no guidance"
    return Row(f"{name}_plain", label, "ablations", {"selector.name": name, **_PLAIN}, versus=name)


ROWS: tuple[Row, ...] = (
    Row("l2l", label_of("l2l"), "main", versus=""),
    *_selector_rows(),
    Row("l2l_no_gate", "L2L, gate off", "ablations", {"selector.gate": False}),
    Row("l2l_cells", "L2L, pixel decisions on", "ablations", {"selector.cells": True}),
    Row("l2l_no_rivals", "L2L, other expressions of the image not seen", "ablations", {"selector.rivals": False}),
    Row("l2l_guided_only", "L2L, guided label alone", "ablations", {"selector.candidates": False}),
    Row("l2l_no_unlabeled_reward", "L2L, no unlabeled reward", "ablations", {"selector.reward.unlabeled": 0.0}),
    Row("l2l_2_folds", "L2L, 2 folds", "ablations", {"selector.num_folds": 2}),
    Row("l2l_no_self_evolve", "L2L, no self-evolution", "ablations", {"segmenter.self_evolve": False}),
    Row("l2l_plain", "L2L, no guidance", "ablations", _PLAIN),
    *(_plain(name) for name in ("supervised", "accept_all", "scorer")),
    Row("l2l_1_round", "L2L, 1 round", "ablations", measured=_rounds(1)),
    Row("l2l_2_rounds", "L2L, 2 rounds", "ablations", measured=_rounds(2)),
    Row("sample_oracle", "right labels alone *", "ceilings", {"selector.name": "accept_all"}, oracle="sample"),
    Row("best_candidate", "best candidate *", "ceilings", {"selector.name": "accept_all"}, oracle="best_candidate"),
    Row("true_masks", "true masks *", "ceilings", {"selector.name": "accept_all"}, oracle="true_masks"),
    *(_biased(name) for name in ("l2l", "accept_all", "confidence_gate", "scorer")),
    *(_cost_rows(name, label_of(name)) for name in ("supervised", "accept_all")),
)
_BY_NAME = {row.name: row for row in ROWS}


def chosen_rows(names: list[str]) -> list[Row]:
    """Return rows by their names or the names of their groups, in table order.

    Raises:
        ConfigError: A name is neither.
    """
    if unknown := [name for name in names if name not in (*_BY_NAME, *GROUPS)]:
        raise ConfigError(f"there is no row or group {unknown[0]!r}; choose from {', '.join((*GROUPS, *_BY_NAME))}")
    return [row for row in ROWS if row.name in names or row.group in names]


@dataclass(frozen=True, order=True)
class Task:
    """One row of one seed.

    Example: `Task("refshapes", "5pct", 10, "l2l")`
    """

    dataset: str
    schedule: str
    seed: int
    row: str

    @property
    def spec(self) -> Row:
        """The row."""
        return _BY_NAME[self.row]

    @property
    def name(self) -> str:
        """Name of its record, below the folder of all: `refshapes/5pct-seed10-l2l`."""
        return f"{self.dataset}/{self.schedule}-seed{self.seed}-{self.row}"

    def sibling(self, row: str) -> Task:
        """Return another row of the same seed."""
        return Task(self.dataset, self.schedule, self.seed, row)

    def config(self, records: Records, run_root: str | None = None) -> RunConfig:
        """Return the run's config.

        Args:
            records: Those of the rows that `spec.needs` names.
            run_root: Where runs are; None = as the package says.
        Raises:
            DataError: The records do not say what the row has to know.
        """
        preset, frac = SCHEDULES[self.schedule]
        base = PRESETS[preset]().with_values(
            {
                "name": f"compare/{self.name}",
                "run_root": run_root,
                "data.dataset": self.dataset,
                "data.split_seed": self.seed,
                "loop.seed": self.seed,
                **({} if frac is None else {"data.benchmark_frac": frac}),
            },
        )
        config = base.with_values(self.spec.fields)
        return config if self.spec.measured is None else config.with_values(self.spec.measured(config, records))


def with_needed(rows: list[Row]) -> list[Row]:
    """Return the rows and those they need, in table order: needed ones come first there."""
    wanted = {row.name for row in rows} | {name for row in rows for name in row.needs}
    return [row for row in ROWS if row.name in wanted]
