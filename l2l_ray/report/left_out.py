"""What a run left out, in words: skips.jsonl by reason, with the names of the photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from l2l_ray.wording import photo_name

MAX_NAMES = 8
# Kinds of `types.Skip`; one that is not here is shown by its own name. An item of the second kind stays.
LEFT_OUT = {
    "missing_image": "the photo is not there",
    "truncated_image": "the photo cannot be read",
    "size_mismatch": "the photo does not have the size that the data set says",
    "empty_expression": "there is no text",
    "missing_mask": "there is no mask to measure against",
    "invalid_mask": "the mask cannot be read",
    "mask_outside_image": "the mask lies outside its photo",
    "empty_mask": "the mask is empty",
    "rejected_label": "a reviewer said that its label was wrong, and drew no other mask",
}
STAYS = {
    "long_expression_cut": "the text is too long; it was cut, and is used",
    "long_expression_tokens": "the segmenter reads the first segmenter.max_text_tokens tokens alone; raise that",
    "invalid_mask_unlabeled": "the mask cannot be read; used as an unlabeled photo",
    "mask_outside_image_unlabeled": "the mask lies outside its photo; used as an unlabeled one",
    "empty_mask_unlabeled": "the mask is empty; used as an unlabeled photo",
    "invalid_hint": "the hint is not possible; used without it",
}


@dataclass(frozen=True)
class LeftOut:
    """The items that one reason applies to.

    Example: `LeftOut("the photo is not there", False, 3, ("a.jpg", "b.jpg"), "image file not found")`
    """

    reason: str
    stays: bool  # the items are used all the same
    num: int  # texts
    files: tuple[str, ...]  # names of their photos in the data set, each once
    first: str  # what was found at the first of them, word for word

    @property
    def names(self) -> str:
        """The photos, the first few by name."""
        more = len(self.files) - MAX_NAMES
        return ", ".join(self.files[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def left_out(skips: Sequence[Mapping[str, Any]], dataset: str) -> list[LeftOut]:
    """Return one entry per reason: first what was left out, then what stays with a change; the most frequent first.

    Args:
        skips: Lines of skips.jsonl: kind, sent_id, path and reason; whatever a line lacks is passed over.
        dataset: Name of the data set.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for skip in skips:
        found.setdefault(str(skip.get("kind") or "for a reason that was not recorded"), []).append(skip)
    entries = [
        LeftOut(
            reason={**LEFT_OUT, **STAYS}.get(kind, kind.replace("_", " ")),
            stays=kind in STAYS,
            num=len(items),
            files=tuple(dict.fromkeys(photo_name(str(path), dataset) for item in items if (path := item.get("path")))),
            first=str(items[0].get("reason") or ""),
        )
        for kind, items in found.items()
    ]
    return sorted(entries, key=lambda entry: (entry.stays, -entry.num))
