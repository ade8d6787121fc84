"""In which fields two configs differ, by the path of each field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

ABSENT = "absent"


class Difference(NamedTuple):
    """One field that differs.

    Example: `Difference("loop.rounds", 3, 5)`
    """

    path: str
    first: Any
    second: Any


def differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> Iterator[Difference]:
    """Yield the fields in which two configs differ, in the order of the first; `ABSENT` where one has no such field.

    Args:
        first: A config, or a section of one, as `model_dump` gives it.
        second: Another one.
        prefix: Path of the section, with the dot that follows it.
    """
    for key in (*first, *(key for key in second if key not in first)):
        one, other = first.get(key, ABSENT), second.get(key, ABSENT)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differences(one, other, f"{prefix}{key}.")
        elif one != other:
            yield Difference(f"{prefix}{key}", one, other)
