"""From records to figures: `compare.json`, made from every valid record of the seeds asked for.

One table per data set and schedule. Every figure is of the last version: nothing was chosen on val. A difference is
that of mean IoU per sentence over val, testA and testB together, paired: the same sentences, the same seeds.

    over_seeds    95 % t-interval of the per-seed differences; verdicts are read here
    over_both     95 % bootstrap interval, seeds and images drawn anew; None for fewer than three seeds
    p_holm        p-value of the t-test over seeds, corrected for all rows of the group in the table (Holm)
    commits       seed -> the commits that made the compared rows, where these are not one: rounding may differ
    left_out      seed -> why the row has it and the difference does not
    cost          seconds of the row's rounds as a multiple of those of the row it is compared with, over the same seeds
    folds_cost    seconds of the folds' teachers as a multiple of those of the row's rounds
    recovered     (L2L - accept all) / (sample oracle - accept all): how much of what selection can give L2L gets
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.records import Record
from benchmarks.compare.rows import ROWS, SCHEDULES, Row, Task
from benchmarks.compare.runner import Comparison
from l2l_ray.errors import DataError
from l2l_ray.files import replacing
from l2l_ray.intervals import holm, percentiles, redrawn_means, seed_interval, seed_p_value, verdict
from l2l_ray.selector.registry import spec_of

logger = logging.getLogger(__name__)

BySeed = dict[int, Record]
PROTOCOL = (
    "last version; native size, every sentence; differences paired per sentence over val, testA and testB; verdict: "
    "95 % t-interval over seeds"
)
LEVEL = 0.95
MIN_SEEDS = 3  # of fewer the bootstrap draws little else than their own values


def write_summary(results: Path, seeds: Collection[int] | None = None) -> dict[str, Any]:
    """Read the records below `results/compare`, write `results/compare.json`, and return its content.

    Args:
        results: The folder of both.
        seeds: Those that enter the tables; None = all.
    """
    summary = summarize(valid_records(results / "compare", seeds))
    with replacing(results / "compare.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def valid_records(folder: Path, seeds: Collection[int] | None = None) -> dict[Task, Record]:
    """Return the records of the rows as they are defined now, of some seeds; others, and damaged ones, are named."""
    found = {}
    for path in sorted(folder.glob("*/*.json")):
        task = _task_of(path)
        try:
            record = Comparison([task], folder, None).record(task) if task is not None else None
        except DataError as error:  # it, or one that it needs, is damaged
            logger.warning("%s is left out: %s", path, error)
            continue
        if task is None or record is None:
            logger.warning("%s is left out: it was made with other settings than that row has now", path)
        elif seeds is not None and task.seed not in seeds:
            logger.warning("%s is left out: its seed is none of %s", path, ", ".join(map(str, seeds)))
        else:
            found[task] = record
    return found


def _task_of(path: Path) -> Task | None:
    """Return what a record is of; None where there is no such row now."""
    schedule, _, rest = path.stem.partition("-seed")
    seed, _, row = rest.partition("-")
    is_known = row in {row.name for row in ROWS} and schedule in SCHEDULES and seed.isdigit()
    return Task(path.parent.name, schedule, int(seed), row) if is_known else None


def summarize(records: dict[Task, Record]) -> dict[str, Any]:
    """Return what `compare.json` holds."""
    schedules = list(SCHEDULES)
    places = sorted({(t.dataset, t.schedule) for t in records}, key=lambda p: (p[0], schedules.index(p[1])))
    return {"protocol": PROTOCOL, "tables": [table(*place, records) for place in places]}


def table(dataset: str, schedule: str, records: dict[Task, Record]) -> dict[str, Any]:
    """Return the table of one data set and schedule."""
    by_row: dict[str, BySeed] = {}
    for task, record in sorted(records.items()):
        if (task.dataset, task.schedule) == (dataset, schedule):
            by_row.setdefault(task.row, {})[task.seed] = record
    rows = [_row(row, by_row) for row in ROWS if row.name in by_row]
    _correct_p_values(rows)
    every = [record for by_seed in by_row.values() for record in by_seed.values()]
    return {
        "dataset": dataset,
        "schedule": schedule,
        "labeled_frac": every[0].labeled_frac,
        "seeds": sorted({record.seed for record in every}),
        "commits": sorted({record.commit for record in every}),
        "devices": sorted({record.device for record in every}),
        "processors": sorted({record.processor for record in every} - {""}),
        "seeds_without_processor": sorted({record.seed for record in every if not record.processor}),
        "biased_priors": {str(r.seed): r.biased_prior for r in sorted(every, key=lambda r: r.seed) if r.biased_prior},
        "rows": rows,
        "recovered": _recovered(by_row),
    }


def _row(row: Row, by_row: dict[str, BySeed]) -> dict[str, Any]:
    mine = by_row[row.name]
    found = list(mine.values())
    content: dict[str, Any] = {
        "row": row.name,
        "label": row.label,
        "group": row.group,
        "seeds": list(mine),
        "sees_truth": found[0].sees_truth,
        "biased_prior": bool(found[0].biased_prior),
        "steps": mean_of([record.steps for record in found]),
        "splits": {split: spread_of([record.splits[split].figures for record in found]) for split in found[0].splits},
        "all": spread_of([{"mean_iou": _mean_iou(record)} for record in found]),
        "val_by_version": mean_of([record.val_by_version for record in found]),
        "rounds": mean_of([record.rounds for record in found]),
        "calibration_error_by_seed": [record.rounds[-1]["reliability"]["ece"] for record in found if record.rounds],
        "gate_open": mean_of([record.gate_open for record in found]),
        "needs_folds": spec_of(row.fields.get("selector.name", "l2l")).learns,
        "folds_cost": folds_ratio(found),
        "cost_s": spread_of([{"method": r.cost_s(), **r.seconds} for r in found]),
    }
    if row.versus in by_row:
        content |= {"versus": row.versus, "versus_minus_this": difference(by_row[row.versus], mine)}
        content["versus_left_out"] = left_out(by_row[row.versus], mine)
        content["cost"] = cost_ratio(mine, by_row[row.versus])
    without_bias = row.name.removesuffix("_biased")
    if row.is_biased and without_bias in by_row:
        content["loss_by_bias"] = difference(by_row[without_bias], mine)
        content["loss_left_out"] = left_out(by_row[without_bias], mine)
    return content


def difference(first: BySeed, second: BySeed) -> dict[str, Any] | None:
    """Return the mean IoU of the first minus that of the second, over the seeds they share; None without one."""
    seeds = shared_seeds([first, second])
    if not seeds:
        return None
    sums, counts = _sums([first, second], seeds)
    by_seed = ((sums[0] - sums[1]).sum(1) / counts.sum()).tolist()
    drawn = redrawn_means(sums, counts)
    over_seeds = over_seeds_of(by_seed)
    return {
        "seeds": seeds,
        "commits": mixed_commits([first, second], seeds),
        "diff": float(np.mean(by_seed)),
        "by_seed": by_seed,
        "over_seeds": over_seeds,
        "over_both": over_both_of(drawn[:, 0] - drawn[:, 1], sums),
        "p": seed_p_value(by_seed) if len(seeds) > 1 else None,
        "verdict": verdict(over_seeds["low"], over_seeds["high"]) if over_seeds else verdict(None, None),
    }


def shared_seeds(rows: Sequence[BySeed]) -> list[int]:
    """Return the seeds that all rows have, each computed by one kind of processor.

    Where no row of a seed names its kind, that it was one is taken on trust; the table says of which seeds.
    """
    seeds = [seed for seed in rows[0] if all(seed in by_seed for by_seed in rows)]
    return [seed for seed in seeds if len({by_seed[seed].processor for by_seed in rows}) == 1]


def left_out(first: BySeed, second: BySeed) -> dict[str, str]:
    """Return the seeds that the second row has and the difference of both does not -> why."""
    found, shared = {}, shared_seeds([first, second])
    for seed in (seed for seed in second if seed not in shared):
        if seed not in first:
            why = "the row it is compared with has no such seed"
        elif first[seed].processor and second[seed].processor:
            why = "different kinds of processor computed its two rows"
        else:
            why = "only one of its two rows names the kind of processor that computed it"
        found[str(seed)] = why
    return found


def cost_ratio(mine: BySeed, versus: BySeed) -> float | None:
    """Return the seconds of a row's rounds as a multiple of another's, over the seeds they share; None without one."""
    seeds = shared_seeds([versus, mine])
    spent = [sum(by_seed[seed].cost_s() for seed in seeds) for by_seed in (mine, versus)]
    return spent[0] / spent[1] if seeds else None


def folds_ratio(records: Sequence[Record]) -> float | None:
    """Return the seconds of the folds' teachers as a multiple of the rounds', over the seeds where they are known."""
    known = [(folds, record.cost_s()) for record in records if (folds := record.folds_s()) is not None]
    return sum(folds for folds, _ in known) / sum(spent for _, spent in known) if known else None


def mixed_commits(rows: Sequence[BySeed], seeds: Sequence[int]) -> dict[str, list[str]]:
    """Return the seeds whose rows were made by several commits -> these, in the order of the rows."""
    commits = {str(seed): list(dict.fromkeys(by_seed[seed].commit for by_seed in rows)) for seed in seeds}
    return {seed: found for seed, found in commits.items() if len(found) > 1}


def over_seeds_of(by_seed: Sequence[float]) -> dict[str, float] | None:
    """Return the t-interval of one value per seed; None for one seed, which has no spread."""
    if len(by_seed) < 2:
        return None
    found = seed_interval(by_seed, LEVEL)
    return {"low": found.low, "high": found.high}


def over_both_of(drawn: np.ndarray, sums: np.ndarray) -> dict[str, float] | None:
    """Return the interval of a figure's draws of seeds and images; None for fewer than `MIN_SEEDS`, or for one image.

    Args:
        drawn: The figure in each draw.
        sums: What was drawn from [rows, seeds, images].
    """
    _, seeds, images = sums.shape
    if seeds < MIN_SEEDS or images < 2:
        return None
    return dict(zip(("low", "high"), percentiles(drawn, min(seeds, images), LEVEL), strict=True))


def _correct_p_values(rows: list[dict[str, Any]]) -> None:
    """Add `p_holm` to the differences, corrected over the rows of each group."""
    for group in {row["group"] for row in rows}:
        found = [row["versus_minus_this"] for row in rows if row["group"] == group and row.get("versus_minus_this")]
        tested = [part for part in found if part["p"] is not None]
        for part, corrected in zip(tested, holm([part["p"] for part in tested]), strict=True):
            part["p_holm"] = corrected


def _recovered(by_row: dict[str, BySeed]) -> dict[str, Any] | None:
    """Return how much of what perfect selection gives L2L gets; None where a row is missing.

    `share` is of the means over seeds. Its interval draws seeds and images anew; where that of the span is not above
    0, the share has none, for it may be anything; nor where there is one seed.
    """
    names = ("l2l", "accept_all", "sample_oracle")
    if not all(name in by_row for name in names):
        return None
    seeds = shared_seeds([by_row[name] for name in names])
    if not seeds:
        return None
    sums, counts = _sums([by_row[name] for name in names], seeds)
    l2l, base, oracle = sums.sum((1, 2)) / counts.sum() / len(seeds)
    drawn = redrawn_means(sums, counts)
    spans = drawn[:, 2] - drawn[:, 1]
    span_over_both = over_both_of(spans, sums)
    is_open = span_over_both is not None and span_over_both["low"] > 0
    ends = over_both_of((drawn[:, 0] - drawn[:, 1]) / spans, sums) if is_open else None
    return {
        "share": float((l2l - base) / (oracle - base)) if oracle > base else None,
        **(ends or {"low": None, "high": None}),
        "span": float(oracle - base),
        "span_over_both": span_over_both,
        "seeds": seeds,
        "commits": mixed_commits([by_row[name] for name in names], seeds),
    }


def _sums(rows: Sequence[BySeed], seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of IoU [rows, seeds, images] over all splits, and the sentences per image.

    Raises:
        DataError: The rows were not measured on the same images.
    """
    records = [[by_seed[seed] for seed in seeds] for by_seed in rows]
    first = records[0][0]
    for record in (record for part in records for record in part):
        same = record.splits.keys() == first.splits.keys() and all(
            (found.images, found.num_texts) == (first.splits[split].images, first.splits[split].num_texts)
            for split, found in record.splits.items()
        )
        if not same:
            raise DataError(
                f"{record.row} of seed {record.seed} was measured on other images than {first.row} of seed "
                f"{first.seed}; expected the same of every row: delete its record, and it runs again"
            )
    sums = [[np.concatenate([np.array(s.iou_sums) for s in r.splits.values()]) for r in part] for part in records]
    return np.array(sums), np.concatenate([np.array(split.num_texts) for split in first.splits.values()])


def _mean_iou(record: Record) -> float:
    sums, counts = _sums([{record.seed: record}], [record.seed])
    return float(sums.sum() / counts.sum())


def mean_of(parts: Sequence[Any]) -> Any:
    """Return the mean over seeds of numbers, or of each number inside dicts and lists; None where no seed has one.

    A list is as long as the shortest, and what only some seeds have is the mean of those.
    """
    known = [part for part in parts if part is not None]
    if not known:
        return None
    if isinstance(known[0], dict):
        names = dict.fromkeys(name for part in known for name in part)
        return {name: mean_of([part.get(name) for part in known]) for name in names}
    if isinstance(known[0], list):
        return [mean_of(list(column)) for column in zip(*known, strict=False)]
    return float(np.mean(known)) if isinstance(known[0], int | float) else known[0]


def spread_of(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation over seeds of each number inside dicts; the latter None for one seed."""
    names = dict.fromkeys(name for part in parts for name in part)
    found: dict[str, Any] = {}
    for name in names:
        values = [part[name] for part in parts if name in part]
        if isinstance(values[0], dict):
            found[name] = spread_of(values)
        else:
            std = float(np.std(values, ddof=1)) if len(values) > 1 else None
            found[name] = {"mean": float(np.mean(values)), "std": std}
    return found
