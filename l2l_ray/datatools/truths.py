"""What a user or an annotation says about one object, checked: masks, RLEs, polygons, boxes and hints.

Masks are judged by `data/object_masks.py`; own polygons need three points, a box has a positive size, and whatever is
given must cover a pixel of its image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from l2l_ray.data.hints import HINT_REMEDY, PixelHint, read_hint
from l2l_ray.data.layout import BadValue, Words, file_below, finite_numbers, shown
from l2l_ray.data.masks import encode, mask_area_px
from l2l_ray.data.object_masks import REMEDY, box_of_mask, compare_with_box, segmentation_rle
from l2l_ray.types import Rle

MASK_FIELDS = ("mask", "rle", "polygon")
HINT_FIELDS = ("hint", "point", "points")  # and "box", where no mask is given
_MAX_LOOKED_AT = 100_000  # pixels of a picture that may be a mask
_TWO_COLORS = 0.9  # share of a mask's pixels that have its two colors; of a photo no two have so many


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
        raise BadValue("truth", Words(" and ".join(given)), "one of mask, rle and polygon", "keep one of them")
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
            raise BadValue("rle", segmentation, "an object with size [height, width] and counts", REMEDY)
        rle = segmentation_rle(segmentation, width, height, strict=True)
        segmentation = rle if name == "rle" else segmentation
    notice = compare_with_box(rle, box) if box else ""
    return ObjectTruth(segmentation, box or box_of_mask(rle), mask_area_px(rle), (notice,) if notice else ())


def read_row_hint(row: Mapping[str, Any], size: tuple[int, int]) -> PixelHint | None:
    """Return the hint that a row of own data gives, None where it gives none; see `data/hints.py`.

    Args:
        row: May hold `hint`, or `point` or `points`, and `box`, which is a hint where no mask is given; texts are read
            as JSON.
        size: Width and height of the image, px.
    Raises:
        BadValue: If it is malformed, lies outside the image, or is given in two ways.
    """
    names = (*HINT_FIELDS, *(() if any(row.get(name) is not None for name in MASK_FIELDS) else ("box",)))
    given = {name: _json(row[name], name, HINT_REMEDY) for name in names if row.get(name) is not None}
    if not given:
        return None
    if len(given) > 1 and ("hint" in given or {"point", "points"} <= given.keys()):
        raise BadValue("hint", Words(" and ".join(given)), "one of hint, point and points", "keep one of them")
    plain = {"box": given.get("box"), "points": given.get("points", given.get("point"))}
    return read_hint(given.get("hint", plain), *size)


def is_hint_alone(annotation: Mapping[str, Any]) -> bool:
    """Tell whether an own COCO annotation has no segmentation, and a box or points in its place."""
    return not annotation.get("segmentation") and any(annotation.get(n) is not None for n in ("bbox", *HINT_FIELDS))


def read_annotation_hint(annotation: Mapping[str, Any], size: tuple[int, int]) -> PixelHint | None:
    """Return the hint of an own COCO annotation: what a row's fields of these names say; its box if it has no mask.

    Args:
        annotation: The annotation.
        size: Width and height of the image, px.
    Raises:
        BadValue: As in `read_row_hint`.
    """
    segmentation = annotation.get("segmentation")
    place = {"polygon": segmentation} if segmentation else {"box": annotation.get("bbox")}
    return read_row_hint(place | {name: annotation.get(name) for name in HINT_FIELDS}, size)


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
        raise BadValue(
            "mask file", Words(f"{shown(path.name)}: {shown(error)}"), "a readable PNG", "write the mask again"
        ) from None
    if found != (width, height):
        raise BadValue("mask size", Words(f"{found[0]} x {found[1]} px"), f"{width} x {height} px as its image", REMEDY)
    if bands.ndim == 3 and bands.shape[2] in (2, 4):  # the last band is opacity
        bands = bands[..., :-1] * (bands[..., -1:] > 0)
    inside = np.asarray(bands.reshape(height, width, -1).any(axis=2))
    if not inside.any():
        raise BadValue("empty mask", path.name, "a pixel that is not black", REMEDY)
    return encode(inside)


def looks_like_a_mask(path: Path, picture: Path) -> bool:
    """Tell whether a picture may be the mask of another: of its size, nearly all of it in two colors, one of them none.

    Files that cannot be read look like none. Edges of a drawn mask may be smooth, so a few pixels may have more colors.
    """
    try:
        with Image.open(path) as mask, Image.open(picture) as photo:
            if mask.size != photo.size:
                return False
            colors = np.asarray(mask.convert("RGBA")).reshape(-1, 4)
    except Exception:  # as in `mask_of_file`
        return False
    looked_at = np.ascontiguousarray(colors[:: max(1, len(colors) // _MAX_LOOKED_AT)]).view(np.uint32)
    found, counts = np.unique(looked_at, return_counts=True)
    most = np.argsort(counts)[-2:]
    rgba = found[most].view(np.uint8).reshape(-1, 4)
    has_background = bool(((rgba[:, 3] == 0) | ~rgba[:, :3].any(axis=1)).any())  # transparent or black
    return has_background and bool(counts[most].sum() >= _TWO_COLORS * counts.sum())


def read_image_size(path: Path) -> tuple[int, int]:
    """Return width and height of the stored pixels, read from the file's header.

    Raises:
        BadValue: If the file is no readable picture.
    """
    try:
        with Image.open(path) as picture:
            return picture.size
    except Exception as error:  # as in `mask_of_file`
        raise BadValue(
            "unreadable image", Words(f"{shown(path.name)}: {shown(error)}"), "a picture file", "replace the file"
        ) from None


def _box(value: Any, width: int, height: int) -> list[float]:
    expected = f"[x, y, width, height] in px with a positive size, within {width} x {height} px"
    box = finite_numbers(value, "box", expected, REMEDY)
    if len(box) != 4 or min(box[2:]) <= 0:
        raise BadValue("box", value, expected, REMEDY)
    x, y, box_width, box_height = box
    if x >= width or y >= height or x + box_width <= 0 or y + box_height <= 0:
        raise BadValue("box outside image", value, expected, REMEDY)
    return box


def _json(value: Any, what: str, remedy: str = REMEDY) -> Any:
    """Return a value that may be written as JSON text, as it is in CSV cells."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadValue(what, Words(f"{shown(value)} ({shown(error)})"), "JSON", remedy) from None
