"""From the text of a reply to boxes, points, polygons and a phrase, as fractions of the image.

Lenient in form, which `answer` reads: code fences, words around the JSON, one object instead of a list, swapped
corners. Strict where leniency would invent an answer: a number that is not finite, a box without area, a value that the
family's unit does not allow. One value in another unit makes the whole reply doubtful, so that no other is used either;
only an overshoot of at most 2 % is clipped. Of several objects the usable ones are kept; of Florence-2, which grounds
every phrase of a sentence, those of the first phrase.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from l2l_ray.errors import PriorParseError
from l2l_ray.prior.answer import find_answer, parse_error
from l2l_ray.prior.coordinates import Coordinates
from l2l_ray.prior.prompt import PromptFormat
from l2l_ray.types import BoxFrac, PointFrac

MAX_OBJECTS = 16
_MIN_SIDE_FRAC = 1e-3
_OVERSHOOT_FRAC = 0.02  # so that 1024, the commonest side in pixels, is not taken for thousandths
_LARGEST = 1e5  # more than any side in pixels: such a number is a runaway of digits and says nothing about the unit
_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?", re.IGNORECASE)
_NUMBERS = re.compile(r"[\s\[\](),;]*+(?:[-+]?[0-9.]++[\s\[\](),;]*+)++")
_SPECIAL = re.compile(r"<\|[^|<>]*\|>|</?s>|<(?:pad|bos|eos)>")
_CODES = re.compile(r"<seg[0-9]+>")  # of a mask, whose decoder is not in transformers
_LOCATION = re.compile(r"<loc_?([0-9]+)>")
_LOCATION_RUN = re.compile(r"(<loc_?[0-9]+>(?:\s*<loc_?[0-9]+>)*)")  # some tokenizers put blanks between added tokens
_TAG = re.compile(r"<[^<>]*>")
_POINT_TAG = re.compile(r"<points?\s(?P<attributes>[^<>]*)(?:(?P<end>>)(?:(?P<phrase>[^<>]*)</points?>)?|\Z)")
_COORDS = re.compile(r"""coords\s*=\s*["']([^"']*)["']""")
_QUOTED = r"""\s*=\s*["']\s*([0-9]+(?:\.[0-9]+)?)\s*["']"""
_XY = re.compile(rf"x[0-9]*{_QUOTED}\s+y[0-9]*{_QUOTED}")
# How a reply that was cut off fails where the answer is not in it, or not whole.
_NOT_WHOLE = ("not JSON", "no answer", "not objects", "missing key", "bad coordinates", "no location")


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


def parse_reply(reply: str, fmt: PromptFormat, width_px: int, height_px: int, is_cut: bool = False) -> ParsedReply:
    """Read a reply.

    Args:
        reply: Decoded text; special tokens may be in it.
        fmt: The format the model was asked in.
        width_px: Width of the image whose pixels are meant, where the unit is pixels.
        height_px: Its height.
        is_cut: Whether the model had more to say than it had tokens for; False where that is not known.

    Raises:
        PriorParseError: Nothing usable is in it; the message starts with a short kind ("not JSON: ..."), a key of
            `reply.FAILURE_WORDS`.
    """
    if fmt.style in ("florence2", "paligemma"):
        return _parse_tokens(reply, fmt)
    unit = _Unit(fmt.unit, fmt.unit.scale(width_px, height_px), reply)
    try:
        return _parse_points(reply, unit) if fmt.style == "molmo" else _parse_json(reply, unit, is_cut)
    except PriorParseError as error:
        kind, _, details = str(error).partition(":")
        if is_cut and kind in _NOT_WHOLE:
            raise PriorParseError(f"cut off:{details}") from None
        raise


@dataclass(frozen=True, slots=True)
class _Unit:
    """The unit of a reply's numbers: x and y at the far border are `scale`."""

    of: Coordinates
    scale: tuple[float, float]
    reply: str

    @property
    def words(self) -> str:
        return f"numbers from 0 to {self.scale[0]:g} across and {self.scale[1]:g} down"

    def fractions(self, values: list[float], overshoot_frac: float) -> tuple[list[float], list[float]]:
        """Return the fractions of x and of y that numbers in the order of the unit mean, as they were written."""
        firsts, seconds = values[::2], values[1::2]
        xs, ys = (seconds, firsts) if self.of.y_first else (firsts, seconds)
        xs, ys = [x / self.scale[0] for x in xs], [y / self.scale[1] for y in ys]
        if self.of.span != 1 and any(values) and all(abs(value) <= 1 for value in values):
            raise _WrongUnitError(str(parse_error("wrong unit", f"fractions {values}", self.words, self.reply)))
        if not all(-overshoot_frac <= fraction <= 1 + overshoot_frac for fraction in (*xs, *ys)):
            raise _WrongUnitError(str(parse_error("outside", str(values), self.words, self.reply)))
        return xs, ys


# ---------------------------------------------------------------------------------------------------------------------
# Numbers: JSON, bare lists, the grammar of Qwen2-VL


def _parse_json(reply: str, unit: _Unit, is_cut: bool) -> ParsedReply:
    boxes: list[BoxFrac] = []
    points: list[PointFrac] = []
    problems: list[PriorParseError] = []
    phrase = ""
    for candidate in find_answer(reply, is_cut)[:MAX_OBJECTS]:
        try:
            if candidate.kind == "box":
                boxes.append(_box(_numbers(candidate.value, 4, unit), unit))
            else:
                points.append(_point(_numbers(candidate.value, 2, unit), unit))
        except _WrongUnitError:
            raise
        except PriorParseError as error:
            problems.append(error)
        else:
            phrase = phrase or candidate.phrase
    if not boxes and not points:
        raise problems[0]
    return ParsedReply(tuple(boxes), tuple(points), (), phrase)


def _numbers(value: Any, count: int, unit: _Unit) -> list[float]:
    """Return `count` numbers of a list, or of a text that holds nothing else; a number may itself be a text."""
    if "%" in str(value):
        if unit.of.span != 100:
            got = f"percentages {value!r}"
            raise _WrongUnitError(str(parse_error("wrong unit", got, f"{count} numbers", unit.reply)))
        value = _without_percent(value)
    if isinstance(value, str) and _NUMBERS.fullmatch(value):
        value = re.findall(r"[-+0-9.]+", value)
    items = value if isinstance(value, list) else []
    numbers = [
        float(item)
        for item in items
        if isinstance(item, float) or (isinstance(item, str) and _NUMBER.fullmatch(item.strip()))
    ]
    if len(numbers) != count or len(items) != count:
        raise parse_error("bad coordinates", repr(value), f"{count} numbers", unit.reply)
    if not all(abs(number) < _LARGEST for number in numbers):  # NaN compares false as well
        raise parse_error("bad coordinates", repr(value), f"{count} numbers below {_LARGEST:g}", unit.reply)
    return numbers


def _without_percent(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_percent(item) for item in value]
    return value.replace("%", "") if isinstance(value, str) else value


def _box(values: list[float], unit: _Unit) -> BoxFrac:
    """Scale to fractions, order the corners and clip what overshoots."""
    xs, ys = unit.fractions(values, _OVERSHOOT_FRAC)
    return _ordered([min(max(x, 0.0), 1.0) for x in xs], [min(max(y, 0.0), 1.0) for y in ys], values, unit.reply)


def _point(values: list[float], unit: _Unit) -> PointFrac:
    (x,), (y,) = unit.fractions(values, 0.0)
    return x, y


def _ordered(xs: list[float], ys: list[float], values: list[float], reply: str) -> BoxFrac:
    (x1, x2), (y1, y2) = sorted(xs), sorted(ys)
    if x2 - x1 < _MIN_SIDE_FRAC or y2 - y1 < _MIN_SIDE_FRAC:
        raise parse_error("no area", f"box {values}", "a box with area inside the image", reply)
    return x1, y1, x2, y2


# ---------------------------------------------------------------------------------------------------------------------
# Molmo: points in a tag


def _parse_points(reply: str, unit: _Unit) -> ParsedReply:
    """Read `<points coords="1 1 250 500 2 ...">phrase</points>`: image, then number, x and y of each point.

    Also the older `<point x="25.0" y="50.0" alt="...">`, whose numbers `prior.coordinates` can call percent. Of a tag
    that is cut off the whole points count.
    """
    tags = list(_POINT_TAG.finditer(reply))
    if not tags:
        raise parse_error("no location", "none", '<points coords="1 1 x y">', reply)
    points = []
    for tag in tags[-1:]:  # the last counts, as everywhere
        for x, y in _pairs(tag["attributes"], tag["end"] is None, reply)[:MAX_OBJECTS]:
            points.append(_point([x, y], unit))
    return ParsedReply((), tuple(points), (), " ".join((tags[-1]["phrase"] or "").split()))


def _pairs(attributes: str, is_cut: bool, reply: str) -> list[tuple[float, float]]:
    if is_cut:
        attributes = attributes.rstrip("0123456789.") + '"'  # the last number may lack digits
    coords = _COORDS.search(attributes)
    if coords is None:
        found = _XY.findall(attributes)
        pairs = [(float(x), float(y)) for x, y in found]
    else:
        groups = [[float(number) for number in _NUMBER.findall(group)] for group in re.split("[;\t]", coords[1])]
        if is_cut:  # the length does not tell whether the image's number is there: it is if the first point's follows
            groups = [group[: (len(group) - 1) // 3 * 3 + 1] for group in groups if group[:2] == [1, 1]]
        groups = [group[1:] if len(group) % 3 == 1 else group for group in groups]  # without the image's number
        pairs = [(group[i + 1], group[i + 2]) for group in groups for i in range(0, len(group) - 2, 3)]
    if not pairs:
        kind = "cut off" if is_cut else "bad coordinates"
        raise parse_error(kind, attributes, "a number, x and y for each point", reply)
    return pairs


# ---------------------------------------------------------------------------------------------------------------------
# Florence-2 and PaliGemma: location tokens


def _parse_tokens(reply: str, fmt: PromptFormat) -> ParsedReply:
    text = _SPECIAL.sub("", _CODES.sub("", reply) if fmt.style == "paligemma" else _first_phrase(reply))
    runs, problems = _runs(text, fmt, reply)
    if not runs:
        raise problems[0] if problems else parse_error("no location", "none", "four location tokens", reply)
    # Florence-2 says the phrase first, PaliGemma last; ` ; ` parts the objects of PaliGemma.
    texts = [part for part in _LOCATION_RUN.split(text) if not _LOCATION_RUN.fullmatch(part)]
    spoken = texts[0] if fmt.style == "florence2" else texts[1].split(";")[0]
    phrase = " ".join(spoken.split())
    if fmt.name.startswith("florence2-polygon"):
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
        fewer = parse_error("bad coordinates", "fewer than 4 location tokens", "4 per box", reply)
        raise problems[0] if problems else fewer
    return ParsedReply(tuple(boxes), (), (), phrase)


def _first_phrase(reply: str) -> str:
    """Return a reply of Florence-2 up to the words after its first location tokens.

    "woman beside the car" is answered by `woman<loc_1>...the car<loc_9>...`: the sentence is about its first phrase.
    Tags, such as `<sep>` between polygons, are no words.
    """
    parts = _LOCATION_RUN.split(reply)  # words and runs of location tokens in turn
    ends = (index for index in range(2, len(parts), 2) if _TAG.sub("", parts[index]).strip())
    return "".join(parts[: next(ends, len(parts))])


def _runs(text: str, fmt: PromptFormat, reply: str) -> tuple[list[list[PointFrac]], list[PriorParseError]]:
    """Return the points of each unbroken run of location tokens.

    A run is read up to its first token that is no bin; those are the second result.
    """
    unit = fmt.unit
    last = unit.num_bins - 1
    runs, problems = [], []
    for match in _LOCATION_RUN.finditer(text):
        values: list[float] = []
        for digits in _LOCATION.findall(match.group(1)):
            if len(digits) > 4 or int(digits) > last:
                got = f"location {digits[:12]}"
                problems.append(parse_error("bad coordinates", got, f"0 to {last}", reply))
                break
            values.append((int(digits) + unit.offset) / unit.num_bins)
        if len(values) >= 2:
            first, second = (1, 0) if unit.y_first else (0, 1)
            pairs = list(zip(values[::2], values[1::2], strict=False))
            runs.append([(pair[first], pair[second]) for pair in pairs])
    return runs, problems
