"""What people decided about a run's labels on the review page, in a few sentences and with the next command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from l2l_ray.doubt import Doubt
from l2l_ray.report.next_steps import bring_home
from l2l_ray.report.outcome import Outcome
from l2l_ray.report.record import RunRecord, is_number
from l2l_ray.review.journal import Journal
from l2l_ray.review.journal_lines import Action
from l2l_ray.wording import counted


def reviewed(record: RunRecord, journal: Journal | None) -> Outcome:
    """Return what reviewing came to, what of it cannot be read, and how it comes into the next run.

    Args:
        record: The run.
        journal: Its review; None = there was none.
    """
    if journal is None:
        return Outcome((), None)
    found = journal.summary()
    if not found.num:
        return Outcome(tuple(journal.problems), None)
    people = f"{counted(found.num, 'label')} decided by {', '.join(found.reviewers)}: {found.line}."
    return Outcome((people, *journal.problems), bring_home(record))


def decided(journal: Journal | None) -> Doubt | None:
    """Count the labels that are decided by what the run thought of them; None where there was no review."""
    if journal is None:
        return None
    confidences = (action.label.get("confidence") for action in journal.decisions())
    return Doubt.of(value if is_number(value) else 1.0 for value in confidences)


def decision_on(entry: Mapping[str, Any], journal: Journal | None) -> Action | None:
    """Return what was decided about the label that a card shows; None = it is open, or no label."""
    sent_id = entry.get("sent_id")
    if journal is None or entry.get("used") is None or not isinstance(sent_id, int):
        return None
    return journal.standing(sent_id)


def who_looked(record: RunRecord, journal: Journal | None) -> str:
    """Say of the labels that are shown whether somebody has checked them, and which come first."""
    num = sum(decision_on(entry, journal) is not None for entry in record.photos)
    if not num:
        return "Nobody has checked them: look at these first."
    return (
        f"{num:,} of those shown {'was' if num == 1 else 'were'} decided in a review, as the cards say; open ones come "
        "first."
    )
