"""The columns of own data: what each means, how its value is read, and whether it stays with the ref.

`COLUMNS` is the one list of them, for every source of rows (JSONL, CSV, Parquet, folders, Label Studio). A value that
needs the picture (`image`, and masks, boxes and hints, see `truths.py`) is read by the importer; all others are read
here.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from l2l_ray.data.layout import SPLITS, BadValue, Notice, Problem, Words, shown
from l2l_ray.data.masks import mask_area_px
from l2l_ray.errors import DataError
from l2l_ray.types import Rle

# Names that pandas gives to its index: none in CSV, and what comes of reading and writing it again.
_INDEX = re.compile(r"\s*|index|level_\d+|Unnamed: \d+(\.\d+)?|__index_level_\d+__")
_LIST_OF_TEXTS = re.compile(r"""\s*\[\s*["'].*["']\s*\]\s*\Z""", re.DOTALL)
_NO_TEXTS = ("", "nan", "NaN", "None", "null", "NULL", "<NA>", "NaT")  # how programs write that there is none
_INVISIBLE = "\u115f\u1160\u2800\u3164\uffa0"  # letters without ink
# What people call columns that have another name here; letters alone.
_ALSO_CALLED = {
    **dict.fromkeys(
        ("caption", "captions", "text", "sentence", "query", "prompt", "phrase", "expressions"), "expression"
    ),
    **dict.fromkeys(("file", "filename", "path", "photo", "picture", "imagepath", "img", "images"), "image"),
    **dict.fromkeys(("maskpath", "maskfile", "masks"), "mask"),
    **dict.fromkeys(("bbox", "boundingbox", "boxes"), "box"),
    **dict.fromkeys(("segmentation", "polygons"), "polygon"),
    **dict.fromkeys(("label", "class", "categoryname"), "category"),
}


class Column(NamedTuple):
    """One column of own data.

    Example: `Column("name of the object's category", category)`
    """

    meaning: str
    read: Callable[[Any], Any] | None = None  # raises BadValue; None = read where the picture is known
    stays: bool = False  # the value is kept on the ref, under the column's name


def read_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row, those that need no picture read; an empty text says nothing, as an empty cell.

    Args:
        row: Values of known columns.
    Raises:
        BadValue: If a value is unusable.
    """
    readers = ((name, COLUMNS[name].read, value) for name, value in said(row).items())
    return {name: read(value) if read is not None else value for name, read, value in readers}


def said(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row that say something: all but empty texts; an empty expression is a fault, and stays."""
    return {name: value for name, value in row.items() if name == "expression" or not _is_blank(value)}


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def column_of(name: Any) -> str | None:
    """Return the column that a name stands for, also with blanks around it or in capitals; None for other names."""
    found = name.strip().lower() if isinstance(name, str) else None
    return found if found in COLUMNS else None


def is_index(name: Any) -> bool:
    """Tell whether pandas gave a column this name: it wrote the numbers of the rows there."""
    return isinstance(name, str) and _INDEX.fullmatch(name) is not None


def repeated_columns(names: Iterable[Any]) -> list[str]:
    """Return the columns that several of these names stand for."""
    counts = Counter(column_of(name) or str(name) for name in names if not is_index(name))
    return sorted(name for name, count in counts.items() if count > 1)


class Names:
    """Turns the names that stand in rows into columns, and says once, at the end, what it thinks of each name.

    Example: `names.known({" expression": "left man", "msk": "m.png"}, "own.csv line 2")`
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, int]] = {}  # where each odd name was first, and how often
        self._no_index: set[str] = set()  # names as pandas gives to its index, with values that are no numbers of rows

    def known(self, row: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return the values of a row by column; those of unknown names are left out.

        Raises:
            BadValue: If two names stand for one column.
        """
        if repeated := repeated_columns(row):
            raise BadValue("column", list(row), f"one of {repeated[0]}", "remove the others")
        for name, value in row.items():
            if name not in COLUMNS:
                first, count = self._found.get(str(name), (where, 0))
                self._found[str(name)] = first, count + 1
                if is_index(name) and not str(value).strip().isdigit():
                    self._no_index.add(str(name))
        return {column: value for name, value in row.items() if (column := column_of(name)) is not None}

    def problems(self) -> list[Problem]:
        """Return a problem for each unknown name."""
        problems = []
        for name, (first, count) in self._found.items():
            if column_of(name) is None and (not is_index(name) or name in self._no_index):
                where = first if count == 1 else f"{first} and {count - 1} more"
                remedy = f"{_meant(name)}its values were not used; rename it and import again, or remove it"
                problems.append(BadValue("column", name, f"one of {', '.join(COLUMNS)}", remedy).at(where))
        return problems

    def notices(self) -> list[Notice]:
        """Return a notice for each name that was understood without being a column's own."""
        notices = []
        for name, (first, _) in self._found.items():
            if (column := column_of(name)) is not None:
                notices.append(Notice(first, f"the column {shown(name)} is taken as {shown(column)}"))
            elif is_index(name) and name not in self._no_index:
                notices.append(Notice(first, f"the column {shown(name)} is an index of pandas and is not used"))
        return notices


def missing_columns(names: Sequence[Any], where: str) -> Problem | None:
    """Return what is wrong with the names in a table's head, of which rows cannot be made, or None.

    Args:
        names: As they stand there.
        where: The head's place.
    """
    remedy = "correct the head of the table; no row was read"
    if repeated := repeated_columns(names):
        return BadValue("columns", list(names), f"each column once, not {', '.join(repeated)} again", remedy).at(where)
    columns = {column_of(name) for name in names}
    lacking = [name for name in ("image", "expression") if name not in columns]
    if not lacking:
        return None
    meant = "".join(_meant(name) for name in names if column_of(name) is None and not is_index(name))
    return BadValue("columns", list(names), f"also {' and '.join(lacking)}", meant + remedy).at(where)


def _meant(name: Any) -> str:
    plain = re.sub(r"[^a-z]", "", str(name).lower())
    close = [_ALSO_CALLED[plain]] if plain in _ALSO_CALLED else get_close_matches(str(name).lower(), COLUMNS, 1)
    return f"did you mean {close[0]} by {shown(name)}? " if close else ""


def expressions(value: Any) -> list[str]:
    """Return the expressions that a text or a list of texts gives.

    Raises:
        BadValue: If there is none, or one of them is no text that can be used.
    """
    texts = value if isinstance(value, list) else _listed(value) or [value]
    if not texts:
        raise BadValue("expression", value, "a text that is not empty", "say what the object is")
    return [clean_text(text) for text in texts]


def _listed(value: Any) -> list[Any] | None:
    """Return the texts of a cell that holds a list as JSON or Python writes it; None for any other."""
    if not isinstance(value, str) or not _LIST_OF_TEXTS.match(value):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list):
            return found
    return None


def clean_text(text: Any) -> str:
    """Return an expression that has words and can be written as UTF-8.

    Raises:
        BadValue: If it is something else.
    """
    if not isinstance(text, str) or text.strip() in _NO_TEXTS:
        raise BadValue("expression", text, "a text that is not empty", "say what the object is")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadValue("expression", text, "text that can be written as UTF-8", "correct the characters") from None
    if not any(char.isprintable() and not char.isspace() and char not in _INVISIBLE for char in text):
        raise BadValue("expression", text, "a text that can be seen", "say what the object is")
    return text


def _split(value: Any) -> str:
    if value not in SPLITS:
        raise BadValue("split", value, f"one of {', '.join(SPLITS)}", "use one of these")
    return str(value)


def _category(value: Any) -> str:
    if not isinstance(value, str):
        raise BadValue("category", value, "a word", "write the category's name")
    return value


_FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def _flag(value: Any) -> bool:
    said = str(value).lower()  # a cell of a CSV is text
    if said not in _FLAGS:
        raise BadValue("no_target", value, "true or false", "correct it; without that the row is left out")
    return _FLAGS[said]


def _object(value: Any) -> dict[str, Any]:
    """Return an object that JSON and a plain pickle can hold, also from JSON text."""
    expected = 'an object such as {"source": "label_studio"}'
    try:
        found = json.loads(value) if isinstance(value, str) else value
        found = json.loads(json.dumps(found, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadValue("provenance", Words(f"{shown(value)} ({shown(error)})"), expected, "correct it") from None
    if not isinstance(found, dict):
        raise BadValue("provenance", value, expected, "correct it")
    return found


def _rejected(value: Any) -> dict[str, Any]:
    try:
        return _object(value)
    except BadValue as error:
        raise BadValue("rejected", *error.args[1:]) from None


def _id(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise BadValue("id", value, "a text, or an integer below 2**63", "correct it")
    return str(value)


def _sent_id(value: Any) -> int:
    try:
        return int(_id(value))
    except (BadValue, ValueError):
        raise BadValue("sent_id", value, "an integer below 2**63", "correct or remove it") from None


def _share(value: Any) -> float:
    expected = "a number from 0 to 1"
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadValue("score", value, expected, "correct or remove it") from None
    if isinstance(value, bool) or not 0 <= found <= 1:  # NaN is not
        raise BadValue("score", value, expected, "correct or remove it")
    return found


def _rle(value: Any) -> Rle:
    """Return an RLE that fills its own size; it may be empty."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
        rle = Rle(size=[int(side) for side in found["size"]], counts=str(found["counts"]))
        mask_area_px(rle)
    except (DataError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
        expected, remedy = "an object with size [height, width] and counts", "correct or remove it"
        raise BadValue("accepted_rle", Words(f"{shown(value)} ({shown(error)})"), expected, remedy) from None
    return rle


COLUMNS: dict[str, Column] = {
    "image": Column("path of the picture below the folder of pictures"),
    "expression": Column("what the object is called: a text, or a list of texts", expressions),
    "mask": Column("path of a mask picture below the folder of masks"),
    "rle": Column("mask as COCO's run-length encoding"),
    "polygon": Column("mask as x, y, x, y, ... in px, or a list of such lists"),
    "box": Column("[x, y, width, height] in px: the object's box; without a mask it is a hint where to look"),
    "point": Column("[x, y] in px: a hint, a point on the object"),
    "points": Column("a list of [x, y] in px: a hint, points on the object"),
    "hint": Column('{"box": [...], "points": [...]}: a hint where to look, also beside a mask'),
    "no_target": Column("true: the image does not show what the expression says", _flag),
    "split": Column("split of the row; train if not given", _split),
    "id": Column("rows of one id speak of one object", _id),
    "category": Column("name of the object's category", _category),
    "provenance": Column("who made the truth: an object", _object, stays=True),
    "rejected": Column("review: who said that the label is wrong, and drew no other; an object", _rejected, stays=True),
    "sent_id": Column("exports: the sentence in the data set of the run", _sent_id, stays=True),
    "confidence": Column("exports: estimated IoU with the truth, 0 to 1", _share, stays=True),
    "gate": Column("exports: probability that training used the label, 0 to 1", _share, stays=True),
    "accepted_rle": Column("exports: where training believed the label", _rle, stays=True),
}
