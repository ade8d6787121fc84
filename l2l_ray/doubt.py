"""Which masks are called sure and which doubtful: one rule for the report, the terminal and the commands.

The rule is on the confidence alone, the estimated IoU of a mask with the truth (`confidence`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SURE, DOUBTFUL = 0.7, 0.4  # confidence from which a mask is sure, and below which it is doubtful


@dataclass(frozen=True)
class Doubt:
    """How many of some masks are sure, and how many doubtful; the others are neither.

    Example: `Doubt.of([0.9, 0.5, 0.1])` is `Doubt(num=3, sure=1, doubtful=1)`.
    """

    num: int
    sure: int
    doubtful: int

    @classmethod
    def of(cls, confidences: Iterable[float]) -> Doubt:
        """Count masks by their confidences, each in [0, 1]."""
        known = list(confidences)
        sure = sum(value >= SURE for value in known)
        return cls(len(known), sure, sum(value < DOUBTFUL for value in known))

    def words(self, noun: str, is_open: bool = True) -> str:
        """Say it of what is counted, in the plural, and what to look at first.

        Args:
            noun: What is counted.
            is_open: Somebody should still look at the doubtful.
        Example: `Doubt(9, 3, 2).words("labels")` is "2 of 9 labels are doubtful (confidence below 0.4), 3 sure (0.7 or
        more): look at the doubtful first".
        """
        verb = "is" if self.doubtful == 1 else "are"
        first = ": look at the doubtful first" if self.doubtful and is_open else ""
        return (
            f"{self.doubtful:,} of {self.num:,} {noun} {verb} doubtful (confidence below {DOUBTFUL:g}), "
            f"{self.sure:,} sure ({SURE:g} or more){first}"
        )
