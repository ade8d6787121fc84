"""What people decided about a run's labels: `review.jsonl` in its folder, append-only, durable before the page says so.

One line is one action: who, when, which label, what, and upon which earlier action on that label. What is decided is
read off the lines: the last action that was not undone. An undo is a line as well, and nothing is ever removed.

Two reviewers do not overwrite each other. An action names the number of the last action on its label that the reviewer
saw; where another one came in between, it is refused, with what the other did. The check and the line happen under one
lock of the file system, so this also holds for two servers on one run.

An action carries a key that the page makes. The same key again changes nothing: after a broken connection a page sends
what it does not know to be saved once more.

What a crash leaves behind the last newline was never acknowledged. It is set aside in `review-torn.txt`, and named. A
damaged line between others is named and passed over; the file keeps it.

Other parts (`report`, `datatools`) read this file and nothing else of the package `review`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from l2l_ray.errors import DataError, write_remedy
from l2l_ray.files import lock_file, locked, sync
from l2l_ray.jsonl import append_line
from l2l_ray.review.journal_folder import JournalFailure, JournalFolder
from l2l_ray.review.journal_lines import DECISIONS, OPEN, UNDO, Action, Summary, action_of, plain_record
from l2l_ray.storage import local_copy
from l2l_ray.types import Rle

logger = logging.getLogger(__name__)

FILE, TORN, LOCK = "review.jsonl", "review-torn.txt", "review.lock"
LOCK_TIMEOUT_S = 10.0  # a line takes milliseconds; who holds the lock this long is stuck


class StaleAction(DataError):
    """An action upon what is no longer the last one on its label; nothing was written.

    Args:
        text: What happened and what to do, in one line.
        last: The action that came in between.
    """

    def __init__(self, text: str, last: Action) -> None:
        super().__init__(text)
        self.last = last

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the action."""
        return StaleAction, (str(self), self.last)


class Journal:
    """The journal of a run, to read and to add to; safe for threads and for several processes.

    Args:
        run_dir: The run's folder. In an object store a journal that came along can be read, not added to.
    Raises:
        DataError: The file cannot be read.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path, self._torn, self._lock_path = (run_dir / name for name in (FILE, TORN, LOCK))
        self._folder = JournalFolder(run_dir)
        with suppress(FileNotFoundError):
            self._path = local_copy(self._path)
        self._lock = threading.RLock()
        self._touched: list[int] = []  # the sent_ids whose state may have changed, in order
        self.problems: list[str] = []  # lines that are passed over, in words
        self._forget()
        with self._lock:
            tail = self._read()
        if tail:
            self._name(f"{FILE}: a last line of {tail} bytes is torn and does not count")

    def __len__(self) -> int:
        """How many actions there are, undone ones too."""
        return sum(map(len, self._actions.values()))

    def add(
        self,
        sent_id: int,
        action: str,
        reviewer: str,
        upon: int,
        key: str,
        label: Mapping[str, Any] | None = None,
        rle: Rle | None = None,
        iou: float | None = None,
    ) -> Action:
        """Append an action; when this returns, it would survive a power loss.

        Args:
            sent_id: Whose label.
            action: A key of `DECISIONS`, or `UNDO`.
            reviewer: Who.
            upon: `Action.number` of the last action on this label that the reviewer saw; 0 = there was none.
            key: Makes a repeated call harmless.
            label: The record of the label that was shown.
            rle: The mask that the person says is right.
            iou: Of a redrawn mask with the label.
        Raises:
            StaleAction: Somebody else acted on this label meanwhile.
            JournalFailure: The line cannot be written, or the run's folder is no longer where it was.
            DataError: There is nothing to undo, or the key is that of another action.
        """
        try:
            with self._lock, self._held("not saved: "):
                self._set_torn_aside(self._read())
                if key in self._keys:
                    self._require_same_action(self._keys[key], sent_id, action)
                    sync(self._path)  # who wrote the line may have died before it was safe
                    sync(self._path.parent)
                    return self._keys[key]
                self._require_current(sent_id, upon)
                standing = self.standing(sent_id)
                if action == UNDO and standing is None:
                    raise DataError(f"there is nothing to undo on the label of sentence {sent_id}; it is open")
                undoes = standing.number if standing is not None and action == UNDO else 0
                now = datetime.now(UTC).isoformat(timespec="seconds")
                made = Action(
                    self._newest + 1, sent_id, upon, action, reviewer, now, key, undoes, rle, iou, label or {}
                )
                append_line(self._path, plain_record(made), durable=True)
                self._read()
                return self._keys[key]
        except TimeoutError as error:
            raise JournalFailure(
                f"{self._lock_path} is held by another process for more than {LOCK_TIMEOUT_S:g} s; nothing was "
                "saved; end that process, then try again"
            ) from error
        except OSError as error:
            what = "it is written, but might not survive a power loss" if key in self._keys else "nothing was saved"
            raise JournalFailure(
                f"cannot write {self._path}: {error}; {what}; {write_remedy(error)}, then try again"
            ) from error

    def require_writable(self) -> None:
        """Refuse a folder in which no decision could be saved, before anybody makes one.

        Raises:
            DataError: Its lock cannot be had, or the file cannot be written.
        """
        try:
            with self._held():
                if self._path.exists():
                    self._path.open("r+b").close()
        except OSError as error:
            raise DataError(
                f"no decision could be saved in {self._path.parent}: {error}; it must lie on a file system that this "
                "process may write to and that knows locks, as disks, NFS and Lustre do unless mounted without them"
            ) from error

    def refresh(self, before: str = "") -> None:
        """Read what other processes have added.

        Args:
            before: Words in front of what is said where the folder is gone, such as "not saved: ".
        Raises:
            JournalFailure: The run's folder is no longer where it was.
            DataError: The file cannot be read.
        """
        with self._lock:
            self._folder.require_there(before)
            self._read()

    def standing(self, sent_id: int) -> Action | None:
        """Return the decision on a label that holds, without its mask; None = the label is open."""
        found = self._standing.get(sent_id)
        return found[-1] if found else None

    def state(self, sent_id: int) -> str:
        """Return what a label is, one of `STATES`."""
        found = self.standing(sent_id)
        return OPEN if found is None else found.state

    def history(self, sent_id: int) -> list[Action]:
        """Return all actions on a label, undone ones too, without masks."""
        return list(self._actions.get(sent_id, ()))

    def last_number(self, sent_id: int) -> int:
        """Return the number of the last action on a label; 0 = none."""
        found = self._actions.get(sent_id)
        return found[-1].number if found else 0

    def touched(self, start: int = 0) -> list[int]:
        """Return the labels whose state may have changed, in order, from the `start`-th change on."""
        with self._lock:
            return self._touched[start:]

    @property
    def decided(self) -> set[int]:
        """The sentences whose labels are decided."""
        return {sent_id for sent_id, found in self._standing.items() if found}

    def decisions(self) -> Iterator[Action]:
        """Yield the decision that holds of each label, with its mask, in the order in which they were made."""
        for action in sorted((found[-1] for found in self._standing.values() if found), key=lambda a: a.number):
            yield self.whole(action)

    def whole(self, action: Action) -> Action:
        """Return an action with the mask and the record that its line holds."""
        with self._path.open("rb") as file:
            file.seek(self._places[action.number])
            return action_of(file.readline())

    def summary(self) -> Summary:
        """Return what reviewing came to."""
        held = [found[-1] for found in self._standing.values() if found]
        counts = Counter(action.action for action in held)
        ious = [action.iou for action in held if action.iou is not None]
        reviewers = tuple(sorted({action.reviewer for action in held}))
        return Summary({name: counts[name] for name in DECISIONS}, sum(ious) / len(ious) if ious else None, reviewers)

    @contextmanager
    def _held(self, before: str = "") -> Iterator[None]:
        """Lock the journal against other processes, in the folder that it was opened in."""
        self._folder.require_there(before)
        with locked(self._lock_path, LOCK_TIMEOUT_S, makes_folder=False):
            self._folder.require_there(before)
            yield

    def _require_same_action(self, known: Action, sent_id: int, action: str) -> None:
        if (known.sent_id, known.action) != (sent_id, action):
            raise DataError(
                f"not saved: the key of this action is that of another one, {known.action} on the label of sentence "
                f"{known.sent_id}, got {action} on that of {sent_id}; make a new key for each action"
            )

    def _require_current(self, sent_id: int, upon: int) -> None:
        last = self._actions.get(sent_id, [None])[-1]
        if last is None and upon:
            raise DataError(
                f"not saved: you saw action {upon} on this label, of which {self._path} has none; load the page anew, "
                "and bring the file back if somebody took it away"
            )
        if last is not None and last.number != upon:
            raise StaleAction(
                f"not saved: {last.words}, after what you saw; look at it again, and decide again if you disagree",
                last,
            )

    def _forget(self) -> None:
        self._file_number = self._size = self._num_lines = self._newest = 0  # size: bytes of the file that are read
        self._actions: dict[int, list[Action]] = {}  # by sent_id, in order; without masks, which stay in the file
        self._standing: dict[int, list[Action]] = {}  # of these, what was not undone
        self._places: dict[int, int] = {}  # by number: where the line begins
        self._keys: dict[str, Action] = {}

    def _read(self) -> int:
        """Take in the whole lines that were added since the last time; return how many bytes follow the last one."""
        try:
            with self._path.open("rb") as file:
                with suppress(OSError):  # some file systems lock only what is open for writing
                    lock_file(file)  # a line that is not safe yet may be taken back
                self._require_same(os.fstat(file.fileno()))
                file.seek(self._size)
                for line in file:
                    if not line.endswith(b"\n"):
                        return len(line)
                    self._read_line(line)
        except FileNotFoundError:
            self._require_same(None)
        except OSError as error:
            raise JournalFailure(f"{self._path} cannot be read: {error}; check its permissions and its disk") from error
        return 0

    def _read_line(self, line: bytes) -> None:
        self._num_lines += 1
        try:
            self._take(action_of(line), self._size)
        except (ValueError, TypeError, KeyError, RecursionError):
            self._name(f"{FILE}: line {self._num_lines} is damaged and does not count")
        self._size += len(line)

    def _require_same(self, found: os.stat_result | None) -> None:
        """Start over where the file is another one than the one that was read, or lost lines."""
        if self._size and (found is None or found.st_ino != self._file_number or found.st_size < self._size):
            self._name(f"{FILE}: the file was replaced, cut or removed by something else; what it holds now counts")
            self._touched += self._actions
            self._forget()
        self._file_number = 0 if found is None else found.st_ino

    def _take(self, action: Action, place: int) -> None:
        light = replace(action, rle=None, label={})
        standing = self._standing.setdefault(action.sent_id, [])
        if action.action == UNDO:
            standing[:] = [one for one in standing if one.number != action.undoes]
        else:
            standing.append(light)
        self._actions.setdefault(action.sent_id, []).append(light)
        self._keys[action.key] = light
        self._places[action.number] = place
        self._touched.append(action.sent_id)
        self._newest = max(self._newest, action.number)

    def _set_torn_aside(self, num_bytes: int) -> None:
        """Keep what lies behind the last newline in a file of its own; the next line cuts it off. Holds the lock."""
        if not num_bytes:
            return
        with self._path.open("rb") as file:
            file.seek(self._size)
            tail = file.read()
        with self._torn.open("ab") as kept:
            kept.write(tail + b"\n")
            kept.flush()
            os.fsync(kept.fileno())
        self._name(f"{FILE}: a torn last line of {len(tail)} bytes was set aside in {TORN}")

    def _name(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
            logger.warning("%s", problem)


def journal_of(run_dir: Path) -> Journal | None:
    """Return the journal of a run to read; None where nobody reviewed it. Raises as `Journal`."""
    return Journal(run_dir) if (run_dir / FILE).is_file() else None


def decided_ids(run_dir: Path) -> set[int]:
    """Return the sentences of a run whose labels a person decided about; none where nobody did. Raises as `Journal`."""
    journal = journal_of(run_dir)
    return set() if journal is None else journal.decided
