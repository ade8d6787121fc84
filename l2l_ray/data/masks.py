"""Binary masks: COCO annotations to RLE to bool arrays, and coverage on the decoder's grid.

Decided here:
- An object's mask is the *union* of its parts (polygons, RLEs). LAVT and SemiRES sum the parts and keep the pixels
  equal to 1, so where two polygons of one object overlap they see background; numbers on such objects differ slightly
  from theirs. `mask_rule="lavt"` makes their masks. Inside one polygon that crosses itself, pycocotools' even-odd rule
  holds.
- A mask comes to the grid as exact area coverage: the share of each cell that the object covers, also where image and
  grid do not divide. All sums are of integers below 2**53, so the result is the same on every machine and in every
  order.
- RLE runs are parsed here, because pycocotools decodes runs that are too short to uninitialised memory.

Polygons are rasterised by pycocotools.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from pycocotools import mask as coco_mask

from l2l_ray.errors import DataError
from l2l_ray.types import BoxFrac, Rle

MaskRule = Literal["union", "lavt"]

# A vertex this far out is a damaged file; pycocotools would allocate memory in proportion to it.
_MAX_COORDINATE_PX = 1e5
# No outline is this long; pycocotools takes 40 bytes or more for each px of it.
_MAX_OUTLINE_PX = 1e6


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
    runs = run_lengths(rle)
    # Runs alternate between background and object and go down the columns.
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


def mask_area_px(rle: Rle) -> int:
    """Return the number of pixels of a mask."""
    return int(run_lengths(rle)[1::2].sum())


def run_lengths(rle: Rle) -> Int64[np.ndarray, " runs"]:
    """Return the runs of a mask in px, background first, down the columns: what COCO calls uncompressed counts.

    In the compressed string each run is written in groups of 5 bits, least significant first; bit 5 says that more
    groups follow, bit 4 of the last group is the sign; from the fourth run on it is the difference to the run two
    before.

    Raises:
        DataError: If the runs do not fill the mask exactly.
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


def box_of_mask(rle: Rle) -> list[float]:
    """Return [x, y, width, height] in px of the smallest box around a mask; four zeros for an empty one."""
    box: list[float] = coco_mask.toBbox({**rle, "counts": rle["counts"].encode()}).tolist()
    return box


def mask_box(rle: Rle) -> BoxFrac | None:
    """Return the box around the mask as fractions of the image; None where it has no pixel."""
    left, top, box_width, box_height = box_of_mask(rle)
    if not box_width:
        return None
    height, width = rle["size"]
    return left / width, top / height, (left + box_width) / width, (top + box_height) / height


def mask_to_grid(rle: Rle, grid: int) -> Float32[np.ndarray, "G G"]:
    """Return the share of each grid cell that the mask covers, in [0, 1].

    The image is squashed onto the square grid; cell borders may cut pixels, which then count by area.

    Args:
        rle: A mask of H x W pixels.
        grid: Cells per side, G.
    """
    height, width = rle["size"]
    runs = run_lengths(rle)
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


def nearest(mask: Bool[np.ndarray, "h w"], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Return a map of pixels or cells at another size: each pixel has the value that its centre lies in."""
    rows = ((2 * np.arange(height) + 1) * mask.shape[0]) // (2 * height)
    columns = ((2 * np.arange(width) + 1) * mask.shape[1]) // (2 * width)
    return mask[np.ix_(rows, columns)]


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
    run_lengths(rle)
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
