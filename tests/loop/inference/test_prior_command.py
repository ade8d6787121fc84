"""`l2l prior check` on the shipped model, by the real command."""

from __future__ import annotations

from pathlib import Path

import pytest

from l2l_ray import cli

ROOT = Path(__file__).parents[3]
WORDS = ["prior", "check", "--preset", "smoke", "--data.labeled_frac", "1", "--num", "30"]


def test_the_shipped_model_is_fit_for_its_own_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*WORDS, "--run_root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        'embedded, asked in the format qwen-relative: Locate "{expression}". Report bbox_2d and label in JSON format.',
        "30 labeled images of refshapes, one text each",
    ]
    assert float(lines[2].split(": ")[1].split(",")[0]) > 0.3
    assert lines[-2] == "image tokens of a photo: 64 (64 to 64)"
    assert not list(tmp_path.glob("*/config.yaml"))  # no run is begun
    # Told that it answers in pixels, the same model is found out.
    assert cli.main([*WORDS, "--run_root", str(tmp_path), "--prior.coordinates", "pixels"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("a run would stop: the language model answers in another unit than expected: read as pixels")
    assert last.endswith("begin again, under another --name, with --prior.coordinates thousandths")


@pytest.mark.parametrize(("words", "status"), [(["prior"], 2), (["prior", "--help"], 0), (["prior", "zzz"], 2)])
def test_other_words_say_what_there_is(words: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == status
    output = capsys.readouterr()
    assert "l2l prior" in output.out + output.err and "check" in output.out + output.err


def test_the_document_shows_what_the_command_printed() -> None:
    printed = (ROOT / "benchmarks" / "results" / "prior_check.txt").read_text()
    assert printed in (ROOT / "docs" / "priors.md").read_text()
