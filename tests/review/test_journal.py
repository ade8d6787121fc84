"""Decisions are durable, none overwrites another, and what a crash tears costs nothing that was acknowledged."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from l2l_ray.errors import DataError
from l2l_ray.review.journal import FILE, OPEN, TORN, UNDO, Journal, StaleAction
from l2l_ray.types import Rle

RLE: Rle = {"size": [2, 2], "counts": "04"}
Disk = Callable[[int], AbstractContextManager[None]]


def decide(journal: Journal, sent_id: int, action: str, who: str = "anna", upon: int | None = None) -> int:
    last = journal.last_number(sent_id) if upon is None else upon
    return journal.add(sent_id, action, who, last, f"key-{sent_id}-{action}-{who}-{last}").number


def test_the_state_follows_from_the_lines_and_undo_is_a_line_too(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.state(7) == OPEN and not (tmp_path / FILE).exists(), "to look writes nothing"
    for number, (action, state) in enumerate(
        [
            ("accept", "accepted"),
            ("reject", "rejected"),
            (UNDO, "accepted"),
            (UNDO, OPEN),
            ("wrong_object", "wrong object"),
        ],
        start=1,
    ):
        assert decide(journal, 7, action) == number
        assert journal.state(7) == Journal(tmp_path).state(7) == state
    assert [action.action for action in journal.history(7)] == ["accept", "reject", UNDO, UNDO, "wrong_object"]
    assert [action.undoes for action in journal.history(7)] == [0, 0, 2, 1, 0]
    assert journal.history(7)[2].words.startswith("anna undid action 2 at ")
    assert len((tmp_path / FILE).read_text().splitlines()) == 5
    decide(journal, 8, "accept")
    assert decide(journal, 8, UNDO) == 7
    with pytest.raises(DataError, match="nothing to undo"):
        decide(journal, 8, UNDO)


def test_masks_stay_in_the_file_and_come_back_with_who_when_and_what(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    made = journal.add(7, "redraw", "anna", 0, "12345678", {"expression": "left cup"}, RLE, 0.25)
    decide(journal, 9, "accept", "ben")
    again = Journal(tmp_path)
    assert again.standing(7) == made and made.rle is None
    first, second = again.decisions()
    assert (first.rle, first.label, first.iou) == (RLE, {"expression": "left cup"}, 0.25)
    assert (second.sent_id, second.reviewer, second.number) == (9, "ben", 2) and second.at.endswith("+00:00")
    summary = again.summary()
    assert summary.reviewers == ("anna", "ben") and summary.num == 2
    assert summary.line == "1 accepted, 1 redrawn (mean IoU of redrawn masks with the labels: 0.25)"
    assert pickle.loads(pickle.dumps(first)) == first


def test_two_reviewers_do_not_overwrite_each_other(tmp_path: Path) -> None:
    mine, theirs = Journal(tmp_path), Journal(tmp_path)  # as two servers on one run have them
    number = decide(theirs, 7, "reject", "ben")
    with pytest.raises(StaleAction, match=r"not saved: ben said 'rejected' at \d\d:\d\d UTC .*action 1") as found:
        decide(mine, 7, "accept", upon=0)
    assert (found.value.last.number, found.value.last.reviewer) == (number, "ben")
    assert mine.state(7) == "rejected" and len(mine) == 1
    assert str(pickle.loads(pickle.dumps(found.value))) == str(found.value)
    assert decide(mine, 7, "accept", upon=number) == 2, "knowing that, it may be decided otherwise"
    assert decide(mine, 8, "accept", upon=0) == 3, "other labels are not concerned"
    theirs.refresh()
    assert theirs.state(7) == "accepted" and [action.reviewer for action in theirs.history(7)] == ["ben", "anna"]


def test_an_action_that_is_sent_twice_is_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first = journal.add(7, "accept", "anna", 0, "the same key")
    assert Journal(tmp_path).add(7, "accept", "anna", 0, "the same key") == first
    assert journal.add(7, "accept", "anna", 0, "the same key") == first
    assert len((tmp_path / FILE).read_text().splitlines()) == 1


def test_a_torn_last_line_is_named_and_set_aside_and_nothing_else_is_lost(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    decide(journal, 7, "accept")
    decide(journal, 8, "reject")
    torn = b'{"number": 3, "sent_id": 9, "acti'
    with (tmp_path / FILE).open("ab") as file:
        file.write(torn)
    again = Journal(tmp_path)
    assert again.problems == [f"{FILE}: a last line of {len(torn)} bytes is torn and does not count"]
    assert (tmp_path / FILE).read_bytes().endswith(torn), "to read changes nothing"
    assert decide(again, 9, "accept") == 3
    assert (tmp_path / TORN).read_bytes() == torn + b"\n"
    last = Journal(tmp_path)
    assert [last.state(i) for i in (7, 8, 9)] == ["accepted", "rejected", "accepted"] and last.problems == []


@pytest.mark.parametrize(
    "line",
    ["no JSON", "[]", '{"number": 2}', '{"number": "2", "sent_id": 8, "upon": 0, "action": "accept"}', "{" * 9999],
)
def test_a_damaged_line_is_named_and_the_others_count(tmp_path: Path, line: str) -> None:
    decide(Journal(tmp_path), 7, "accept")
    with (tmp_path / FILE).open("a") as file:
        file.write(line + "\n")
    journal = Journal(tmp_path)
    assert journal.problems == [f"{FILE}: line 2 is damaged and does not count"]
    assert decide(journal, 8, "reject") == 2
    assert [Journal(tmp_path).state(i) for i in (7, 8)] == ["accepted", "rejected"]
    assert line in (tmp_path / FILE).read_text(), "the file keeps it"


def test_on_a_full_disk_nothing_is_saved_and_nothing_lost(tmp_path: Path, full_disk: Disk) -> None:
    journal = Journal(tmp_path)
    decide(journal, 7, "accept")
    size = (tmp_path / FILE).stat().st_size
    with full_disk(size + 20), pytest.raises(DataError, match="nothing was saved; free some space"):
        decide(journal, 8, "reject")
    assert (tmp_path / FILE).stat().st_size == size and journal.state(8) == OPEN
    assert decide(journal, 8, "reject") == 2


_SAVES = """
import sys
from pathlib import Path
from l2l_ray.review.journal import Journal
journal, start = Journal(Path(sys.argv[1])), int(sys.argv[2])
for i in range(start, start + 100_000):
    print(journal.add(i, "redraw", "anna", 0, f"key-{i}", {"expression": "x" * 3000}).number, flush=True)
"""


def test_a_kill_in_mid_save_loses_no_acknowledged_action(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    for attempt, num in enumerate((1, 40, 15)):
        command = [sys.executable, "-c", _SAVES, str(tmp_path), str(attempt * 1_000_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = [int(process.stdout.readline()) for _ in range(num)]
            process.send_signal(signal.SIGKILL)
            said += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        acknowledged += said
        found = {action.number for action in Journal(tmp_path).decisions()}
        assert found.issuperset(acknowledged)
    assert len(set(acknowledged)) == len(acknowledged) >= 56
