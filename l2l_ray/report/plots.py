"""Curves of a run.

A function returns None when the run holds nothing to draw; the page then leaves it out. A method keeps its colour and
marker in every figure. No pyplot: figures are plain objects, so nothing global is touched and threads do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from l2l_ray.report.canvas import LIGHT, blank, dress, new_figure, widen, with_legend
from l2l_ray.report.record import Point, RunRecord, is_number
from l2l_ray.selector.registry import style_of

SPARE_COLORS, _SPARE_MARKERS = ("#0092b3", "#c0392b", "#6c7a89", "#27688f"), (">", "h", "d", "p")
MIN_SPAN = 5.0  # percent: the least that a curve's axis shows, so that a change of a tenth looks like one
_TERM_COLORS = ("#2e86de", "#139a80", "#b8901c", "#d6579b", "#a06cd5", "#5b9a3c", "#0092b3")

POLICY_NAMES = {
    "entropy": "undecidedness (entropy)",
    "loss": "loss of its updates",
    "kept_share": "cells kept of a label",
    "open_rate_labeled": "share of labels used",
    "open_rate_unshifted": "same, unlabeled, unmatched",
    "term.agreement": "trust in agreement",
    "term.stability": "trust in stability",
}
# What became of labels: a colour each; none = that of the page's lines.
_MAKEUP = {
    "used, right": "#139a80",
    "used, poor outline": "#d9a514",
    "used, wrong object": "#e4572e",
    "not used, though right": "#7fb8e6",
    "not used, not right": "",
}
_MAKEUP_FIGURES = (
    *("num", "used_frac", "right_frac", "poor_outline_frac", "wrong_object_frac", "num_right", "right_refused_frac"),
)


def validation_curves(record: RunRecord, metric: str) -> Figure | None:
    """Return a metric on val by version, one curve per method; a method with one version is a dashed level.

    Args:
        record: The run.
        metric: `mean_iou` or `overall_iou`.
    """
    found = {method: _series(record.points_of(method), f"val.{metric}") for method in record.methods}
    if not any(len(xs) for xs, _ in found.values()):
        return None
    figure, axes = new_figure("version (0 = labeled images alone)", "percent")
    last = max(max(xs) for xs, _ in found.values() if xs)
    for index, (method, (xs, ys)) in enumerate(found.items()):
        style = _style(method, index, method == record.main_method)
        if len(xs) == 1 and last > 0:
            axes.axhline(ys[0], linestyle="--", label=record.labels[method], **{**style, "marker": ""})
        elif xs:
            axes.plot(xs, ys, label=record.labels[method], **style)
    widen(axes, MIN_SPAN)
    return with_legend(figure, axes)


def accepted_share(record: RunRecord) -> Figure | None:
    """Return the share of pixels accepted as pseudo-labels in each round, one curve per method."""
    drawn = _method_curves(record, "labels.accepted_frac", "round", "percent of all grid cells")
    if drawn is None:
        return None
    figure, axes = drawn
    axes.set_ylim(0, 100)
    return with_legend(figure, axes)


def reward_terms(record: RunRecord) -> Figure | None:
    """Return the main selector's reward, term by term, by version."""
    points = record.points_of(record.main_method)
    names = sorted({key for point in points for key in point if key.startswith("reward.")})
    return _terms(points, names, "mean reward")


def policy_terms(record: RunRecord) -> Figure | None:
    """Return the policy's entropy, its shares and its trust in the unlabeled terms, on cross-fitted labeled images."""
    points = record.points_of(record.main_method)
    names = sorted({key for point in points for key in point if key.startswith("policy.")})
    return _small_multiples(points, names)


def losses(record: RunRecord) -> Figure | None:
    """Return the main method's mean training losses by version."""
    points = record.points_of(record.main_method)
    names = sorted({key for point in points for key in point if key.startswith("train.loss")})
    return _terms(points, names, "mean loss over the round's steps")


def label_iou(record: RunRecord) -> Figure | None:
    """Return the mean IoU of the used labels by round (on val: by version), one curve per method."""
    drawn = _method_curves(record, f"{record.label_source}.labels.mean_iou", _label_x(record), "percent")
    if drawn is None:
        return None
    figure, axes = drawn
    widen(axes, MIN_SPAN)
    return with_legend(figure, axes)


def label_makeup(record: RunRecord) -> Figure | None:
    """Return what became of the main method's labels, as shares of all, stacked by round (on val: by version)."""
    x_column = _label_x(record)
    prefix = f"{record.label_source}.labels."
    bars = []
    for point in record.points_of(record.main_method):
        values = [point.get(prefix + name) for name in _MAKEUP_FIGURES]
        if is_number(point.get(x_column)) and all(map(is_number, values[:2])) and values[0]:
            bars.append((point[x_column], _makeup(*(float(v) if is_number(v) else 0.0 for v in values))))
    if not bars:
        return None
    figure, axes = new_figure(x_column, "percent of all labels")
    floor = [0.0] * len(bars)
    for index, (name, color) in enumerate(_MAKEUP.items()):
        heights = [100 * shares[index] for _, shares in bars]
        axes.bar([x for x, _ in bars], heights, bottom=floor, color=color or LIGHT.line, width=0.6, label=name)
        floor = [low + height for low, height in zip(floor, heights, strict=True)]
    axes.set_ylim(0, 100)
    return with_legend(figure, axes)


def _makeup(
    num: float, used: float, right: float, poor: float, wrong: float, num_right: float, refused: float
) -> tuple[float, ...]:
    """Return the shares of `_MAKEUP` of all labels."""
    right_unused = num_right * refused / num
    return used * right, used * poor, used * wrong, right_unused, max(0.0, 1 - used - right_unused)


def risk_coverage(record: RunRecord) -> Figure | None:
    """Return the main method's risk by coverage, labels by gate and by confidence, at its last measured round.

    The best order and the level of a random one are drawn beside them; the legend has each curve's area.
    """
    prefix = f"{record.label_source}.ordering."
    points = [p for p in record.points_of(record.main_method) if p.get(f"{prefix}best.risk")]
    if not points:
        return None
    figure, axes = new_figure("percent of the labels, the surest first", "1 - mean IoU, percent")
    curves = {
        "best": ("best order", LIGHT.muted, "--"),
        "random": ("random order", LIGHT.muted, ":"),
        "confidence": ("by confidence", "#2e86de", "-"),
        "gate": ("by gate", "#e4572e", "-"),
    }
    xs = [100 * share for share in points[-1][f"{prefix}coverage"]]
    for name, (label, color, line) in curves.items():
        area = points[-1].get(f"{prefix}{name}.area")
        if is_number(area):
            ys = [100 * y for y in points[-1].get(f"{prefix}{name}.risk") or [area] * len(xs)]
            text = f"{label}, area {100 * area:.1f}"
            axes.plot(xs, ys, color=color, linestyle=line, linewidth=1.8, label=text)
    used = points[-1].get(f"{record.label_source}.labels.used_frac")
    if is_number(used):
        axes.axvline(100 * used, color=LIGHT.ink, linewidth=1, alpha=0.5, label="share that is used")
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    return with_legend(figure, axes)


def reliability(record: RunRecord) -> Figure | None:
    """Return the main method's mean IoU by confidence: on labeled photos, and where the truth is known on all labels.

    On the diagonal a confidence is right; the larger a point, the more labels it stands for.
    """
    points = [p for p in record.points_of(record.main_method) if p.get(f"{record.label_source}.reliability.bins")]
    expected = record.results.get("expected")
    ours = (expected if isinstance(expected, Mapping) else {}).get(record.main_method) or {}
    known = "all labels, by hidden truth" if record.label_source == "hidden_truth" else "labels of val"
    curves = {
        "labeled photos, cross-validated": ((ours.get("reliability") or {}).get("bins"), "#2e86de", "--"),
        known: (points[-1][f"{record.label_source}.reliability.bins"] if points else None, "#e4572e", "-"),
    }
    if not any(bins for bins, *_ in curves.values()):
        return None
    figure, axes = new_figure("confidence, percent", "mean IoU, percent")
    axes.plot((0, 100), (0, 100), color=LIGHT.muted, linestyle=":", linewidth=1.2, label="as it should be")
    for label, (bins, color, line) in curves.items():
        if bins:
            xs, ys = ([100 * one[name] for one in bins] for name in ("estimate", "iou"))
            most = max(one["num"] for one in bins)
            axes.plot(xs, ys, color=color, linestyle=line, linewidth=1.5, label=label)
            axes.scatter(xs, ys, [8 + 60 * one["num"] / most for one in bins], color=color, zorder=3)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    return with_legend(figure, axes)


def seconds_by_phase(record: RunRecord) -> Figure | None:
    """Return the main method's wall time per version, stacked by phase."""
    points = record.points_of(record.main_method)
    names = sorted({key for point in points for key in point if key.startswith("seconds.")})
    if not any(is_number(point.get(name)) for point in points for name in names):
        return None
    figure, axes = new_figure("version", "seconds")
    xs, floor = [point["version"] for point in points], [0.0] * len(points)
    for name, color in zip(names, _cycle(_TERM_COLORS, len(names)), strict=True):
        heights = [float(point[name]) if is_number(point.get(name)) else 0.0 for point in points]
        axes.bar(xs, heights, bottom=floor, color=color, width=0.6, label=name.removeprefix("seconds."))
        floor = [low + height for low, height in zip(floor, heights, strict=True)]
    return with_legend(figure, axes)


def _label_x(record: RunRecord) -> str:
    """Pseudo-labels belong to a round; on val the selector of a version is measured."""
    return "round" if record.label_source == "hidden_truth" else "version"


def _method_curves(record: RunRecord, column: str, x_column: str, y_label: str) -> tuple[Figure, Axes] | None:
    """Draw a share in percent, one curve per method; None where no method has it."""
    found = {method: _series(record.points_of(method), column, x_column) for method in record.methods}
    if not any(len(xs) for xs, _ in found.values()):
        return None
    figure, axes = new_figure(x_column, y_label)
    for index, (method, (xs, ys)) in enumerate(found.items()):
        if xs:
            axes.plot(xs, ys, label=record.labels[method], **_style(method, index, method == record.main_method))
    return figure, axes


def _terms(points: Sequence[Point], names: Sequence[str], unit: str) -> Figure | None:
    figure, axes = new_figure("version", unit)
    colors = iter(_cycle(_TERM_COLORS, len(names)))
    for name in names:
        xs, ys = _series(points, name, scale=1.0)
        short = name.split(".", 1)[1]
        main = short in ("total", "loss")
        color = LIGHT.ink if main else next(colors)
        if xs:
            axes.plot(
                xs,
                ys,
                color=color,
                linewidth=2.4 if main else 1.5,
                marker="o",
                markersize=4,
                label=short.replace("_", " "),
            )
    return with_legend(figure, axes) if axes.lines else None


def _small_multiples(points: Sequence[Point], names: Sequence[str]) -> Figure | None:
    """One small panel per figure: their scales have nothing in common."""
    drawn = [(name, *_series(points, name, scale=1.0)) for name in names]
    drawn = [item for item in drawn if item[1]]
    if not drawn:
        return None
    columns = min(2, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = blank(max(1.45 * rows, 2.2))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (name, xs, ys) in zip(grid.flat, drawn, strict=False):
        dress(axes)
        short = name.split(".", 1)[1]
        axes.set_title(POLICY_NAMES.get(short, short.replace("_", " ")), color=LIGHT.ink, fontsize=8.5, loc="left")
        axes.plot(xs, ys, color="#e4572e", linewidth=1.8, marker="o", markersize=3)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.margins(y=0.2)
    for axes in list(grid.flat)[len(drawn) :]:
        axes.set_axis_off()
    return figure


def _series(
    points: Sequence[Point], column: str, x_column: str = "version", scale: float = 100.0
) -> tuple[list[float], list[float]]:
    """The points that have both numbers; by default shares become percent."""
    pairs = [(point.get(x_column), point.get(column)) for point in points]
    kept = [(float(x), scale * float(y)) for x, y in pairs if is_number(x) and is_number(y)]
    return [x for x, _ in kept], [y for _, y in kept]


def spare_style(index: int) -> tuple[str, str]:
    """Return colour and marker of a line that has none of its own; no pair comes twice among 16 lines in a row."""
    turn, color = divmod(index, len(SPARE_COLORS))
    return SPARE_COLORS[color], _SPARE_MARKERS[(color + turn) % len(_SPARE_MARKERS)]


def _style(method: str, index: int, main: bool) -> Mapping[str, Any]:
    color, marker = style_of(method) or spare_style(index)
    width, size = (2.6, 6.5) if main else (1.5, 5.0)
    return {"color": color, "marker": marker, "linewidth": width, "markersize": size, "zorder": 4 if main else 3}


def _cycle(colors: Sequence[str], num: int) -> list[str]:
    return [colors[index % len(colors)] for index in range(num)]
