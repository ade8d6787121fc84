"""Decisions are durable, none overwrites another, and what a crash tears costs nothing that was acknowledged."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from l2l_ray.errors import DataError
from l2l_ray.review.journal import FILE, LOCK, TORN, Journal, StaleAction, decided_ids, journal_of
from l2l_ray.review.journal_folder import JournalFailure
from l2l_ray.review.journal_lines import OPEN, UNDO
from l2l_ray.types import Rle
from tests.object_store import ObjectStore

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


def test_an_action_upon_one_that_is_gone_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(DataError, match="not saved: you saw action 77 on this label, of which .* has none"):
        decide(journal, 7, "accept", upon=77)
    assert len(journal) == 0 and journal.state(7) == OPEN


def test_an_action_that_is_sent_twice_is_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    first = journal.add(7, "accept", "anna", 0, "the same key")
    assert Journal(tmp_path).add(7, "accept", "anna", 0, "the same key") == first
    assert journal.add(7, "accept", "anna", 0, "the same key") == first
    for sent_id, action in ((8, "accept"), (7, "reject")):
        with pytest.raises(
            DataError, match=r"the key of this action is that of another one, accept .* sentence 7, got"
        ):
            journal.add(sent_id, action, "anna", 0, "the same key")
    assert len((tmp_path / FILE).read_text().splitlines()) == 1


def test_what_another_process_left_is_safe_before_it_is_called_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(Journal(tmp_path), 7, "accept")
    journal, synced = Journal(tmp_path), []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), sync(handle)))
    decide(journal, 7, "accept", upon=0)  # the same key
    assert synced == [(tmp_path / FILE).stat().st_ino, tmp_path.stat().st_ino]


def test_a_line_that_is_taken_back_is_read_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = Journal(tmp_path), Journal(tmp_path)
    decide(mine, 7, "accept")
    reader = threading.Thread(target=theirs.refresh)

    def failing(handle: int) -> None:
        reader.start()
        reader.join(0.3)
        raise OSError("the disk does not answer")

    with monkeypatch.context() as patched, pytest.raises(DataError, match="nothing was saved"):
        patched.setattr(os, "fsync", failing)
        decide(mine, 8, "reject")
    reader.join()
    assert (theirs.state(7), theirs.state(8)) == ("accepted", OPEN)
    decide(mine, 9, "wrong_object")
    theirs.refresh()
    assert theirs.state(9) == "wrong object" and theirs.problems == []


@pytest.mark.parametrize("how", ["removed", "cut", "replaced"])
def test_a_file_that_something_else_changed_is_read_anew(tmp_path: Path, how: str) -> None:
    journal, path = Journal(tmp_path), tmp_path / FILE
    for sent_id in (7, 8):
        decide(journal, sent_id, "accept")
    first = path.read_bytes().splitlines(keepends=True)[0]
    if how == "cut":
        os.truncate(path, len(first))
    elif how == "removed":
        path.unlink()
    else:
        (tmp_path / "other").write_bytes(first + path.read_bytes().replace(b"key-8", b"key-x") * 2)
        os.replace(tmp_path / "other", path)
    seen = len(journal.touched())
    journal.refresh()
    assert (journal.state(7), journal.state(8)) == (
        {"removed": OPEN}.get(how, "accepted"),
        "accepted" if how == "replaced" else OPEN,
    )
    assert {7, 8} <= set(journal.touched(seen)), "what was derived from the lines is told"
    assert "was replaced, cut or removed by something else" in journal.problems[0]
    assert decide(journal, 9, "reject") and journal.state(9) == Journal(tmp_path).state(9) == "rejected"


@pytest.mark.parametrize("how", ["moved", "removed", "replaced", "removed and made anew"])
def test_nothing_is_saved_where_the_run_is_no_longer_in_its_folder(tmp_path: Path, how: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    journal = Journal(run)
    journal.require_writable()
    decide(journal, 7, "accept")
    if how in ("moved", "replaced"):
        run.rename(tmp_path / "archived")
    else:
        shutil.rmtree(run)
    if how in ("replaced", "removed and made anew"):
        run.mkdir()
    with pytest.raises(JournalFailure, match=f"not saved: the run is no longer in {run}: .*; put it back"):
        decide(journal, 8, "reject")
    for act in (journal.refresh, journal.require_writable):
        with pytest.raises(JournalFailure, match=f"^the run is no longer in {run}"):
            act()
    assert not run.exists() or not list(run.iterdir()), "no folder and no file is made"
    assert (journal.state(7), journal.state(8)) == ("accepted", OPEN)
    if how == "moved":
        (tmp_path / "archived").rename(run)
        assert decide(journal, 8, "reject") == 2 == len(Journal(run))


def test_a_folder_that_is_gone_is_made_by_nobody_who_looks(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "nothing")
    with pytest.raises(DataError, match="no decision could be saved in"):
        journal.require_writable()
    with pytest.raises(JournalFailure, match="nothing was saved; check its place and permissions"):
        decide(journal, 7, "accept")
    assert not (tmp_path / "nothing").exists()


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


_LINE = (
    '{"number": 2, "sent_id": 8, "upon": 0, "action": "redraw", "reviewer": "anna", '
    '"at": "2026-11-26T16:02:11+00:00", "key": "12345678", %s}'
)


@pytest.mark.parametrize(
    "line",
    [
        "no JSON",
        "[]",
        '{"number": 2}',
        '{"number": "2", "sent_id": 8, "upon": 0, "action": "accept"}',
        "{" * 9999,
        *(_LINE % more for more in ('"iou": "0.5"', '"iou": true', '"iou": NaN', '"iou": 7')),
        *(_LINE % more for more in ('"rle": "04"', '"rle": {"size": [2], "counts": "04"}', '"label": {"rle": 4}')),
    ],
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


def test_a_repeated_action_that_cannot_be_made_safe_is_not_called_unsaved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path) -> None:
        raise OSError("the disk does not answer")

    mine = Journal(tmp_path)
    mine.add(7, "accept", "anna", 0, "one")
    monkeypatch.setattr("l2l_ray.review.journal.sync", failing)
    with pytest.raises(DataError, match="it is written, but might not survive a power loss"):
        mine.add(7, "accept", "anna", 0, "one")
    assert mine.decided == {7} == decided_ids(tmp_path)
    assert decided_ids(tmp_path / "elsewhere") == set()


def test_a_folder_in_which_nothing_can_be_decided_is_refused_before_anybody_decides(tmp_path: Path) -> None:
    Journal(tmp_path).require_writable()
    assert not (tmp_path / FILE).exists()
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).mkdir()
    with pytest.raises(DataError, match=rf"no decision could be saved in {tmp_path}: .*must lie on a file system"):
        Journal(tmp_path).require_writable()


def test_a_journal_that_came_into_an_object_store_is_read_and_not_added_to(store: ObjectStore, tmp_path: Path) -> None:
    journal, there = Journal(tmp_path), store.place("runs/reviewed")
    journal.add(7, "accept", "anna", 0, "one", rle=RLE)
    assert journal_of(there) is None and decided_ids(there) == set()
    (there / FILE).write_bytes((tmp_path / FILE).read_bytes())
    found = journal_of(there)
    assert found is not None and [action.rle for action in found.decisions()] == [RLE]
    with pytest.raises(DataError, match="cannot write .*nothing was saved"):
        found.add(7, UNDO, "anna", 1, "two")
    assert (there / FILE).read_bytes() == (tmp_path / FILE).read_bytes() and decided_ids(there) == {7}
