"""`ray job submit` on a cluster where the package is not installed: it is sent along, from a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RAY = "from ray.scripts.scripts import main; main()"
WAIT_S = 240.0


@dataclass(frozen=True)
class Bare:
    """A Ray head whose Python has all packages but ours."""

    python: str
    environment: dict[str, str]
    dashboard: str
    elsewhere: Path

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Submit a job with this checkout as its folder, from somewhere else."""
        return subprocess.run(
            [self.python, "-c", RAY, "job", "submit", "--address", self.dashboard, "--working-dir", str(ROOT), "--"]
            + ["python", *words],
            cwd=self.elsewhere,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    """Start a head in an environment that sees the packages of this one, and not the checkout that it is linked to."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    (own,) = (folder / "env").glob("lib/python*/site-packages")
    (own / "shared.pth").write_text(site.getsitepackages()[0] + "\n")  # links in there are not followed
    python, elsewhere = str(folder / "env" / "bin" / "python"), folder / "elsewhere"
    elsewhere.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "L2L_HOME", "RAY_ADDRESS")}
    path = f"{folder / 'env' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**kept, "PATH": path, "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    port, dashboard_port = _free_ports(2)
    temporary = tempfile.mkdtemp(prefix="l2l-t-", dir="/tmp")  # short: Unix socket names are limited
    words = ["start", "--head", "--block", "--num-cpus", "2", "--resources", '{"prior_gpu": 1}', "--port", str(port)]
    words += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port), "--temp-dir", temporary]
    words += ["--dashboard-agent-listen-port", "0"]  # the fixed one may be taken by another cluster
    words += ["--disable-usage-stats", "--object-store-memory", "200000000"]
    head = subprocess.Popen(
        [python, "-c", RAY, *words], cwd=elsewhere, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        dashboard = f"http://127.0.0.1:{dashboard_port}"
        _wait_for(f"{dashboard}/api/jobs/", head)
        yield Bare(python, environment, dashboard, elsewhere)
    finally:
        head.send_signal(signal.SIGTERM)  # it ends all its processes
        head.wait(60)
        shutil.rmtree(temporary, ignore_errors=True)


def _wait_for(address: str, head: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        assert head.poll() is None, "the head ended"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, "the head does not answer"
            time.sleep(0.3)


def test_a_relative_run_root_is_refused_by_name_and_not_lost_in_a_copy(bare: Bare) -> None:
    words = [bare.python, "-c", "import ray, l2l_ray"]
    absent = subprocess.run(words, env=bare.environment, cwd=bare.elsewhere, capture_output=True)
    assert b"No module named 'l2l_ray'" in absent.stderr
    job = bare.submit("jobs/selfevolve.py", "--preset", "smoke", "--run_root", "runs")
    assert job.returncode == 1
    assert "selfevolve: run_root is relative, got 'runs', and a submitted job does not run in the folder" in job.stdout


def test_a_whole_run_is_sent_along(bare: Bare, tmp_path: Path) -> None:
    job = bare.submit("jobs/selfevolve.py", "--preset", "smoke", "--name", "sent", "--run_root", str(tmp_path))
    assert job.returncode == 0, job.stdout
    assert json.loads((tmp_path / "sent" / "results.json").read_text())["rows"]
