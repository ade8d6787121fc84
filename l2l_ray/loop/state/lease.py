"""Who works in a run's folder: one driver at a time, on whatever machine, local or on Ray.

    <run>/lease/000003.json    the holder: machine, process, since when, what; the file's time is its heartbeat

The number is the *epoch*. It grows with each holder, also where this folder is lost and only the ledger's lines tell
the last one, and a file system lets only one of two make the same file, so two never hold one epoch. The holder touches
its file every few seconds. It is dead when its process is gone, which is seen at once on its own machine; from another
one, when no heartbeat came for a while. Then the next one takes over.

A holder that was only frozen, or cut off, may wake up after that. Each ledger line carries the epoch of its writer, and
whoever commits looks first whether there is a later one (`require_current`); what slips in between is not read.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from l2l_ray.errors import ConfigError, LedgerError
from l2l_ray.files import new_file, refuses_a_second, replacing, sync
from l2l_ray.jsonl import placed_lines
from l2l_ray.loop.state.digests import unsealed
from l2l_ray.processes import start_time_of, this_machine
from l2l_ray.storage import StorePath
from l2l_ray.wording import Say

BEAT_S = 5.0  # how often a holder touches its file
SILENT_BEATS = 8  # so many missed beats, and a holder on another machine is taken for dead
FOLDER = "lease"


@dataclass(frozen=True)
class Holder:
    """Who holds a run's folder, or held it last.

    Example: `Holder.of(run_path).words` is "a local run, process 4711 on node7, since 2026-03-01 09:30".
    """

    epoch: int
    what: str = "a run"  # "a local run" or "a Ray job"
    host: str = "another machine"
    pid: int = 0
    started: float = 0.0  # Unix time, seconds
    process: str = ""  # tells this process from a later one of the same number, and from those of other machines
    has_left: bool = False
    beat: int = 0  # number of the last heartbeat, in an object store

    @classmethod
    def of(cls, run_path: Path) -> Holder | None:
        """Return who holds a folder or held it last; None where nobody did. A damaged file hides only the name."""
        epoch = newest_epoch(run_path)
        if not epoch:
            return None
        try:
            return cls(**{**json.loads(_file(run_path, epoch).read_text()), "epoch": epoch})
        except (OSError, ValueError, TypeError):
            return cls(epoch)

    @property
    def is_here(self) -> bool:
        """Whether it is of this machine, so that its process can be looked for."""
        return self.process.rpartition("/")[0] == this_machine()

    @property
    def words(self) -> str:
        """Who, where and since when."""
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.started))
        return f"{self.what}, process {self.pid} on {self.host}, since {since}"

    def silent_s(self, run_path: Path) -> float:
        """Return how long ago its last heartbeat was, in seconds."""
        try:
            return max(0.0, time.time() - _file(run_path, self.epoch).stat().st_mtime)
        except OSError:  # the next holder has removed the file
            return float("inf")

    def is_alive(self, run_path: Path, beat_s: float = BEAT_S) -> bool:
        """Whether it may still be at work, as far as can be told at once."""
        if self.has_left:
            return False
        if self.is_here:
            return _process(self.pid) == self.process
        return self.silent_s(run_path) < SILENT_BEATS * beat_s


def newest_epoch(run_path: Path) -> int:
    """Return the epoch of a folder's last holder; 0 where there was none."""
    try:
        names = [place.name for place in (run_path / FOLDER).iterdir()]
    except FileNotFoundError:
        return 0
    return max((int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()), default=0)


def newest_written(ledger: Path) -> int:
    """Return the newest epoch in the lines of a ledger; 0 where they have none."""
    newest = 0
    for _, line in placed_lines(ledger):
        with suppress(ValueError, TypeError):  # a damaged line is read by nobody
            newest = max(newest, int(unsealed(line).get("epoch", 0)))
    return newest


def require_current(run_path: Path, epoch: int) -> None:
    """Refuse to write for a holder that has been taken over.

    Raises:
        LedgerError: The folder has a later holder.
    """
    if newest_epoch(run_path) > epoch and (holder := Holder.of(run_path)) is not None:
        raise LedgerError(
            f"{run_path} was taken over by {holder.words}, because this process gave no sign of life; nothing more is "
            "written by it, and what it committed stays: let the other one end"
        )


def refuse_if_held(run_path: Path) -> None:
    """Refuse a start where somebody is at work; nothing is written.

    Raises:
        ConfigError: By name: who, since when, and what can be done.
    """
    holder = Holder.of(run_path)
    if holder is not None and holder.is_alive(run_path):
        raise _held(run_path, holder)


@contextmanager
def held(run_path: Path, what: str, say: Say = lambda _: None, beat_s: float = BEAT_S, after: int = 0) -> Iterator[int]:
    """Hold a run's folder for the length of a `with` block; gives the epoch.

    Args:
        run_path: The run's folder; made where it is missing, and removed at the end where nothing came into it.
        what: Who holds it, as in `Holder.what`.
        say: Told when a holder on another machine has to be waited for: it may be dead or only slow.
        beat_s: Seconds between heartbeats, the same for all who share a folder.
        after: An epoch that the new one has to exceed, whatever the folder says of its holders (`newest_written`).
    Raises:
        ConfigError: Somebody else holds it, or its file cannot be written.
    """
    places = () if isinstance(run_path, StorePath) else (run_path, *run_path.parents)  # a store has no folders
    made = [place for place in places if not place.exists()]
    epoch = _take(run_path, what, say, beat_s, after)
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(_file(run_path, epoch), beat_s, stop), daemon=True, name="lease")
    beating.start()
    try:
        yield epoch
    finally:
        stop.set()
        beating.join()
        _leave(run_path, epoch, made)


def _take(run_path: Path, what: str, say: Say, beat_s: float, after: int) -> int:
    before = Holder.of(run_path)
    if before is not None:
        _wait_for_death(run_path, before, say, beat_s)
    epoch = 1 + max(after, before.epoch if before is not None else 0)
    me = Holder(epoch, what, socket.gethostname(), os.getpid(), time.time(), _process(os.getpid()) or "")
    try:
        _file(run_path, epoch).parent.mkdir(parents=True, exist_ok=True)
        with new_file(_file(run_path, epoch)) as temporary:
            temporary.write_text(json.dumps(asdict(me)))
            sync(temporary)
    except FileExistsError:
        raise _held(run_path, Holder.of(run_path) or Holder(epoch)) from None
    except OSError as error:
        raise ConfigError(
            f"cannot start a run in {run_path}: {error}; choose another --run_root, or free some space"
        ) from error
    if not refuses_a_second(_file(run_path, epoch)):
        say(
            f"note       the store of {run_path} cannot refuse a second writer (S3's If-None-Match): never start two "
            "drivers of one run at the same moment"
        )
    for earlier in range(1, epoch):
        with suppress(OSError):
            _file(run_path, earlier).unlink(missing_ok=True)
    return epoch


def _wait_for_death(run_path: Path, holder: Holder, say: Say, beat_s: float) -> None:
    """Return once a holder is dead for certain.

    One on another machine is watched for two beats at least, however old its last one seems: clocks differ.
    """
    if holder.has_left:
        return
    if holder.is_here:
        refuse_if_held(run_path)
        return
    wait_s = max(2 * beat_s, SILENT_BEATS * beat_s - holder.silent_s(run_path))
    say(f"waiting    up to {wait_s:.0f} s, to see whether {holder.words}, still works in {run_path}")
    last, deadline = _heartbeat(run_path, holder), time.monotonic() + wait_s
    while time.monotonic() < deadline:
        time.sleep(beat_s / 5)
        if _heartbeat(run_path, holder) != last:
            found = Holder.of(run_path) or holder
            if found.has_left:
                return
            raise _held(run_path, found)


def _heartbeat(run_path: Path, holder: Holder) -> Any:
    """Return what changes with each heartbeat; None where the file is gone."""
    file = _file(run_path, holder.epoch)
    try:
        return file.read_bytes() if isinstance(file, StorePath) else file.stat().st_mtime
    except OSError:
        return None


def _held(run_path: Path, holder: Holder) -> ConfigError:
    stop = f"stop it (kill {holder.pid})" if holder.is_here else f"stop it on {holder.host}"
    return ConfigError(
        f"{run_path} is in use by {holder.words} (last sign of life {holder.silent_s(run_path):.0f} s ago); let it "
        f"end, or {stop} and continue with --resume, or choose another --name"
    )


def _beat(file: Path, beat_s: float, stop: threading.Event) -> None:
    """Touch a holder's file now and then; an object is sent anew, with the number of the beat in it."""
    for number in itertools.count(1):
        if stop.wait(beat_s):
            return
        with suppress(OSError, ValueError):  # taken over, or disk or store is away for a moment
            if isinstance(file, StorePath):
                content = json.loads(file.read_text())  # not there: taken over
                file.write_text(json.dumps({**content, "beat": number}))
            else:
                os.utime(file)


def _leave(run_path: Path, epoch: int, made: list[Path]) -> None:
    """Say that the holder has left; where no run was begun, remove what it made."""
    file = _file(run_path, epoch)
    if not (run_path / "config.yaml").exists():
        file.unlink(missing_ok=True)
        for folder in (file.parent, *made):
            with suppress(OSError):  # something else lies in it
                folder.rmdir()
    elif file.exists():  # else somebody took over
        with suppress(OSError, ValueError), replacing(file) as temporary:
            temporary.write_text(json.dumps({**json.loads(file.read_text()), "has_left": True}))


def _file(run_path: Path, epoch: int) -> Path:
    return run_path / FOLDER / f"{epoch:06d}.json"


def _process(pid: int) -> str | None:
    """Name a process of this machine apart from all others there ever were; None where it is gone."""
    started = start_time_of(pid)
    return f"{this_machine()}/{pid}-{started}" if started else None
