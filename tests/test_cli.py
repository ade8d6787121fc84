"""The command line: what it prints, what it returns, and that mistakes answer in one line."""

from __future__ import annotations

import errno
import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from l2l_ray import __version__, cli
from l2l_ray.config import PRESETS, RunConfig, config_fields, load_config, save_config
from l2l_ray.errors import one_line
from l2l_ray.refshapes.synthetic import write_refshapes


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"l2l {name}" in printed for name in cli.COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_no_command_prints_the_commands_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    output = capsys.readouterr()
    assert "l2l run" in output.err
    assert output.out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prdict"], "l2l: there is no command 'prdict'; did you mean predict? expected one of label, "),
        (["data", "statz"], "l2l data: there is no command 'statz'; did you mean stats? expected one of import, "),
        (["xyz"], "l2l: there is no command 'xyz'; expected one of label, "),
    ],
)
def test_an_unknown_command_is_one_line_with_the_one_that_is_meant(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(said) and error.count("\n") == 1


@pytest.mark.parametrize("status", ["0 fine", "1 something", "2 the command", "130 stopped", "141 whoever"])
def test_help_names_the_exit_statuses(status: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    assert status in capsys.readouterr().out


def test_help_of_a_run_shows_first_what_people_need_and_all_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "--help"])
    first = capsys.readouterr().out
    assert ended.value.code == 0 and first.startswith("usage: l2l run ")
    assert all(f"  --{option}" in first for option in ("preset", "config", "data.root", "resume", "loop.rounds"))
    assert first.count("\n  --") <= 14 and all(name in first for name in PRESETS)
    with pytest.raises(SystemExit):
        cli.main(["run", "--help-all"])
    everything = capsys.readouterr().out
    assert everything.startswith("usage: l2l run ")
    assert [f.path for f in config_fields(RunConfig) if f"--{f.path}" not in everything] == []


def test_a_path_that_the_system_refuses_is_one_line_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    write_refshapes(data, "refshapes", 0, 8, 4)
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "sheet.png"
    assert cli.main(["data", "stats", str(data / "refshapes"), "--sheet", str(place)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"l2l data: {str(place)!r} cannot be written: ") and error.count("\n") == 1


def test_an_error_of_the_system_that_nobody_put_into_words_names_its_file() -> None:
    said = one_line(FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/b"))
    assert said == (
        "/a/b cannot be read or written: No such file or directory; check the path, its permissions and the free space"
    )


@pytest.mark.parametrize("job", ["selfevolve.py", "sweep.py"])
def test_jobs_name_a_mistake_in_one_line_too(job: str) -> None:
    words = [*(["label_ratio"] if job == "sweep.py" else []), "--preset", "huge"]
    command = [sys.executable, str(Path(cli.__file__).parents[1] / "jobs" / job), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{job.partition('.')[0]}: --preset must be one of ")


def test_output_that_nobody_reads_ends_quietly() -> None:
    command = f"{shlex.quote(sys.executable)} -m l2l_ray.cli config | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == (str(cli.PIPE_CLOSED), "")


def test_a_report_is_not_written_into_a_folder_that_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("it has no config.yaml; give the folder that a run printed\n")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    words = ["run", "--preset", "smoke", "--run_root", str(tmp_path / "my runs"), "--name", "stopped"]
    job = subprocess.Popen(
        [sys.executable, "-m", "l2l_ray.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == f"run folder {tmp_path / 'my runs' / 'stopped'}\n"
    job.send_signal(signal.SIGINT)
    _, error = job.communicate(timeout=120)
    assert job.returncode == cli.STOPPED
    assert error == f"\nstopped; continue with: l2l {shlex.join([*words, '--resume'])}\n"


def test_config_prints_what_the_words_mean(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--preset", "smoke", "--selector.reward.unlabeled", "0.2"]
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


def test_predicting_with_an_unfinished_run_says_what_to_do_and_leaves_no_folder(
    smoke: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_config(smoke, tmp_path / "config.yaml")
    photo, out = tmp_path / "a.png", tmp_path / "out"
    Image.new("RGB", (8, 8)).save(photo)
    assert cli.main(["predict", str(photo), "left man", "--run", str(tmp_path), "--out", str(out)]) == 1
    assert "has chosen no version yet" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--out", "."], "holds the photos; its masks would be taken for photos"),
     (["--images", "photos"], "--images is the folder of a table's photos; a.png is no table")],
)  # fmt: skip
def test_masks_are_not_put_among_the_photos_and_one_photo_has_no_folder_of_photos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    with pytest.raises(SystemExit):
        cli.main(["predict", "a.png", "left man", "--run", "run", *more])
    assert message in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_runs_are_listed_as_text_and_as_json(
    smoke: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    save_config(smoke, tmp_path / "mine" / "config.yaml")
    assert cli.main(["runs", "--run_root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "mine  stopped at 0 %" in printed and printed.endswith(f"1 run in {tmp_path}\n")
    assert cli.main(["runs", "--run_root", str(tmp_path), "--json"]) == 0
    assert [run["name"] for run in json.loads(capsys.readouterr().out)["runs"]] == ["mine"]
    assert cli.main(["runs", "--run_root", str(tmp_path / "gone")]) == 1
    assert capsys.readouterr().err.startswith("l2l runs: there is no run root ")


def test_report_writes_the_page_of_a_run_folder(
    smoke: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_config(smoke, tmp_path / "config.yaml")
    assert cli.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == f"report: {tmp_path / 'report.html'}"
    assert (tmp_path / "report.html").stat().st_size > 0


def test_an_example_can_be_drawn_and_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["example", str(tmp_path / "photos"), "--num", "2", "--masks", "1"]) == 0
    assert capsys.readouterr().out.endswith("photos: 2 photos with texts, 1 of them with a mask\n")
    assert cli.main(["example", str(tmp_path / "photos")]) == 1
    assert "is not empty; name a new folder" in capsys.readouterr().err
