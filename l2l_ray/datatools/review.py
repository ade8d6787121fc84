"""What people decided on the review page, as rows of own data: `l2l data import review RUN`.

| decision | row |
|---|---|
| accept | the label's mask; its provenance says who confirmed it, and whose it was (`confirmed_from`) |
| redraw | the drawn mask (`corrected_from`), with its IoU with the label |
| no such object | `no_target` |
| reject, wrong object | no mask, and `rejected`: a run neither learns from the item nor labels it again |

The journal alone is read, not the run: each line holds the record of the label that was shown. Of several masks of one
object one counts: a drawn one before an accepted one, else the later. What has no mask is said of its own text alone.
`wrong_rle` is the label's mask where it was not accepted: an update does not take it as a new one (`merge.py`).
`updated_at` and `as_of` say since when a decision holds, and after which action on its label: by them a later import
replaces what an earlier one wrote.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from l2l_ray.data.layout import Notice
from l2l_ray.datatools.row_files import Row
from l2l_ray.errors import DataError
from l2l_ray.review.journal import FILE, Journal, journal_of
from l2l_ray.review.journal_lines import Action
from l2l_ray.storage import place

_FROM_LABEL = ("image", "expression", "split", "id", "sent_id", "category", "hint", "confidence", "gate")
_UNDONE = "its decision was undone; if that was imported before, it stays in the data set until you decide anew"


def read_review(run_dir: Path) -> tuple[Iterator[Row], Path]:
    """Return the decisions of a run's review as (where, row), and the folder that their photos are named below.

    Raises:
        DataError: Nobody has reviewed this run, or nothing is decided any more.
    """
    journal = journal_of(run_dir)
    if journal is None:
        command = shlex.join(["l2l", "review", str(run_dir)])
        raise DataError(f"{run_dir} has no {FILE}: nobody has reviewed it; `{command}` opens the page")
    made = list(journal.decisions())
    if not made:
        raise DataError(f"{run_dir / FILE} holds no decision that was not undone; nothing is imported")
    roots = {action.label.get("image_root") for action in made}
    if len(roots) != 1:
        raise DataError(
            f"{run_dir / FILE} names photos below several folders, expected one: {sorted(map(str, roots))[:3]}"
        )
    return _rows(journal, made), place(str(roots.pop()))


def decisions_by_text(run_dir: Path) -> dict[int, Action]:
    """Return the decision that holds on each label of a run, by sentence; none where nobody reviewed it.

    Raises:
        DataError: The journal cannot be read.
    """
    journal = journal_of(run_dir)
    return {} if journal is None else {action.sent_id: action for action in journal.decisions()}


def _rows(journal: Journal, made: Sequence[Action]) -> Iterator[Row]:
    for problem in journal.problems:
        yield FILE, Notice(FILE, problem)
    for undone in sorted(set(journal.touched()) - {action.sent_id for action in made}):
        yield FILE, Notice(f"{FILE} action {journal.last_number(undone)}", _UNDONE)
    by_object: dict[Any, list[Action]] = defaultdict(list)
    for action in made:
        if action.rle is None:
            yield _where(action), _row(action, journal)
        else:
            by_object[action.label.get("ref_id", f"sentence {action.sent_id}")].append(action)
    for group in by_object.values():
        counted = max(group, key=lambda action: (action.action == "redraw", action.number))
        if len(group) > 1:
            text = f"of {len(group)} masks of one object, this one counts: it is {counted.state}"
            yield _where(counted), Notice(_where(counted), text)
        yield _where(counted), _row(counted, journal)


def _where(action: Action) -> str:
    return f"{FILE} action {action.number}"


def _row(action: Action, journal: Journal) -> dict[str, Any]:
    last = journal.history(action.sent_id)[-1]
    who = {
        "source": "review",
        "action": action.action,
        "number": action.number,
        "as_of": last.number,
        "sent_id": action.sent_id,
        "completed_by": action.reviewer,
        "updated_at": last.at,
    }
    if (wrong := action.label.get("rle")) is not None:
        who["wrong_rle"] = wrong
    row = {name: value for name in _FROM_LABEL if (value := action.label.get(name)) not in (None, "")}
    before = action.label.get("provenance")
    if action.action == "accept":
        return {**row, "rle": action.rle, "provenance": {**who, "confirmed_from": before}}
    if action.action == "redraw":
        return {**row, "rle": action.rle, "provenance": {**who, "iou": action.iou, "corrected_from": before}}
    if action.action == "no_object":
        row.pop("hint", None)  # there is no place then
        return {**row, "no_target": True, "provenance": {**who, "corrected_from": before}}
    return {**row, "rejected": {**who, "rejected": before}}
