"""Counts and names of files, put into words for people."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from pathlib import PurePath

Say = Callable[[str], None]  # takes one line for the user
NUM_NAMED = 3  # so many of a list are named; the others are counted


def counted(num: float, noun: str) -> str:
    """Return e.g. `1 photo`, `0 photos`."""
    return f"{num} {noun}" if num == 1 else f"{num} {noun}s"


def folded(text: str) -> str:
    """Return a text as a search compares it: capitals, and the forms that Unicode has of one letter, are the same.

    Example: `folded("STRASSE") == folded("straße")`
    """
    small = unicodedata.normalize("NFKC", text).casefold().replace("i\u0307", "i")  # the Turkish capital with a dot
    return unicodedata.normalize("NFKC", small)


def first_of(items: Iterable[str], separator: str = ", ") -> str:
    """Return the first few items, each once, and how many more there are."""
    known = list(dict.fromkeys(items))
    more = [f"and {len(known) - NUM_NAMED} more"] if len(known) > NUM_NAMED else []
    return separator.join([*known[:NUM_NAMED], *more])


def photo_name(path: str, dataset: str) -> str:
    """Return a photo's path below `images/<dataset>`, where imports put it; its file's name where it lies elsewhere.

    Two photos of a data set may have one file name, in folders of their own.

    Example: `photo_name("/data/images/mine/garden/a.jpg", "mine")` is "garden/a.jpg".
    """
    _, _, below = path.partition(f"/images/{dataset}/")
    return below or PurePath(path).name


def photo_names(paths: Iterable[str], dataset: str) -> str:
    """Return the names of the first few photos, and how many more there are."""
    return first_of(photo_name(path, dataset) for path in paths if path)
