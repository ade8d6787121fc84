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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from l2l_ray.actors import ENV_DEFAULTS, LOOPBACK_ENV
from l2l_ray.errors import ClusterError, L2LError

START_TIMEOUT_S = 90.0
DRAIN_TIMEOUT_S = 45.0  # `ray start --block` needs 2 to 30 s to end its children
RESOURCES = {"prior_gpu": 1.0}


@dataclass(frozen=True)
class Head:
    """A running head.

    Example: `Head(4711, 123456.0, "/tmp/l2l-ray-x1", "http://127.0.0.1:8265")`
    """

    pid: int
    born: str  # start time by the process table: tells a reused process id apart
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
    head = Head(process.pid, _born(process.pid), folder, dashboard)
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
    os.kill(head.pid, signal.SIGTERM)
    _wait(lambda: not session_processes(head.pid), DRAIN_TIMEOUT_S)
    for pid in session_processes(head.pid):
        os.kill(pid, signal.SIGKILL)
    if not _wait(lambda: not session_processes(head.pid), 5.0):
        raise ClusterError(f"processes of the Ray head survive: {session_processes(head.pid)}")
    _forget(checkout)
    return True


def remove_folder(folder: str) -> None:
    """Remove a session folder; Ray's last process may still be writing into it for a moment."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(0.2)


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
    return head if head.born and _born(head.pid) == head.born else None


def _forget(checkout: Path) -> None:
    try:
        remove_folder(json.loads(_state_file(checkout).read_text())["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    _state_file(checkout).unlink(missing_ok=True)


def _born(pid: int) -> str:
    """Return when a process started, "" when there is none (or it is a zombie)."""
    return _processes().get(pid, (0, ""))[1]


def session_processes(leader: int) -> list[int]:
    """Return the living processes of the head's session: Ray's workers have process groups of their own."""
    return [pid for pid, (session, _) in _processes().items() if session == leader]


def _processes() -> dict[int, tuple[int, str]]:
    """Return session and start time of every living process, by process id."""
    if not Path("/proc/self/stat").exists():
        return _processes_by_ps()
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()  # the name before it may hold spaces
        except OSError:
            continue  # it ended meanwhile
        if fields[0] not in "ZX":
            found[int(stat.parent.name)] = int(fields[3]), fields[19]
    return found


def _processes_by_ps() -> dict[int, tuple[int, str]]:
    table = subprocess.run(["ps", "-A", "-o", "pid=,stat=,lstart="], capture_output=True, text=True, check=True)
    found = {}
    for line in table.stdout.splitlines():
        pid, stat, born = line.split(maxsplit=2)
        try:
            if not stat.startswith("Z"):
                found[int(pid)] = os.getsid(int(pid)), born
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


def _wait(true: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not true():
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
                "now:  ray job submit -- python jobs/selfevolve.py\n"
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
