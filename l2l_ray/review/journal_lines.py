"""The lines of the review journal: what one says, and what it looks like in the file.

`journal.py` keeps them; see there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from l2l_ray.types import Rle

UNDO = "undo"
OPEN = "open"
# What a person can decide, and what a label is then.
DECISIONS = {
    "accept": "accepted",
    "redraw": "redrawn",
    "reject": "rejected",
    "wrong_object": "wrong object",
    "no_object": "no such object",
}
STATES = (OPEN, *DECISIONS.values())


@dataclass(frozen=True, slots=True)
class Action:
    """One line of the journal.

    Example: `Action(17, 42, 12, "accept", "anna", "2026-11-26T16:02:11+00:00", "6f1c...")`
    """

    number: int  # counts from 1 over the file
    sent_id: int  # whose label it is about
    upon: int  # number of the action on this label that the reviewer saw last; 0 = none
    action: str  # a key of `DECISIONS`, or `UNDO`
    reviewer: str
    at: str  # UTC, ISO 8601
    key: str  # the page's own; the same one is never two actions
    undoes: int = 0  # number of the action that an undo takes back
    rle: Rle | None = None  # accepted or redrawn: the mask that the person says is right, at native size
    iou: float | None = None  # redrawn: with the label that was shown
    # The record of the label that was shown, with its mask (`rle`) where that was not accepted: no other field has it.
    label: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """What a decision makes of its label, one of `STATES`."""
        return DECISIONS[self.action]

    @property
    def words(self) -> str:
        """Who did what when, in words."""
        did = "undid action " + str(self.undoes) if self.action == UNDO else f"said {self.state!r}"
        return f"{self.reviewer} {did} at {self.at[11:16]} UTC on {self.at[:10]} (action {self.number})"


@dataclass(frozen=True, slots=True)
class Summary:
    """What reviewing came to: on how many labels each decision stands, and how far redrawn masks are from the labels.

    Example: `Summary({"accept": 5, "redraw": 3, "reject": 1, "wrong_object": 1, "no_object": 0}, 0.42, ("anna",))`
    """

    counts: Mapping[str, int]  # by key of `DECISIONS`
    mean_iou: float | None  # of redrawn masks with the labels that were shown; None = nothing was redrawn
    reviewers: tuple[str, ...]

    @property
    def num(self) -> int:
        """How many labels are decided."""
        return sum(self.counts.values())

    @property
    def line(self) -> str:
        """The counts, in words."""
        words = [f"{count} {DECISIONS[name]}" for name, count in self.counts.items() if count]
        moved = "" if self.mean_iou is None else f" (mean IoU of redrawn masks with the labels: {self.mean_iou:.2f})"
        return f"{', '.join(words) or 'nothing yet'}{moved}"


def plain_record(action: Action) -> dict[str, Any]:
    """Return an action as its line holds it: without what says nothing."""
    record = {name: value for name, value in asdict(action).items() if value not in (None, {})}
    return record if action.undoes else {name: value for name, value in record.items() if name != "undoes"}


def action_of(line: bytes) -> Action:
    """Return the action of a line.

    Raises:
        ValueError, TypeError, KeyError: It is none.
    """
    record = json.loads(line)
    action = Action(**record)
    numbers = (action.number, action.sent_id, action.upon, action.undoes)
    texts = (action.action, action.reviewer, action.at, action.key)
    if not all(type(n) is int and abs(n) < 2**63 for n in numbers) or not all(isinstance(t, str) for t in texts):
        raise ValueError("not an action")
    if action.action not in (*DECISIONS, UNDO) or not isinstance(action.label, dict):
        raise ValueError("not an action")
    if not all(rle is None or _is_rle(rle) for rle in (action.rle, action.label.get("rle"))):
        raise ValueError("not a mask")
    if action.iou is not None and not (type(action.iou) in (int, float) and 0 <= action.iou <= 1):
        raise ValueError("not an IoU")
    return action


def _is_rle(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("counts"), str):
        return False
    size = value.get("size")
    return isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
