"""Where results go: tried before anything is measured, written whole, and errors in one line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.command import add_out, at_least_one, read_results, run_main, write_results
from l2l_ray.errors import DataError


def parser(default: Path) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_out(made, default)
    made.add_argument("--repeats", type=at_least_one, default=3)
    return made


def test_the_folder_of_results_is_made_first_and_what_lies_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "x.json"
    assert parser(tmp_path / "x.json").parse_args(["--out", str(out)]).out == out
    assert list(out.parent.iterdir()) == []
    write_results(out, {"a": 1})
    assert parser(out).parse_args([]).out == out and read_results(out) == {"a": 1}


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for place, why in (("file/x.json", "cannot be written"), (".", "it is a folder")):
        with pytest.raises(SystemExit):
            parser(tmp_path / "x.json").parse_args(["--out", str(tmp_path / place)])
        assert why in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parser(tmp_path / "file" / "x.json").parse_args([])
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "two"])
def test_a_number_below_one_is_refused(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser(tmp_path / "x.json").parse_args(["--repeats", text])
    assert f"got {text!r}; expected a whole number of at least 1" in capsys.readouterr().err


def test_a_kill_during_writing_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.json"
    write_results(out, {"a": 1})
    before = out.read_text()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_results(out, {"a": 2})
    assert out.read_text() == before and json.loads(before) == {"a": 1}


@pytest.mark.parametrize("text", ['{"a": [1,', "[1]", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    out = tmp_path / "x.json"
    assert read_results(out) == {}
    out.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="x.json is no file of results: .*; expected JSON .* give another --out"):
        read_results(out)


def test_an_error_for_people_is_one_line() -> None:
    def fails() -> None:
        raise DataError("no\n  such thing")

    with pytest.raises(SystemExit) as ended:
        run_main(fails)
    assert ended.value.code == "no such thing"
    for status, code in ((None, 0), (3, 3)):
        with pytest.raises(SystemExit) as ended:
            run_main(lambda status=status: status)
        assert ended.value.code == code
