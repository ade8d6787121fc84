"""What a user or an annotation says about one object, checked: masks, RLEs, polygons, boxes and hints.

Masks are judged by `data/object_masks.py`; own polygons need three points, and a mask must cover a pixel of its image.
An unusable box costs no mask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from l2l_ray.data.hints import HINT_REMEDY, PixelHint, read_hint, refuse_shares
from l2l_ray.data.layout import MAX_SIDE_PX, BadValue, Notice, Words, file_below, shown
from l2l_ray.data.masks import box_of_mask, mask_area_px
from l2l_ray.data.object_masks import (
    REMEDY,
    compare_with_box,
    cut_at_border,
    outline_points,
    segmentation_rle,
    usable_box,
)
from l2l_ray.data.pixels import Header
from l2l_ray.datatools.mask_files import mask_of_file
from l2l_ray.datatools.orientation import is_drawn_as_shown, refuse_stored_frame, turned_rle
from l2l_ray.types import Rle

MASK_FIELDS = ("mask", "rle", "polygon")
HINT_FIELDS = ("hint", "point", "points")  # and "box", where no mask is given
_UNUSED_BOX = (
    "a box beside a mask, which is used without it; expected [x, y, width, height] in px, with a positive size, inside "
    "the picture; correct it, or leave it out"
)


class ObjectTruth(NamedTuple):
    """One object as it goes into instances.json.

    Example: `ObjectTruth([[1, 1, 9, 1, 9, 9]], [1.0, 1.0, 8.0, 8.0], 32)`
    """

    segmentation: Any
    bbox_xywh_px: list[float]
    area_px: float


def read_truth(
    row: Mapping[str, Any],
    where: str,
    header: Header,
    mask_root: Path,
    notices: list[Notice],
    from_viewer: bool = False,
) -> ObjectTruth | None:
    """Return the truth that a row of own data gives, on the picture as people see it.

    None where it gives none: a box alone is none, but a hint.

    Args:
        row: May hold one of `mask` (a file name), `rle` and `polygon`, and then `box` ([x, y, width, height] in px);
            texts are read as JSON.
        where: Place of the row.
        header: Of the image.
        mask_root: Folder that `mask` is relative to.
        notices: Takes what a person should know about it.
        from_viewer: The row comes from a tool that shows pictures turned as EXIF says.
    Raises:
        BadValue: If the mask is malformed or covers no pixel of the image, or the box does not meet it or is drawn on
            the stored pixels; a box that cannot be used is left out, with a notice.
    """
    given = [name for name in MASK_FIELDS if row.get(name) is not None]
    if len(given) > 1:
        raise BadValue("truth", Words(" and ".join(given)), "one of mask, rle and polygon", "keep one of them")
    if not given:
        return None
    box = None
    if row.get("box") is not None and (box := box_beside_mask(row["box"], None, where, notices)) is not None:
        x, y, width, height = box
        refuse_stored_frame([(x, y), (x + width, y + height)], header, "box")
        box = box_beside_mask(box, header.shown, where, notices)
    name = given[0]
    if name == "mask":
        rle = mask_of_file(file_below(mask_root, row["mask"], "mask file"), header, notices)
        segmentation: Any = rle
    else:
        segmentation = _json(row[name], name)
        if name == "rle" and not isinstance(segmentation, dict):
            raise BadValue("rle", segmentation, "an object with size [height, width] and counts", REMEDY)
        if name == "rle":
            segmentation = rle = _upright_rle(segmentation, header, from_viewer)
        else:
            points = outline_points(segmentation)
            refuse_shares([side for point in points for side in point], name, segmentation, REMEDY)
            refuse_stored_frame(points, header, name)
            rle = segmentation_rle(segmentation, *header.shown, strict=True)
            notices += cut_at_border(points, header.shown, where, name)
    notices += compare_with_box(rle, box, where) if box else []
    return ObjectTruth(segmentation, box or box_of_mask(rle), mask_area_px(rle))


def box_beside_mask(value: Any, size: tuple[int, int] | None, where: str, notices: list[Notice]) -> list[float] | None:
    """Return the box that is given beside a mask, px; None, with a notice, where it is unusable: the mask is enough.

    Args:
        value: What is given, perhaps as JSON.
        size: Width and height of the image, px; None = the box may lie anywhere.
        where: Place of both.
        notices: Takes the notice.
    """
    try:
        return usable_box(_json(value, "box"), size)
    except BadValue:
        notices.append(
            Notice(f"{where} ({shown(value)}{f' in {size[0]} x {size[1]} px' if size else ''})", _UNUSED_BOX)
        )
        return None


def read_row_hint(row: Mapping[str, Any], header: Header) -> PixelHint | None:
    """Return the hint that a row of own data gives, on the picture as people see it; None where it gives none.

    See `data/hints.py`.

    Args:
        row: May hold `hint`, or `point` or `points`, and `box`, which is a hint where no mask is given; texts are read
            as JSON.
        header: Of the image.
    Raises:
        BadValue: If it is malformed, lies outside the image, or is given in two ways.
    """
    given = _given_hint(row)
    if given is not None and header.is_turned:
        hint = read_hint(given, MAX_SIDE_PX, MAX_SIDE_PX)
        refuse_stored_frame(hint.points_xy_px, header, "point")
        refuse_stored_frame(hint.corners(), header, "box")
    return None if given is None else read_hint(given, *header.shown)


def _given_hint(row: Mapping[str, Any]) -> Any:
    """Return what a row says about a hint as one object, not yet checked; None where it says nothing."""
    names = (*HINT_FIELDS, *(() if any(row.get(name) is not None for name in MASK_FIELDS) else ("box",)))
    given = {name: _json(row[name], name, HINT_REMEDY) for name in names if row.get(name) is not None}
    if not given:
        return None
    if len(given) > 1 and ("hint" in given or {"point", "points"} <= given.keys()):
        raise BadValue("hint", Words(" and ".join(given)), "one of hint, point and points", "keep one of them")
    plain = {"box": given.get("box"), "points": given.get("points", given.get("point"))}
    return given.get("hint", plain)


def is_hint_alone(annotation: Mapping[str, Any]) -> bool:
    """Tell whether an own COCO annotation has no segmentation, and a box or points in its place."""
    return not annotation.get("segmentation") and any(annotation.get(n) is not None for n in ("bbox", *HINT_FIELDS))


def read_annotation_hint(annotation: Mapping[str, Any], size: tuple[int, int]) -> PixelHint | None:
    """Return the hint of an own COCO annotation: what a row's fields of these names say; its box if it has no mask.

    Args:
        annotation: The annotation.
        size: Width and height of the image in the image table, px; the hint is in this frame.
    Raises:
        BadValue: As in `read_row_hint`.
    """
    segmentation = annotation.get("segmentation")
    place = {"polygon": segmentation} if segmentation else {"box": annotation.get("bbox")}
    given = _given_hint(place | {name: annotation.get(name) for name in HINT_FIELDS})
    return None if given is None else read_hint(given, *size)


def _upright_rle(rle: Mapping[str, Any], header: Header, from_viewer: bool) -> Rle:
    """Return a mask on the picture as people see it, whichever way it was drawn."""
    size = rle.get("size")
    if not header.is_turned or not isinstance(size, list | tuple) or len(size) != 2:
        return segmentation_rle(rle, *header.shown, strict=True)
    if is_drawn_as_shown((size[1], size[0]), header, "a mask", from_viewer):
        return segmentation_rle(rle, *header.shown, strict=True)
    return turned_rle(segmentation_rle(rle, *header.stored, strict=True), header.orientation)


def _json(value: Any, what: str, remedy: str = REMEDY) -> Any:
    """Return a value that may be written as JSON text, as it is in CSV cells."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadValue(what, Words(f"{shown(value)} ({shown(error)})"), "JSON", remedy) from None
