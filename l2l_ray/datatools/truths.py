"""What a user or an annotation says about one object, checked: masks, RLEs, polygons and boxes.

Everything is checked before pycocotools sees it: numbers must be finite, polygons need three points, a run-length
encoding must fill its image, a box has a positive size, and whatever is given must cover a pixel of its image.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pycocotools import mask as coco_mask

from l2l_ray.data.layout import MAX_SIDE_PX, BadValue, file_below
from l2l_ray.data.masks import annotation_rle, mask_area_px
from l2l_ray.data.pixels import Header
from l2l_ray.datatools.mask_files import mask_of_file
from l2l_ray.datatools.notices import Notices
from l2l_ray.datatools.orientation import is_drawn_as_shown, refuse_stored_frame, turned_rle
from l2l_ray.errors import DataError
from l2l_ray.types import Rle

MASK_FIELDS = ("mask", "rle", "polygon")
_REMEDY = "correct it, or leave it out: the item then stays unlabeled"
_MAX_COORDINATE_PX = 1e5


class ObjectTruth(NamedTuple):
    """One object as it goes into instances.json; a box alone has an empty segmentation.

    Example: `ObjectTruth([[1, 1, 9, 1, 9, 9]], [1.0, 1.0, 8.0, 8.0], 32)`
    """

    segmentation: Any
    bbox_xywh_px: list[float]
    area_px: float


def read_truth(
    row: Mapping[str, Any], header: Header, mask_root: Path, notices: Notices, from_viewer: bool = False
) -> ObjectTruth | None:
    """Return the truth that a row of own data gives, None where it gives none; on the picture as people see it.

    Args:
        row: May hold one of `mask` (a file name), `rle` and `polygon`, and `box` ([x, y, width, height] in px); texts
            are read as JSON.
        header: Of the image.
        mask_root: Folder that `mask` is relative to.
        notices: Takes what is doubtful about a mask file.
        from_viewer: The row comes from a tool that shows pictures turned as EXIF says.
    Raises:
        BadValue: If a value is malformed or covers no pixel of the image.
    """
    width, height = header.shown
    given = [name for name in MASK_FIELDS if row.get(name) is not None]
    if len(given) > 1:
        raise BadValue("truth", " and ".join(given), "one of mask, rle and polygon", "keep one of them")
    box = None if row.get("box") is None else _box(_json(row["box"], "box"), header)
    if not given:
        return None if box is None else ObjectTruth([], box, box[2] * box[3])
    name = given[0]
    if name == "mask":
        rle = mask_of_file(file_below(mask_root, row["mask"], "mask file"), header, notices)
        segmentation: Any = rle
    else:
        segmentation = _json(row[name], name)
        if name == "rle" and not isinstance(segmentation, dict):
            raise BadValue("rle", segmentation, "an object with size [height, width] and counts", _REMEDY)
        if name == "rle":
            segmentation = rle = _upright_rle(segmentation, header, from_viewer)
        else:
            refuse_stored_frame(_points(segmentation), header, name)
            rle = segmentation_rle(segmentation, width, height, strict=True)
    return ObjectTruth(segmentation, box or box_of_mask(rle), mask_area_px(rle))


def segmentation_rle(segmentation: Any, width: int, height: int, strict: bool = False) -> Rle:
    """Return the mask of a COCO segmentation.

    Args:
        segmentation: Polygons, or an RLE, or a list of RLEs.
        width: Image width, px.
        height: Image height, px.
        strict: Refuse polygons of fewer than three points; otherwise they are ignored, as the loader does.
    Raises:
        BadValue: If there is none, it is malformed, lies outside the image, or covers no pixel.
    """
    if segmentation is None or segmentation == []:
        raise BadValue("missing mask", segmentation, "polygons or an RLE", "add a mask; without one it is unlabeled")
    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    if isinstance(parts[0], numbers.Real):
        parts = [parts]
    polygons = [_polygon(part, strict) for part in parts if not isinstance(part, Mapping)]
    usable = [polygon for polygon in polygons if len(polygon) >= 6]
    rles = [dict(part) for part in parts if isinstance(part, Mapping)]
    if not usable and not rles:
        raise BadValue("empty mask", segmentation, "a polygon of 3 points or more", _REMEDY)
    try:
        rle = annotation_rle([*rles, *usable], height, width)
        area_px = mask_area_px(rle)
    except (DataError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise BadValue("invalid mask", error, f"an RLE of (height, width) {[height, width]}", _REMEDY) from None
    if area_px:
        return rle
    points = [xy for polygon in usable for xy in zip(polygon[::2], polygon[1::2], strict=True)]
    if points and (
        max(x for x, _ in points) <= 0
        or max(y for _, y in points) <= 0
        or min(x for x, _ in points) >= width
        or min(y for _, y in points) >= height
    ):
        raise BadValue("mask outside image", segmentation, f"points within {width} x {height} px", _REMEDY)
    raise BadValue("empty mask", segmentation, "an object that covers a pixel", _REMEDY)


def box_of_mask(rle: Rle) -> list[float]:
    """Return [x, y, width, height] in px of the smallest box around a mask; four zeros for an empty one."""
    box: list[float] = coco_mask.toBbox({**rle, "counts": rle["counts"].encode()}).tolist()
    return box


def image_side(value: Any, what: str = "image size") -> int:
    """Return a width or height that is an integer from 1 to 65,535 px.

    Raises:
        BadValue: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIDE_PX:
        raise BadValue(what, value, f"an integer from 1 to {MAX_SIDE_PX} px", "correct the image table")
    return value


def finite_numbers(value: Any, what: str, expected: str) -> list[float]:
    """Return a list of finite numbers.

    Raises:
        BadValue: If it is something else.
    """
    if isinstance(value, list | tuple) and all(_is_finite(number) for number in value):
        return [float(number) for number in value]
    raise BadValue(what, value, expected, _REMEDY)


def _is_finite(number: Any) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    try:
        return math.isfinite(number) and abs(number) < _MAX_COORDINATE_PX
    except OverflowError:  # an integer beyond every float
        return False


def _polygon(part: Any, strict: bool) -> list[float]:
    expected = "x, y pairs of finite numbers, 3 points or more"
    polygon = finite_numbers(part, "polygon", expected)
    if len(polygon) % 2 or (strict and len(polygon) < 6):
        raise BadValue("polygon", part, expected, _REMEDY)
    return polygon


def _upright_rle(rle: Mapping[str, Any], header: Header, from_viewer: bool) -> Rle:
    """Return a mask on the picture as people see it, whichever way it was drawn."""
    size = rle.get("size")
    if not header.is_turned or not isinstance(size, list | tuple) or len(size) != 2:
        return segmentation_rle(rle, *header.shown, strict=True)
    if is_drawn_as_shown((size[1], size[0]), header, "a mask", from_viewer):
        return segmentation_rle(rle, *header.shown, strict=True)
    return turned_rle(segmentation_rle(rle, *header.stored, strict=True), header.orientation)


def _points(polygons: Any) -> list[list[float]]:
    """Return the points of polygons as far as they are well formed."""
    parts = polygons if isinstance(polygons, list) else []
    parts = [parts] if parts and not isinstance(parts[0], list) else parts
    numbers_only = [part for part in parts if isinstance(part, list) and all(_is_finite(number) for number in part)]
    return [part[i : i + 2] for part in numbers_only for i in range(0, len(part) - 1, 2)]


def _box(value: Any, header: Header) -> list[float]:
    width, height = header.shown
    expected = f"[x, y, width, height] in px with a positive size, within {width} x {height} px"
    box = finite_numbers(value, "box", expected)
    if len(box) != 4 or min(box[2:]) <= 0:
        raise BadValue("box", value, expected, _REMEDY)
    x, y, box_width, box_height = box
    refuse_stored_frame([(x, y), (x + box_width, y + box_height)], header, "box")
    if x >= width or y >= height or x + box_width <= 0 or y + box_height <= 0:
        raise BadValue("box outside image", value, expected, _REMEDY)
    return box


def _json(value: Any, what: str) -> Any:
    """Return a value that may be written as JSON text, as it is in CSV cells."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadValue(what, f"{value[:40]!r} ({type(error).__name__})", "JSON", _REMEDY) from None
