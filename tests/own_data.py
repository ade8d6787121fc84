"""What tests ask of the data set `own` of `datatools/conftest.py`: its refs and masks, and masks to compare with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from l2l_ray.data.masks import encode
from l2l_ray.data.plain_pickle import plain_records
from l2l_ray.data.refer import ReferDataset
from l2l_ray.types import Rle

LEFT, RIGHT = [2, 2, 14, 2, 14, 20, 2, 20], [18, 2, 30, 2, 30, 20, 18, 20]
Import = Callable[..., tuple[int, str]]


def own_refs(root: Path) -> list[dict[str, Any]]:
    return list(plain_records(root / "own" / "refs(own).p"))


def own_masks(root: Path, split: str = "train") -> dict[str, Rle]:
    examples, _ = ReferDataset.open(root, "own", "own").labeled_examples(split)
    return {example.expression: example.mask_rle for example in examples}


def polygon_rle(points: list[int], size: tuple[int, int] = (32, 24)) -> Rle:
    """Return the mask of an upright rectangle, given by its corners, on a photo of this width and height, px."""
    mask = np.zeros(size[::-1], bool)
    mask[points[1] : points[5], points[0] : points[2]] = True
    return encode(mask)
