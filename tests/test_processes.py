"""Who a process started, which of them still run, and that a reused id is not taken for the first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from l2l_ray.processes import end, start_time_of, started_by, still_running

_PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], start_new_session=True, stdin=subprocess.PIPE)
print(child.pid, flush=True)
input()
"""


def test_descendants_are_found_across_sessions_and_ended() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        started = started_by(parent.pid)
        assert set(started) == {parent.pid, child} and still_running(started) == {parent.pid, child}
        end(started, signal.SIGKILL, 10.0)
        assert not still_running(started), "the parent is a zombie until it is waited for"
    assert started_by(parent.pid) == {}


def test_a_reused_id_is_another_process() -> None:
    mine = start_time_of(os.getpid())
    assert still_running({os.getpid(): mine}) == {os.getpid()}
    assert not still_running({os.getpid(): str(int(mine) - 1)}) and not still_running({os.getpid(): ""})
