"""`l2l review`: what it refuses before it serves, in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from l2l_ray import cli
from l2l_ray.errors import ConfigError
from l2l_ray.review.journal import LOCK
from l2l_ray.review.server import listening, opening_page, own_addresses, own_port
from tests.browser import WAIT_S


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["review", *words, "--no-browser"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    return printed.err


def test_a_port_that_is_taken_is_named(reviewed_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listening(None) as other:
        port = other.getsockname()[1]
        assert other.getsockname()[0] == "127.0.0.1", "this machine alone"
        expected = f"port {port} of this machine is taken by another program; choose another --port, or leave it out"
        assert expected in said(capsys, str(reviewed_run), "--port", str(port))
        with listening(None, port) as another:
            assert another.getsockname()[1] != port, "a usual port may be taken"
    with listening(None, port) as again:
        assert again.getsockname()[1] == port
    with pytest.raises(ConfigError, match="port 70000 of this machine cannot be had"):
        listening(70000)


def test_a_run_and_reviewer_always_get_the_same_port(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    own = own_port(tmp_path / "run", "anna")
    assert own == own_port(tmp_path / "link", "anna") and 1024 < own < 32768
    assert len({own, own_port(tmp_path / "run", "ben"), own_port(tmp_path / "other", "anna")}) == 3


def test_a_folder_without_a_finished_run_is_refused(
    reviewed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "config.yaml" in said(capsys, str(tmp_path / "nothing"))
    (reviewed_run / "FINISHED").unlink()
    assert "is not finished, so its labels may still change; let it end" in said(capsys, str(reviewed_run))


@pytest.mark.parametrize("name", ["", " ", "x" * 81, "bell \a"])
def test_a_name_that_cannot_be_written_is_refused(
    reviewed_run: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert "--reviewer must be a name of 1 to 80 printable characters" in said(
        capsys, str(reviewed_run), "--reviewer", name
    )


def test_a_token_that_can_be_guessed_is_refused(
    reviewed_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("L2L_TOKEN", "1234")
    assert "L2L_TOKEN must have at least 16 printable ASCII characters" in said(capsys, str(reviewed_run))


def test_a_run_in_which_nothing_could_be_saved_is_refused_before_anybody_decides(
    reviewed_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (reviewed_run / LOCK).mkdir()
    assert f"no decision could be saved in {reviewed_run}: Is a directory" in said(capsys, str(reviewed_run))


def test_a_user_without_a_name_gives_one(
    reviewed_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_123)  # as a container's
    expected = "this user has no name on this machine; give yours with --reviewer NAME"
    assert expected in said(capsys, str(reviewed_run))


def test_the_token_is_in_no_words_that_a_browser_is_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "http://127.0.0.1:1/#token=0123456789abcdef"
    with opening_page(address) as page:
        assert "0123456789abcdef" not in page.as_uri() and f"url={address}" in page.read_text()
        assert page.stat().st_mode & 0o777 == 0o600 and page.parent.stat().st_mode & 0o777 == 0o700
    assert not page.parent.exists()
    with opening_page('http://127.0.0.1:1/#token=">&') as page:
        assert "#token=&quot;&gt;&amp;" in page.read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="open the address yourself"), opening_page(address):
        pass


def as_at_a_terminal() -> None:
    """Take signals, also where these tests run behind `nohup` or in a shell's background and ignore them."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def with_a_browser(run: Path, temporary: Path) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """Run `l2l review` as a person does, with a browser that does nothing; gives its address and the file for it."""
    temporary.mkdir()
    env = {**os.environ, "TMPDIR": str(temporary), "BROWSER": "true"}
    command = [sys.executable, "-m", "l2l_ray.cli", "review", str(run), "--reviewer", "anna"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, preexec_fn=as_at_a_terminal) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().split()[1]
            page = waited(lambda: next((p for p in temporary.glob("l2l-review-*/*") if p.stat().st_size), None))
            assert address in page.read_text()
            yield process, address, page
        finally:
            process.kill()


def waited(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda one: str(one)
)
def test_no_token_is_left_behind_and_none_lies_in_the_run(
    reviewed_run: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    (reviewed_run / "review-open.html").write_text("of an earlier version")
    with with_a_browser(reviewed_run, tmp_path / "temporary") as (process, _, page):
        assert not (reviewed_run / "review-open.html").exists()
        process.send_signal(number)
        assert process.wait(WAIT_S) == status and not page.parent.exists()


def test_the_file_with_the_token_goes_once_the_browser_has_had_it(reviewed_run: Path, tmp_path: Path) -> None:
    with with_a_browser(reviewed_run, tmp_path / "temporary") as (_, address, page):
        server, _, token = address.partition("/#token=")
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{server}/api/run", timeout=WAIT_S)
        urllib.request.urlopen(f"{server}/", timeout=WAIT_S).close()
        assert page.exists(), "whoever asks without the token has not had it"
        asked = urllib.request.Request(f"{server}/api/run", headers={"authorization": f"Bearer {token}"})
        urllib.request.urlopen(asked, timeout=WAIT_S).close()
        waited(lambda: not page.exists())


def test_browsers_leave_the_port_of_http_out() -> None:
    assert own_addresses(80) == {"http://127.0.0.1", "http://localhost"}
    assert own_addresses(8001) == {"http://127.0.0.1:8001", "http://localhost:8001"}
