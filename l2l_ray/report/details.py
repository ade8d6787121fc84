"""The tables behind the headline: intervals, expressions without a target, figures by kind of sentence.

All come from what newer runs add to results.json; for older runs they are absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from l2l_ray.report.figures import NOTHING, ends_of, interval, percent, splits_of
from l2l_ray.report.record import RunRecord
from l2l_ray.report.tables import Cell, Table, metric_name

MAX_CATEGORIES = 12
_BREAKDOWN_METRICS = ("overall_iou", "mean_iou")
_INTERVAL_METRICS = ("overall_iou", "mean_iou", "precision_at.0.5")


def breakdown_table(record: RunRecord) -> Table | None:
    """Return the main method's figures by category, object size and sentence length; None in runs that lack them.

    Reads results.json's optional `breakdown`: rows {"method", "split", "by", "group", "num", "overall_iou", ...}.
    Of the categories, those with the most sentences are shown.
    """
    found: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    splits: list[str] = []  # in the order of the file
    for item in record.results.get("breakdown") or []:
        if isinstance(item, Mapping) and item.get("method") == record.main_method:
            key = (str(item.get("by", "?")), str(item.get("group", "?")))
            split = str(item.get("split", "?"))
            found.setdefault(key, {})[split] = item
            splits += [split] if split not in splits else []
    if not found:
        return None
    order = {kind: place for place, kind in enumerate(dict.fromkeys(kind for kind, _ in found))}
    num = {key: sum(part.get("num") or 0 for part in row.values()) for key, row in found.items()}
    categories = sorted((key for key in found if key[0] == "category"), key=lambda key: (-num[key], key[1]))
    shown = [*categories[:MAX_CATEGORIES], *(key for key in found if key[0] != "category")]
    rows = []
    for key in sorted(shown, key=lambda key: order[key[0]]):
        figures = [found[key].get(split, {}) for split in splits]
        cells = [
            (str(part.get("num", NOTHING)), *(percent(part.get(m)) for m in _BREAKDOWN_METRICS)) for part in figures
        ]
        rows.append((Cell(f"{key[0]}: {key[1]}"), *(Cell(text) for texts in cells for text in texts)))
    header = ("Of", *(name for _ in splits for name in ("texts", *map(metric_name, _BREAKDOWN_METRICS))))
    groups = (("", 1), *((split, 1 + len(_BREAKDOWN_METRICS)) for split in splits))
    return Table(groups, header, tuple(rows))


def intervals_table(record: RunRecord) -> Table | None:
    """Return every method's overall and mean IoU with their 95 % intervals; None in runs that lack them."""
    splits = list(dict.fromkeys(split for row in record.rows for split in splits_of(row)))
    rows = []
    for row in record.rows:
        found = [ends_of(splits_of(row).get(split, {})) for split in splits]
        ends = [(part.get(f"{m}.low"), part.get(f"{m}.high")) for part in found for m in _INTERVAL_METRICS]
        if any(interval(low, high) != NOTHING for low, high in ends):
            texts = (interval(low, high) for low, high in ends)
            rows.append((Cell(record.labels[str(row.get("method", "?"))]), *(Cell(text) for text in texts)))
    if not rows:
        return None
    groups = (("", 1), *((split, len(_INTERVAL_METRICS)) for split in splits))
    return Table(groups, ("Method", *(metric_name(m) for _ in splits for m in _INTERVAL_METRICS)), tuple(rows))


def no_target_table(record: RunRecord) -> Table | None:
    """Return the figures of GRES, per method and split that has sentences without a target; None without such."""
    names = ("gres_giou", "gres_ciou", "n_acc", "t_acc")
    rows = []
    for row in record.rows:
        for split, scores in splits_of(row).items():
            if isinstance(found := scores.get("no_target"), Mapping):
                label = record.labels[str(row.get("method", "?"))]
                counts = f"{found.get('num_no_target', '?')} of {scores.get('num', '?')}"
                rules = f"empty union: {found.get('empty_union_rule')}; small: {found.get('small_prediction_rule')}"
                texts = (label, split, counts, *(percent(found.get(name)) for name in names), rules)
                rows.append(tuple(Cell(text) for text in texts))
    header = ("Method", "split", "no target", "gIoU", "cIoU", "N-acc", "T-acc", "rules")
    return Table((("", len(header)),), header, tuple(rows)) if rows else None
