"""The tables of a run: for the terminal, for the page, and as files for one's own analysis.

Columns have names that can be read without the paper (`glossary.py` explains them). Shares are printed in percent with
one decimal. The best of a column is marked where it is alone in what is printed: a tie has no best. A row with
`"reference": true` (full supervision, say) is shown but never best.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd

from l2l_ray.files import replacing
from l2l_ray.report.figures import NOTHING, float_keys, percent, points_interval, splits_of
from l2l_ray.report.record import RunRecord, flatten, is_number, read_run, writing

PAGE_METRICS = ("overall_iou", "mean_iou", *(f"precision_at.{t}" for t in ("0.5", "0.7", "0.9")))
_NAMES = {"overall_iou": "overall IoU", "mean_iou": "mean IoU", "steps": "training steps"}


@dataclass(frozen=True)
class Cell:
    """One value as it is shown.

    Example: `Cell("52.3", best=True)`
    """

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table to show: `groups` are headings over several columns; the first column names the row.

    Example: `Table((("", 1), ("val", 1)), ("Method", "mean IoU"), ((Cell("L2L"), Cell("50.1")),))`
    """

    groups: tuple[tuple[str, int], ...]
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def group_starts(self) -> frozenset[int]:
        """Columns at which a group begins, the first one left out: the page keeps a gap there."""
        return frozenset(accumulate(span for _, span in self.groups[:-1]))


def metrics_frame(run_dir: Path) -> pd.DataFrame:
    """Return the run's figures, one row per method and version, and write metrics.parquet and metrics.csv.

    Columns are those of `l2l_ray.report.record`; where a figure was not logged the cell is empty.

    Raises:
        DataError: There is no such folder, or the files cannot be written.
    """
    record = read_run(run_dir)
    first = ["method", "version", "round"]
    columns = list(dict.fromkeys([*first, *sorted({key for point in record.points for key in point})]))
    rows = [{key: _plain(value) for key, value in point.items()} for point in record.points]
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.astype({"version": "Int64", "round": "Int64"})
    for column in columns[3:]:
        if any(isinstance(row.get(column), str) for row in rows):  # Parquet columns have one type
            frame[column] = frame[column].map(lambda value: None if value is None else str(value))
    with (
        writing(record.run_dir),
        replacing(record.run_dir / "metrics.parquet") as parquet,
        replacing(record.run_dir / "metrics.csv") as csv,
    ):
        frame.to_parquet(parquet, index=False)
        frame.to_csv(csv, index=False)
    return frame


def results_table(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str] = PAGE_METRICS) -> Table:
    """Return one line per method: the metrics of every split, then the version evaluated and its training steps."""
    splits = list(dict.fromkeys(split for row in rows for split in splits_of(row)))
    columns = [(split, metric) for split in splits for metric in metrics]
    found = [{split: flatten(float_keys(scores)) for split, scores in splits_of(row).items()} for row in rows]
    values = [[line.get(split, {}).get(metric) for split, metric in columns] for line in found]
    best = _best(values, [not row.get("reference") for row in rows])
    extra = [name for name in ("version", "steps") if any(row.get(name) is not None for row in rows)]
    lines = [
        (
            Cell(str(row.get("label") or row.get("method", "?"))),
            *(Cell(percent(v), b) for v, b in zip(line, marks, strict=True)),
            *(Cell(NOTHING if row.get(name) is None else str(row[name])) for name in extra),
        )
        for row, line, marks in zip(rows, values, best, strict=True)
    ]
    groups = [("", 1), *((_with_num(split, found), len(metrics)) for split in splits)]
    groups += [("", len(extra))] if extra else []
    return Table(
        tuple(groups),
        ("Method", *(metric_name(m) for _, m in columns), *(_NAMES.get(name, name) for name in extra)),
        tuple(lines),
    )


def differences_table(record: RunRecord) -> Table | None:
    """Return how much methods differ in mean IoU, with intervals; None when results.json holds no differences.

    Reads results.json's optional `differences`: [{"method", "versus", "split", "diff", "low", "high"}], shares; the
    last two are null where there are too few images.
    """
    rows = []
    for item in record.results.get("differences") or []:
        if isinstance(item, Mapping) and is_number(item.get("diff")):
            pair = [record.labels.get(str(item.get(key)), str(item.get(key))) for key in ("method", "versus")]
            ends = points_interval(item.get("low"), item.get("high"))
            split = str(item.get("split", "?"))
            where = "val, which chose the version" if split == "val" else split
            texts = (" - ".join(pair), where, f"{100 * item['diff']:+.1f}", ends)
            rows.append(tuple(Cell(text) for text in texts))
    header = ("Difference", "split", "mean IoU, points", "95 % interval over images")
    return Table((("", 4),), header, tuple(rows)) if rows else None


def priors_table(record: RunRecord) -> Table | None:
    """Return, per set of examples, how many answers there are and how many gave no usable box, by reason."""
    events = {str(e.get("set")): e for e in record.events if e.get("event") == "priors"}
    is_given = any(e.get("by_user") for e in events.values())
    reasons = list(dict.fromkeys(str(reason) for e in events.values() for reason in e.get("failures") or {}))
    rows = []
    for name, event in events.items():
        failures = event.get("failures") or {}
        by_user = [event.get("by_user", 0)] if is_given else []
        counts = [event.get("num"), event.get("asked"), *by_user, *(failures.get(reason, 0) for reason in reasons)]
        rows.append((Cell(name), *(Cell(NOTHING if count is None else str(count)) for count in counts)))
    groups = (("", 3 + is_given), *((("No usable box, because", len(reasons)),) if reasons else ()))
    header = ("Texts", "all", "asked in this run", *(["hint given"] if is_given else []), *reasons)
    return Table(groups, header, tuple(rows)) if rows else None


def _best(values: Sequence[Sequence[Any]], eligible: Sequence[bool]) -> list[list[bool]]:
    """Mark each column's maximum among eligible rows, when it has rivals and none of them prints the same."""
    marks = [[False] * len(line) for line in values]
    for column in range(len(values[0]) if values else 0):
        rows = [i for i, ok in enumerate(eligible) if ok and is_number(values[i][column])]
        top = max(rows, key=lambda i: values[i][column], default=None)
        if top is not None and len(rows) > 1:
            same = [row for row in rows if percent(values[row][column]) == percent(values[top][column])]
            marks[top][column] = len(same) == 1
    return marks


def _with_num(split: str, found: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    nums = {line[split].get("num") for line in found if split in line}
    return f"{split}, {nums.pop()} texts" if len(nums) == 1 and nums != {None} else split


def metric_name(metric: str) -> str:
    """Return a metric's name as column heads have it: overall IoU, mean IoU, IoU ≥ 50 %."""
    threshold = metric.removeprefix("precision_at.")
    return _NAMES.get(metric, metric) if threshold == metric else f"IoU ≥ {100 * float(threshold):g} %"


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value
