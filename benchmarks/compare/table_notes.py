"""What stands beneath a table of the comparison: what makes a difference less sure, and what "time" leaves out.

A difference of two rows that different commits made holds what these changed, if only rounding; a seed that a row has
and its difference lacks is named with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Figures = dict[str, Any]
_LEFT_OUT = {"versus_minus_this": "versus_left_out", "loss_by_bias": "loss_left_out"}  # difference -> its left out


def main_notes(rows: Sequence[Figures]) -> list[str]:
    """Return the notes of a table of these rows: on their seeds, their differences and the teachers of the folds."""
    notes = [*_difference_notes(rows, "versus_minus_this", "difference"), *_folds_notes(rows)]
    if len({len(row["seeds"]) for row in rows}) > 1:
        notes.insert(0, "A row of fewer seeds is the mean of those alone: compare it by its difference and its time.")
    return notes


def biased_notes(rows: Sequence[Figures], priors: Mapping[str, Figures]) -> list[str]:
    """Return the notes of the table of biased priors.

    Args:
        rows: Those of the table.
        priors: Seed -> how its priors were moved.
    """
    return [
        *_difference_notes(rows, "loss_by_bias", "loss"),
        *_difference_notes(rows, "versus_minus_this", "difference from L2L, biased,"),
        *(
            [f"Boxes that were moved: {'; '.join(_moved(seed, found) for seed, found in priors.items())}."]
            * bool(priors)
        ),
    ]


def named(what: str, names: Sequence[Any]) -> str:
    """Return "seed 11", or "seeds 11, 12 and 13"."""
    words = [str(name) for name in names]
    return f"{what} {words[0]}" if len(words) == 1 else f"{what}s {_listed(words)}"


def by_commits(commits: Mapping[str, Sequence[str]]) -> str:
    """Return "of seeds 14 and 15 by a and b, of seed 16 by a and c"."""
    seeds: dict[str, list[str]] = {}
    for seed, found in commits.items():
        seeds.setdefault(_listed(found), []).append(seed)
    return ", ".join(f"of {named('seed', those)} by {found}" for found, those in seeds.items())


def _difference_notes(rows: Sequence[Figures], key: str, what: str) -> list[str]:
    """Return a note for each set of commits, and for each reason why seeds are not compared, with the rows of each."""
    mixed: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for row in rows:
        if commits := (row.get(key) or {}).get("commits"):
            mixed.setdefault(by_commits(commits), []).append(row["label"])
        reasons: dict[str, list[str]] = {}
        for seed, why in row.get(_LEFT_OUT[key], {}).items():
            reasons.setdefault(why, []).append(seed)
        for why, seeds in reasons.items():
            missing.setdefault(f"{named('seed', seeds)}, for {why}", []).append(row["label"])
    return [
        *(
            f"The two rows of the {what} of {_listed(labels)} were made by different commits ({found}): where "
            "these compute differently, if only in rounding, that is part of it."
            for found, labels in mixed.items()
        ),
        *(f"The {what} of {_listed(labels)} leaves out {found}." for found, labels in missing.items()),
    ]


def _folds_notes(rows: Sequence[Figures]) -> list[str]:
    needy = [row for row in rows if row["needs_folds"]]
    if not needy:
        return []
    spent = {row["label"]: row["folds_cost"] or 0.0 for row in needy}
    took = [f"{ratio:.2f} of the time of {label}" for label, ratio in spent.items() if ratio >= 0.005]
    learn = "learns" if len(spent) == 1 else "learn"
    text = f"Not in the time: the teachers of the folds, which {_listed(list(spent))} {learn} from. Rows that share a "
    text += f"burn-in share them; trained once{': ' + ', '.join(took) if took else ''}."
    has_equal_cost = any(row["group"] == "cost" for row in rows)
    return [text + (" Rows at L2L's cost were given that time, too." if has_equal_cost else "")]


def _moved(seed: str, found: Figures) -> str:
    counts = found["moved"]
    moved, all_ = (sum(pair[place] for pair in counts.values()) for place in (0, 1))
    sets = ", ".join(f"{name} {some:,} of {of:,}" for name, (some, of) in counts.items())
    return f"seed {seed} ({_listed(found['categories'])}) {moved / all_:.1%} of all, {sets}"


def _listed(words: Sequence[str]) -> str:
    if len(words) == 1:
        return words[0]
    between, last = ("; ", "; and ") if any("," in word for word in words) else (", ", " and ")
    return between.join(words[:-1]) + last + words[-1]
