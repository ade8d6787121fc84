"""What people decided on the review page, as rows of own data: `l2l data import review RUN`.

| decision | row |
|---|---|
| accept | the label's mask; its provenance says who confirmed it, and whose it was (`confirmed_from`) |
| redraw | the drawn mask (`corrected_from`), with its IoU with the label |
| no such object | `no_target` |
| reject, wrong object | no mask, and `rejected`: a run neither learns from the item nor labels it again |

The journal alone is read, not the run: each line holds the record of the label that was shown. Where people decided
about several sentences of one object, one of them counts: a drawn mask before an accepted one, any mask before a
rejection, else the later decision. A mask beside "no such object" is a contradiction, and neither is used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from l2l_ray.data.layout import BadValue, Notice, Words
from l2l_ray.datatools.row_files import Row
from l2l_ray.errors import DataError
from l2l_ray.review.journal import DECISIONS, FILE, Action, Journal

_FROM_LABEL = ("image", "expression", "split", "id", "sent_id", "category", "hint", "confidence", "gate")
_FIRST = ("redraw", "accept", "no_object", "wrong_object", "reject")  # which of several decisions counts


def read_review(run_dir: Path) -> tuple[Iterator[Row], Path]:
    """Return the decisions of a run's review as (where, row), and the folder that their photos are named below.

    Raises:
        DataError: Nobody has reviewed this run, or nothing is decided any more.
    """
    if not (run_dir / FILE).is_file():
        raise DataError(f"{run_dir} has no {FILE}: nobody has reviewed it; `l2l review {run_dir}` opens the page")
    journal = Journal(run_dir)
    made = list(journal.decisions())
    if not made:
        raise DataError(f"{run_dir / FILE} holds no decision that was not undone; nothing is imported")
    roots = {action.label.get("image_root") for action in made}
    if len(roots) != 1:
        raise DataError(
            f"{run_dir / FILE} names photos below several folders, expected one: {sorted(map(str, roots))[:3]}"
        )
    return _rows(journal, made), Path(str(roots.pop()))


def _rows(journal: Journal, made: Sequence[Action]) -> Iterator[Row]:
    for problem in journal.problems:
        yield FILE, Notice(FILE, problem)
    by_object: dict[Any, list[Action]] = defaultdict(list)
    for action in made:
        by_object[action.label.get("ref_id", f"sentence {action.sent_id}")].append(action)
    for group in by_object.values():
        yield from _of_object(group)


def _of_object(group: Sequence[Action]) -> Iterator[Row]:
    """Yield the row of the decision that counts for an object, and what is to be said of the others."""
    counted = min(group, key=lambda action: (_FIRST.index(action.action), -action.number))
    where = f"{FILE} action {counted.number}"
    kinds = {action.action for action in group}
    if "no_object" in kinds and kinds & {"accept", "redraw"}:
        words = Words(" and ".join(DECISIONS[kind] for kind in sorted(kinds)))
        error = BadValue("decisions about one object", words, "a mask or no such object", "undo one of them")
        yield where, error.at(where)
        return
    if len(group) > 1:
        yield where, Notice(where, f"of {len(group)} decisions about one object, {DECISIONS[counted.action]!r} counts")
    yield where, _row(counted)


def _row(action: Action) -> dict[str, Any]:
    who = {
        "source": "review",
        "action": action.action,
        "number": action.number,
        "completed_by": action.reviewer,
        "updated_at": action.at,
    }
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
