"""Turned pictures of own data: they enter a data set upright, and their truth with them.

A camera stores a picture lying on its side and says in EXIF how to turn it; viewers and labeling tools show it turned,
other programs draw on the pixels as stored. So a truth may be drawn on either, and its size tells on which where both
sizes differ (orientations 5 to 8 of a picture that is not square). Where they do not, or a polygon only fits the stored
picture, the item is refused by a message that names EXIF orientation; nothing is guessed. A polygon, box or point
without a size is taken as people see the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from l2l_ray.data.hints import PixelHint
from l2l_ray.data.layout import BadValue, Words
from l2l_ray.data.masks import decode, encode
from l2l_ray.data.object_masks import REMEDY
from l2l_ray.data.pixels import Header
from l2l_ray.types import Rle

_SLACK_PX = 2.0  # outlines are drawn a little over the border
_SAVE_UPRIGHT = "save the picture upright, without EXIF orientation, and draw on that; or leave the truth out"


def is_drawn_as_shown(size: tuple[int, int], header: Header, what: str, from_viewer: bool = False) -> bool:
    """Tell whether a truth of this size is drawn on the picture as people see it; False = on the stored pixels.

    Args:
        size: Width and height that the truth names, px.
        header: Of its picture.
        what: The truth in errors, such as "a mask".
        from_viewer: The truth comes from a tool that shows pictures turned; then equal sizes are no doubt.
    Raises:
        BadValue: The size is neither, or does not tell.
    """
    as_shown, stored = header.shown, header.stored
    if size not in (as_shown, stored):
        expected = f"{_px(as_shown)} as its image"
        if header.is_turned and as_shown != stored:
            expected += f" as shown, or {_px(stored)} as stored (EXIF orientation {header.orientation})"
        raise BadValue(f"{what.split()[-1]} size", Words(_px(size)), expected, REMEDY)
    if header.is_turned and as_shown == stored and not from_viewer:
        got = f"{header.orientation}, and {what} of {_px(size)}, which fits the picture as stored and as shown"
        raise BadValue("EXIF orientation", Words(got), "an upright picture (1)", _SAVE_UPRIGHT)
    return size == as_shown


def refuse_stored_frame(points_xy: Iterable[Sequence[float]], header: Header, what: str) -> None:
    """Refuse points in px that leave the picture as people see it, but fit the stored pixels.

    Raises:
        BadValue: They do.
    """
    points = np.asarray(list(points_xy), dtype=np.float64).reshape(-1, 2)
    if header.shown == header.stored or not len(points):
        return
    if (points > np.array(header.shown) + _SLACK_PX).any() and (points <= np.array(header.stored) + _SLACK_PX).all():
        got = f"{header.orientation}, and a {what} that fits {_px(header.stored)} as stored, not {_px(header.shown)}"
        raise BadValue("EXIF orientation", Words(got), f"a {what} on the picture as people see it", _SAVE_UPRIGHT)


def turned_rle(rle: Rle, orientation: int) -> Rle:
    """Return a mask drawn on the stored pixels as a mask of the upright picture."""
    return encode(turned_mask(decode(rle), orientation))


def turned_mask(mask: Bool[np.ndarray, "H W"], orientation: int) -> Bool[np.ndarray, "H2 W2"]:
    """Return a mask drawn on stored pixels of this EXIF orientation (1 to 8), turned as the picture is to be shown."""
    if orientation >= 5:
        mask = mask.T
    # What is left after the transposition: mirrored columns, mirrored rows.
    columns, rows = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return np.ascontiguousarray(mask[:: -1 if rows else 1, :: -1 if columns else 1])


def turned_points(points_xy_px: Iterable[Sequence[float]], header: Header) -> list[tuple[float, float]]:
    """Return points on the stored pixels as points on the upright picture."""
    width, height = header.shown
    turned = []
    for x, y in points_xy_px:
        if header.orientation >= 5:
            x, y = y, x
        x = width - x if header.orientation in (2, 3, 6, 7) else x
        turned.append((x, height - y if header.orientation in (3, 4, 7, 8) else y))
    return turned


def turned_box(box_xywh_px: Sequence[float], header: Header) -> list[float]:
    """Return a box drawn on the stored pixels as a box of the upright picture, both [x, y, width, height] in px."""
    x, y, width, height = box_xywh_px
    (x1, y1), (x2, y2) = turned_points([(x, y), (x + width, y + height)], header)
    return [min(x1, x2), min(y1, y2), *((height, width) if header.orientation >= 5 else (width, height))]


def turned_hint(hint: PixelHint, header: Header) -> PixelHint:
    """Return a hint about the stored pixels as one about the upright picture."""
    box = None
    if hint.box_xywh_px is not None:
        x, y, width, height = turned_box(hint.box_xywh_px, header)
        box = x, y, width, height
    return PixelHint(box, tuple(turned_points(hint.points_xy_px, header)))


def turned_annotation(annotation: Mapping[str, Any], rle: Rle | None, header: Header) -> dict[str, Any]:
    """Return a COCO annotation of the stored pixels as one of the upright picture; its mask becomes an RLE.

    Args:
        annotation: May hold `bbox`.
        rle: Its mask, None where it has none.
        header: Of its picture.
    """
    turned = dict(annotation)
    if "bbox" in turned:
        turned["bbox"] = turned_box(turned["bbox"], header)
    if rle is not None:
        turned["segmentation"] = turned_rle(rle, header.orientation)
    return turned


def _px(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} px"
