"""A trial's figures, from the files that its run keeps."""

from __future__ import annotations

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.errors import DataError
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.sweep.figures import chosen_figures, val_figures
from l2l_ray.sweep.space import Grid
from l2l_ray.sweep.trials import trials_of
from tests.sweep_trials import leave_trial, measure


def test_val_is_read_by_version_from_the_files_of_the_evaluations(smoke: RunConfig) -> None:
    run = RunFolder(smoke.run_dir, smoke).create()
    assert val_figures(run) == {}
    for version, split, method in [(0, "val", "l2l"), (2, "val", "l2l"), (1, "val", "l2l"), (1, "testA", "l2l"),
                                   (1, "val", "prior_only")]:  # fmt: skip
        measure(run, version, version / 10, split, method)
    (run.path / "metrics.jsonl").unlink()
    assert val_figures(run) == {v: {"mean_iou": v / 10, "overall_iou": v / 10} for v in (1, 2)}
    assert list(val_figures(run, after=1)) == [2]
    (run.path / "evals" / "l2l-v0001" / "val.parquet").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"val.parquet cannot be read: .*start again with --resume"):
        val_figures(run)


def test_the_chosen_version_comes_with_the_other_splits(smoke: RunConfig) -> None:
    trial, _ = trials_of(smoke, {"selector.name": Grid(("l2l", "supervised"))}, "s")
    run = leave_trial(trial, 0.4, 0.2)
    assert chosen_figures(run) == {"chosen_version": 1, "testA_mean_iou": 0.3, "testA_overall_iou": 0.2}
    (run.path / "results.json").unlink()
    with pytest.raises(DataError, match="results.json cannot be read: FileNotFoundError"):
        chosen_figures(run)
