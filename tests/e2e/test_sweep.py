"""A sweep with --asha in which every kind of end happens: finished before, stopped, failed.

One trial is found finished, with figures no other can reach, so a rival is behind after version 1; the place of one
trial is taken by a file, so it cannot start; and the process of one dies whenever it is tried.
"""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from l2l_ray.actors.cluster import actor_options, end_in_order, start_actor, wait_ready
from l2l_ray.config import read_config
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.sweep.folder import SweepFolder
from l2l_ray.sweep.trials import Trial
from tests.ray_runs import ROOT, WAIT_S, Holder, wait_for
from tests.sweep_runs import expected_trials, sweep_env, sweep_words
from tests.sweep_trials import leave_trial

pytestmark = pytest.mark.slow

NAMES = ("supervised", "accept_all", "fixed_threshold", "tests.dying_selector:dies")


@pytest.fixture(scope="module")
def swept(
    ray_local: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Trial], subprocess.CompletedProcess[str]]:
    """Run the sweep; its trials in the order of `NAMES`, and how it ended."""
    root = tmp_path_factory.mktemp("sweep")
    done, _, failing, _ = trials = expected_trials(root, NAMES)
    folder = SweepFolder(root / "sweep-mine")
    with folder.begun(trials, [], resume=False):
        folder.log("started", done.id)
    leave_trial(done, 0.99, 0.99)
    failing.config.run_dir.write_text("in the way")
    words = sweep_words(root, NAMES, "--asha", "--resume")
    job = subprocess.run(words, cwd=ROOT, env=sweep_env(ray_local), capture_output=True, text=True, timeout=WAIT_S)
    return trials, job


def _table(trials: list[Trial]) -> pd.DataFrame:
    return pd.read_parquet(trials[0].config.run_dir.parent / "sweep.parquet").set_index("trial")


def test_a_finished_trial_is_read_and_not_run_again(
    swept: tuple[list[Trial], subprocess.CompletedProcess[str]],
) -> None:
    (done, *_), _ = swept
    row = _table(swept[0]).loc[done.id]
    assert (row["state"], row["val_mean_iou"], row["testA_mean_iou"], row["chosen_version"]) == (
        "finished",
        0.99,
        0.3,
        1,
    )
    events = SweepFolder(done.config.run_dir.parent).events()
    assert [event["event"] for event in events if event["trial"] == done.id] == ["started"]


def test_a_trial_behind_its_rivals_is_stopped_at_that_version_and_keeps_its_figure(
    swept: tuple[list[Trial], subprocess.CompletedProcess[str]],
) -> None:
    (_, behind, *_), job = swept
    row = _table(swept[0]).loc[behind.id]
    assert row["state"] == "stopped at version 1" and row["version"] == 1 and 0 <= row["val_mean_iou"] < 0.99
    run = RunFolder(behind.config.run_dir, behind.config)
    assert run.published("accept_all") == {0, 1} and not run.finished
    assert f"{behind.id} (selector=accept_all seed=0): stopped at version 1" in job.stdout


def test_a_failed_trial_is_named_with_its_reason_and_the_exit_status_says_so(
    swept: tuple[list[Trial], subprocess.CompletedProcess[str]],
) -> None:
    (_, _, failing, _), job = swept
    assert job.returncode == 1, job.stdout + job.stderr
    said, _ = [line for line in job.stderr.splitlines() if line.startswith("sweep: trial")]
    assert said.startswith(f"sweep: trial {failing.id} (selector=fixed_threshold seed=0) failed: cannot start a run in")
    assert "is a file" in said
    row = _table(swept[0]).loc[failing.id]
    assert row["state"] == "failed" and row["reason"] in said and pd.isna(row["val_mean_iou"])


def test_a_trial_whose_process_dies_is_tried_again_once_and_named(
    swept: tuple[list[Trial], subprocess.CompletedProcess[str]],
) -> None:
    (*_, dying), job = swept
    events = SweepFolder(dying.config.run_dir.parent).events()
    assert [event["event"] for event in events if event["trial"] == dying.id] == ["started", "started", "failed"]
    _, said = [line for line in job.stderr.splitlines() if line.startswith("sweep: trial")]
    said, _, details = said.partition("; details in ")
    assert said.endswith("dies seed=0) failed: its process died each of 2 times, perhaps for want of memory")
    assert "worker process has died" in Path(details.partition(";")[0]).read_text()


def test_the_terminal_shows_the_sweeps_own_words_and_no_traceback(
    swept: tuple[list[Trial], subprocess.CompletedProcess[str]],
) -> None:
    _, job = swept
    words = ("Traceback", " ERROR ", "WARNING", "Tune", "ray::")  # that a worker died, the cluster itself says
    assert not [word for word in words if word in job.stdout + job.stderr], job.stdout + job.stderr
    assert "4 trials: 1 ended before, 3 to run, 2 at once" in job.stdout


def test_the_best_config_is_the_best_trials_but_for_its_name(
    swept: tuple[list[Trial], subprocess.CompletedProcess[str]],
) -> None:
    (done, *_), _ = swept
    best = read_config(done.config.run_dir.parent / "best.yaml")
    assert best == done.config.model_copy(update={"name": "sweep-mine-best"})


def test_trials_asked_the_mllm_nothing(swept: tuple[list[Trial], subprocess.CompletedProcess[str]]) -> None:
    (_, behind, *_), _ = swept
    asked = [e["asked"] for e in RunFolder(behind.config.run_dir, behind.config).events() if e["event"] == "priors"]
    assert asked and not any(asked)


def test_the_page_needs_nothing_but_itself(swept: tuple[list[Trial], subprocess.CompletedProcess[str]]) -> None:
    (done, *_), _ = swept
    page = (Path(done.config.run_dir).parent / "sweep.html").read_text()
    assert "stopped at version 1" in page and "Failed trials" in page
    assert "http" not in page and "<script" not in page


def test_a_trial_whose_folder_is_another_one_on_its_node_is_no_success(ray_local: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "sweep-mine").symlink_to("/proc/self/cwd")  # of whoever looks: job and trials see different folders
    words = sweep_words(tmp_path, ("supervised",))
    words[1] = str(ROOT / words[1])
    job = subprocess.run(words, cwd=here, env=sweep_env(ray_local), capture_output=True, text=True, timeout=WAIT_S)
    assert job.returncode == 1, job.stdout + job.stderr
    assert "finished, val mean IoU" in job.stdout, job.stdout + job.stderr
    said = f"sweep: 1 trial ended without a result in {tmp_path / 'sweep-mine'} here: "
    assert job.stderr.splitlines()[-1].startswith(said)
    assert (here / "sweep.csv").exists()


def test_a_sweep_waits_its_turn_for_the_language_model_and_for_its_first_trial(ray_local: str, tmp_path: Path) -> None:
    (trial,) = expected_trials(tmp_path, ("supervised",))
    trial.config.run_dir.parent.mkdir()
    trial.config.run_dir.write_text("in the way")  # it fails at once
    names = {"prior-0": {"prior_gpu": 1.0}, "labeler-0": {"CPU": 2.0}}
    holders = {name: start_actor(Holder, actor_options(name, "l2l-other-1a2b", held)) for name, held in names.items()}
    wait_ready("holder", list(holders.values()), WAIT_S)
    words, written = sweep_words(tmp_path, ("supervised",)), tmp_path / "written"

    def is_written(line: str) -> bool:
        return line in written.read_text()

    with (
        written.open("w") as file,
        subprocess.Popen(words, cwd=ROOT, env=sweep_env(ray_local), stdout=file, stderr=file) as job,
    ):
        try:
            for name, held in names.items():
                line = f"waiting for 1 {next(iter(held))} (0 free); held by {name} of l2l-other-1a2b"
                wait_for(partial(is_written, line), line)
                end_in_order([holders[name]])
            job.wait(timeout=WAIT_S)
        finally:
            job.kill()
    assert "is a file" in written.read_text() and "1/1 " in written.read_text()
