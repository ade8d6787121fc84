"""One Ray head on this machine, started and stopped by process id: `make cluster-up` and `make cluster-down`.

Everything binds 127.0.0.1, session files go to a private folder (`session.py`), only who has the token is let in, and
nothing else on the machine is touched: `ray stop` would end every Ray of this user. The head's working folder is the
checkout and its PATH starts with this Python, so after `. .ray/env`, which brings address and token into a shell,
`ray job submit -- python jobs/selfevolve.py` needs no further flag.

Remembered in `.ray/head.json`; a file left behind by a crash is recognised, because its process is gone or another.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path

from l2l_ray.actors import session
from l2l_ray.actors.environment import ENV_DEFAULTS, LOOPBACK_ENV, STOP_S
from l2l_ray.errors import ClusterError, L2LError
from l2l_ray.processes import end, port_in, session_of, start_time_of, started_by, still_running, try_port, wait_until

DASHBOARD_PORT = 8265
START_TIMEOUT_S = 90.0
DRAIN_TIMEOUT_S = 4.0  # `ray start --block` needs 2 to 30 s to end its children; nothing of a run lives in them
DASHBOARD_ENV = ("RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS")  # of `ray job`, of `serve`
CLIENT_PORT = 10001  # of Ray's client, which asks for no other by itself
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

    def client_environment(self) -> dict[str, str]:
        """Return what drivers, `ray job submit`, `ray status` and `serve` need to reach it and to be let in."""
        found = {
            "RAY_ADDRESS": session.address(Path(self.folder)) or "",
            **dict.fromkeys(DASHBOARD_ENV, self.dashboard),
        }
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(Path(self.folder) / "auth_token")}
        return found | LOOPBACK_ENV | (token if _asks_for_a_token() else {})


def up(checkout: Path, port: int = DASHBOARD_PORT) -> Head:
    """Start a head, or return the one that runs, and write `.ray/env` once it is up.

    Args:
        checkout: Folder in which submitted jobs start; `.ray/` and `runs/` are made there. `.ray/env` is for a shell.
        port: Of dashboard and job submission.
    Raises:
        ClusterError: The port is taken, the head runs on another machine, or it does not answer; its log is in the
            message.
    """
    running = _running(checkout)  # perhaps still on its way up: whoever started it may have been stopped
    head = running or _start(checkout, port)
    folder = Path(head.folder)
    wait_until(
        lambda: not still_running({head.pid: head.start_time}) or _is_up(head.dashboard, folder), START_TIMEOUT_S
    )
    if not _is_up(head.dashboard, folder):
        log, has_ended = _log_file(checkout).read_text(), not still_running({head.pid: head.start_time})
        if running is None:
            down(checkout)
        if has_ended:
            raise ClusterError(f"the Ray head ended before it answered: {_cause(log)}; see {_log_file(checkout)}")
        remedy = f"; stop process {head.pid} with: make cluster-down" if running else ""
        raise ClusterError(
            f"no answer at {head.dashboard} within {START_TIMEOUT_S:g} s{remedy}; its log: {log[-2000:]}"
        )
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in head.client_environment().items()]
    _env_file(checkout).write_text("".join(lines))
    targets = _targets_file(checkout)
    targets.unlink(missing_ok=True)
    targets.symlink_to(folder / "ray" / "prom_metrics_service_discovery.json")
    return head


def _start(checkout: Path, port: int) -> Head:
    """Start a head and remember it; it is not up yet."""
    dashboard = f"http://127.0.0.1:{port}"
    _require_free(port, dashboard)
    session.state_file(checkout).parent.mkdir(mode=0o700, exist_ok=True)
    folder = session.new_folder(secrets.token_hex(32))
    with _log_file(checkout).open("wb") as out:
        # Port 0 = a free one. Another cluster may have the agent's fixed port, and then no job can start; the workers'
        # fixed range must not hold the dashboard's.
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0",
             "--dashboard-host=127.0.0.1", f"--dashboard-port={port}",
             "--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0",
             f"--resources={json.dumps(RESOURCES)}", "--disable-usage-stats"],
            cwd=checkout, env=_environment(checkout, folder), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    session.own(folder, process.pid)
    head = Head(process.pid, start_time_of(process.pid), str(folder), dashboard)
    session.state_file(checkout).write_text(json.dumps(asdict(head)))
    return head


def _cause(log: str) -> str:
    """Return the last line of a log that names an error, else the last one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Usage)\b", line)]
    return (named or lines or ["no word in its log"])[-1]


def down(checkout: Path) -> bool:
    """Stop the head started by `up` and everything it started; False when none runs.

    Raises:
        ClusterError: A process survives, or the head runs on another machine.
    """
    head = _running(checkout)
    if head is None:
        _forget(checkout)
        return False
    processes = started_by(head.pid)
    jobs = {pid: start_time for pid, start_time in processes.items() if session_of(pid) != head.pid}
    end(jobs, signal.SIGTERM, STOP_S)
    end({head.pid: head.start_time}, signal.SIGTERM, DRAIN_TIMEOUT_S)
    end(processes, signal.SIGKILL, 0.0)
    if not wait_until(lambda: not still_running(processes), 5.0):
        raise ClusterError(f"processes of the Ray head survive: {sorted(still_running(processes))}")
    _forget(checkout)
    return True


def _require_free(port: int, dashboard: str) -> None:
    """Refuse a port that Ray could not listen on; it would take another one, or none, without a word."""
    try:
        try_port("127.0.0.1", port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ClusterError(
                f"something answers at {dashboard} already; stop it, or choose another port: PORT=8266"
            ) from None
        raise ClusterError(f"cannot listen at {dashboard}: {error.strerror}; choose another port: PORT=8266") from None


def _port(word: str) -> int:
    """Return the port that a word names.

    Raises:
        ClusterError: It names none, or that of Ray's client.
    """
    if (port := port_in(word)) is None:
        raise ClusterError(f"the port must be a number from 1 to 65535, got {word!r}; give one, such as PORT=8266")
    if port == CLIENT_PORT:
        raise ClusterError(f"the port {port} is that of Ray's client; choose another, such as PORT=8266")
    return port


def _environment(checkout: Path, folder: Path) -> dict[str, str]:
    """Return the environment of a head; what the shell says of another cluster does not count."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    defaults = {**ENV_DEFAULTS, **LOOPBACK_ENV, "L2L_HOME": str(checkout / "runs"), "RAY_AUTH_MODE": "token"}
    others = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", *DASHBOARD_ENV)
    given = {name: value for name, value in os.environ.items() if name not in others}
    own = {"PATH": path, "RAY_TMPDIR": str(folder), "RAY_AUTH_TOKEN_PATH": str(folder / "auth_token")}
    return {**defaults, **given, **own}


def _asks_for_a_token() -> bool:
    return os.environ.get("RAY_AUTH_MODE", "token") == "token"


def _log_file(checkout: Path) -> Path:
    return checkout / ".ray" / "head.log"


def _env_file(checkout: Path) -> Path:
    return checkout / ".ray" / "env"


def _targets_file(checkout: Path) -> Path:
    return checkout / ".ray" / "prometheus.json"  # named in deploy/monitoring/prometheus.yml


def _running(checkout: Path) -> Head | None:
    try:
        head = Head(**json.loads(session.state_file(checkout).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    if head.start_time and start_time_of(head.pid) == head.start_time:
        return head
    if (host := session.elsewhere(Path(head.folder))) is not None:
        raise ClusterError(
            f"the Ray head of this checkout was started on {host}, and what runs there is not seen from here; stop it "
            f"there with: make cluster-down; where that machine or container is gone, remove {head.folder}"
        )
    return None


def _forget(checkout: Path) -> None:
    try:
        session.remove_folder(Path(json.loads(session.state_file(checkout).read_text())["folder"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    for file in (session.state_file(checkout), _env_file(checkout), _targets_file(checkout)):
        file.unlink(missing_ok=True)


def _is_up(dashboard: str, folder: Path) -> bool:
    return _answers(dashboard) and session.address(folder) is not None


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=2.0).close()
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)  # it is up and asks for a token
    except (OSError, HTTPException):  # nobody is there, or somebody who does not speak HTTP
        return False
    return True


def main(words: list[str]) -> int:
    """Run `up [PORT]` or `down` for the checkout in the current folder."""
    checkout = Path.cwd()
    try:
        if words[:1] == ["up"]:
            head = up(checkout, _port(words[1]) if len(words) > 1 else DASHBOARD_PORT)
            sys.stdout.write(
                f"Ray is up (process {head.pid}); dashboard and job submission: {head.dashboard}\n"
                f"runs go to {os.environ.get('L2L_HOME') or checkout / 'runs'}\n"
                f"address and token for another terminal:  . {shlex.quote(str(_env_file(checkout)))}\n"
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
