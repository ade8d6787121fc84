"""Where a user says an object is: a box, points, or both. A hint guides; it is no truth, and is never made from one.

A hint is what the user chose to give, for some items or for all: `point`, `points` or `hint` of a row of own data or of
an annotation in an own COCO file, and its box where it has no mask. Importers write it on the ref as `{"box": [x, y,
width, height], "points": [[x, y], ...]}`, px, either may be absent. The box of a mask belongs to the truth, and a
published benchmark's are hidden truth: they are never read as hints.

A bad hint is named, and its item stays, without it. `read_hint` is the one judge: of importers, `check` and the loader.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from l2l_ray.data.layout import BadValue, finite_numbers, shown
from l2l_ray.types import Hint

MAX_POINTS = 100
HINT_REMEDY = "correct it, or leave it out: the item stays, without a hint"
_EXPECTED = 'an object with "box" ([x, y, width, height] in px), "points" (a list of [x, y] in px), or both'


class PixelHint(NamedTuple):
    """A hint in native pixels, as refs hold it; a box may stand out of the image, but not lie outside.

    Example: `PixelHint((10.0, 20.0, 30.0, 40.0), ((25.0, 40.0),))`
    """

    box_xywh_px: tuple[float, float, float, float] | None
    points_xy_px: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, hint: Hint, width_px: int, height_px: int) -> PixelHint:
        """Return a hint in pixels of its image, to a millionth: what `fractions` made fractions of."""
        box = None
        if hint.box_xyxy_frac is not None:
            x1, y1, x2, y2 = hint.box_xyxy_frac
            sides = x1 * width_px, y1 * height_px, (x2 - x1) * width_px, (y2 - y1) * height_px
            box = round(sides[0], 6), round(sides[1], 6), round(sides[2], 6), round(sides[3], 6)
        return cls(box, tuple((round(x * width_px, 6), round(y * height_px, 6)) for x, y in hint.points_xy_frac))

    def corners(self) -> list[tuple[float, float]]:
        """Return two opposite corners of the box, px; none without a box."""
        if self.box_xywh_px is None:
            return []
        x, y, width, height = self.box_xywh_px
        return [(x, y), (x + width, y + height)]

    def record(self) -> dict[str, Any]:
        """Return the hint as a ref holds it, of built-in values."""
        box = {} if self.box_xywh_px is None else {"box": list(self.box_xywh_px)}
        return box | ({"points": [list(point) for point in self.points_xy_px]} if self.points_xy_px else {})

    def fractions(self, width_px: int, height_px: int) -> Hint:
        """Return the hint in fractions of an image of this size, its box cut at the borders."""
        box = None
        if self.box_xywh_px is not None:
            x, y, width, height = self.box_xywh_px
            box = (
                max(0.0, x / width_px),
                max(0.0, y / height_px),
                min(1.0, (x + width) / width_px),
                min(1.0, (y + height) / height_px),
            )
        return Hint(box, tuple((x / width_px, y / height_px) for x, y in self.points_xy_px))


def read_hint(value: Any, width_px: int, height_px: int) -> PixelHint:
    """Return a hint that fits its image.

    Args:
        value: An object with `box`, `points` or both; `points` may also be one point.
        width_px: Width of the image.
        height_px: Its height.
    Raises:
        BadValue: If it is malformed, the box has no size or lies outside the image, or a point lies outside.
    """
    hint = _parsed(value)
    size = f"{width_px} x {height_px} px"
    if hint.box_xywh_px is not None:
        x, y, width, height = hint.box_xywh_px
        if x >= width_px or y >= height_px or x + width <= 0 or y + height <= 0:
            raise BadValue("hint box outside image", value["box"], f"a box within {size}", HINT_REMEDY)
    for x, y in hint.points_xy_px:
        if not (0 <= x <= width_px and 0 <= y <= height_px):
            raise BadValue("hint point outside image", [x, y], f"a point within {size}", HINT_REMEDY)
    return hint


def refuse_shares(numbers: Sequence[float], what: str, value: Any, remedy: str) -> None:
    """Refuse coordinates that are shares of the picture, from 0 to 1, where pixels are meant.

    Raises:
        BadValue: They are.
    """
    if any(0 < number < 1 for number in numbers) and all(0 <= number <= 1 for number in numbers):
        raise BadValue(what, value, "px, not shares of the picture from 0 to 1", remedy)


def hint_text(value: Any) -> str:
    """Return a ref's hint as JSON, "" where there is none; a malformed one as a text, which `read_hint` refuses.

    The result is short, whatever the value is: a pickle may hold anything.
    """
    if value is None:
        return ""
    try:
        return json.dumps(_parsed(value).record(), separators=(",", ":"))
    except BadValue:
        return json.dumps(shown(value))


def _parsed(value: Any) -> PixelHint:
    if not isinstance(value, dict) or not value or set(value) - {"box", "points"}:
        raise BadValue("hint", value, _EXPECTED, HINT_REMEDY)
    box = None if value.get("box") is None else _box(value["box"])
    points = () if value.get("points") is None else _points(value["points"])
    if box is None and not points:
        raise BadValue("hint", value, _EXPECTED, HINT_REMEDY)
    return PixelHint(box, points)


def _box(value: Any) -> tuple[float, float, float, float]:
    expected = "[x, y, width, height] in px with a positive size"
    box = finite_numbers(value, "hint box", expected, HINT_REMEDY)
    if len(box) != 4 or min(box[2:]) <= 0:
        raise BadValue("hint box", value, expected, HINT_REMEDY)
    refuse_shares(box, "hint box", value, HINT_REMEDY)
    return box[0], box[1], box[2], box[3]


def _points(value: Any) -> tuple[tuple[float, float], ...]:
    expected = f"[x, y] in px, or a list of at most {MAX_POINTS} of them"
    if not isinstance(value, list | tuple) or len(value) > MAX_POINTS:
        raise BadValue("hint points", value, expected, HINT_REMEDY)
    rows = [value] if value and not isinstance(value[0], list | tuple) else value
    points = [finite_numbers(point, "hint points", expected, HINT_REMEDY) for point in rows]
    if any(len(point) != 2 for point in points):
        raise BadValue("hint points", value, expected, HINT_REMEDY)
    refuse_shares([side for point in points for side in point], "hint points", value, HINT_REMEDY)
    return tuple((x, y) for x, y in points)
