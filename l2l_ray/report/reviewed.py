"""What people decided about a run's labels on the review page, in a few sentences and with the next command."""

from __future__ import annotations

import shlex

from l2l_ray.report.record import RunRecord
from l2l_ray.review.journal import FILE, Journal
from l2l_ray.wording import counted


def reviewed(record: RunRecord) -> list[str]:
    """Return what reviewing came to, what of it cannot be read, and how it comes into the next run; [] = no review."""
    if not (record.run_dir / FILE).is_file():
        return []
    journal = Journal(record.run_dir)
    found = journal.summary()
    if not found.num:
        return [*journal.problems]
    people = f"{counted(found.num, 'label')} decided by {', '.join(found.reviewers)}: {found.line}."
    run = shlex.quote(str(record.run_dir))
    bring = f"`l2l data import review {run} --root ROOT --dataset NAME --update` brings them into the data set"
    return [people, f"{bring}, and the next run starts from them.", *journal.problems]
