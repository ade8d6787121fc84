"""The command line: what it prints, what it returns, and that mistakes answer in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from l2l_ray import __version__, cli
from l2l_ray.config import RunConfig, load_config, save_config


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"l2l {name}" in printed for name in cli.COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("words", [[], ["nonsense"]])
def test_wrong_usage_prints_the_commands_to_stderr(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    output = capsys.readouterr()
    assert "l2l run" in output.err
    assert output.out == ""


def test_config_prints_what_the_words_mean(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--preset", "smoke", "--selector.reward.coverage", "0.2"]
    assert cli.main(["config", *words]) == 0
    assert RunConfig.model_validate(yaml.safe_load(capsys.readouterr().out)) == load_config(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--loop.rounds", "0"], "l2l run: loop.rounds: Input should be greater"),
        (["config", "--loop.sed", "3"], "l2l config: command line: "),
        (["report", "nowhere"], "l2l report: no run folder at nowhere"),
        (
            ["predict", "a.png", "left man", "--run", "nowhere"],
            "l2l predict: config file nowhere/config.yaml cannot be",
        ),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_one(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_predicting_with_an_unfinished_run_says_what_to_do(
    smoke: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_config(smoke, tmp_path / "config.yaml")
    assert cli.main(["predict", "a.png", "left man", "--run", str(tmp_path)]) == 1
    assert "has chosen no version yet" in capsys.readouterr().err


def test_report_writes_the_page_of_a_run_folder(
    smoke: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_config(smoke, tmp_path / "config.yaml")
    assert cli.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == f"report: {tmp_path / 'report.html'}"
    assert (tmp_path / "report.html").stat().st_size > 0
