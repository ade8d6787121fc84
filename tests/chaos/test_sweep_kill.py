"""SIGKILL the driver of a sweep in the middle, then a trial of the resumed one: every trial ends once.

What was finished is not run again, and a trial whose process died goes on from its own folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
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
    victim: str  # the trial whose process was killed after resuming
    status: int
    output: str

    @property
    def folder(self) -> SweepFolder:
        """The sweep's folder."""
        return SweepFolder(self.trials[0].config.run_dir.parent)


pytestmark = pytest.mark.slow


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

    refused = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=WAIT_S)
    words.append("--resume")
    with subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        try:
            wait_for(lambda: bool(_at_work(folder, before)), "a trial at work after resuming", job)
            victim, process = _at_work(folder, before)[0]
            os.kill(process, signal.SIGKILL)
            output, _ = job.communicate(timeout=WAIT_S)
        finally:
            job.kill()
    return Killed(trials, before, refused, victim, job.returncode, output)


def _at_work(folder: SweepFolder, before: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Return the trials that were started since, with the process that holds each."""
    started = set(_ids(folder.events()[len(before) :], "started"))
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it ended, or is another user's
            target = os.readlink(link)
            if target.startswith(str(folder.path)) and (trial := Path(target).name[1:-5]) in started:
                found.append((trial, int(link.parts[2])))
    return found


def _ids(events: list[dict[str, Any]], kind: str) -> list[str]:
    return [event["trial"] for event in events if event["event"] == kind]


def test_a_second_start_without_resume_is_refused_and_says_how_to_go_on(killed: Killed) -> None:
    assert killed.refused.returncode == 1
    assert killed.refused.stderr.splitlines()[-1] == (
        f"sweep: a sweep lies in {killed.folder.path}; continue it with --resume (finished trials are not run again), "
        "or choose another --sweep-name"
    )


def test_every_trial_finishes_exactly_once(killed: Killed) -> None:
    assert killed.status == 0, killed.output
    assert sorted(_ids(killed.folder.events(), "finished")) == sorted(trial.id for trial in killed.trials)


def test_what_was_finished_before_the_kill_is_not_started_again(killed: Killed) -> None:
    after = killed.folder.events()[len(killed.before) :]
    finished = set(_ids(killed.before, "finished"))
    assert finished and not finished & set(_ids(after, "started"))


def test_a_trial_whose_process_was_killed_is_started_once_more(killed: Killed) -> None:
    after = killed.folder.events()[len(killed.before) :]
    assert _ids(after, "started").count(killed.victim) == 2
    assert _ids(after, "finished").count(killed.victim) == 1


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
