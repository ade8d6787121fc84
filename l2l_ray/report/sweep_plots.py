"""Figures of a sweep; None where there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from l2l_ray.report.canvas import LIGHT, blank, dress, new_figure, with_legend
from l2l_ray.report.plots import spare_style
from l2l_ray.report.record import is_number
from l2l_ray.report.sweep_summary import METRIC, value_text
from l2l_ray.selector.registry import label_of, style_of

SHARE, SELECTOR = "data.labeled_frac", "selector.name"
_LEAST_FOR_TREND = 3  # different values of a field: fewer are no trend
_MAX_LINES = 8


def share_curves(points: pd.DataFrame, fields: Sequence[str], selector: str, names: Mapping[str, str]) -> Figure | None:
    """Return val mean IoU against the labeled share, with t-intervals over seeds: a line per selector and other values.

    Of many lines those with the best points are drawn, and the figure says of how many.

    Args:
        points: From `sweep_summary.points_frame`: best first.
        fields: The swept fields.
        selector: The selector of all trials, where it was not swept.
        names: Field -> its name for people.
    """
    others = [field for field in fields if field not in (SHARE, SELECTOR)]
    shown = [row for row in points.to_dict("records") if is_number(row.get(SHARE)) and is_number(row[METRIC])]
    lines: dict[tuple[str, str], list[dict[Any, Any]]] = {}
    for row in shown:
        rest = ", ".join(f"{names[field]} {value_text(row[field])}" for field in others)
        lines.setdefault((row.get(SELECTOR, selector), rest), []).append(row)
    shares = sorted({row[SHARE] for row in shown})
    if len(shares) < 2:
        return None
    figure, axes = new_figure("labeled images, percent of train", "val mean IoU, percent")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([100 * share for share in shares]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    if len(lines) > _MAX_LINES:
        axes.set_title(f"the best {_MAX_LINES} of {len(lines)} lines", color=LIGHT.muted, fontsize=8.5, loc="left")
    for index, ((method, rest), rows) in enumerate(list(lines.items())[:_MAX_LINES]):
        rows.sort(key=lambda row: row[SHARE])
        color, marker = (None if rest else style_of(method)) or spare_style(index)
        xs, ys = ([100 * row[name] for row in rows] for name in (SHARE, METRIC))
        label = ", ".join(part for part in (label_of(method), rest) if part)
        axes.plot(xs, ys, color=color, marker=marker, linewidth=1.8, markersize=5, label=label, zorder=3)
        lows, highs = ([_or(row[f"{METRIC}_{end}"], row[METRIC]) * 100 for row in rows] for end in ("low", "high"))
        axes.fill_between(xs, lows, highs, color=color, alpha=0.15, linewidth=0)
    return with_legend(figure, axes)


def field_effects(points: pd.DataFrame, fields: Sequence[str], names: Mapping[str, str]) -> Figure | None:
    """Return one small panel per drawn field: every point's val mean IoU against the field, and the straight trend.

    The trend is the least-squares line over the points; `r` above it is their correlation. The other fields vary at
    random beside it, so it is this field's own effect as far as the points are many.
    """
    drawn = [(field, *_series(points, field)) for field in fields if field != SHARE]
    drawn = [(field, xs, ys) for field, xs, ys in drawn if len(set(xs)) >= _LEAST_FOR_TREND]
    if not drawn:
        return None
    columns = min(2, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = blank(max(1.6 * rows, 2.2))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, (field, xs, ys) in zip(grid.flat, drawn, strict=False):
        dress(axes)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.margins(y=0.2)
        slope, start, r = trend(xs, ys)
        axes.set_title(f"{names[field]}: r = {r:+.2f}", color=LIGHT.ink, fontsize=8.5, loc="left")
        axes.scatter(xs, ys, s=16, color="#e4572e", zorder=3)
        ends = [min(xs), max(xs)]
        axes.plot(ends, [start + slope * x for x in ends], color=LIGHT.muted, linewidth=1.4)
    for axes in list(grid.flat)[len(drawn) :]:
        axes.set_axis_off()
    figure.supylabel("val mean IoU, percent", color=LIGHT.muted, fontsize=8.5)
    return figure


def trend(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float]:
    """Return slope and start (the value at 0) of the least-squares line, and the correlation; 0 where ys are equal."""
    x, y = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
    dx, dy = x - x.mean(), y - y.mean()
    slope = float((dx * dy).sum() / (dx * dx).sum())
    spread = math.sqrt(float((dx * dx).sum() * (dy * dy).sum()))
    return slope, float(y.mean() - slope * x.mean()), float((dx * dy).sum()) / spread if spread else 0.0


def _series(points: pd.DataFrame, field: str) -> tuple[list[float], list[float]]:
    pairs = [(row[field], row[METRIC]) for row in points.to_dict("records")]
    kept = [(float(x), 100 * float(y)) for x, y in pairs if is_number(x) and is_number(y)]
    return [x for x, _ in kept], [y for _, y in kept]


def _or(value: Any, other: float) -> float:
    return float(value) if is_number(value) else other
