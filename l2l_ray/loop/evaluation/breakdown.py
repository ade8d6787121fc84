"""Figures of a split by category, by object size and by sentence length: where a method is good, and where it is not.

The groups of one kind are disjoint and together hold every sentence. Sizes are shares of the image by native area, not
COCO's 32 and 96 px: those depend on how large the photo was saved, and nearly every object of the RefCOCO family is
"large" by them. Files of older runs lack the columns and have no breakdown.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pandas as pd

from l2l_ray.metrics import IouMeter

# Upper limits, exclusive. Source: ours; the middle object of the RefCOCO family covers about 8 % of its image.
SIZES = {"small, < 5 %": 0.05, "medium, 5-15 %": 0.15, "large, >= 15 %": math.inf}
LENGTHS = {"1-2 words": 3, "3-5 words": 6, "6-10 words": 11, "> 10 words": math.inf}
NO_TARGET = "no target"
NO_CATEGORY = "without category"


def breakdown(frame: pd.DataFrame, meter_of: Callable[[pd.DataFrame], IouMeter]) -> list[dict[str, Any]]:
    """Return one row per group: by (category, size or length), group, num, overall_iou, mean_iou, precision_at.

    Categories come by falling number of sentences, sizes and lengths in their own order; empty groups are left out.

    Args:
        frame: One split's rows, as in `inference.engine.EvalPart`.
        meter_of: Makes a meter of rows.
    """
    if not {"category", "area_frac", "num_words"} <= set(frame.columns):
        return []
    by_category = [(str(name) or NO_CATEGORY, part) for name, part in frame.groupby("category")]
    by_category.sort(key=lambda item: (-len(item[1]), item[0]))
    empty = frame["area_frac"] == 0
    by_size = [*_ranges(frame[~empty], "area_frac", SIZES), (NO_TARGET, frame[empty])]
    kinds = {"category": by_category, "size": by_size, "length": _ranges(frame, "num_words", LENGTHS)}
    return [
        {"by": kind, "group": name, **meter_of(part).summary()}
        for kind, groups in kinds.items()
        for name, part in groups
        if len(part)
    ]


def _ranges(frame: pd.DataFrame, column: str, limits: dict[str, float]) -> list[tuple[str, pd.DataFrame]]:
    bounds = pairwise([-math.inf, *limits.values()])
    return [
        (name, frame[(frame[column] >= low) & (frame[column] < high)])
        for name, (low, high) in zip(limits, bounds, strict=True)
    ]
