"""Which files Python opens meanwhile: an audit hook, of which one serves all, for it cannot be taken away again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_LISTS: list[list[str]] = []  # those that are being written


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Give a list that grows by the name of each file that is opened; what libraries in C++ open is not seen."""
    _hooked()
    names: list[str] = []
    _LISTS.append(names)
    try:
        yield names
    finally:
        _LISTS.pop()


@cache
def _hooked() -> None:
    def note(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            for names in _LISTS:
                names.append(str(args[0]))

    sys.addaudithook(note)
