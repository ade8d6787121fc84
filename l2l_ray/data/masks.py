"""Binary masks: COCO annotations to RLE to bool arrays, coverage on the decoder's grid, IoU at the native size.

Decided here:
- An object's mask is the *union* of its parts (polygons, RLEs). LAVT and SemiRES sum the parts and keep the pixels
  equal to 1, so where two polygons of one object overlap they see background; numbers on such objects differ slightly
  from theirs. `mask_rule="lavt"` makes their masks. Inside one polygon that crosses itself, pycocotools' even-odd rule
  holds.
- A mask comes to the grid as exact area coverage: the share of each cell that the object covers, also where image and
  grid do not divide. All sums are of integers below 2**53, so the result is the same on every machine and in every
  order.
- Evaluation upsamples the logits to the native size, never shrinks the truth.
- RLE runs are parsed here, because pycocotools decodes runs that are too short to uninitialised memory.

Polygons are rasterised by pycocotools.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Int64
from pycocotools import mask as coco_mask
from torch import Tensor

from l2l_ray.errors import DataError
from l2l_ray.types import BoxFrac, Rle

MaskRule = Literal["union", "lavt"]

# A vertex this far out is a damaged file; pycocotools would allocate memory in proportion to it.
_MAX_COORDINATE_PX = 1e5
# No outline is this long; pycocotools takes 40 bytes or more for each px of it.
_MAX_OUTLINE_PX = 1e6
_ROUNDING = 1e-6  # of the largest logit: more than what the order of additions changes in float32


def annotation_rle(segmentation: Any, height: int, width: int, mask_rule: MaskRule = "union") -> Rle:
    """Return the mask of one COCO annotation.

    Args:
        segmentation: A list of polygons `[x0, y0, x1, y1, ...]` in px (or one such flat list), an RLE dict with
            compressed or uncompressed counts (crowds), or a list of RLE dicts. Polygons of fewer than 3 points have no
            area and are ignored.
        height: Image height, px.
        width: Image width, px.
        mask_rule: "union" = pixels that any part covers; "lavt" = pixels that exactly one part covers.
    Raises:
        DataError: If the segmentation is missing or malformed, or an RLE's size is not the image's.
    """
    if not segmentation:
        raise DataError(f"annotation has no segmentation (got {segmentation!r}); expected polygons or RLE")
    parts = segmentation if isinstance(segmentation, list | tuple) else [segmentation]
    if isinstance(parts[0], int | float):
        parts = [parts]
    rles = [_rle_part(part, height, width) for part in parts if isinstance(part, dict)]
    polygons = [polygon for part in parts if not isinstance(part, dict) if len(polygon := _polygon(part)) >= 6]
    if polygons:
        outline_px = sum(_outline_px(polygon) for polygon in polygons)
        if outline_px > _MAX_OUTLINE_PX:
            raise DataError(f"polygons are {outline_px:.0f} px around, expected at most {_MAX_OUTLINE_PX:.0e}")
        rles += coco_mask.frPyObjects(polygons, height, width)
    if mask_rule == "lavt" and len(rles) > 1:
        num_parts = np.zeros((height, width), dtype=np.int32)
        for rle in rles:
            num_parts += decode(_rle(rle))
        return encode(num_parts == 1)
    return union_rle([_rle(rle) for rle in rles], height, width)


def union_rle(rles: Sequence[Rle], height: int, width: int) -> Rle:
    """Return the union of masks of one size; of none, the mask without a pixel."""
    if len(rles) == 1:
        return rles[0]
    if not rles:
        return encode(np.zeros((height, width), dtype=bool))
    return _rle(coco_mask.merge([{"size": rle["size"], "counts": rle["counts"].encode()} for rle in rles]))


def encode(mask: Bool[np.ndarray, "H W"]) -> Rle:
    """Return the run-length encoding of a mask; the inverse of `decode`."""
    return _rle(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


def decode(rle: Rle) -> Bool[np.ndarray, "H W"]:
    """Return the mask; True = the object. The array is Fortran-ordered, as the runs are.

    Raises:
        DataError: If the runs do not fill the mask exactly.
    """
    height, width = rle["size"]
    runs = _runs(rle)
    # Runs alternate between background and object and go down the columns.
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


def mask_area_px(rle: Rle) -> int:
    """Return the number of pixels of a mask."""
    return int(_runs(rle)[1::2].sum())


def run_lengths(rle: Rle) -> list[int]:
    """Return the runs of a mask, background first, down the columns: what COCO calls uncompressed counts."""
    runs: list[int] = _runs(rle).tolist()
    return runs


def mask_box(rle: Rle) -> BoxFrac | None:
    """Return the box around the mask as fractions of the image; None where it has no pixel."""
    rows, columns = (np.flatnonzero(decode(rle).any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return None
    height, width = rle["size"]
    (top, bottom), (left, right) = ((int(side[0]), int(side[-1]) + 1) for side in (rows, columns))
    return left / width, top / height, right / width, bottom / height


def mask_to_grid(rle: Rle, grid: int) -> Float32[np.ndarray, "G G"]:
    """Return the share of each grid cell that the mask covers, in [0, 1].

    The image is squashed onto the square grid; cell borders may cut pixels, which then count by area.

    Args:
        rle: A mask of H x W pixels.
        grid: Cells per side, G.
    """
    height, width = rle["size"]
    runs = _runs(rle)
    ends = np.cumsum(runs)
    covered = np.cumsum(runs * (np.arange(len(runs)) % 2))
    if not covered[-1]:
        return np.zeros((grid, grid), dtype=np.float32)
    # Only the columns from the first to the last object pixel are looked at: the rest adds nothing.
    first, last = ends[0] // height, (ends[len(runs) // 2 * 2 - 1] - 1) // height
    columns = np.arange(first, last + 1)
    # Unit of length: 1/G pixel, which makes every cell border an integer. C(t) = object length within the first t units
    # of the runs is piecewise linear with slopes 0 and 1, so a column's coverage between two borders is a difference of
    # two interpolated values.
    keep = np.flatnonzero(runs)  # an empty run would make two equal abscissae
    abscissae = np.concatenate(([0], ends[keep])) * grid
    ordinates = np.concatenate(([0], covered[keep])) * grid
    borders = columns[:, None] * (height * grid) + np.arange(grid + 1) * height
    by_column = np.diff(np.interp(borders, abscissae, ordinates), axis=1)
    total = _overlaps(width, grid)[:, first : last + 1] @ by_column
    coverage: Float32[np.ndarray, "G G"] = (total.T / (height * width)).astype(np.float32)
    return coverage


def grid_masks(rles: Sequence[Rle], grid: int) -> Float32[np.ndarray, "B G G"]:
    """Return `mask_to_grid` of many masks; equal masks are computed once."""
    known: dict[tuple[int, int, str], Float32[np.ndarray, "G G"]] = {}
    cells = np.empty((len(rles), grid, grid), dtype=np.float32)
    for i, rle in enumerate(rles):
        height, width = rle["size"]
        key = (height, width, rle["counts"])
        if key not in known:
            known[key] = mask_to_grid(rle, grid)
        cells[i] = known[key]
    return cells


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


def nearest(mask: Bool[np.ndarray, "h w"], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Return a map of pixels or cells at another size: each pixel has the value that its centre lies in."""
    rows = ((2 * np.arange(height) + 1) * mask.shape[0]) // (2 * height)
    columns = ((2 * np.arange(width) + 1) * mask.shape[1]) // (2 * width)
    return mask[np.ix_(rows, columns)]


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
            counts, runs = rle["counts"], _runs(rle)
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


@lru_cache(maxsize=256)
def _overlaps(size: int, grid: int) -> Float64[np.ndarray, "G size"]:
    """Return how much of pixel j lies in cell i along one axis, in units of 1/G pixel (integers up to G)."""
    cell = np.arange(grid)[:, None] * size
    pixel = np.arange(size)[None, :] * grid
    overlap: Int64[np.ndarray, "G size"] = np.minimum(cell + size, pixel + grid) - np.maximum(cell, pixel)
    return overlap.clip(min=0).astype(np.float64)


def _rle(coco: dict[str, Any]) -> Rle:
    counts = coco["counts"]
    height, width = coco["size"]
    return {
        "size": [int(height), int(width)],
        "counts": counts.decode("latin-1") if isinstance(counts, bytes) else counts,
    }


def _rle_part(part: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Check one RLE of an annotation and return it with compressed counts."""
    size, counts = part.get("size"), part.get("counts")
    if size not in ([height, width], (height, width)):
        raise DataError(
            f"RLE of (height, width) {size} does not fit its image of {[height, width]}; correct one of them"
        )
    if isinstance(counts, list):
        if not all(isinstance(run, int) and run >= 0 for run in counts) or sum(counts) != height * width:
            raise DataError(f"uncompressed RLE counts must be integers >= 0 that sum to {height} x {width}")
        compressed: dict[str, Any] = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        return compressed
    if not isinstance(counts, str | bytes):
        raise DataError(f"RLE counts must be a string or a list of integers, got {type(counts).__name__}")
    rle = _rle({"size": [height, width], "counts": counts})
    _runs(rle)
    return {"size": rle["size"], "counts": rle["counts"].encode()}


def _polygon(part: Any) -> Float64[np.ndarray, " xy"]:
    try:
        polygon = np.asarray(part, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"polygon must be a flat list of numbers: {error}") from error
    if polygon.ndim != 1 or len(polygon) % 2 or not (np.abs(polygon) < _MAX_COORDINATE_PX).all():
        raise DataError(
            f"polygon must be x, y pairs of finite numbers below {_MAX_COORDINATE_PX:.0e} px, "
            f"got shape {polygon.shape}, values {polygon.ravel()[:6].tolist()}"
        )
    return polygon


def _outline_px(polygon: Float64[np.ndarray, " xy"]) -> float:
    points = polygon.reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).sum())


def _runs(rle: Rle) -> Int64[np.ndarray, " runs"]:
    """Return the run lengths, background first, from COCO's compressed string.

    Each run is written in groups of 5 bits, least significant first; bit 5 says that more groups follow, bit 4 of the
    last group is the sign; from the fourth run on it is the difference to the run two before.
    """
    height, width = rle["size"]
    codes = np.frombuffer(rle["counts"].encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 0x20) == 0)
    if codes.size and codes.min() >= 0 and codes.max() < 64 and ends.size and ends[-1] == codes.size - 1:
        starts = np.concatenate(([0], ends[:-1] + 1))
        lengths = ends - starts + 1
        if lengths.max() <= 12:  # 12 groups of 5 bits fit 64 bits
            runs = _undo_differences(codes, starts, ends, lengths)
            # Bounded one by one first: a sum of more could wrap around to the right one.
            if runs.min() >= 0 and runs.max() <= height * width and runs.sum() == height * width:
                return runs
    raise DataError(
        f"RLE counts {rle['counts'][:24]!r}... do not describe a mask of height {height} and width {width}; "
        "the file they come from is damaged"
    )


def _undo_differences(
    codes: Int64[np.ndarray, " codes"],
    starts: Int64[np.ndarray, " runs"],
    ends: Int64[np.ndarray, " runs"],
    lengths: Int64[np.ndarray, " runs"],
) -> Int64[np.ndarray, " runs"]:
    place = np.arange(codes.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    runs -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
