"""A private cluster outlives Ctrl-C of the terminal by what its end needs; one that goes away ends the job in words."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from l2l_ray.actors import connection
from l2l_ray.actors.connection import Watch, still_answers
from l2l_ray.processes import start_time_of, still_running, wait_until

ROOT = Path(__file__).resolve().parents[2]

# A job that asks its cluster's dashboard after Ctrl-C, as one does that ends in order; then it waits for an answer.
JOB = """
import sys, time
from l2l_ray.actors.environment import set_defaults
set_defaults(None)
import ray
from ray.util.state import list_actors
from l2l_ray.actors import connection
from l2l_ray.actors.connection import connected, still_answers
from l2l_ray.config import ClusterConfig
from l2l_ray.job import run_job, say
connection.LOOK_EVERY_S, connection.PATIENCE_S = 0.5, 5.0
def sleep():
    time.sleep(600)
def act():
    with connected(ClusterConfig()):
        working = ray.remote(sleep).remote()
        try:
            say("waits")
            time.sleep(600)
        except KeyboardInterrupt:
            address = ray.get_runtime_context().gcs_address
            say(f"asked {len(list_actors(address=address, timeout=60))} {still_answers()}")
        try:
            ray.get(working)
        finally:
            say(f"ends {still_answers()}")
sys.exit(run_job("selfevolve", act, "all stays"))
"""


def test_ctrl_c_of_a_terminal_leaves_a_private_cluster_alone_and_its_loss_is_said_and_ends_the_job() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_TMPDIR")}
    environment["PYTHONPATH"] = str(ROOT)
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", JOB]
    with subprocess.Popen(command, env=environment, text=True, start_new_session=True, **both) as job:  # type: ignore[call-overload]
        try:
            assert job.stdout.readline() == "waits\n", job.stderr.read()
            cluster = psutil.Process(job.pid).children()
            started = {process.pid: start_time_of(process.pid) for process in cluster}
            os.killpg(job.pid, signal.SIGINT)  # what a terminal does
            assert job.stdout.readline() == "asked 0 True\n"
            next(process for process in cluster if process.name() == "gcs_server").kill()
            said, complained = job.communicate(timeout=120)
            assert (job.returncode, said) == (1, "ends False\n"), complained
            told, *_, last = complained.splitlines()
            assert told.startswith("no Ray cluster answers at"), complained
            assert told.endswith("; this job ends unless it does within 5 s")
            assert last.startswith("selfevolve: the Ray cluster went away: no Ray cluster answers at"), complained
            assert last.endswith("; start it, then this job, again")
        finally:
            job.kill()
    assert wait_until(lambda: not still_running(started), 120.0)


def test_a_cluster_that_answers_again_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ray_local: str
) -> None:
    monkeypatch.setattr(connection, "LOOK_EVERY_S", 0.05)
    assert still_answers()
    asked: list[str] = []
    watch = Watch(ray_local)

    def sometimes(address: str, remedy: str) -> None:
        asked.append(address)
        if len(asked) == 2:
            with socket.socket() as nobody:
                nobody.bind(("127.0.0.1", 0))
                require_answer(f"127.0.0.1:{nobody.getsockname()[1]}")
        if len(asked) == 4:
            watch.over.set()
        require_answer(address)

    require_answer = connection.require_answer
    monkeypatch.setattr(connection, "require_answer", sometimes)
    with caplog.at_level(logging.WARNING, "l2l_ray"):
        watch.run()
    assert (watch.problem, watch.is_gone, len(caplog.records)) == ("", False, 1)
