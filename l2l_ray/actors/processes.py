"""Processes of this machine, by id and start time: a process id that was given to another is never taken for the first.

Linux's `/proc` where there is one, else `ps`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    session: int
    start_time: str


def started_by(head: int) -> dict[int, str]:
    """Return every process the head started, itself included: process id -> start time.

    Ray's daemons and workers share the head's session; a submitted job's driver has one of its own and is found as a
    descendant.
    """
    table = _processes()
    found = {pid for pid, process in table.items() if pid == head or process.session == head}
    while more := {pid for pid, process in table.items() if process.parent in found} - found:
        found |= more
    return {pid: table[pid].start_time for pid in found}


def still_running(processes: Mapping[int, str]) -> set[int]:
    """Return which of these processes still run; a reused process id has another start time."""
    table = _processes()
    return {pid for pid, start_time in processes.items() if pid in table and table[pid].start_time == start_time}


def start_time_of(pid: int) -> str:
    """Return when a process started, as the process table writes it; empty = no such process."""
    process = _processes().get(pid)
    return process.start_time if process else ""


def _processes() -> dict[int, _Process]:
    """Return every process that is not a zombie, by process id."""
    if not Path("/proc/self/stat").exists():
        return _processes_by_ps()
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()  # the name before it may hold spaces
        except OSError:
            continue  # it ended meanwhile
        if fields[0] not in "ZX":
            found[int(stat.parent.name)] = _Process(int(fields[1]), int(fields[3]), fields[19])
    return found


def _processes_by_ps() -> dict[int, _Process]:
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat=,lstart="], capture_output=True, text=True, check=True)
    found = {}
    for line in table.stdout.splitlines():
        pid, parent, stat, start_time = line.split(maxsplit=3)
        try:
            if not stat.startswith("Z"):
                found[int(pid)] = _Process(int(parent), os.getsid(int(pid)), start_time)
        except OSError:
            continue  # it ended meanwhile
    return found


def end(processes: Mapping[int, str], number: signal.Signals, wait_s: float) -> None:
    """Signal those that still run, then wait until they are gone, but not longer than `wait_s`."""
    for pid in still_running(processes):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    wait_until(lambda: not still_running(processes), wait_s)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a condition; False when `timeout_s` passed before it held."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
