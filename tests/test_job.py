"""How jobs end: a status, and one line for what went wrong."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from l2l_ray.errors import ConfigError
from l2l_ray.job import STOPPED, run_job, say


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


def test_sigterm_ends_a_job_as_ctrl_c_does(capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60.0)

    before = signal.getsignal(signal.SIGTERM)
    assert run_job("sweep", act, "all stays") == STOPPED
    assert capsys.readouterr().err == "\nstopped; all stays\n" and signal.getsignal(signal.SIGTERM) is before


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
