"""Where in the text of a reply the answer is: the coordinates that count, as they were written.

Models think aloud, correct themselves, explain, and are cut off at `prior.max_new_tokens`. Three forms are found in any
text: JSON (of damaged JSON what is whole in it), a key with its value inside something that is no JSON, and the pairs
of Qwen2-VL's own grammar, `the cup(101,201),(150,266)`. Then these rules choose:

- What stands before the end of the reasoning (`</think>`) is a draft, and so is what stands before `<answer>`.
- So is what stands outside of GLM's marks, where there are four numbers between them, in brackets of any style.
- Values that a key names (`bbox_2d`) go before bare lists of four numbers or percentages, these before tuples.
- Of what is left the last counts, with what stands beside it without words between: objects of one list, one a line.
- Of a reply that is known to be cut off, a box after words is a draft: what would follow the words is not there.

What the numbers mean is `parse`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from l2l_ray.errors import PriorParseError

Kind = Literal["box", "point", "cut"]

_BOX_KEYS = ("bbox2d", "bbox", "box2d", "box", "boundingbox", "bboxes", "boxes", "boundingboxes")
_POINT_KEYS = ("point2d", "point", "points", "points2d")
_CORNER_KEYS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
_SIZE_KEYS = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
_PHRASE_KEYS = ("label", "phrase", "name")
_MAX_DEPTH = 8  # objects in objects; real replies have two or three

_TUPLE = re.compile(r"\(((?:\s*[-+0-9.]+\s*,){3}\s*[-+0-9.]+\s*)\)")
_NO_JSON_NUMBER = re.compile(r"([\[,(]\s*)(\+0*|0+)(?=[0-9])")  # +10 and 010
_LOOKALIKES = dict(zip("，：［］｛｝（）＂．－−", ',:[]{}()".--', strict=True))
_MARK = re.compile(r"<\|[^|<>]*\|>|</?(?:s|ref|box|pad)>")
_BEGIN_OF_BOX, _END_OF_BOX = "<|begin_of_box|>", "<|end_of_box|>"  # of GLM
_NUMERAL = re.compile(r"[-+]?(?:\d++(?:\.\d*+)?|\.\d++)")
_FOUR = re.compile(r"[\[({<]\s*+([-+]?[0-9.]++(?:\s*+,\s*+[-+]?[0-9.]++){3})\s*+[\])}>]")
_SHARE = r"\s*+[-+]?[0-9.]++\s*+%?\s*+"
_FOUR_SHARES = re.compile(rf"[\[(]({_SHARE}(?:,{_SHARE}){{3}})[\])]")  # a percent sign is no JSON
_PERCENT = re.compile(r"\s*[-+]?[0-9.]+\s*%\s*")
_DIGITS = r"\s*(-?[0-9]+(?:\.[0-9]+)?)\s*"
_KEY = r"""(?P<quote>["']?)\b(?P<name>(?:bbox|box|bounding_?box)(?:es)?(?:_?2d)?|points?(?:_?2d)?)(?P=quote)\s*:\s*"""
_EVENT = re.compile(
    r"(?P<thinking><(?:think|thinking|thought|reasoning)>|◁think▷|\[THINK\])"
    r"|(?P<thought></(?:think|thinking|thought|reasoning)>|◁/think▷|\[/THINK\])"
    r"|(?P<answer><answer>)|(?P<answered></answer>)|(?P<announced>\b(?:answer|final|corrected|result)(?:\s+\w+){0,2}[\s*]*:)"
    rf"|(?P<key>{_KEY})"
    rf"|(?P<pair>\({_DIGITS},{_DIGITS}\)\s*+(?:,|to|and)?\s*+\({_DIGITS},{_DIGITS}\))"
    rf"|(?P<cutpair>\({_DIGITS},{_DIGITS}\)\s*+,?\s*+\([\s0-9.,-]*\Z)|(?P<cutlist>\[\s*[-+]?[0-9][-+\s0-9.,eE%]*\Z)"
    rf"|(?P<open>[\[{{]|\((?={_SHARE}(?:,{_SHARE}){{3}}\)))",
    re.IGNORECASE,
)
_STARTS_VALUE = re.compile(r"""[\[{("'0-9.+-]|\Z""")
_REST_OF_CUT = re.compile(r"""[\s\[\]{}0-9,.+\-eE%"']*""")
_SAYS_NONE = re.compile(  # and no more than that: "no other cup matches" speaks of the others
    r"""[\s"'`*]*(?:there\s+is\s+)?(?:none|null|nothing|no|not)\b(?!\W*[0-9]+[.:])"""
    r"(?:\s+(?:such|matching|objects?|targets?|match(?:es)?|box(?:es)?|bounding|found|visible|present|detected|applicable"
    r"|in|the|this|image|picture|photo))*+[\s\"'`*)\]}]*(?:[.!;\n]|\Z)",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(
    r"""(?:[\s,;{}\[\]()|`*\-"']|json|and\b|[0-9]+[.)]|label\W*:\s*(?:"[^"\n]*"|'[^'\n]*'))*+""", re.IGNORECASE
)
_PAIR_SEPARATOR = re.compile(  # the next object's phrase, unless it takes the pair before it back
    r"(?!.*\b(?:not|but|no|instead|rather|actually|wait|sorry)\b)[^.:!?\n(){}\[\]]{0,60}", re.IGNORECASE
)
_PAIR_PHRASE = re.compile(r"[^.:!?\n(){}\[\],;]*\Z")
_PHRASE_CHARS = 60
# Integers become floats: a number of 5,000 digits is infinite then, and int() would refuse to read it.
_DECODER = json.JSONDecoder(parse_int=float, strict=False)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may be the coordinates of one object.

    Args:
        kind: Whether it should be four numbers or two; `cut` = the reply ends in it.
        value: Whatever was written there, not checked.
        phrase: What the reply calls the object; may be empty.
        has_key: Whether a key or the grammar says that it is one; False = a bare list.
    """

    kind: Kind
    value: Any
    phrase: str
    has_key: bool


@dataclass(frozen=True, slots=True)
class _Block:
    start: int
    end: int
    candidates: tuple[Candidate, ...]
    value: Any = None
    is_pair: bool = False
    is_tuple: bool = False  # four numbers in round brackets, of which prose has some, too


def parse_error(kind: str, got: str, expected: str, reply: str) -> PriorParseError:
    """Return the error of a reply; `kind` is one of `reply.FAILURE_WORDS`."""
    return PriorParseError(f"{kind}: got {got[:200]}, expected {expected}; reply: {reply[:200]!r}")


def find_answer(reply: str, is_cut: bool = False) -> list[Candidate]:
    """Return what counts in a reply, in its order; at least one.

    Args:
        reply: The text.
        is_cut: Whether the model had more to say than it had tokens for.
    Raises:
        PriorParseError: There is nothing like a box or a point in it, or only in its reasoning.
    """
    text = _MARK.sub("", _with_plain_marks("".join(map(_plain, reply))))
    blocks, begin = _blocks(text, reply)
    if any(block.candidates and not block.is_tuple for block in blocks):
        blocks = [block for block in blocks if not block.is_tuple]
    has_key = any(c.has_key for block in blocks for c in block.candidates)
    kept = [(block, tuple(c for c in block.candidates if c.has_key or not has_key)) for block in blocks]
    chosen = [replace(block, candidates=candidates) for block, candidates in kept if candidates]
    group = _last_group(chosen, text)
    found = [candidate for block in group for candidate in block.candidates if candidate.kind != "cut"]
    if not found:
        raise _nothing(blocks, reply)
    if is_cut and _is_prose(text[begin : chosen[0].start], chosen[0].is_pair or "<ref>" in reply):
        raise parse_error("cut off", "a box amid words that do not end", "an answer after them", reply)
    return found


def _is_prose(text: str, may_name: bool) -> bool:
    """Whether what stands before a box is more than the form of an answer, in which the object's name may be."""
    return not (_SEPARATOR.fullmatch(text) or (may_name and _PAIR_PHRASE.match(text.rstrip("[ \n"))))


def _nothing(blocks: list[_Block], reply: str) -> PriorParseError:
    """Say why there is no candidate."""
    if any(candidate.kind == "cut" for block in blocks for candidate in block.candidates):
        return parse_error("cut off", "an answer that ends in its first box", "a whole box", reply)
    if not blocks:
        return parse_error("not JSON", "no box in JSON", "a JSON list of objects", reply)
    value = blocks[-1].value
    if value in ([], {}):
        return parse_error("empty", "a list without objects", "at least one box", reply)
    if isinstance(value, list) and not any(isinstance(item, dict) for item in value):
        return parse_error("not objects", "a list of other things", "a list of objects with bbox_2d", reply)
    return parse_error("missing key", "an object without one", "bbox_2d or point_2d", reply)


# ---------------------------------------------------------------------------------------------------------------------
# The scan


def _blocks(text: str, reply: str) -> tuple[list[_Block], int]:
    """Return every stretch that may hold coordinates but marked drafts, and where in the text those end."""
    repaired = _repaired(text)
    blocks: list[_Block] = []
    at = num_before = begin = 0
    is_thinking, says_none = False, False
    while (event := _EVENT.search(text, at)) is not None:
        at, kind = event.end(), event.lastgroup
        if kind == "thinking":
            is_thinking = True
        elif kind in ("thought", "answer"):
            blocks, num_before, is_thinking, begin = [], 0, False, at
        elif kind == "answered" and blocks:
            break
        elif kind == "announced":
            num_before, says_none = len(blocks), _SAYS_NONE.match(text, at) is not None
        elif kind == "pair":
            blocks.append(_pair_block(event, text, blocks[-1].end if blocks else 0))
        elif kind in ("cutpair", "cutlist"):
            blocks.append(_cut_block(event.start(), text, kind == "cutpair"))
        elif kind in ("key", "open"):
            try:
                block = (_key_block if kind == "key" else _json_block)(event, text, repaired)
            except RecursionError:
                break  # a runaway of brackets; what came before it is whole
            if block is not None:
                blocks.append(block)
                at = block.end
    if is_thinking:
        raise parse_error("no answer", "reasoning that does not end", "an answer after the reasoning", reply)
    if says_none and not blocks[num_before:]:
        raise parse_error("empty", "an answer that says there is none", "at least one box", reply)
    return blocks[num_before:] or blocks, begin


def _with_plain_marks(text: str) -> str:
    """Return a text in which what GLM marks is between `<answer>` and `</answer>`, and all of its brackets are square.

    Marks in the reasoning are none: what they hold is a draft.
    """
    thoughts = [event.end() for event in _EVENT.finditer(text) if event.lastgroup == "thought"]
    first, last = text.find(_BEGIN_OF_BOX, *thoughts[-1:]), text.rfind(_END_OF_BOX)
    marked = text[first:last] if 0 <= first < last else ""
    if len(_NUMERAL.findall(marked)) < 4:
        return text
    square = _FOUR.sub(r"[\1]", marked).replace(_BEGIN_OF_BOX, "[").replace(_END_OF_BOX, "]")
    return f"{text[:first]}<answer>{square}]</answer>{text[last:]}"


def _repaired(text: str) -> str:
    """Return a text of the same length in which Python's spelling is JSON's: quotes, tuples, commas and numbers."""
    text = re.sub(r"'([^'\"\n]*)'(?=\s*[:,\]}])", r'"\1"', text)
    text = _NO_JSON_NUMBER.sub(lambda match: match[1] + " " * len(match[2]), _TUPLE.sub(r"[\1]", text))
    return re.sub(r",(?=\s*[\]}])", " ", text)


def _plain(char: str) -> str:
    """Return the ASCII of a blank, a bracket or a comma of another script; any other character as it is."""
    if char.isascii():
        return char
    return " " if char.isspace() or char == "\ufeff" else _LOOKALIKES.get(char, char)


def _pair_block(event: re.Match[str], text: str, start: int) -> _Block:
    found = _PAIR_PHRASE.search(text, max(start, event.start() - _PHRASE_CHARS), event.start())
    corners = [float(number) for number in re.findall(r"-?[0-9.]+", event[0])]
    candidate = Candidate("box", corners, _well_formed(found[0] if found else ""), has_key=True)
    return _Block(event.start(), event.end(), (candidate,), is_pair=True)


def _cut_block(start: int, text: str, has_key: bool) -> _Block:
    """Return what is cut off in its numbers, which is the last of a text."""
    return _Block(start, len(text), (Candidate("cut", None, "", has_key),))


def _json_block(event: re.Match[str], text: str, repaired: str) -> _Block | None:
    """Return what the JSON value that starts here holds; None if there is no whole value."""
    value, end = _decode(event.start(), text, repaired)
    is_tuple = text[event.start()] == "("
    return None if end < 0 else _Block(event.start(), end, tuple(_candidates(value)), value, is_tuple=is_tuple)


def _key_block(event: re.Match[str], text: str, repaired: str) -> _Block | None:
    """Return the value of a key that stands in no whole object."""
    value, end = _decode(event.end(), text, repaired)
    key = event["name"]
    if end >= 0 and isinstance(value, list | dict | str):
        return _Block(event.start(), end, tuple(_candidates({key: value})), value)
    if end >= 0 or not event["quote"] or not _STARTS_VALUE.match(text, event.end()):
        return None  # prose: "the box: ..."
    if _REST_OF_CUT.fullmatch(text, event.end()):
        return _cut_block(event.start(), text, has_key=True)
    damaged = {key: {"damaged": text[event.end() : event.end() + _PHRASE_CHARS]}}
    return _Block(event.start(), event.end(), tuple(_candidates(damaged)))


def _decode(start: int, text: str, repaired: str) -> tuple[Any, int]:
    """Return the JSON value, or four numbers with percent signs, at `start` and where it ends; else (None, -1)."""
    for source in (text, repaired):
        try:
            return _DECODER.raw_decode(source, start)
        except json.JSONDecodeError:
            continue
    shares = _FOUR_SHARES.match(text, start)
    return (shares[1].split(","), shares.end()) if shares and "%" in shares[1] else (None, -1)


def _last_group(blocks: list[_Block], text: str) -> list[_Block]:
    """Return the last block and those before it that are told apart from it by no words."""
    first = len(blocks) - 1
    for index, (earlier, later) in reversed(list(enumerate(pairwise(blocks)))):
        between = text[earlier.end : later.start]
        both_pairs = earlier.is_pair and later.is_pair and _PAIR_SEPARATOR.fullmatch(between)
        if not (both_pairs or _SEPARATOR.fullmatch(between)):
            break
        first = index
    return blocks[first:] if blocks else []


# ---------------------------------------------------------------------------------------------------------------------
# Inside a JSON value


def _candidates(value: Any, phrase: str = "", depth: int = 0) -> Iterator[Candidate]:
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, list):
        if _is_bare_box(value):
            yield Candidate("box", _flat(value), phrase, has_key=False)
            return
        for item in value:
            yield from _candidates(item, phrase, depth + 1)
    elif isinstance(value, dict):
        named = {re.sub(r"[^a-z0-9]", "", key.lower()): item for key, item in value.items()}
        phrase = next((_well_formed(named[k]) for k in _PHRASE_KEYS if isinstance(named.get(k), str)), phrase)
        box, point = _first(named, _BOX_KEYS), _first(named, _POINT_KEYS)
        if box is not None:
            yield from _named("box", box, phrase, depth)
        if point is not None:
            yield from _named("point", point, phrase, depth)
        if box is None and point is None:
            corners = _corners(named)
            if corners is not None:
                yield Candidate("box", corners, phrase, has_key=True)
                return
            for item in value.values():
                yield from _candidates(item, phrase, depth + 1)


def _named(kind: Kind, value: Any, phrase: str, depth: int) -> Iterator[Candidate]:
    """Yield what a key holds: the coordinates of one object, a list of them, or objects of their own."""
    if isinstance(value, dict):
        named = {key.lower(): item for key, item in value.items()}
        point = [named["x"], named["y"]] if {"x", "y"} <= named.keys() else None
        yield Candidate(kind, (_corners(named) if kind == "box" else point) or value, phrase, has_key=True)
    elif isinstance(value, list) and value and all(isinstance(item, list) for item in value):
        for item in [value] if kind == "box" and _is_bare_box(value) else value:
            yield Candidate(kind, _flat(item), phrase, has_key=True)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        yield from _candidates(value, phrase, depth + 1)
    elif value != []:
        yield Candidate(kind, value, phrase, has_key=True)


def _is_bare_box(value: list[Any]) -> bool:
    """Whether a list is four numbers, or two pairs of them; percentages may be texts."""
    if len(value) == 2 and all(isinstance(item, list) and len(item) == 2 for item in value):
        value = [*value[0], *value[1]]
    return len(value) == 4 and all(
        isinstance(item, float) or (isinstance(item, str) and _PERCENT.fullmatch(item)) for item in value
    )


def _flat(value: list[Any]) -> list[Any]:
    return [*value[0], *value[1]] if len(value) == 2 and all(isinstance(item, list) for item in value) else value


def _corners(named: dict[str, Any]) -> list[Any] | None:
    """Return x1, y1, x2, y2 of an object that spells them out, or its corner, width and height."""
    found = next(([named[key] for key in keys] for keys in _CORNER_KEYS if all(key in named for key in keys)), None)
    if found is not None:
        return found
    sized = next(([named[key] for key in keys] for keys in _SIZE_KEYS if all(key in named for key in keys)), None)
    if sized is None or not all(isinstance(item, float) for item in sized):
        return None
    x, y, width, height = sized
    return [x, y, x + width, y + height]


def _first(named: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((named[key] for key in keys if named.get(key) is not None), None)


def _well_formed(phrase: str) -> str:
    """Return the words without half characters, which JSON can spell and no file can hold."""
    return " ".join(phrase.encode(errors="replace").decode().split())
