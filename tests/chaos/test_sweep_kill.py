"""SIGKILL the driver of a sweep in the middle, and resume: every trial ends once, a finished one is not run again."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from l2l_ray.sweep.folder import SweepFolder
from l2l_ray.sweep.trials import Trial
from tests.ray_runs import ROOT, WAIT_S, wait_for
from tests.sweep_runs import expected_trials, sweep_env, sweep_words

NAMES, SEEDS = ("supervised", "accept_all"), ("--seeds", "0", "1")


@dataclass(frozen=True)
class Killed:
    """What became of a sweep that was killed and resumed."""

    trials: list[Trial]
    before: list[dict[str, Any]]  # the log when it was killed
    refused: subprocess.CompletedProcess[str]  # a second start without --resume
    resumed: subprocess.CompletedProcess[str]

    @property
    def folder(self) -> SweepFolder:
        """The sweep's folder."""
        return SweepFolder(self.trials[0].config.run_dir.parent)


@pytest.fixture(scope="module")
def killed(ray_local: str, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Kill a sweep of four trials once one has finished and another has published a version; go on with it."""
    root = tmp_path_factory.mktemp("sweep-kill")
    trials = expected_trials(root, NAMES, (0, 1))
    folder = SweepFolder(root / "sweep-mine")
    words, env = sweep_words(root, NAMES, *SEEDS), sweep_env(ray_local)

    def in_the_middle() -> bool:
        finished = {event["trial"] for event in folder.events() if event["event"] == "finished"}
        return bool(finished) and any(
            trial.id not in finished and list(trial.config.run_dir.glob("train/*/version.json")) for trial in trials
        )

    with subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        try:
            wait_for(in_the_middle, "the middle of the sweep", job)
            job.send_signal(signal.SIGKILL)
        finally:
            job.kill()
    before = folder.events()

    def again(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*words, *more], cwd=ROOT, env=env, capture_output=True, text=True, timeout=WAIT_S)

    return Killed(trials, before, again(), again("--resume"))


def _ids(events: list[dict[str, Any]], kind: str) -> list[str]:
    return [event["trial"] for event in events if event["event"] == kind]


def test_a_second_start_without_resume_is_refused_and_says_how_to_go_on(killed: Killed) -> None:
    assert killed.refused.returncode == 1
    assert killed.refused.stderr.splitlines()[-1] == (
        f"sweep: a sweep lies in {killed.folder.path}; continue it with --resume (finished trials are not run again), "
        "or choose another --sweep-name"
    )


def test_every_trial_finishes_exactly_once(killed: Killed) -> None:
    assert killed.resumed.returncode == 0, killed.resumed.stdout + killed.resumed.stderr
    assert sorted(_ids(killed.folder.events(), "finished")) == sorted(trial.id for trial in killed.trials)


def test_what_was_finished_before_the_kill_is_not_started_again(killed: Killed) -> None:
    after = killed.folder.events()[len(killed.before) :]
    finished = set(_ids(killed.before, "finished"))
    assert finished and not finished & set(_ids(after, "started"))


def test_an_unfinished_trial_goes_on_in_its_own_folder(killed: Killed) -> None:
    cut = set(_ids(killed.before, "started")) - set(_ids(killed.before, "finished"))
    assert cut
    for trial in killed.trials:
        lines = (trial.config.run_dir / "metrics.jsonl").read_text().splitlines()
        priors = [json.loads(line)["set"] for line in lines if json.loads(line)["event"] == "priors"]
        assert len(priors) == len(set(priors)), f"{trial.id} began anew"
    folders = {path.parent.name for path in Path(killed.folder.path).glob("*/config.yaml")}
    assert folders == {trial.id for trial in killed.trials}


def test_the_table_has_every_trial_with_its_seed(killed: Killed) -> None:
    table = pd.read_csv(killed.folder.path / "sweep.csv")
    assert set(zip(table["selector.name"], table["seed"], strict=True)) == {(n, s) for n in NAMES for s in (0, 1)}
    assert (table["state"] == "finished").all() and table["val_mean_iou"].between(0, 1).all()
    assert (table["version"] == 2).all()


def test_trials_of_a_seed_share_one_burn_in(killed: Killed) -> None:
    root = killed.folder.path.parent
    assert len(list((root / "cache" / "burn_in").glob("*/base"))) == 2
