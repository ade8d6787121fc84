"""Processes of this machine, by id and start time: a process id that was given to another is never taken for the first.

Start times are strings: clock ticks since the machine started, as Linux counts them. So neither a step of its clock nor
the file in which they are kept changes them.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil


def started_by(head: int) -> dict[int, str]:
    """Return every process the head started, itself included: process id -> start time.

    Ray's daemons and workers share the head's session; a submitted job's driver has one of its own and is found as a
    descendant.
    """
    parents, found = {}, {head}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it ended meanwhile
            parents[process.pid] = process.ppid()
            if session_of(process.pid) == head:
                found.add(process.pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: start_time for pid in found if (start_time := start_time_of(pid))}


def session_of(pid: int) -> int | None:
    """Return the session that a process belongs to; None where it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def still_running(processes: Mapping[int, str]) -> set[int]:
    """Return which of these processes still run; a reused process id has another start time."""
    return {pid for pid, start_time in processes.items() if start_time and start_time_of(pid) == start_time}


def start_time_of(pid: int) -> str:
    """Return when a process started; empty = there is no such process, or only what its parent has not yet noticed."""
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return ""
        return str(round((process.create_time() - psutil.boot_time()) * os.sysconf("SC_CLK_TCK")))
    except psutil.Error:
        return ""


def this_machine() -> str:
    """Name what can see the processes of this one: the machine since it was started, or the container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


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


def port_in(word: str) -> int | None:
    """Return the TCP port that a word names; None = it names none.

    Example: `port_in("8265")` is 8265; of `"99999"` the system would take the rest after division by 65536
    """
    is_number = word.isascii() and word.isdigit() and len(word) <= 5  # Python refuses to read thousands of digits
    return int(word) if is_number and 1 <= int(word) <= 65535 else None


def try_port(host: str, port: int) -> None:
    """Bind a TCP port and let it go, to see whether a server could listen there.

    Args:
        host: A name or address of this machine; with a colon it is one of IPv6.
        port: From 1 to 65535.
    Raises:
        OSError: The port is taken or not allowed, or the host is not this machine.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
