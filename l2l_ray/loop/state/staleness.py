"""Which version labels which round: a fixed lag, never "the latest", so results do not depend on timing.

Version v exists once round v - 1 is trained; version 0 is the burn-in. Round r is labeled by version max(0, r - lag).
Lag 0 labels with what was just trained; lag 1 lets round r + 1 be labeled while round r trains.

Source: ours; the bounded-staleness idea is SkyRL's and slime's.
"""

from __future__ import annotations


def label_version(round_index: int, lag: int) -> int:
    """Return the version whose teacher and selector label this round."""
    return max(0, round_index - lag)


def rounds_unlocked_by(version: int, lag: int, rounds: int) -> list[int]:
    """Return the rounds that can be labeled as soon as `version` is published."""
    return [r for r in range(rounds) if label_version(r, lag) == version]
