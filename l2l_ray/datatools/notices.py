"""What a person should know of an import that went well: counted by kind, with the first names of each."""

from __future__ import annotations

_NUM_NAMED = 5


class Notices:
    """Collects notices.

    Example: `notices.add("mask is not two-valued, cut at half of its range", "m.jpg (12 px between 0 and 255)")`
    """

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Note that something of this kind is true of the thing of this name."""
        self._names.setdefault(kind, []).append(name)

    def lines(self) -> list[str]:
        """Return one line per kind."""
        return [f"{kind}: {_listed(names)}" for kind, names in self._names.items()]


def _listed(names: list[str]) -> str:
    more = len(names) - _NUM_NAMED
    return ", ".join(names[:_NUM_NAMED]) + (f" and {more} more" if more > 0 else "")
