"""The tables of what labels were worth: against hidden truth or on val, round by round, by source, by region.

Figures that a run lacks are dashes; a column that no row has is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from l2l_ray.report.figures import NOTHING, interval, percent
from l2l_ray.report.record import REGIONS, RunRecord, is_number
from l2l_ray.report.tables import Cell, Table
from l2l_ray.types import Candidate

# What candidates are called on the page, in this order.
_CANDIDATES = {
    Candidate.GUIDED: "teacher",
    Candidate.UNGUIDED: "without box",
    Candidate.FLIPPED: "mirrored",
    Candidate.PRIOR: "language model",
}

# Heading, name of the column, and the figure.
_COLUMNS = (
    ("Labels", "all", "labels.num"),
    ("Labels", "used", "labels.used_frac"),
    ("Of the used labels", "mean IoU", "labels.mean_iou"),
    ("Of the used labels", "by area", "labels.mean_iou_by_area"),
    ("Of the used labels", "stated confidence", "labels.mean_confidence"),
    ("Of the used labels", "right", "labels.right_frac"),
    ("Of the used labels", "poor outline", "labels.poor_outline_frac"),
    ("Of the used labels", "wrong object", "labels.wrong_object_frac"),
    ("Right labels", "refused", "labels.right_refused_frac"),
    ("Wrong before", "wrong again", "wrong_before.again_frac"),
    ("Wrong before", "same mask", "wrong_before.same_mask_frac"),
    ("Object cells", "precision", "object_precision"),
    ("Object cells", "recall", "object_recall"),
    ("AUC", "gate", "ordering.gate.auc"),
    ("AUC", "confidence", "ordering.confidence.auc"),
    ("Confidence", "calibration error", "reliability.ece"),
)


def labels_table(record: RunRecord, source: str) -> Table | None:
    """Return, per method, how good its labels are at its last version that has figures.

    Args:
        record: The run.
        source: Column prefix: `quality.val` or `hidden_truth`.
    """
    found = {method: _judged(record, method, source) for method in record.methods}
    return _labels(
        "Method", [(record.labels[method], points[-1]) for method, points in found.items() if points], source
    )


def rounds_table(record: RunRecord) -> Table | None:
    """Return how good the main method's pseudo-labels of each round are against hidden truth."""
    points = _judged(record, record.main_method, "hidden_truth")
    return _labels("Round", [(str(point["round"]), point) for point in points], "hidden_truth")


def expected_table(record: RunRecord) -> Table | None:
    """Return what the labels of the last round are worth by the labeled images alone, per method that says so.

    Reads results.json's `expected`, see `loop/evaluation/trust.py`.
    """
    found = record.results.get("expected")
    rows = []
    for method, line in (found if isinstance(found, Mapping) else {}).items():
        if not isinstance(line, Mapping):
            continue
        name, labeled = record.labels.get(str(method), str(method)), line.get("labeled") or {}
        error = (line.get("reliability") or {}).get("ece")
        texts = (labeled.get("images"), labeled.get("texts"), _range(line.get("all")), _range(line.get("used")))
        rows.append(tuple(Cell(str(text)) for text in (name, *texts, percent(error))))
    groups = (("", 1), ("Labeled", 2), ("Expected mean IoU", 2), ("", 1))
    header = ("Method", "photos", "texts", "of all labels with a mask", "of the used", "calibration error")
    return Table(groups, header, tuple(rows)) if rows else None


def _range(found: Mapping[str, Any] | None) -> str:
    return f"{percent(found.get('mean'))} ({interval(found.get('low'), found.get('high'))})" if found else NOTHING


def gate_table(record: RunRecord) -> Table | None:
    """Return the share of labels used on unlabeled and on labeled photos, per round, of every selector that learns.

    Reads results.json's `gate_open`: method -> rows {"round", "version", "unlabeled", "labeled", "gap"}, shares.
    """
    found = record.results.get("gate_open")
    rows = []
    for method, lines in (found if isinstance(found, Mapping) else {}).items():
        for line in lines:
            name = record.labels.get(str(method), str(method))
            gap = f"{100 * line['gap']:+.1f}" if is_number(line.get("gap")) else NOTHING
            texts = (str(line.get("round")), percent(line.get("unlabeled")), percent(line.get("labeled")), gap)
            rows.append(tuple(Cell(text) for text in (name, *texts)))
    groups = (("", 2), ("Labels used, of", 2), ("", 1))
    header = ("Method", "round", "unlabeled photos", "labeled photos", "difference, points")
    return Table(groups, header, tuple(rows)) if rows else None


def sources_table(record: RunRecord) -> Table | None:
    """Return, per method, whose labels the used ones of its last measured round are, and how many of them are right."""
    prefix = f"{record.label_source}.sources."
    found = {m: points[-1] for m in record.methods if (points := _judged(record, m, record.label_source))}
    given = {key.removeprefix(prefix).split(".")[0] for p in found.values() for key in p if key.startswith(prefix)}
    known = {candidate.name.lower(): text for candidate, text in _CANDIDATES.items()}
    names = {name: text for name, text in known.items() if name in given} | {n: n for n in sorted(given - known.keys())}
    columns = [f"{prefix}{name}.{figure}" for name in names for figure in ("used_frac", "right_frac")]
    rows = [
        (Cell(record.labels[method]), *(Cell(percent(point.get(column))) for column in columns))
        for method, point in found.items()
        if any(column in point for column in columns)
    ]
    header = ("Method", *(text for _ in names for text in ("of the used", "right of these")))
    return Table((("", 1), *((text, 2) for text in names.values())), header, tuple(rows)) if rows else None


def regions_table(record: RunRecord) -> Table | None:
    """Return, per method, accuracy and accepted share by true region at its last version that has them."""
    kinds = {"accuracy_by_true_region": "Accuracy", "accepted_by_true_region": "Accepted"}
    columns = [f"{record.label_source}.{kind}.{region}" for kind in kinds for region in REGIONS]
    rows = []
    for method in record.methods:
        if points := [point for point in record.points_of(method) if any(column in point for column in columns)]:
            rows.append((Cell(record.labels[method]), *(Cell(percent(points[-1].get(column))) for column in columns)))
    groups = (("", 1), *((title, len(REGIONS)) for title in kinds.values()))
    return Table(groups, ("Method", *(region for _ in kinds for region in REGIONS)), tuple(rows)) if rows else None


def _judged(record: RunRecord, method: str, source: str) -> list[Mapping[str, Any]]:
    return [point for point in record.points_of(method) if is_number(point.get(f"{source}.labels.num"))]


def _labels(first: str, lines: Sequence[tuple[str, Mapping[str, Any]]], source: str) -> Table | None:
    """Return a table of labels and their cells, one row per (name, point)."""
    shown = [c for c in _COLUMNS if any(is_number(point.get(f"{source}.{c[2]}")) for _, point in lines)]
    if not shown:
        return None
    groups: dict[str, int] = {}
    for heading, *_ in shown:
        groups[heading] = groups.get(heading, 0) + 1
    rows = [(Cell(name), *(Cell(_text(point, source, figure)) for *_, figure in shown)) for name, point in lines]
    return Table((("", 1), *groups.items()), (first, *(name for _, name, _ in shown)), tuple(rows))


def _text(point: Mapping[str, Any], source: str, figure: str) -> str:
    value = point.get(f"{source}.{figure}")
    return str(value) if figure == "labels.num" else percent(value)
