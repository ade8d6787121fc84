"""`l2l review`: what it refuses before it serves, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from l2l_ray import cli
from l2l_ray.errors import ConfigError
from l2l_ray.review.server import listening, opening_page, own_port


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


def test_the_token_is_in_no_words_that_a_browser_is_started_with(tmp_path: Path) -> None:
    address = "http://127.0.0.1:1/#token=0123456789abcdef"
    with opening_page(tmp_path, address) as page:
        assert "0123456789abcdef" not in page.as_uri() and f"url={address}" in page.read_text()
        assert page.stat().st_mode & 0o777 == 0o600
    assert not page.exists()
    with opening_page(tmp_path, 'http://127.0.0.1:1/#token=">&') as page:
        assert "#token=&quot;&gt;&amp;" in page.read_text()
    (tmp_path / "a file").touch()
    with pytest.raises(ConfigError, match="open the address yourself"), opening_page(tmp_path / "a file", address):
        pass
