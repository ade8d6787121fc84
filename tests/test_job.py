"""How jobs end: a status, and one line for what went wrong."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l2l_ray.errors import ConfigError
from l2l_ray.job import STOPPED, run_job, say

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (ConfigError("loop.rounds is 0;\nraise it"), 1, "sweep: loop.rounds is 0; raise it\n"),
        (PermissionError(13, "Permission denied", "/a"), 1, "sweep: /a cannot be read or written: Permission denied; "),
        (ModuleNotFoundError(name="ray"), 1, "sweep: ray is not installed; `pip install '.[ray]'` brings it, or less"),
        (KeyboardInterrupt(), STOPPED, "\nstopped; all stays\n"),
    ],
)
def test_what_is_raised_on_purpose_is_one_line_and_a_status(
    raised: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def act() -> int:
        raise raised

    assert run_job("sweep", act, "all stays", ", or less") == status
    assert capsys.readouterr().err.startswith(said)


@pytest.fixture
def terminal() -> Iterator[None]:
    """Signals are taken as at a terminal, also where these tests run behind `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_the_end_of_a_terminal_end_a_job_as_ctrl_c_does(
    capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def act() -> None:
        os.kill(os.getpid(), number)
        time.sleep(60.0)

    before = signal.getsignal(number)
    assert run_job("sweep", act, "all stays") == STOPPED
    assert capsys.readouterr().err == "\nstopped; all stays\n" and signal.getsignal(number) is before


@pytest.mark.usefixtures("terminal")
def test_behind_nohup_the_end_of_a_terminal_ends_nothing() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert run_job("serve", lambda: os.kill(os.getpid(), signal.SIGHUP), "all stays") == 0


# A job that is told twice of the end of its terminal, as the system and a shell do, and still has to release something.
AT_A_TERMINAL = """
import os, signal, sys, time
from pathlib import Path
from l2l_ray.job import run_job, say, signals_as_ctrl_c
def act():
    try:
        with signals_as_ctrl_c():
            say("works")
            time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.SIGHUP)
        say("ends when the requests in work are answered")
        Path(sys.argv[1]).write_text("released")
sys.exit(run_job("serve", act, "all stays"))
"""


def _takes_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_job_whose_terminal_is_closed_releases_what_it_holds(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    command = [sys.executable, "-c", AT_A_TERMINAL, str(tmp_path / "out")]
    options: Any = {"stdin": its, "stdout": its, "stderr": its, "start_new_session": True}
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=_takes_its_terminal, **options) as job:
        try:
            os.close(its)
            assert os.read(ours, 100).startswith(b"works")
            os.close(ours)
            job.wait(60.0)
        finally:
            job.kill()
    assert (tmp_path / "out").read_text() == "released"


def test_other_errors_are_raised_and_a_status_is_kept() -> None:
    def lacks() -> None:
        raise ModuleNotFoundError(name="l2l_ray.nothing")

    with pytest.raises(ModuleNotFoundError):
        run_job("sweep", lacks, "")
    assert (run_job("sweep", lambda: None, ""), run_job("sweep", lambda: 7, "")) == (0, 7)


def test_a_line_is_behind_the_pipe_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        say("done")
        assert (tmp_path / "out").read_text() == "done\n"
