"""Where things lie in the REFER layout, which names are safe in it, and how a problem with data is put into words.

Every importer and every checker reports bad items as `Problem`s: where it is, what it is about, what was found, what
was expected, and what to do. A parser raises `BadValue`; whoever knows the file and the line makes it a `Problem`.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from l2l_ray.errors import DataError, L2LError

PROBLEMS_FILE = "import-problems.txt"  # beside instances.json: what imports named as wrong, one line each
NO_CATEGORY_ID = -1  # of an annotation without a category: pycocotools asks every annotation for one
ALL_PICTURES = "images"  # the folder below a data root that holds each data set's pictures, and no data set
COCO_IMAGES = "mscoco/images/train2014"
# As `refer.py` reads them; other data sets keep their pictures in `images/<dataset>`.
IMAGE_FOLDERS = {
    "refcoco": COCO_IMAGES,
    "refcoco+": COCO_IMAGES,
    "refcocog": COCO_IMAGES,
    "refclef": "saiapr_tc-12",
}
SPLITS = ("train", "val", "test", "testA", "testB", "testC")
# Longest side that is believed: JPEG's own bound is 65,535 px, and a wrong size must not become a wrong allocation.
MAX_SIDE_PX = 65_535
_MAX_COORDINATE_PX = 1e5

_MAX_SHOWN_CHARS = 200
_MANY = 5  # places that are named one by one
_LIKE_A_VALUE = re.compile(
    r"\s*([-+]?[0-9][0-9_]*\.?[0-9]*([eE][-+]?[0-9]+)?|true|false|null|none|nan)\s*", re.IGNORECASE
)
_UNSEEN = {ord(char): repr(char)[1:-1] for char in "\t\n\r\v\f\x85\u2028\u2029"}  # a message is one line

_COCO_NAME = re.compile(r"(?:COCO_[A-Za-z]+\d{4}_)?(\d{12})(?:_\d+)?\.jpe?g")


class BadValue(DataError):
    """One value of an item is unusable; the arguments are those of `Problem` without `where`."""

    def __init__(self, what: str, got: Any, expected: str, remedy: str) -> None:
        super().__init__(what, got, expected, remedy)

    def at(self, where: str) -> Problem:
        """Return the problem at its place."""
        what, got, expected, remedy = self.args
        return Problem(where, what, shown(got), expected, remedy)

    def __str__(self) -> str:
        return str(self.at(""))


class Problem(NamedTuple):
    """One thing that is wrong with a data set, as it is printed.

    Example: `Problem("own.jsonl line 3", "polygon", "[[5]]", "3 points or more", "correct or remove it")`
    """

    where: str
    what: str
    got: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        text = f"{place}{self.what}: got {self.got}; expected {self.expected}; {self.remedy}"
        return text.encode("utf-8", "backslashreplace").decode()  # names of files and ids may hold half a character


class Notice(NamedTuple):
    """One thing that a person should know about a data set and that is no fault.

    What differs from place to place stands in brackets behind the place, so that notices of one kind have one text.

    Example: `Notice("m.jpg (12 px between 0 and 255)", "mask is not two-valued, cut at half of its range")`
    """

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}".encode("utf-8", "backslashreplace").decode()


class Words(str):
    """What was found, in words of ours: `shown` puts no quotes around it and cuts nothing.

    Example: `BadValue("mask size", Words("9 x 6 px"), "8 x 6 px", "resize it")`
    """


def without_placeholder(row: dict[str, Any]) -> dict[str, Any]:
    """Return an annotation without the category_id that says that it has no category."""
    return {name: value for name, value in row.items() if name != "category_id" or value != NO_CATEGORY_ID}


def shown(value: Any) -> str:
    """Return a value as one line: texts in quotes, long values with their middle left out, errors whole.

    A text that looks like a number or a truth value is called a text, as its quotes alone are easily overlooked.
    """
    if isinstance(value, BaseException):
        text = str(value) if isinstance(value, L2LError) else f"{type(value).__name__}: {value}"
    elif isinstance(value, Words):
        text = str(value)
    else:
        try:
            text = _cut(value, 12, 160)
            text = text if len(text) <= _MAX_SHOWN_CHARS else _cut(value, 4, 40)
        except (ValueError, RecursionError):  # an integer of more digits than Python writes; no end of nesting
            text = f"a value of type {type(value).__name__}"
        if isinstance(value, str) and _LIKE_A_VALUE.fullmatch(value):
            text += " (text)"
    return text.encode("utf-8", "backslashreplace").decode().translate(_UNSEEN)


def _cut(value: Any, num_items: int, num_chars: int) -> str:
    """Return how Python writes a value; of long lists and texts the beginning, of long texts the end, too."""
    writer = reprlib.Repr()
    writer.maxlist = writer.maxtuple = writer.maxdict = num_items
    writer.maxstring = writer.maxother = writer.maxlong = num_chars
    return writer.repr(value)


def finite_numbers(value: Any, what: str, expected: str, remedy: str = "correct it, or leave it out") -> list[float]:
    """Return a list of finite numbers.

    Raises:
        BadValue: If it is something else.
    """
    if isinstance(value, list | tuple) and all(_is_finite(number) for number in value):
        return [float(number) for number in value]
    raise BadValue(what, value, expected, remedy)


def _is_finite(number: Any) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    try:
        return math.isfinite(number) and abs(number) < _MAX_COORDINATE_PX
    except OverflowError:  # an integer beyond every float
        return False


def gathered(problems: Sequence[Problem]) -> list[Problem]:
    """Return the problems, those that say the same of many places as one, at the first."""
    places: dict[tuple[str, ...], list[str]] = {}
    for problem in problems:
        places.setdefault(problem[1:], []).append(problem.where)
    found = []
    for said, where in places.items():
        many = len(where) > _MANY
        found += [Problem(f"{where[0]} and {len(where) - 1} more, to {where[-1]}" if many else where[0], *said)]
        found += [] if many else [Problem(place, *said) for place in where[1:]]
    return found


def listed(notices: Sequence[Notice]) -> list[str]:
    """Return one line for each text that the notices have, with the first places of which it is true."""
    places: dict[str, list[str]] = {}
    for notice in notices:
        places.setdefault(notice.text, []).append(notice.where)
    return [str(Notice(_first_of(where), text)) for text, where in places.items()]


def _first_of(names: Sequence[str]) -> str:
    more = len(names) - _MANY
    return ", ".join(names[:_MANY]) + (f" and {more} more" if more > 0 else "")


def by_kind(problems: Sequence[Problem]) -> str:
    """Return how many problems of each kind there are, most frequent first."""
    counts = Counter(problem.what for problem in problems)
    return ", ".join(f"{count} {what}" for what, count in counts.most_common())


def image_folder(root: Path, dataset: str) -> Path:
    """Return the folder in which a data set's pictures are looked up."""
    return root / ALL_PICTURES / IMAGE_FOLDERS.get(dataset, dataset)


def plain_name(what: str, name: str) -> str:
    """Return a data set's or a splitter's name if it can stand in a path.

    Raises:
        DataError: If it has other characters than letters, digits, `+`, `-`, `_` and `.`, or begins with a dot.
    """
    if not re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9_+.-]*", name):
        raise DataError(
            f"{what} must be letters, digits, '+', '-', '_' and '.', got {shown(name)}; choose a plain name"
        )
    return name


def file_below(root: Path, name: Any, what: str, follow_links: bool = True) -> Path:
    """Return the existing file `name` below `root`.

    Args:
        root: The folder that somebody gave.
        name: A relative name without '..', as it stands in a data file.
        what: What the file is, for messages.
        follow_links: A link that lies in `root` may lead out of it: it is part of what was given, as the links to
            pictures that an import makes. False refuses such a link.
    Raises:
        BadValue: If the name is no text, is absolute, has a '..', leads out of `root` by a link that is not followed,
            or no file is there; or if it is no UTF-8, which tables of a run cannot hold.
    """
    if not isinstance(name, str) or not name:
        raise BadValue(what, name, "the name of a file", "write its path below the folder")
    if Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name:
        raise BadValue(what, name, f"a path below {root}, with '/' and without '..'", "write a relative path")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadValue(what, name, "a name in UTF-8", "rename the file") from None
    try:
        path = (root / name).resolve()
        inside, there = follow_links or path.is_relative_to(root.resolve()), path.is_file()
    except (OSError, ValueError):  # names too long, or with NUL
        raise BadValue(what, name, "the name of a file", "correct the name") from None
    if not inside:
        raise BadValue(what, name, f"a file below {root}", "the link leads outside; copy the file there")
    if not there:
        raise BadValue(f"missing {what}", name, f"a file below {root}", "add the file, or correct the name")
    return root / name


def coco_number(file_name: str) -> int | None:
    """Return the number in a COCO picture's name, also with the annotation suffix of refs; None for other names."""
    match = _COCO_NAME.fullmatch(Path(file_name).name)
    return int(match[1]) if match else None
