"""Figures by category, size and length, by hand."""

from typing import Any

import pandas as pd

from l2l_ray.loop.evaluation.breakdown import LENGTHS, NO_CATEGORY, NO_TARGET, SIZES, breakdown
from l2l_ray.loop.evaluation.evaluate import meter_of


def _row(sent_id: int, iou_percent: int, area: float, words: int, category: str) -> dict[str, Any]:
    counts = {"intersection": iou_percent, "union": 100, "predicted_px": iou_percent}
    if not area:
        counts = {"intersection": 0, "union": 0, "predicted_px": 0}
    more = {"area_frac": area, "num_words": words, "category": category}
    return {"sent_id": sent_id, "image_id": sent_id, **counts, **more}


ROWS = [
    _row(1, 10, 0.049, 1, "dog"),
    _row(2, 30, 0.05, 2, "cat"),
    _row(3, 50, 0.149, 3, "cat"),
    _row(4, 70, 0.15, 5, "bus"),
    _row(5, 90, 1.0, 6, ""),
    _row(6, 0, 0.0, 11, "cat"),
]


def test_groups_are_disjoint_and_hold_everything() -> None:
    found = breakdown(pd.DataFrame(ROWS), meter_of)
    groups = {
        kind: [(part["group"], part["num"]) for part in found if part["by"] == kind]
        for kind in ("category", "size", "length")
    }
    assert groups["category"] == [("cat", 3), ("bus", 1), ("dog", 1), (NO_CATEGORY, 1)]
    assert groups["size"] == [*zip(SIZES, (1, 2, 2), strict=True), (NO_TARGET, 1)]
    assert groups["length"] == list(zip(LENGTHS, (2, 2, 1, 1), strict=True))
    figures = {part["group"]: part for part in found}
    assert figures["medium, 5-15 %"]["mean_iou"] == 0.4 and figures["medium, 5-15 %"]["overall_iou"] == 0.4
    assert figures["cat"]["mean_iou"] == (0.3 + 0.5 + 1.0) / 3 and figures["cat"]["overall_iou"] == 80 / 200
    assert figures["1-2 words"]["precision_at"][0.5] == 0.0


def test_empty_groups_are_left_out_and_older_files_have_none() -> None:
    assert [part["group"] for part in breakdown(pd.DataFrame(ROWS[:1]), meter_of)] == [
        "dog",
        "small, < 5 %",
        "1-2 words",
    ]
    assert breakdown(pd.DataFrame(ROWS)[["sent_id", "image_id", "intersection", "union"]], meter_of) == []
