"""From the text of a reply to boxes, points, polygons and a phrase, as fractions of the image.

Lenient where families differ or say more than was asked (code fences, words around the JSON, one object instead of a
list, swapped corners, coordinates slightly outside), strict where leniency would invent an answer: a number that is not
finite, a box without area or wholly outside, a cut-off JSON are all errors. A reply with several objects keeps the
usable ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from l2l_ray.errors import PriorParseError
from l2l_ray.prior.prompt import PromptFormat
from l2l_ray.types import BoxFrac, PointFrac

MAX_OBJECTS = 16
_MIN_SIDE_FRAC = 1e-3
_BOX_KEYS, _POINT_KEYS, _PHRASE_KEYS = ("bbox_2d", "bbox", "box_2d"), ("point_2d", "point"), ("label", "phrase")
_FENCE = re.compile(r"```(?:json)?\s*(.*?)(?:```|\Z)", re.DOTALL)
_SPECIAL = re.compile(r"<\|[^|<>]*\|>|</?s>|<pad>")
_LOCATION = re.compile(r"<loc_(\d+)>")
_LOCATION_RUN = re.compile(r"((?:<loc_\d+>)+)")


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """What a reply says. At least one of boxes, points and polygons is not empty.

    Example: `ParsedReply(((0.1, 0.2, 0.5, 0.6),), (), (), "red circle")`
    """

    boxes_xyxy_frac: tuple[BoxFrac, ...]
    points_xy_frac: tuple[PointFrac, ...]
    polygons_xy_frac: tuple[tuple[PointFrac, ...], ...]
    phrase: str


def parse_reply(reply: str, fmt: PromptFormat, width_px: int, height_px: int) -> ParsedReply:
    """Read a reply.

    Args:
        reply: Decoded text; special tokens may be in it.
        fmt: The format the model was asked in.
        width_px: Width of the image as the model saw it; used only by families that answer in pixels.
        height_px: Its height.

    Raises:
        PriorParseError: Nothing usable is in it; the message starts with a short kind ("not JSON: ...").
    """
    if fmt.style == "florence2":
        return _parse_florence(reply, fmt)
    scale = (fmt.coordinate_max,) * 2 if fmt.coordinate_max else (float(width_px), float(height_px))
    return _parse_qwen(reply, scale)


# ---------------------------------------------------------------------------------------------------------------------
# JSON


def _parse_qwen(reply: str, scale: tuple[float, float]) -> ParsedReply:
    boxes: list[BoxFrac] = []
    points: list[PointFrac] = []
    problems: list[PriorParseError] = []
    phrase = ""
    for item in _objects(reply)[:MAX_OBJECTS]:
        try:
            box, point = _first(item, _BOX_KEYS), _first(item, _POINT_KEYS)
            if box is None and point is None:
                raise _error("missing key", f"an object with keys {sorted(item)}", "bbox_2d or point_2d", reply)
            if box is not None:
                boxes.append(_box(_numbers(box, 4, reply), scale, reply))
            if point is not None:
                points.append(_point(_numbers(point, 2, reply), scale, reply))
        except PriorParseError as error:
            problems.append(error)
        else:
            phrase = phrase or " ".join(str(_first(item, _PHRASE_KEYS) or "").split())
    if not boxes and not points:
        raise problems[0] if problems else _error("empty", "a list without objects", "at least one box", reply)
    return ParsedReply(tuple(boxes), tuple(points), (), phrase)


def _objects(reply: str) -> list[dict[str, Any]]:
    """Return the JSON objects of the first JSON value in the reply."""
    text = _SPECIAL.sub("", reply)
    fence = _FENCE.search(text)
    text = fence.group(1) if fence else text
    start = min((at for at in (text.find("["), text.find("{")) if at >= 0), default=-1)
    if start < 0:
        raise _error("not JSON", "no [ or {", "a JSON list of objects", reply)
    try:
        value, _ = json.JSONDecoder().raw_decode(text[start:])
    except (json.JSONDecodeError, RecursionError) as error:
        raise _error("not JSON", str(error), "a complete JSON list of objects", reply) from None
    items = [value] if isinstance(value, dict) else value
    if not all(isinstance(item, dict) for item in items):
        raise _error("not objects", "a list of other things", "a list of objects with bbox_2d", reply)
    return list(items)


def _first(item: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _numbers(value: Any, count: int, reply: str) -> list[float]:
    is_list = isinstance(value, list) and len(value) == count
    if not is_list or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        raise _error("bad coordinates", repr(value), f"{count} numbers", reply)
    if not all(abs(v) < 1e9 for v in value):  # NaN compares false as well
        raise _error("bad coordinates", repr(value), f"{count} finite numbers", reply)
    return [float(v) for v in value]


# ---------------------------------------------------------------------------------------------------------------------
# Florence-2


def _parse_florence(reply: str, fmt: PromptFormat) -> ParsedReply:
    text = _SPECIAL.sub("", reply)
    runs = list(_runs(text, fmt))
    if not runs:
        raise _error("no location", "no <loc_..> token", "<loc_x1><loc_y1><loc_x2><loc_y2>", reply)
    phrase = " ".join(_LOCATION_RUN.split(text)[0].split())
    if fmt.name == "florence2-polygon":
        polygons = tuple(tuple(run) for run in runs if len(run) >= 3)
        if not polygons:
            raise _error("bad polygon", f"{max(map(len, runs))} points", "at least 3 points", reply)
        corners = [point for polygon in polygons for point in polygon]
        box = _box([f(c[axis] for c in corners) for f in (min, max) for axis in (0, 1)], (1.0, 1.0), reply)
        return ParsedReply((box,), (), polygons, phrase)
    pairs = [(run[i], run[i + 1]) for run in runs for i in range(0, len(run) - 1, 2)]
    if not pairs:
        raise _error("bad coordinates", "fewer than 4 <loc_..> tokens", "4 per box", reply)
    boxes, problems = [], []
    for low, high in pairs[:MAX_OBJECTS]:
        try:
            boxes.append(_box([*low, *high], (1.0, 1.0), reply))
        except PriorParseError as error:
            problems.append(error)
    if not boxes:
        raise problems[0]
    return ParsedReply(tuple(boxes), (), (), phrase)


def _runs(text: str, fmt: PromptFormat) -> Iterator[list[PointFrac]]:
    """Yield the points of each unbroken run of location tokens; a bin stands for its centre, as in Florence-2."""
    bins = (fmt.coordinate_max or 999.0) + 1
    for match in _LOCATION_RUN.finditer(text):
        values = [min((int(v) + 0.5) / bins, 1.0) for v in _LOCATION.findall(match.group(1))]
        if len(values) >= 2:
            yield list(zip(values[::2], values[1::2], strict=False))


# ---------------------------------------------------------------------------------------------------------------------
# Geometry


def _box(values: list[float], scale: tuple[float, float], reply: str) -> BoxFrac:
    """Scale to fractions, order the corners and clip to the image."""
    xs = sorted(min(max(v / scale[0], 0.0), 1.0) for v in values[::2])
    ys = sorted(min(max(v / scale[1], 0.0), 1.0) for v in values[1::2])
    if xs[1] - xs[0] < _MIN_SIDE_FRAC or ys[1] - ys[0] < _MIN_SIDE_FRAC:
        raise _error("no area", f"box {values} of an image of size {scale}", "a box with area inside the image", reply)
    return xs[0], ys[0], xs[1], ys[1]


def _point(values: list[float], scale: tuple[float, float], reply: str) -> PointFrac:
    x, y = values[0] / scale[0], values[1] / scale[1]
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise _error("outside", f"point {values} of an image of size {scale}", "a point inside the image", reply)
    return x, y


def _error(kind: str, got: str, expected: str, reply: str) -> PriorParseError:
    return PriorParseError(f"{kind}: got {got}, expected {expected}; reply: {reply[:200]!r}")
