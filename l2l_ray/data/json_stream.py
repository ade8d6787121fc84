"""Reads a COCO file as a stream of elements, and refuses JSON objects that say one thing twice."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from l2l_ray.data.layout import shown
from l2l_ray.errors import DataError

CHUNK_CHARS = 2**20
LOOKAHEAD_CHARS = 2**16  # more than any number is long: a number is never taken before all of it is in the buffer
_SPACE = re.compile(r"[ \t\n\r]*+")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; for `object_pairs_hook`.

    Raises:
        ValueError: If a key is there twice, of which the last would win in silence.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = sorted(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {', '.join(map(shown, twice))} is there twice in one object; keep one of them")
    return made


def coco_elements(path: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield (section, number, element) of the arrays `images`, `annotations` and `categories` of a COCO file.

    One element is in memory at a time; numbers count from 0 in each section.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If the file is not readable, no JSON, repeats a key, or has no images.
    """
    try:
        with path.open("rb") as file:
            encoding = json.detect_encoding(file.read(4))
        with path.open(encoding=encoding, errors="surrogatepass", newline="") as text:
            yield from _elements(text)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} is not a COCO instances file: {type(error).__name__}: {error}; expected an object with "
            "'images' of id and file_name (width and height may be null); download or make it again"
        ) from error


def _elements(file: TextIO) -> Iterator[tuple[str, int, Any]]:
    reader = _JsonReader(file)
    seen: set[str] = set()
    more = reader.take("{") and not reader.has("}")
    while more:
        section = reader.value()
        if not isinstance(section, str) or not reader.take(":"):
            break
        if section not in ("images", "annotations", "categories"):
            reader.value()
        elif section in seen:
            raise ValueError(f"{section!r} is there twice")
        elif reader.take("["):
            seen.add(section)
            another, number = not reader.has("]"), 0
            while another:
                yield section, number, reader.value()
                number += 1
                another = reader.take(",")
            reader.require("]")
        elif reader.value() is not None:
            raise TypeError(f"{section!r} must be an array")
        more = reader.take(",")
    reader.require("}")
    reader.require("")
    if "images" not in seen:
        raise KeyError("images")


class _JsonReader:
    """Walks through a JSON text that need not fit in memory.

    Example: `reader.take("["); reader.value(); reader.take(",")`
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text, self._at, self._num_passed = "", 0, 0
        self._scan = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode

    def value(self) -> Any:
        """Return the value that comes next and go behind it."""
        self._skip_space()
        if len(self._text) - self._at < LOOKAHEAD_CHARS:
            self._read_on()
        while True:
            try:
                value, self._at = self._scan(self._text, self._at)
                return value
            except json.JSONDecodeError as error:
                message, at = error.msg, error.pos
            # The buffer grows by its own size, so a value is scanned few times, however long it is.
            if not self._read_on():
                raise ValueError(f"{message} at character {self._num_passed + at}")

    def has(self, char: str) -> bool:
        """Tell whether this comes next, white space aside; "" is the end of the text."""
        self._skip_space()
        return self._text[self._at : self._at + 1] == char

    def take(self, char: str) -> bool:
        """Go behind this character if it comes next; tell whether it did."""
        found = self.has(char)
        self._at += found
        return found

    def require(self, char: str) -> None:
        """Go behind this character, or raise `ValueError` if it does not come next."""
        if not self.take(char):
            raise ValueError(f"expected {char or 'the end'!r} at character {self._num_passed + self._at}")

    def _skip_space(self) -> None:
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space  # the empty string matches
            self._at = space.end()
            if self._at < len(self._text) or not self._read_on():
                return

    def _read_on(self) -> bool:
        kept = self._text[self._at :]
        more = self._file.read(max(CHUNK_CHARS, len(kept)))
        self._num_passed += self._at
        self._text, self._at = kept + more, 0
        return bool(more)
