"""A sweep of 2 x 2 short trials on two cores: ends, shares priors and burn-ins, gives a table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from l2l_ray.config import read_config, save_config
from l2l_ray.loop.state.run_folder import RunFolder
from tests.ray_runs import ROOT, WAIT_S
from tests.whole_run import changed, tiny_config


@pytest.fixture(scope="module")
def swept(ray_local: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run `jobs/sweep.py label_ratio`; its folder and what it printed."""
    root = tmp_path_factory.mktemp("sweep")
    config = changed(
        tiny_config(root),
        compare=(),
        data={"num_train_refs": 120},
        loop={"rounds": 1, "burn_in_steps": 2, "fold_steps": 2, "round_steps": 2},
        cluster={"threads_per_worker": 1, "start_timeout_s": WAIT_S},
    )
    save_config(config, root / "run.yaml")
    job = subprocess.run(
        [sys.executable, "jobs/sweep.py", "label_ratio", "--config", str(root / "run.yaml")],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": ray_local, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert job.returncode == 0, job.stdout + job.stderr
    return root / "sweep-label_ratio", job.stdout


def test_the_table_has_a_row_per_grid_point(swept: tuple[Path, str]) -> None:
    folder, output = swept
    table = pd.read_csv(folder / "sweep.csv")
    points = set(zip(table["data.labeled_frac"], table["selector.name"], strict=True))
    assert points == {(0.05, "supervised"), (0.05, "l2l"), (0.1, "supervised"), (0.1, "l2l")}
    assert table["val_mean_iou"].is_monotonic_decreasing and table["val_mean_iou"].between(0, 1).all()
    assert "2 trials at once" in output and "val_mean_iou" in output


def test_trials_asked_the_mllm_nothing(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    saved = [path for path in folder.glob("*/config.yaml") if not path.parent.name.startswith("priors-")]
    assert len(saved) == 4
    for path in saved:
        events = RunFolder(path.parent, read_config(path)).events()
        asked = [event["asked"] for event in events if event["event"] == "priors"]
        assert asked and not any(asked)


def test_trials_with_the_same_labels_share_a_burn_in(swept: tuple[Path, str]) -> None:
    folder, _ = swept
    assert len(list((folder.parent / "cache" / "burn_in").glob("[!.]*/base"))) == 2
