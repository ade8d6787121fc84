"""What people decided about a run's labels on the review page, in a few sentences and with the next command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from l2l_ray.report.next_steps import bring_home
from l2l_ray.report.outcome import Outcome
from l2l_ray.report.record import RunRecord
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


def num_decided(journal: Journal | None) -> int:
    """Return how many labels are decided."""
    return 0 if journal is None else journal.summary().num


def decision_on(entry: Mapping[str, Any], journal: Journal | None) -> Action | None:
    """Return what was decided about the label that a card shows; None = it is open, or no label."""
    sent_id = entry.get("sent_id")
    if journal is None or entry.get("used") is None or not isinstance(sent_id, int):
        return None
    return journal.standing(sent_id)


def who_looked(journal: Journal | None) -> str:
    """Say of the labels that are shown who has checked them, and which come first."""
    num = num_decided(journal)
    if not num:
        return "Nobody has checked them: look at these first."
    return (
        f"{num:,} of them {'was' if num == 1 else 'were'} decided in a review, as the cards say; open ones come first."
    )
