"""What a run left out, in words: skips.jsonl by reason, with the names of the photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

MAX_NAMES = 8
# Kinds as the reader of data sets and the image store give them; one that is not here is shown by its own name.
_WORDS = {
    "missing_image": "the photo is not there",
    "truncated_image": "the photo cannot be read to its end",
    "size_mismatch": "the photo is not as large as its mask's file says",
    "empty_expression": "the text is empty",
    "long_expression_cut": "the text is too long; it was cut and used",
    "missing_mask": "there is no mask where one is named",
    "invalid_mask": "the mask cannot be read",
    "mask_outside_image": "the mask lies outside its photo",
    "empty_mask": "the mask covers no pixel",
}


@dataclass(frozen=True)
class LeftOut:
    """The items that one reason applies to.

    Example: `LeftOut("the photo is not there", 3, ("a.jpg", "b.jpg"), "image file not found")`
    """

    reason: str
    num: int  # texts
    files: tuple[str, ...]  # names of their photos, each once
    first: str  # what was found at the first of them, word for word

    @property
    def names(self) -> str:
        """The photos, the first few by name."""
        more = len(self.files) - MAX_NAMES
        return ", ".join(self.files[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def left_out(skips: Sequence[Mapping[str, Any]]) -> list[LeftOut]:
    """Return one entry per reason, the most frequent first.

    Args:
        skips: Lines of skips.jsonl: kind, sent_id, path and reason; whatever a line lacks is passed over.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for skip in skips:
        found.setdefault(str(skip.get("kind") or "for a reason that was not recorded"), []).append(skip)
    entries = [
        LeftOut(
            reason=_WORDS.get(kind, kind.replace("_", " ")),
            num=len(items),
            files=tuple(dict.fromkeys(name for item in items if (name := PurePath(str(item.get("path") or "")).name))),
            first=str(items[0].get("reason") or ""),
        )
        for kind, items in found.items()
    ]
    return sorted(entries, key=lambda entry: -entry.num)
