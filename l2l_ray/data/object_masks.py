"""One judge of masks: what the loader, `l2l data check` and the importers take for the mask of an object.

A segmentation is checked before pycocotools sees it: numbers must be finite, and a run-length encoding must fill its
image. An object has a pixel of its image. The parts of one ref (gRefCOCO) are judged one by one, the pixels of their
union. A mask and the box of its annotation speak of one object: where they do not meet, one of them is wrong.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from l2l_ray.data.layout import BadValue, Notice, Words, finite_numbers
from l2l_ray.data.masks import MaskRule, annotation_rle, box_of_mask, mask_area_px, union_rle
from l2l_ray.data.refer_files import Truth
from l2l_ray.errors import DataError
from l2l_ray.types import Rle

REMEDY = "correct it, or leave it out: the item then stays unlabeled"
_ADD = "add a mask; without one it is unlabeled"
_MAX_COORDINATE_PX = 1e5
_LISTS = (list, tuple, array, np.ndarray)
_OVER_BORDER_PX = 2.0
_BOX_REMEDY = "correct it, or remove it"
_MARGIN_PX = 1.0  # boxes are rounded, and a mask of few pixels has a small one
_UNLIKE_ITS_BOX = "a mask and a box (x, y, width, height) that are far from alike: are they of one object?"
_LIKE_ITS_BOX = 0.3  # IoU of a mask's own box and its annotation's box from which nothing is said


def mask_stays(remedy: str) -> str:
    """Return a remedy for an unusable mask, or a line that ends in one, where the object has an earlier mask."""
    for ending, short in ((REMEDY, "correct it"), (_ADD, "add a mask")):
        remedy = remedy.removesuffix(ending) + short if remedy.endswith(ending) else remedy
    return f"{remedy}; its earlier mask stays"


def annotation_mask(ann_id: int, truth: Truth | None, image_id: int, size: tuple[int, int], rule: MaskRule) -> Rle:
    """Return the mask of one annotation of a ref; it may have no pixel.

    Args:
        ann_id: Its id.
        truth: What it says, None where there is none of this id.
        image_id: The ref's image.
        size: Width and height of the image, px.
        rule: What its parts make.
    Raises:
        BadValue: If it is missing, of another image, has no segmentation, or a malformed one.
    """
    require_segmentation(ann_id, truth, image_id)
    assert truth is not None
    return parts_mask(truth.segmentation, *size, rule=rule)


def require_segmentation(ann_id: int, truth: Truth | None, image_id: int) -> None:
    """Check, without its pixels, that an annotation of a ref has a mask.

    Raises:
        BadValue: If it is missing, of another image, or has no segmentation.
    """
    if truth is None:
        raise BadValue("missing annotation", ann_id, "an annotation of instances.json", "add it, or correct ann_id")
    if not truth.segmentation:
        remedy = "add a mask; without one it can only be unlabeled"
        raise BadValue("missing mask", truth.segmentation, "polygons or an RLE", remedy)
    if truth.image_id != image_id:
        expected = f"image {image_id} as its ref"
        raise BadValue("image of the annotation", truth.image_id, expected, "correct one of them")


def segmentation_rle(segmentation: Any, width: int, height: int, strict: bool = False) -> Rle:
    """Return the mask of a COCO segmentation.

    Args:
        segmentation: Polygons, or an RLE, or a list of RLEs.
        width: Image width, px.
        height: Image height, px.
        strict: Refuse polygons of fewer than three points; otherwise they are ignored.
    Raises:
        BadValue: If there is none, it is malformed, lies outside the image, or covers no pixel.
    """
    rle = parts_mask(segmentation, width, height, strict)
    require_pixels(rle, [segmentation], width, height)
    return rle


def parts_mask(segmentation: Any, width: int, height: int, strict: bool = False, rule: MaskRule = "union") -> Rle:
    """Return the mask of a COCO segmentation, which may have no pixel; arguments as in `segmentation_rle`.

    Raises:
        BadValue: If there is none, or it is malformed.
    """
    if not segmentation:
        raise BadValue("missing mask", segmentation, "polygons or an RLE", _ADD)
    parts = _parts(segmentation)
    polygons = [_polygon(part, strict, parts) for part in parts if not isinstance(part, Mapping)]
    usable = [polygon for polygon in polygons if len(polygon) >= 6]
    rles = [dict(part) for part in parts if isinstance(part, Mapping)]
    for part in rles:
        if not {"size", "counts"} <= part.keys():
            raise BadValue("mask", part, "x, y, x, y, ... in px, or an RLE with size and counts", REMEDY)
    if not usable and not rles:
        rles = [{"size": [height, width], "counts": [height * width]}]
    try:
        rle = annotation_rle([*rles, *usable], height, width, rule)
        mask_area_px(rle)
    except (DataError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        expected = f"polygons in px, or an RLE of (height, width) {[height, width]}"
        raise BadValue("invalid mask", error, expected, REMEDY) from None
    return rle


def require_pixels(rle: Rle, segmentations: Iterable[Any], width: int, height: int) -> None:
    """Check that the mask of an object has a pixel.

    Args:
        rle: The mask, of all its annotations together.
        segmentations: What it was made of, to tell why it has none.
        width: Image width, px.
        height: Image height, px.
    Raises:
        BadValue: If it has none.
    """
    if mask_area_px(rle):
        return
    found = list(segmentations)
    parts = [part for segmentation in found for part in _parts(segmentation) if not isinstance(part, Mapping)]
    if points := [np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in parts if len(part) >= 2]:
        low, high = np.concatenate(points).min(axis=0), np.concatenate(points).max(axis=0)
        if (high <= 0).any() or (low >= (width, height)).any():
            got = found[0] if len(found) == 1 else found
            raise BadValue("mask outside image", got, f"points within {width} x {height} px", REMEDY)
    raise BadValue("empty mask", found[0] if len(found) == 1 else found, "an object that covers a pixel", REMEDY)


def object_mask(masks: Sequence[Rle], segmentations: Iterable[Any], width: int, height: int) -> Rle:
    """Return the mask of an object of several annotations; of none, an expression without a target, it is empty.

    Raises:
        BadValue: If there are annotations and none of them has a pixel.
    """
    rle = union_rle(masks, height, width)
    if masks:
        require_pixels(rle, segmentations, width, height)
    return rle


def compare_with_box(rle: Rle, box_xywh_px: Sequence[float], where: str) -> list[Notice]:
    """Return a notice of a mask and a box that are grossly different, none where they are alike.

    Args:
        rle: A mask that is not empty.
        box_xywh_px: The box that the same annotation gives: x, y, width, height.
        where: Place of the annotation.
    Raises:
        BadValue: If they do not meet.
    """
    own = box_of_mask(rle)
    (left, top, right, bottom), other = _grown(own), _grown(box_xywh_px)
    width, height = min(right, other[2]) - max(left, other[0]), min(bottom, other[3]) - max(top, other[1])
    mask, box = (f"[{', '.join(f'{side:g}' for side in sides)}]" for sides in (own, box_xywh_px))
    if width <= 0 or height <= 0:
        got = Words(f"a mask with the box {mask} beside the box {box}")
        raise BadValue("mask outside its box", got, "a mask and a box of one object", "correct one of them")
    areas = (right - left) * (bottom - top) + (other[2] - other[0]) * (other[3] - other[1])
    if width * height >= _LIKE_ITS_BOX * (areas - width * height):
        return []
    return [Notice(f"{where} (the mask has the box {mask}, the annotation the box {box})", _UNLIKE_ITS_BOX)]


def usable_box(box: Any, size: tuple[int, int] | None) -> list[float]:
    """Return the [x, y, width, height] of an annotation, px.

    Args:
        box: What is given.
        size: Width and height of its image, px; None where they are not known.
    Raises:
        BadValue: If it has no size or reaches beyond its image.
    """
    expected = "[x, y, width, height] in px, with a positive size, inside the image"
    sides = finite_numbers(box, "bbox", expected, _BOX_REMEDY)
    x, y, width, height, *_ = (*sides, *[math.nan] * 4)
    limit_x, limit_y = size or (math.inf, math.inf)
    # 1 px: COCO's boxes are rounded to hundredths and may stand out by a fraction.
    within = min(x, y) >= -_MARGIN_PX and x + width <= limit_x + _MARGIN_PX and y + height <= limit_y + _MARGIN_PX
    if len(sides) != 4 or width <= 0 or height <= 0 or not within:
        raise BadValue("bbox", box, expected, _BOX_REMEDY)
    return sides


def cut_at_border(
    points_xy_px: Iterable[Sequence[float]], size: tuple[int, int], where: str, what: str
) -> list[Notice]:
    """Return a notice of an outline that reaches beyond its image; hands draw a little over the border.

    Args:
        points_xy_px: The outline.
        size: Width and height of its image, px.
        where: Its place.
        what: What it is.
    """
    points = np.asarray(list(points_xy_px), dtype=np.float64).reshape(-1, 2)
    if not len(points):
        return []
    low, high = points.min(axis=0), points.max(axis=0)
    if (low >= -_OVER_BORDER_PX).all() and (high <= np.array(size) + _OVER_BORDER_PX).all():
        return []
    got = f"x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g} in {size[0]} x {size[1]} px"
    return [Notice(f"{where} ({got})", f"a {what} that reaches beyond its picture, cut at the border")]


def outline_points(segmentation: Any) -> list[list[float]]:
    """Return the points of polygons; none of other masks, and of malformed ones, which `segmentation_rle` refuses."""
    parts = _parts(segmentation) if isinstance(segmentation, list) and segmentation else []
    try:
        flat = [finite_numbers(part, "polygon", "") for part in parts if not isinstance(part, Mapping)]
    except BadValue:
        return []
    return [part[i : i + 2] for part in flat for i in range(0, len(part) - 1, 2)]


def _grown(box_xywh_px: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, width, height = box_xywh_px
    return x - _MARGIN_PX, y - _MARGIN_PX, x + width + _MARGIN_PX, y + height + _MARGIN_PX


def _parts(segmentation: Any) -> list[Any]:
    """Return the polygons and RLEs of a segmentation; one flat list is one polygon."""
    parts = list(segmentation) if isinstance(segmentation, list | tuple) else [segmentation]
    return [parts] if isinstance(parts[0], int | float) else parts


def _polygon(part: Any, strict: bool, parts: Sequence[Any]) -> Float64[np.ndarray, " xy"]:
    expected = "x, y pairs of finite numbers, 3 points or more"
    is_numbers = isinstance(part, array | np.ndarray) or (
        isinstance(part, list | tuple) and all(isinstance(n, int | float) and not isinstance(n, bool) for n in part)
    )
    try:
        polygon = np.asarray(part if is_numbers else None, dtype=np.float64)
    except OverflowError:  # an integer beyond every float
        polygon = np.asarray(np.nan)
    if polygon.ndim != 1 or not (np.abs(polygon) < _MAX_COORDINATE_PX).all():
        raise BadValue("polygon", part, expected, REMEDY)
    if len(polygon) == 2 and len(parts) >= 3 and all(isinstance(p, _LISTS) and len(p) == 2 for p in parts):
        raise BadValue("polygon", list(parts), "one flat list: x, y, x, y, ...", "write one flat list for each polygon")
    if len(polygon) % 2 or (strict and len(polygon) < 6):
        raise BadValue("polygon", part, expected, REMEDY)
    return polygon
