"""What a user or an annotation says about one object, checked: masks, RLEs, polygons, boxes and hints.

Everything is checked before pycocotools sees it: numbers must be finite, polygons need three points, a run-length
encoding must fill its image, a box has a positive size, and whatever is given must cover a pixel of its image.
"""

from __future__ import annotations

import json
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from l2l_ray.data.hints import HINT_REMEDY, PixelHint, read_hint
from l2l_ray.data.layout import MAX_SIDE_PX, STAYS_UNLABELED, BadValue, file_below, finite_numbers
from l2l_ray.data.masks import annotation_rle, encode, mask_area_px
from l2l_ray.errors import DataError
from l2l_ray.types import Rle

MASK_FIELDS = ("mask", "rle", "polygon")
_REMEDY = STAYS_UNLABELED


class ObjectTruth(NamedTuple):
    """One object as it goes into instances.json.

    Example: `ObjectTruth([[1, 1, 9, 1, 9, 9]], [1.0, 1.0, 8.0, 8.0], 32)`
    """

    segmentation: Any
    bbox_xywh_px: list[float]
    area_px: float
    notices: tuple[str, ...] = ()  # what a person should know about it


def read_truth(row: Mapping[str, Any], size: tuple[int, int], mask_root: Path) -> ObjectTruth | None:
    """Return the truth that a row of own data gives, None where it gives none: a box alone is none, but a hint.

    Args:
        row: May hold one of `mask` (a file name), `rle` and `polygon`, and then `box` ([x, y, width, height] in px);
            texts are read as JSON.
        size: Width and height of the image, px.
        mask_root: Folder that `mask` is relative to.
    Raises:
        BadValue: If a value is malformed or covers no pixel of the image.
    """
    width, height = size
    given = [name for name in MASK_FIELDS if row.get(name) is not None]
    if len(given) > 1:
        raise BadValue("truth", " and ".join(given), "one of mask, rle and polygon", "keep one of them")
    if not given:
        return None
    box = None if row.get("box") is None else _box(_json(row["box"], "box"), width, height)
    name = given[0]
    if name == "mask":
        rle = mask_of_file(file_below(mask_root, row["mask"], "mask file"), width, height)
        segmentation: Any = rle
    else:
        segmentation = _json(row[name], name)
        if name == "rle" and not isinstance(segmentation, dict):
            raise BadValue("rle", segmentation, "an object with size [height, width] and counts", _REMEDY)
        rle = segmentation_rle(segmentation, width, height, strict=True)
        segmentation = rle if name == "rle" else segmentation
    return ObjectTruth(segmentation, box or box_of_mask(rle), mask_area_px(rle))


def read_row_hint(row: Mapping[str, Any], size: tuple[int, int]) -> PixelHint | None:
    """Return the hint that a row of own data gives, None where it gives none; see `data/hints.py`.

    Args:
        row: May hold `hint`, or `point` or `points`, and `box`, which is a hint where no mask is given; texts are read
            as JSON.
        size: Width and height of the image, px.
    Raises:
        BadValue: If it is malformed, lies outside the image, or is given in two ways.
    """
    names = ("hint", "point", "points", *(() if any(row.get(name) is not None for name in MASK_FIELDS) else ("box",)))
    given = {name: _json(row[name], name, HINT_REMEDY) for name in names if row.get(name) is not None}
    if not given:
        return None
    if len(given) > 1 and ("hint" in given or {"point", "points"} <= given.keys()):
        raise BadValue("hint", " and ".join(given), "one of hint, point and points", "keep one of them")
    plain = {"box": given.get("box"), "points": given.get("points", given.get("point"))}
    return read_hint(given.get("hint", plain), *size)


def mask_of_file(path: Path, width: int, height: int) -> Rle:
    """Return the mask in a picture file: every pixel that is not 0 (black, transparent) belongs to the object.

    Raises:
        BadValue: If the file is unreadable, has another size than its image, or is empty.
    """
    try:
        with Image.open(path) as picture:
            found = picture.size
            if found == (width, height):  # a palette's numbers are no colors
                bands = np.asarray(picture.convert("RGBA") if picture.mode in ("P", "PA") else picture)
    # Besides OSError, Pillow raises SyntaxError, ValueError and its own errors on damaged files.
    except Exception as error:
        raise BadValue("mask file", f"{path.name}: {error}", "a readable PNG", "write the mask again") from None
    if found != (width, height):
        raise BadValue("mask size", f"{found[0]} x {found[1]} px", f"{width} x {height} px as its image", _REMEDY)
    if bands.ndim == 3 and bands.shape[2] in (2, 4):  # the last band is opacity
        bands = bands[..., :-1] * (bands[..., -1:] > 0)
    inside = np.asarray(bands.reshape(height, width, -1).any(axis=2))
    if not inside.any():
        raise BadValue("empty mask", path.name, "a pixel that is not black", _REMEDY)
    return encode(inside)


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


def read_image_size(path: Path) -> tuple[int, int]:
    """Return width and height of the stored pixels, read from the file's header.

    Raises:
        BadValue: If the file is no readable picture.
    """
    try:
        with Image.open(path) as picture:
            return picture.size
    except Exception as error:  # as in `mask_of_file`
        raise BadValue("unreadable image", f"{path.name}: {error}", "a picture file", "replace the file") from None


def image_side(value: Any, what: str = "image size") -> int:
    """Return a width or height that is an integer from 1 to 65,535 px.

    Raises:
        BadValue: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIDE_PX:
        raise BadValue(what, value, f"an integer from 1 to {MAX_SIDE_PX} px", "correct the image table")
    return value


def _polygon(part: Any, strict: bool) -> list[float]:
    expected = "x, y pairs of finite numbers, 3 points or more"
    polygon = finite_numbers(part, "polygon", expected)
    if len(polygon) % 2 or (strict and len(polygon) < 6):
        raise BadValue("polygon", part, expected, _REMEDY)
    return polygon


def _box(value: Any, width: int, height: int) -> list[float]:
    expected = f"[x, y, width, height] in px with a positive size, within {width} x {height} px"
    box = finite_numbers(value, "box", expected)
    if len(box) != 4 or min(box[2:]) <= 0:
        raise BadValue("box", value, expected, _REMEDY)
    x, y, box_width, box_height = box
    if x >= width or y >= height or x + box_width <= 0 or y + box_height <= 0:
        raise BadValue("box outside image", value, expected, _REMEDY)
    return box


def _json(value: Any, what: str, remedy: str = _REMEDY) -> Any:
    """Return a value that may be written as JSON text, as it is in CSV cells."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadValue(what, f"{value[:40]!r} ({type(error).__name__})", "JSON", remedy) from None
