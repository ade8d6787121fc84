"""Predictions at an image's own size: logits from the decoder's grid to pixels, and their overlap with true masks.

Evaluation upsamples the logits to the native size and never shrinks the truth. Overlaps are counted in numpy, around
the predicted cells alone, and are those of torch's own upsampling, pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from l2l_ray.data.masks import run_lengths
from l2l_ray.errors import DataError
from l2l_ray.types import Rle

_ROUNDING = 1e-6  # of the largest logit: more than what the order of additions changes in float32


def grid_logits_to_native(mask_logits: Float[Tensor, "*B G G"], height: int, width: int) -> Float[Tensor, "*B H W"]:
    """Upsample logits from the grid to the native image size, bilinear, `align_corners=False`.

    Args:
        mask_logits: One map or a batch of maps.
        height: Image height, px.
        width: Image width, px.
    """
    maps = mask_logits.reshape(-1, 1, *mask_logits.shape[-2:])
    native = F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
    return native.reshape(*mask_logits.shape[:-2], height, width)


@torch.no_grad()
def batch_native_iou(
    mask_logits: Float[Tensor, "B G G"], rles: Sequence[Rle], sizes: Sequence[tuple[int, int]] | None = None
) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"]]:
    """Return intersections and unions in native pixels; the prediction is where the upsampled logit is above 0.

    Args:
        mask_logits: Predictions on the grid, on any device.
        rles: The true masks.
        sizes: (height, width) of each image, px, checked against the masks; None = the masks' own.
    Raises:
        DataError: If the lengths differ or a size is not its mask's.
    """
    own = [(rle["size"][0], rle["size"][1]) for rle in rles]
    sizes = own if sizes is None else [(height, width) for height, width in sizes]
    if len(rles) != len(mask_logits) or sizes != own:
        raise DataError(
            f"one mask of the image's size is needed per prediction, got {len(mask_logits)} predictions, {len(rles)} "
            f"masks of (height, width) {own[:4]}, images of {sizes[:4]}; pass the examples' own masks"
        )
    intersections, unions = np.zeros(len(rles), dtype=np.int64), np.zeros(len(rles), dtype=np.int64)
    grids = mask_logits.float().cpu().numpy()
    counts, runs = None, np.zeros(1, dtype=np.int64)
    for i, rle in enumerate(rles):
        if counts != rle["counts"] or own[i] != own[i - 1]:  # sentences of one object follow each other
            counts, runs = rle["counts"], run_lengths(rle)
        intersections[i], num_predicted = _overlap_px(grids[i], runs, *own[i])
        unions[i] = num_predicted + runs[1::2].sum() - intersections[i]
    return intersections, unions


def _overlap_px(
    logits: Float32[np.ndarray, "G G"], runs: Int64[np.ndarray, " runs"], height: int, width: int
) -> tuple[int, int]:
    """Return how many pixels of a mask are predicted, and how many pixels are predicted in all.

    A pixel between cells none of which is above 0 is not above 0 either, so only the rest is upsampled.
    """
    above = logits > 0
    rows, columns = (np.flatnonzero(above.any(axis=axis)).tolist() for axis in (1, 0))
    if not rows:
        return 0, 0
    down, across = _taps(height, logits.shape[0]), _taps(width, logits.shape[1])
    top, bottom = down.reach(rows[0], rows[-1])
    left, right = across.reach(columns[0], columns[-1])
    if top >= bottom or left >= right:  # an image of fewer pixels than the grid has cells passes some over
        return 0, 0
    down, across = down.part(top, bottom), across.part(left, right)
    # Transposed, as the runs go down the columns; across comes last, because whole columns are quick to fetch.
    first, last = across.low[0], across.high[-1] + 1
    cells = logits.T[first:last]
    margin = _ROUNDING * np.abs(cells).max()
    with np.errstate(invalid="ignore"):  # infinite logits give NaN, here as in torch
        tall = cells[:, down.low] * down.low_weight + cells[:, down.high] * down.high_weight
        native = tall[across.low - first]
        native *= across.low_weight[:, None]
        other = tall[across.high - first]
        other *= across.high_weight[:, None]
        native += other
    predicted = native > margin
    if not np.isfinite(margin) or np.count_nonzero(predicted) != np.count_nonzero(native > -margin):
        # So close to 0 that the order of additions may decide: torch's own counts.
        predicted = (
            (grid_logits_to_native(torch.from_numpy(logits), height, width)[top:bottom, left:right] > 0).numpy().T
        )
    ends = np.clip(np.cumsum(runs), left * height, right * height)
    inside = np.diff(ends, prepend=left * height)
    truth = np.repeat(np.arange(len(runs)) % 2 == 1, inside).reshape(right - left, height)[:, top:bottom]
    return int(np.count_nonzero(predicted & truth)), int(np.count_nonzero(predicted))


class _Taps(NamedTuple):
    """Along one axis, the two cells that each pixel lies between (low, high) and their shares of it."""

    low: Int64[np.ndarray, " size"]
    high: Int64[np.ndarray, " size"]
    low_weight: Float32[np.ndarray, " size"]
    high_weight: Float32[np.ndarray, " size"]

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """Return the range of pixels that cells `first` to `last` have a share of."""
        return int(np.searchsorted(self.high, first)), int(np.searchsorted(self.low, last, side="right"))

    def part(self, start: int, end: int) -> _Taps:
        """Return a range of pixels."""
        return _Taps(*(column[start:end] for column in self))


@lru_cache(maxsize=2048)
def _taps(size: int, grid: int) -> _Taps:
    """Return torch's own weights of upsampling one axis from `grid` cells to `size` pixels."""
    weights = F.interpolate(torch.eye(grid)[None, None], size=(size, grid), mode="bilinear")[0, 0].numpy()
    low = (weights > 0).argmax(axis=1)
    high = np.minimum(low + 1, grid - 1)
    pixels = np.arange(size)
    return _Taps(low, high, weights[pixels, low], np.where(high > low, weights[pixels, high], np.float32(0)))
