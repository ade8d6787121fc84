"""What a sweep came to: its trials by point, with mean, spread and t-interval over seeds; the best point.

Trials come as a table, one row each, with these columns besides the swept fields: `trial`, `seed`, `state` (finished,
`stopped at version 2`, failed, ...), `reason` of a failure, `version` (the last one measured), `val_mean_iou` and
`val_overall_iou` of that version, `<split>_mean_iou` of the other splits, `seconds`. Only finished trials enter a mean:
all of them ended at the same version.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from l2l_ray.intervals import seed_interval
from l2l_ray.report.figures import NOTHING, interval, percent
from l2l_ray.report.tables import Cell, Table

FINISHED = "finished"
METRIC = "val_mean_iou"


def metrics_of(trials: pd.DataFrame) -> list[str]:
    """Return the mean IoU columns of a table of trials, val first."""
    tests = [name for name in map(str, trials) if name.endswith("_mean_iou") and name != METRIC]
    return [METRIC, *tests]


def points_frame(trials: pd.DataFrame, fields: Sequence[str]) -> pd.DataFrame:
    """Return one row per point, best first: its fields and trials, how many seeds finished of how many, figures.

    Columns of each metric: `<metric>` (mean over finished seeds), and `_sd`, `_low`, `_high` (95 % t-interval) after
    its name, empty where fewer than two seeds finished. A point with more finished seeds comes before one with fewer:
    their means are not compared.

    Args:
        trials: As above.
        fields: The swept fields.
    """
    rows_of = trials.to_dict("records")
    keys = [json.dumps([NOTHING if _is_nothing(row[f]) else str(row[f]) for f in fields]) for row in rows_of]
    rows: list[dict[str, Any]] = []
    for key in dict.fromkeys(keys):
        here = trials[[other == key for other in keys]]
        done = here[(here["state"] == FINISHED) & here[METRIC].notna()]
        row = {field: here.iloc[0][field] for field in fields}
        row |= {
            "trials": tuple(here["trial"]),
            "seeds": len(done),
            "of": len(here),
            "states": ", ".join(sorted(set(here["state"]) - {FINISHED})),
        }
        for metric in metrics_of(trials):
            row |= _over_seeds(metric, [float(value) for value in done[metric] if not pd.isna(value)])
        row["seconds"] = done["seconds"].mean() if len(done) else math.nan
        rows.append(row)
    frame = pd.DataFrame(rows)
    return frame.sort_values(["seeds", METRIC], ascending=False, ignore_index=True, kind="stable")


def best_point(points: pd.DataFrame) -> pd.Series[Any] | None:
    """Return the point with the best mean on val among those with the most finished seeds; None where none has any."""
    if not len(points) or not points.iloc[0]["seeds"] or math.isnan(points.iloc[0][METRIC]):
        return None
    return points.iloc[0]


def num_as_good(points: pd.DataFrame) -> int:
    """Return how many points are as good as the best in print, it among them; only then is none of them the best.

    Points with fewer finished seeds are not compared.
    """
    best = best_point(points)
    if best is None:
        return 0
    same = points[points["seeds"] == best["seeds"]]
    return sum(percent(value) == percent(best[METRIC]) for value in same[METRIC])


def points_table(points: pd.DataFrame, fields: Sequence[str], names: dict[str, str]) -> Table:
    """Return the points for people: mean ± sd (interval), in percent; the best is marked where it has rivals, no equal.

    Args:
        points: From `points_frame`.
        fields: The swept fields.
        names: Field -> its heading.
    """
    metrics = metrics_of(points)
    is_best = num_as_good(points) == 1 and len(points[METRIC].dropna()) > 1
    rows = []
    for index, (_, row) in enumerate(points.iterrows()):
        cells = [Cell(value_text(row[field])) for field in fields]
        cells.append(Cell(f"{row['seeds']} of {row['of']}" + (f" ({row['states']})" if row["states"] else "")))
        cells += [Cell(figure_text(row, m), is_best and m == METRIC and index == 0) for m in metrics]
        cells.append(Cell(NOTHING if math.isnan(row["seconds"]) else f"{row['seconds']:.0f}"))
        rows.append(tuple(cells))
    header = (*(names[field] for field in fields), "seeds", *(metric_heading(metric) for metric in metrics), "seconds")
    return Table((("", len(header)),), header, tuple(rows))


def trials_table(trials: pd.DataFrame, fields: Sequence[str], names: dict[str, str]) -> Table:
    """Return every trial for people, in percent."""
    metrics = metrics_of(trials)
    rows = []
    for _, row in trials.iterrows():
        version = NOTHING if _is_nothing(row["version"]) else str(int(row["version"]))
        figures = [percent(row[m]) for m in metrics]
        seconds = NOTHING if _is_nothing(row["seconds"]) else f"{row['seconds']:.0f}"
        texts = [row["trial"], *(value_text(row[f]) for f in fields), row["seed"], row["state"], version, *figures]
        rows.append(tuple(Cell(str(text)) for text in [*texts, seconds]))
    header = (
        "trial",
        *(names[f] for f in fields),
        "seed",
        "state",
        "version",
        *map(metric_heading, metrics),
        "seconds",
    )
    return Table((("", len(header)),), header, tuple(rows))


def plain_text(table: Table) -> str:
    """Return a table for a terminal, columns side by side."""
    lines = [list(table.header), *([cell.text for cell in row] for row in table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    return "\n".join("  ".join(t.ljust(w) for t, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def metric_heading(metric: str) -> str:
    """Return the heading of a metric: `val mean IoU`."""
    return f"{metric.removesuffix('_mean_iou')} mean IoU"


def figure_text(row: Any, metric: str) -> str:
    """Return mean ± sd (interval) of one metric of a point, in percent with one decimal."""
    text = percent(row[metric])
    if _is_nothing(row[f"{metric}_sd"]):
        return text
    return f"{text} ± {percent(row[f'{metric}_sd'])} ({interval(row[f'{metric}_low'], row[f'{metric}_high'])})"


def value_text(value: Any) -> str:
    """Return a field's value as people read it."""
    return NOTHING if _is_nothing(value) else f"{value:g}" if isinstance(value, float) else str(value)


def _over_seeds(metric: str, values: list[float]) -> dict[str, float]:
    mean = math.fsum(values) / len(values) if values else math.nan
    sd = low = high = math.nan
    if len(values) > 1:
        _, low, high = seed_interval(values)
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return {metric: mean, f"{metric}_sd": sd, f"{metric}_low": low, f"{metric}_high": high}


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA
