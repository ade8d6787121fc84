"""The files at a sweep's end, from trials' folders as runs leave them."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest

from l2l_ray.config import RunConfig, load_config
from l2l_ray.errors import DataError
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.sweep.folder import SweepFolder
from l2l_ray.sweep.results import write_results
from l2l_ray.sweep.space import Grid
from l2l_ray.sweep.trials import Trial, trials_of


def _run(trial: Trial, *figures: float, finished: bool = True) -> None:
    """Leave what a run leaves: val's mean IoU of version 1, 2, ..."""
    run, method = RunFolder(trial.config.run_dir, trial.config).create(), trial.config.selector.name
    for version, figure in enumerate(figures, start=1):
        event = {"event": "evaluation", "method": method, "version": version, "split": "val"}
        run.log_event({**event, "mean_iou": figure, "overall_iou": figure / 2})
    if finished:
        splits = {"val": {"mean_iou": max(figures), "overall_iou": 0.1}, "testA": {"mean_iou": 0.3, "overall_iou": 0.2}}
        row = {"method": method, "version": figures.index(max(figures)) + 1, "splits": splits}
        (run.path / "results.json").write_text(json.dumps({"rows": [{"method": "prior_only"}, row]}))
        run.mark_finished()


@pytest.fixture
def swept(smoke: RunConfig) -> tuple[SweepFolder, list[Trial]]:
    """Give a sweep in which l2l is best, one trial was stopped, one failed and one waits."""
    space = {"data.labeled_frac": Grid((0.2, None)), "selector.name": Grid(("supervised", "l2l"))}
    trials = trials_of(smoke, space, "s", [0, 1])
    _run(trials[0], 0.30, 0.20)
    _run(trials[1], 0.30, 0.24)
    _run(trials[4], 0.31, 0.40)
    _run(trials[5], 0.31, 0.50)
    _run(trials[2], 0.9, finished=False)
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
    _run(trials[0], 0.2, 0.3)
    _run(trials[1], 0.2, 0.4)
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


def test_a_finished_run_whose_figures_are_gone_is_named(swept: tuple[SweepFolder, list[Trial]]) -> None:
    folder, trials = swept
    (trials[0].config.run_dir / "results.json").unlink()
    with pytest.raises(DataError, match=rf"{trials[0].id} is finished, but its results.json cannot be read .*--resume"):
        write_results(folder, trials)
