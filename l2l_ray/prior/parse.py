"""From the text of a reply to boxes, points, polygons and a phrase, as fractions of the image.

Lenient in form, which `answer` reads: code fences, words around the JSON, one object instead of a list, swapped
corners. Strict where leniency would invent an answer: a number that is not finite, a box without area, a value that the
family's unit does not allow. One value in another unit makes the whole reply doubtful, so that no other is used either;
only an overshoot of at most 2 % is clipped. Of several objects the usable ones are kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from l2l_ray.errors import PriorParseError
from l2l_ray.prior.answer import find_answer, parse_error
from l2l_ray.prior.prompt import PromptFormat
from l2l_ray.types import BoxFrac, PointFrac

MAX_OBJECTS = 16
_MIN_SIDE_FRAC = 1e-3
_OVERSHOOT_FRAC = 0.02  # so that 1024, the commonest side in pixels, is not taken for thousandths
_LARGEST = 1e5  # more than any side in pixels: such a number is a runaway of digits and says nothing about the unit
_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?", re.IGNORECASE)
_NUMBERS = re.compile(r"[\s\[\](),;]*+(?:[-+]?[0-9.]++[\s\[\](),;]*+)++")
_SPECIAL = re.compile(r"<\|[^|<>]*\|>|</?s>|<pad>")
_LOCATION = re.compile(r"<loc_([0-9]+)>")
_LOCATION_RUN = re.compile(r"(<loc_[0-9]+>(?:\s*<loc_[0-9]+>)*)")  # some tokenizers put blanks between added tokens


class _WrongUnitError(PriorParseError):
    """A value that cannot be in the family's unit; then no other value of the reply can be trusted to be."""


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
        PriorParseError: Nothing usable is in it; the message starts with a short kind ("not JSON: ..."), a key of
            `reply.FAILURE_WORDS`.
    """
    if fmt.style == "florence2":
        return _parse_florence(reply, fmt)
    scale = (fmt.coordinate_max,) * 2 if fmt.coordinate_max else (float(width_px), float(height_px))
    return _parse_qwen(reply, scale)


# ---------------------------------------------------------------------------------------------------------------------
# Qwen-VL: JSON, or its own grammar


def _parse_qwen(reply: str, scale: tuple[float, float]) -> ParsedReply:
    boxes: list[BoxFrac] = []
    points: list[PointFrac] = []
    problems: list[PriorParseError] = []
    phrase = ""
    for candidate in find_answer(reply)[:MAX_OBJECTS]:
        try:
            if candidate.kind == "box":
                boxes.append(_box(_numbers(candidate.value, 4, reply), scale, reply))
            else:
                points.append(_point(_numbers(candidate.value, 2, reply), scale, reply))
        except _WrongUnitError:
            raise
        except PriorParseError as error:
            problems.append(error)
        else:
            phrase = phrase or candidate.phrase
    if not boxes and not points:
        raise problems[0]
    return ParsedReply(tuple(boxes), tuple(points), (), phrase)


def _numbers(value: Any, count: int, reply: str) -> list[float]:
    """Return `count` numbers of a list, or of a text that holds nothing else; a number may itself be a text."""
    if "%" in str(value):
        raise _WrongUnitError(str(parse_error("wrong unit", f"percentages {value!r}", f"{count} numbers", reply)))
    if isinstance(value, str) and _NUMBERS.fullmatch(value):
        value = re.findall(r"[-+0-9.]+", value)
    items = value if isinstance(value, list) else []
    numbers = [
        float(item)
        for item in items
        if isinstance(item, float) or (isinstance(item, str) and _NUMBER.fullmatch(item.strip()))
    ]
    if len(numbers) != count or len(items) != count:
        raise parse_error("bad coordinates", repr(value), f"{count} numbers", reply)
    if not all(abs(number) < _LARGEST for number in numbers):  # NaN compares false as well
        raise parse_error("bad coordinates", repr(value), f"{count} numbers below {_LARGEST:g}", reply)
    return numbers


def _box(values: list[float], scale: tuple[float, float], reply: str) -> BoxFrac:
    """Scale to fractions, order the corners and clip what overshoots."""
    xs = [value / scale[0] for value in values[::2]]
    ys = [value / scale[1] for value in values[1::2]]
    _check_unit(values, [*xs, *ys], scale, _OVERSHOOT_FRAC, reply)
    return _ordered([min(max(x, 0.0), 1.0) for x in xs], [min(max(y, 0.0), 1.0) for y in ys], values, reply)


def _point(values: list[float], scale: tuple[float, float], reply: str) -> PointFrac:
    x, y = values[0] / scale[0], values[1] / scale[1]
    _check_unit(values, [x, y], scale, 0.0, reply)
    return x, y


def _check_unit(
    values: list[float], fractions: list[float], scale: tuple[float, float], overshoot_frac: float, reply: str
) -> None:
    unit = f"numbers from 0 to {scale[0]:g} across and {scale[1]:g} down"
    if any(values) and all(abs(value) <= 1 for value in values):
        raise _WrongUnitError(str(parse_error("wrong unit", f"fractions {values}", unit, reply)))
    if not all(-overshoot_frac <= fraction <= 1 + overshoot_frac for fraction in fractions):
        raise _WrongUnitError(str(parse_error("outside", str(values), unit, reply)))


def _ordered(xs: list[float], ys: list[float], values: list[float], reply: str) -> BoxFrac:
    (x1, x2), (y1, y2) = sorted(xs), sorted(ys)
    if x2 - x1 < _MIN_SIDE_FRAC or y2 - y1 < _MIN_SIDE_FRAC:
        raise parse_error("no area", f"box {values}", "a box with area inside the image", reply)
    return x1, y1, x2, y2


# ---------------------------------------------------------------------------------------------------------------------
# Florence-2


def _parse_florence(reply: str, fmt: PromptFormat) -> ParsedReply:
    text = _SPECIAL.sub("", reply)
    runs, problems = _runs(text, fmt, reply)
    if not runs:
        raise problems[0] if problems else parse_error("no location", "none", "<loc_x1><loc_y1><loc_x2><loc_y2>", reply)
    phrase = " ".join(_LOCATION_RUN.split(text)[0].split())
    if fmt.name == "florence2-polygon":
        polygons = tuple(tuple(run) for run in runs if len(run) >= 3)
        if not polygons:
            raise parse_error("bad polygon", f"{max(map(len, runs))} points", "at least 3 points", reply)
        xs, ys = ([point[axis] for polygon in polygons for point in polygon] for axis in (0, 1))
        box = _ordered([min(xs), max(xs)], [min(ys), max(ys)], xs + ys, reply)
        return ParsedReply((box,), (), polygons, phrase)
    boxes = []
    pairs = [(run[i], run[i + 1]) for run in runs for i in range(0, len(run) - 1, 2)]
    for low, high in pairs[:MAX_OBJECTS]:
        try:
            boxes.append(_ordered([low[0], high[0]], [low[1], high[1]], [*low, *high], reply))
        except PriorParseError as error:
            problems.append(error)
    if not boxes:
        fewer = parse_error("bad coordinates", "fewer than 4 <loc_..> tokens", "4 per box", reply)
        raise problems[0] if problems else fewer
    return ParsedReply(tuple(boxes), (), (), phrase)


def _runs(text: str, fmt: PromptFormat, reply: str) -> tuple[list[list[PointFrac]], list[PriorParseError]]:
    """Return the points of each unbroken run of location tokens; a bin stands for its centre, as in Florence-2.

    A run is read up to its first token that is no bin; those are the second result.
    """
    num_bins = int(fmt.coordinate_max or 999) + 1
    runs, problems = [], []
    for match in _LOCATION_RUN.finditer(text):
        values: list[float] = []
        for digits in _LOCATION.findall(match.group(1)):
            if len(digits) > len(str(num_bins)) or int(digits) >= num_bins:
                got = f"<loc_{digits[:12]}>"
                problems.append(parse_error("bad coordinates", got, f"<loc_0> to <loc_{num_bins - 1}>", reply))
                break
            values.append((int(digits) + 0.5) / num_bins)
        if len(values) >= 2:
            runs.append(list(zip(values[::2], values[1::2], strict=False)))
    return runs, problems
