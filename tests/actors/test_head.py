"""`make cluster-up` and `make cluster-down`: one head, found again, let in with its token alone, and nothing left."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
import pytest

from l2l_ray import processes
from l2l_ray.actors import head, session
from l2l_ray.actors.environment import TOKEN_ENV
from l2l_ray.errors import ClusterError
from l2l_ray.serving.settings import is_loopback
from tests.ray_runs import listening

ROOT = Path(__file__).resolve().parent.parent.parent


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder that stands for a checkout, and the environment of a new shell."""
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "L2L_HOME", *TOKEN_ENV):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "checkout").mkdir()
    return tmp_path / "checkout"


def _port_of_rays_workers() -> int:
    """Return a free port of the range from which `ray start` by itself gives one to each worker."""
    for port in range(18_265, 20_000):
        with suppress(OSError):
            processes.try_port("127.0.0.1", port)
            return port
    raise AssertionError("none is free")


def _make(checkout: Path, *words: str) -> str:
    """Run what `make cluster-up` and `make cluster-down` run."""
    found = subprocess.run(
        [sys.executable, "-m", "l2l_ray.actors.head", *words],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


# A driver as `jobs/selfevolve.py` starts one: what it says is the cluster's dashboard, or the error.
DRIVER = """
from l2l_ray.actors.environment import set_environment
from l2l_ray.config import RunConfig
config = RunConfig()
set_environment(config)
from l2l_ray.actors.connection import connected
from l2l_ray.errors import ClusterError
try:
    with connected(config.cluster) as dashboard:
        print("in:", dashboard)
except ClusterError as error:
    print("out:", error)
"""


def _driver(**variables: str) -> str:
    """Run a driver in another terminal that knows the address alone, and what else is given."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run([sys.executable, "-c", DRIVER], env=environment, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


def _submit(running: head.Head, *words: str) -> subprocess.CompletedProcess[str]:
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", *words]
    environment = {**os.environ, **running.client_environment()}
    return subprocess.run(submit, env=environment, capture_output=True, text=True, timeout=240)


def test_up_attach_submit_down(checkout: Path) -> None:
    port = str(_port_of_rays_workers())
    first = _make(checkout, "up", port)
    running = head.Head(**json.loads((checkout / ".ray" / "head.json").read_text()))
    try:
        assert f"process {running.pid}" in first and f"http://127.0.0.1:{port}" in first
        assert _make(checkout, "up") == first, "the second start finds the first head"
        assert os.stat(running.folder).st_mode & 0o777 == 0o700
        shell = f". {checkout / '.ray' / 'env'}; env"
        printed = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout.splitlines()
        client = running.client_environment()
        assert {f"{name}={value}" for name, value in client.items()} <= set(printed)
        address = client["RAY_ADDRESS"]
        assert _driver(RAY_ADDRESS=address).startswith(f"in: {running.dashboard} (it asks for the token in")
        wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "guess"}
        assert "let us in: the token we have is not its token" in _driver(RAY_ADDRESS=address, **wrong)
        assert "let us in: it asks for a token and we have none" in _driver(
            RAY_ADDRESS=address, RAY_AUTH_MODE="disabled"
        )
        assert f"RAY_ADDRESS or cluster.address is {running.dashboard}" in _driver(RAY_ADDRESS=running.dashboard)
        with pytest.raises(HTTPError, match="401"):
            urlopen(f"{running.dashboard}/api/jobs/", timeout=30)
        code = "import os, sys; print(os.getcwd(), os.environ['L2L_HOME'], sys.executable)"
        job = _submit(running, "--", "python", "-c", code)
        assert f"{checkout} {checkout / 'runs'} {sys.executable}" in job.stdout, job.stdout + job.stderr
        serve = [sys.executable, "-c", "from ray.serve.scripts import cli; cli()", "shutdown", "--yes"]
        ended = subprocess.run(serve, env={**os.environ, **client}, capture_output=True, text=True, timeout=240)
        assert f"running on the cluster at {running.dashboard}" in ended.stdout + ended.stderr, ended
        _submit(running, "--no-wait", "--", "sleep", "987654")
        _wait_for_command(["sleep", "987654"])
        started = processes.started_by(running.pid)
        assert all(is_loopback(host) for _, host, _ in listening(started))
    finally:
        last = _make(checkout, "down")
    assert last == "Ray is down\n"
    assert not processes.still_running(started), "a job's own process goes with the head"
    assert not os.path.exists(running.folder)
    assert "no Ray head" in _make(checkout, "down")


def _wait_for_command(words: list[str]) -> None:
    deadline = time.monotonic() + 120.0
    while not any(process.info["cmdline"] == words for process in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < deadline
        time.sleep(0.1)


class _SaysYes(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


def test_a_taken_port_is_an_error_before_anything_starts_whatever_it_speaks(checkout: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match=f"something answers at http://127.0.0.1:{port} already"):
            head.up(checkout, port)
    assert not (checkout / ".ray" / "head.json").exists()


@pytest.mark.parametrize("word", ["abc", "0", "99999", "9" * 5000, "-1", "82.65", ""])
def test_what_is_no_port_is_refused_in_one_line(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    monkeypatch.chdir(checkout)
    assert head.main(["up", word]) == 1
    said = f"the port must be a number from 1 to 65535, got {word!r}; give one, such as PORT=8266\n"
    assert capsys.readouterr().err == said
    assert not (checkout / ".ray" / "head.json").exists()


def test_the_port_of_rays_client_is_refused_by_name(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert head.main(["up", str(head.CLIENT_PORT)]) == 1
    assert capsys.readouterr().err == "the port 10001 is that of Ray's client; choose another, such as PORT=8266\n"


def test_a_head_that_ends_at_its_start_is_said_with_the_cause(checkout: Path) -> None:
    code = "from pathlib import Path; from l2l_ray.actors import head; head.up(Path.cwd(), head.CLIENT_PORT)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options: dict[str, Any] = {"cwd": checkout, "env": environment, "capture_output": True, "text": True}
    told = subprocess.run([sys.executable, "-c", code], timeout=240, **options).stderr.splitlines()[-1]
    said = r"the Ray head ended before it answered: ValueError: Ray component .* port number 10001 .*; see .*head\.log"
    assert re.search(f"ClusterError: {said}$", told), told
    assert not (checkout / ".ray" / "head.json").exists()


@contextmanager
def _begun(checkout: Path, port: int) -> Iterator[head.Head]:
    """Give a head whose start was interrupted: remembered, running, without an address yet; a stand-in for Ray."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    (checkout / ".ray").mkdir()
    (checkout / ".ray" / "head.log").write_text("starting\n")
    folder = session.new_folder("secret")
    session.own(folder, process.pid)
    (folder / "ray").mkdir()
    begun = head.Head(process.pid, processes.start_time_of(process.pid), str(folder), f"http://127.0.0.1:{port}")
    (checkout / ".ray" / "head.json").write_text(json.dumps(asdict(begun)))
    try:
        yield begun
    finally:
        process.communicate(b"\n")


@contextmanager
def _answering() -> Iterator[int]:
    """Give the port of a dashboard that answers."""
    with HTTPServer(("127.0.0.1", 0), _SaysYes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextmanager
def _no_http() -> Iterator[int]:
    """Give the port of a server that greets in words of its own."""

    class Greets(StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 ready\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Greets) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def apart(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Session folders lie apart, also after `checkout` has made a new shell."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


@pytest.mark.usefixtures("apart")
def test_an_interrupted_start_is_waited_for_and_its_files_written(checkout: Path) -> None:
    with _answering() as port, _begun(checkout, port) as begun:
        address = Path(begun.folder, "ray", "ray_current_cluster")
        timer = threading.Timer(0.3, address.write_text, ["127.0.0.1:1001"])
        timer.start()
        assert head.up(checkout) == begun
        timer.join()
        assert "export RAY_ADDRESS=127.0.0.1:1001\n" in (checkout / ".ray" / "env").read_text()
        assert (checkout / ".ray" / "prometheus.json").is_symlink()


@pytest.mark.usefixtures("apart")
def test_a_head_that_runs_and_does_not_answer_is_named_and_stays(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "START_TIMEOUT_S", 0.3)
    with _begun(checkout, _free_port()) as begun:
        with pytest.raises(ClusterError, match=f"stop process {begun.pid} with: make cluster-down; its log: starting"):
            head.up(checkout)
        assert processes.still_running({begun.pid: begun.start_time})


@pytest.mark.usefixtures("apart")
def test_a_head_whose_port_speaks_something_else_is_not_up(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "START_TIMEOUT_S", 0.3)
    with _no_http() as port, _begun(checkout, port) as begun:
        with pytest.raises(ClusterError, match=f"no answer at {begun.dashboard}"):
            head.up(checkout)


@pytest.mark.usefixtures("apart")
def test_a_process_that_ends_while_the_head_is_stopped_is_no_error(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    found = processes.started_by
    monkeypatch.setattr(head, "started_by", lambda pid: {**found(pid), ended.pid: "1"})  # it ended after the look
    with _begun(checkout, _free_port()) as begun:
        assert head.down(checkout)
        assert not processes.still_running({begun.pid: begun.start_time})
        assert not Path(begun.folder).exists()


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("step", [head.up, head.down])
def test_the_head_of_another_machine_is_left_alone(checkout: Path, step: Callable[[Path], object]) -> None:
    """The checkout and the temporary folder are shared."""
    folder = session.new_folder("secret")
    other = {"pid": 4711, "start_time": "1"}
    (folder / "owner.json").write_text(json.dumps({"machine": "node7 a1b2", **other}))
    (checkout / ".ray").mkdir()
    remembered = {**other, "folder": str(folder), "dashboard": "http://127.0.0.1:1"}
    (checkout / ".ray" / "head.json").write_text(json.dumps(remembered))
    with pytest.raises(ClusterError, match="was started on node7"):
        step(checkout)
    assert (folder / "auth_token").exists() and (checkout / ".ray" / "head.json").exists()


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1}', "[]"])
def test_a_broken_memory_is_forgotten(checkout: Path, content: str) -> None:
    (checkout / ".ray").mkdir()
    (checkout / ".ray" / "head.json").write_text(content)
    assert not head.down(checkout)
    assert not (checkout / ".ray" / "head.json").exists()


def test_a_reused_process_id_is_not_taken_for_the_head(checkout: Path) -> None:
    (checkout / ".ray").mkdir()
    folder = checkout / "session"
    folder.mkdir()
    stale = {"pid": os.getpid(), "start_time": "another time", "folder": str(folder), "dashboard": "http://127.0.0.1:1"}
    (checkout / ".ray" / "head.json").write_text(json.dumps(stale))
    assert not head.down(checkout), "this test's own process must survive"
    assert not folder.exists()
