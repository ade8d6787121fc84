"""Counts and names of files, put into words for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

Say = Callable[[str], None]  # takes one line for the user
NUM_NAMED = 3  # so many of a list are named; the others are counted


def counted(num: float, noun: str) -> str:
    """Return e.g. `1 photo`, `0 photos`."""
    return f"{num} {noun}" if num == 1 else f"{num} {noun}s"


def first_of(items: Iterable[str], separator: str = ", ") -> str:
    """Return the first few items, each once, and how many more there are."""
    known = list(dict.fromkeys(items))
    more = [f"and {len(known) - NUM_NAMED} more"] if len(known) > NUM_NAMED else []
    return separator.join([*known[:NUM_NAMED], *more])


def file_names(paths: Iterable[str]) -> str:
    """Return the names of the first few files, and how many more there are."""
    return first_of(Path(path).name for path in paths if path)
