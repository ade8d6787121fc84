"""The files at a sweep's end, from trials' folders as runs leave them."""

from __future__ import annotations

import html
import shlex
from typing import Any

import pandas as pd
import pytest

from l2l_ray.config import RunConfig, load_config
from l2l_ray.sweep.folder import SweepFolder
from l2l_ray.sweep.results import write_results
from l2l_ray.sweep.space import Grid
from l2l_ray.sweep.trials import Trial, trials_of
from tests.sweep_trials import leave_trial


@pytest.fixture
def swept(smoke: RunConfig) -> tuple[SweepFolder, list[Trial]]:
    """Give a sweep in which l2l is best, one trial was stopped, one failed and one waits."""
    space = {"data.labeled_frac": Grid((0.2, None)), "selector.name": Grid(("supervised", "l2l"))}
    trials = trials_of(smoke, space, "s", [0, 1])
    leave_trial(trials[0], 0.30, 0.20)
    leave_trial(trials[1], 0.30, 0.24)
    leave_trial(trials[4], 0.31, 0.40)
    leave_trial(trials[5], 0.31, 0.50)
    leave_trial(trials[2], 0.9, finished=False)
    folder = SweepFolder(smoke.root / "s")
    folder.log("stopped", trials[2].id, version=1, seconds=4.5)
    folder.log("failed", trials[3].id, reason="no room")
    return folder, trials


def test_the_table_has_a_row_per_trial_with_fields_figures_and_state(swept: tuple[SweepFolder, list[Trial]]) -> None:
    folder, trials = swept
    write_results(folder, trials)
    for table in (pd.read_csv(folder.path / "sweep.csv"), pd.read_parquet(folder.path / "sweep.parquet")):
        assert table["trial"].tolist() == [trial.id for trial in trials]
        assert table["state"].tolist()[:6] == ["finished"] * 2 + ["stopped at version 1", "failed"] + ["finished"] * 2
        first, stopped, failed = table.iloc[0], table.iloc[2], table.iloc[3]
        assert (first["version"], first["val_mean_iou"], first["val_mean_iou_v1"]) == (2, 0.20, 0.30)
        assert (first["chosen_version"], first["testA_mean_iou"], first["testA_overall_iou"]) == (1, 0.3, 0.2)
        assert (stopped["version"], stopped["val_mean_iou"], stopped["seconds"]) == (1, 0.9, 4.5)
        assert pd.isna(stopped["val_mean_iou_v2"]) and pd.isna(stopped["testA_mean_iou"])
        assert failed["reason"] == "no room" and pd.isna(failed["val_mean_iou"])


def test_the_best_point_is_that_of_finished_trials_at_their_last_version(
    swept: tuple[SweepFolder, list[Trial]],
) -> None:
    folder, trials = swept
    found = write_results(folder, trials)
    assert found.best == trials[4]  # l2l at 0.2: (0.40 + 0.50) / 2; the stopped one's 0.9 is of version 1
    assert [(trial.id, reason) for trial, reason in found.failed] == [(trials[3].id, "no room")]


def test_the_command_that_runs_the_best_can_be_pasted(smoke: RunConfig) -> None:
    trials = trials_of(smoke, {"loop.lr": Grid((0.1, 0.2))}, "my sweep")
    for trial in trials:
        leave_trial(trial, 0.2, 0.3)
    folder = SweepFolder(smoke.root / "my sweep")
    found = write_results(folder, trials)
    words = ["python", "jobs/selfevolve.py", "--config", str(folder.path / "best.yaml")]
    assert shlex.split(found.command) == words
    assert html.escape(found.command) in (folder.path / "sweep.html").read_text().replace("&#34;", "&quot;").replace(
        "&#39;", "&#x27;"
    )


def test_the_best_config_starts_as_it_is(swept: tuple[SweepFolder, list[Trial]]) -> None:
    folder, trials = swept
    write_results(folder, trials)
    config = load_config(["--config", str(folder.path / "best.yaml")], "job")
    assert config == trials[4].config.model_copy(update={"name": "s-best"})


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("selector.num_folds", (2, 3)), ("data.labeled_frac", (0.5, None)), ("selector.gate", (False, True)),
        ("selector.lr", (0.5, 1)),
    ],
)  # fmt: skip
def test_the_best_point_is_found_whatever_its_value_is(smoke: RunConfig, field: str, values: tuple[Any, ...]) -> None:
    trials = trials_of(smoke, {field: Grid(values)}, "s")
    leave_trial(trials[0], 0.2, 0.3)
    leave_trial(trials[1], 0.2, 0.4)
    assert write_results(SweepFolder(smoke.root / "s"), trials).best == trials[1]


def test_without_a_finished_trial_there_is_no_best_config(smoke: RunConfig) -> None:
    trials = trials_of(smoke, {"selector.name": Grid(("supervised", "l2l"))}, "s")
    folder = SweepFolder(smoke.root / "s")
    folder.path.mkdir(parents=True)
    (folder.path / "best.yaml").write_text("of an earlier time")
    found = write_results(folder, trials)
    assert found.best is None and not (folder.path / "best.yaml").exists()
    assert "nothing to compare" in (folder.path / "sweep.html").read_text()
    assert found.trials["state"].tolist() == ["waiting", "waiting"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"rows": null}', '{"rows": [1]}', '{"rows": [{"method": "l2l"}]}']
)
def test_a_trial_whose_results_are_damaged_failed_and_the_others_stay(
    swept: tuple[SweepFolder, list[Trial]], content: str
) -> None:
    folder, trials = swept
    (trials[4].config.run_dir / "results.json").write_text(content)
    found = write_results(folder, trials)
    assert {path.name for path in folder.path.glob("*.*")} >= {"sweep.csv", "sweep.parquet", "sweep.html", "best.yaml"}
    assert [trial for trial, _ in found.failed] == [trials[3], trials[4]]
    assert "results.json cannot be read: " in found.failed[1][1] and "start again with --resume" in found.failed[1][1]
    assert trials[4] in folder.open_trials(trials)
    assert found.best == trials[0], "of the better point one seed is left, and one is not compared with two"


def test_a_figure_that_is_lost_is_not_replaced_by_an_earlier_one(swept: tuple[SweepFolder, list[Trial]]) -> None:
    folder, trials = swept
    (trials[4].config.run_dir / "evals" / "l2l-v0002" / "val.parquet").unlink()
    found = write_results(folder, trials)
    assert [trial for trial, _ in found.failed] == [trials[3], trials[4]]
    assert "is finished, but version 2 has no file of its figures on val" in found.failed[1][1]
    assert found.best == trials[0] and found.points.iloc[0]["seeds"] == 2


def test_nothing_is_ranked_by_the_runs_log(swept: tuple[SweepFolder, list[Trial]]) -> None:
    folder, trials = swept
    before = write_results(folder, trials).trials
    for trial, log in zip((trials[0], trials[1], trials[4]), (b"", b"{}\n", b"\xff\n"), strict=True):
        (trial.config.run_dir / "metrics.jsonl").write_bytes(log)
    pd.testing.assert_frame_equal(write_results(folder, trials).trials, before)
