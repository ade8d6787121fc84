"""One Ray head on this machine, started and stopped by process id: `make cluster-up` and `make cluster-down`.

Everything binds 127.0.0.1, session files go to a private temporary folder, and nothing else on the machine is touched:
`ray stop` would end every Ray of this user. The head's working folder is the checkout and its PATH starts with this
Python, so `ray job submit -- python jobs/selfevolve.py` needs no further flag.

Remembered in `.ray/head.json`; a file left behind by a crash is recognised, because its process is gone or another.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from l2l_ray.actors.environment import ENV_DEFAULTS, LOOPBACK_ENV
from l2l_ray.errors import ClusterError, L2LError

START_TIMEOUT_S = 90.0
DRAIN_TIMEOUT_S = 4.0  # `ray start --block` needs 2 to 30 s to end its children; nothing of a run lives in them
GRACE_S = 10.0  # for drivers of running jobs: a driver keeps its run folder in order when it ends
RESOURCES = {"prior_gpu": 1.0}


@dataclass(frozen=True)
class Head:
    """A running head.

    Example: `Head(4711, 123456.0, "/tmp/l2l-ray-x1", "http://127.0.0.1:8265")`
    """

    pid: int
    start_time: str  # by the process table: tells a reused process id apart
    folder: str
    dashboard: str


def up(checkout: Path, port: int = 8265) -> Head:
    """Start a head, or return the one that runs.

    Args:
        checkout: Folder in which submitted jobs start; `.ray/` and `runs/` are made there.
        port: Of dashboard and job submission.
    Raises:
        ClusterError: The port is taken, or the head does not answer; its log is in the message.
    """
    if (running := _running(checkout)) is not None:
        return running
    dashboard = f"http://127.0.0.1:{port}"
    if _answers(dashboard):
        raise ClusterError(f"something answers at {dashboard} already; stop it, or choose another port: PORT=8266")
    _state_file(checkout).parent.mkdir(exist_ok=True)
    folder = tempfile.mkdtemp(prefix="l2l-ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
    log = checkout / ".ray" / "head.log"
    with log.open("wb") as out:
        # Agent port 0: Ray's fixed one is taken where another cluster runs, and then no job can start.
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0",
             "--dashboard-host=127.0.0.1", f"--dashboard-port={port}", f"--temp-dir={folder}",
             "--dashboard-agent-listen-port=0",  # the fixed one may be taken by another cluster
             f"--resources={json.dumps(RESOURCES)}", "--disable-usage-stats"],
            cwd=checkout, env=_environment(checkout), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    head = Head(process.pid, _start_time(process.pid), folder, dashboard)
    _state_file(checkout).write_text(json.dumps(asdict(head)))
    _wait(lambda: _answers(dashboard) or process.poll() is not None, START_TIMEOUT_S)
    if process.poll() is not None or not _answers(dashboard):
        down(checkout)
        raise ClusterError(f"no answer at {dashboard} within {START_TIMEOUT_S:g} s; its log: {log.read_text()[-2000:]}")
    return head


def down(checkout: Path) -> bool:
    """Stop the head started by `up` and everything it started; False when none runs.

    Raises:
        ClusterError: A process survives.
    """
    head = _running(checkout)
    if head is None:
        _forget(checkout)
        return False
    processes = started_by(head.pid)
    jobs = {pid: start_time for pid, start_time in processes.items() if os.getsid(pid) != head.pid}
    _signal(jobs, signal.SIGTERM, GRACE_S)
    _signal({head.pid: head.start_time}, signal.SIGTERM, DRAIN_TIMEOUT_S)
    _signal(processes, signal.SIGKILL, 0.0)
    if not _wait(lambda: not still_running(processes), 5.0):
        raise ClusterError(f"processes of the Ray head survive: {sorted(still_running(processes))}")
    _forget(checkout)
    return True


def remove_folder(folder: str) -> None:
    """Remove a session folder; Ray's last process may still be writing into it for a moment."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(0.2)


def _signal(processes: Mapping[int, str], number: signal.Signals, wait_s: float) -> None:
    """Signal those that still run, then wait until they are gone, but not longer than `wait_s`."""
    for pid in still_running(processes):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    _wait(lambda: not still_running(processes), wait_s)


def _environment(checkout: Path) -> dict[str, str]:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    defaults = {**ENV_DEFAULTS, **LOOPBACK_ENV, "L2L_HOME": str(checkout / "runs")}
    return {**defaults, **os.environ, "PATH": path}


def _state_file(checkout: Path) -> Path:
    return checkout / ".ray" / "head.json"


def _running(checkout: Path) -> Head | None:
    try:
        head = Head(**json.loads(_state_file(checkout).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return head if head.start_time and _start_time(head.pid) == head.start_time else None


def _forget(checkout: Path) -> None:
    try:
        remove_folder(json.loads(_state_file(checkout).read_text())["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    _state_file(checkout).unlink(missing_ok=True)


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


def _start_time(pid: int) -> str:
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


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=2.0).close()
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)  # it is up and asks for a token
    except OSError:
        return False
    return True


def _wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def main(words: list[str]) -> int:
    """Run `up [PORT]` or `down` for the checkout in the current folder."""
    checkout = Path.cwd()
    try:
        if words[:1] == ["up"]:
            head = up(checkout, int(words[1]) if len(words) > 1 else 8265)
            sys.stdout.write(
                f"Ray is up (process {head.pid}); dashboard and job submission: {head.dashboard}\n"
                f"runs go to {os.environ.get('L2L_HOME') or checkout / 'runs'}\n"
            )
            return 0
        if words == ["down"]:
            sys.stdout.write("Ray is down\n" if down(checkout) else "no Ray head of this checkout is running\n")
            return 0
    except L2LError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stderr.write("usage: python -m l2l_ray.actors.head up [PORT] | down\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
