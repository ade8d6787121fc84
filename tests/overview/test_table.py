"""A list of runs as a table and as JSON."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from l2l_ray.overview.listing import Figure, ListedRun
from l2l_ray.overview.table import runs_json, runs_text, size_text

ROOT = Path("/runs")
RUN = ListedRun(
    "photos", ROOT / "photos", "finished", 1.7e9, 3_141_592, 1.0, "", "", "mine", 0.05, ("supervised", "l2l"),
    Figure("val", 0.395, 0.372, 0.418),
)  # fmt: skip


def named(name: str, **fields: object) -> ListedRun:
    return replace(RUN, name=name, path=ROOT / name, **fields)  # type: ignore[arg-type]


def test_one_line_says_state_data_method_figure_and_size() -> None:
    head, line, end = runs_text([RUN], ROOT, opened=False).splitlines()
    assert head.split() == "run state data method mean IoU, % size last change".split()
    assert line.startswith("photos  finished  mine 5 %  l2l and 1 more  39.5 (37.2 to 41.8) val  3.1 MB  2023-11-1")
    assert end == "1 run in /runs"


def test_an_unfinished_run_says_how_far_and_how_it_goes_on() -> None:
    run = named("photos", state="stopped", done=0.694, detail="in l2l round 1", go_on="l2l run --resume")
    run = replace(run, figure=Figure("val", 0.3, version=1), labeled_frac=None)
    lines = runs_text([run], ROOT, opened=False).splitlines()
    assert "stopped at 69 %  mine  l2l and 1 more  30.0 val, version 1 so far" in lines[1]
    assert lines[2:4] == ["    in l2l round 1", "    go on: l2l run --resume"]


def test_what_is_not_known_is_a_dash() -> None:
    run = ListedRun("x", ROOT / "x", "damaged", 0.0, 0, detail="config.yaml is absent")
    _, line, note, _ = runs_text([run], ROOT, opened=False).splitlines()
    assert line.split() == ["x", "damaged", "–", "–", "–", "0", "B", "–"] and note == "    config.yaml is absent"


def test_folders_of_runs_are_one_line_until_they_are_opened() -> None:
    runs = [
        named("a"),
        named("sweep/1", state="stopped", done=0.5, go_on="python jobs/sweep.py x --resume"),
        named("sweep/2", dataset="other"),
        named("alone/1"),
    ]
    lines = runs_text(runs, ROOT, opened=False).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["a", "sweep/", "", "alone/1", lines[-1]]
    assert "2 runs: 1 stopped, 1 finished" in lines[2] and "mine 5 %, other 5 %" in lines[2] and "6.3 MB" in lines[2]
    assert lines[3] == "    go on: python jobs/sweep.py x --resume"
    assert lines[-1] == "4 runs in /runs; 2 in 1 folder are one line each; --all lists them one by one"
    opened = runs_text(runs, ROOT, opened=True)
    assert all(run.name in opened for run in runs) and opened.endswith("4 runs in /runs")


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_a_folder_goes_on_by_one_command_and_only_while_nobody_works_in_it(state: str) -> None:
    runs = [named("s/1", state=state, go_on="one"), named("s/2", state="stopped", go_on="one")]
    assert ("go on: one" in runs_text(runs, ROOT, opened=False)) == (state == "stopped")
    runs[1] = replace(runs[1], go_on="another")
    assert "go on" not in runs_text(runs, ROOT, opened=False)


def test_names_cannot_move_the_cursor() -> None:
    text = runs_text([named("red\x1b[31m\nline", detail="\r")], ROOT, opened=False)
    assert "red\\x1b[31m\\nline" in text and text.count("\n") == 3 and "\x1b" not in text and "\r" not in text


def test_no_runs_say_how_to_begin_one() -> None:
    assert runs_text([], ROOT, opened=False) == "there are no runs in /runs; `l2l run` or `l2l label` begins one"


def test_json_holds_every_run_and_field() -> None:
    found = json.loads(runs_json([named("sweep/1"), ListedRun("x", ROOT / "x", "damaged", 0.0, 0)], ROOT))
    assert found["run_root"] == "/runs"
    first, second = found["runs"]
    assert (first["group"], first["path"], first["methods"]) == ("sweep", "/runs/sweep/1", ["supervised", "l2l"])
    assert first["figure"] == {"split": "val", "mean_iou": 0.395, "low": 0.372, "high": 0.418, "version": None}
    assert second["figure"] is None and second["state"] == "damaged"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (1_234_567_890, "1.2 GB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_sizes(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text
