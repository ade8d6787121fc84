"""The folder of a sweep: who may start, what its log holds, the state of each trial."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.errors import ClusterError, ConfigError, DataError
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.sweep.folder import SweepFolder
from l2l_ray.sweep.space import Grid
from l2l_ray.sweep.trials import Trial, trials_of
from tests.sweep_trials import leave_trial, measure
from tests.whole_run import changed


@pytest.fixture
def trials(smoke: RunConfig) -> list[Trial]:
    return trials_of(smoke, {"selector.name": Grid(("supervised", "accept_all", "pwa", "l2l"))}, "s")


@pytest.fixture
def folder(smoke: RunConfig) -> SweepFolder:
    return SweepFolder(smoke.root / "s")


def _begin(folder: SweepFolder, trials: list[Trial], resume: bool = False) -> None:
    with folder.begun(trials, ["my space.py", "--seeds", "0"], resume):
        folder.log("started", trials[0].id)


def test_a_second_start_needs_resume_and_resume_needs_a_first(folder: SweepFolder, trials: list[Trial]) -> None:
    with pytest.raises(ConfigError, match="there is no sweep in .* to continue; start it without --resume"):
        _begin(folder, trials, resume=True)
    _begin(folder, trials)
    with pytest.raises(ConfigError, match=r"continue it with --resume .* or choose another --sweep-name"):
        _begin(folder, trials)
    _begin(folder, trials, resume=True)


def test_a_sweep_that_ended_before_any_trial_began_is_none(folder: SweepFolder, trials: list[Trial]) -> None:
    with pytest.raises(RuntimeError), folder.begun(trials, [], resume=False):
        raise RuntimeError
    with folder.begun(trials[:1], [], resume=False):
        pass


def test_a_command_that_a_cluster_repeats_can_ask_whether_a_sweep_began(
    folder: SweepFolder, trials: list[Trial]
) -> None:
    assert not folder.has_begun
    with folder.begun(trials, [], resume=False):
        assert not folder.has_begun, "no trial has"
        folder.log("started", trials[0].id)
    assert folder.has_begun


def test_resume_may_add_trials_but_leave_none_out(folder: SweepFolder, trials: list[Trial]) -> None:
    _begin(folder, trials[:2])
    _begin(folder, trials, resume=True)
    with pytest.raises(ConfigError, match=r"1 of its 4 trials are none of these; .* with \('my space.py' --seeds 0\)"):
        _begin(folder, trials[1:], resume=True)


def test_the_same_words_that_make_other_trials_are_told_as_another_version(
    folder: SweepFolder, trials: list[Trial]
) -> None:
    _begin(folder, trials[:2])
    words = ["my space.py", "--seeds", "0", "--resume"]
    said = (
        r"was started with the same words, but none of its 2 trials is one of these: an earlier version of the code "
        r"began it, or .* was changed since; continue it with that version, .* or begin another by --sweep-name"
    )
    with pytest.raises(ConfigError, match=said):
        folder.require_startable(trials[2:], True, words)
    with pytest.raises(ConfigError, match=said), folder.begun(trials[2:], words, resume=True):
        pass
    with pytest.raises(ConfigError, match=r"2 of its 2 trials are none of these; give the words it was started with"):
        folder.require_startable(trials[2:], True, [*words, "--samples", "3"])
    with pytest.raises(ConfigError, match=r"1 of its 2 trials are none of these; give the words it was started with"):
        folder.require_startable(trials[1:], True, words)


def test_resume_takes_other_settings_that_change_no_result(
    folder: SweepFolder, trials: list[Trial], smoke: RunConfig
) -> None:
    _begin(folder, trials)
    faster = changed(smoke, loop={"eval_batch": 3}, prior={"timeout_s": 99.0}, data={"image_cache_mb": 64})
    again = trials_of(faster, {"selector.name": Grid(("supervised", "accept_all", "pwa", "l2l"))}, "s")
    folder.require_startable(again, resume=True)


def test_two_processes_do_not_drive_one_sweep(folder: SweepFolder, trials: list[Trial]) -> None:
    _begin(folder, trials)
    code = (
        "import sys; from pathlib import Path; from l2l_ray.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder.path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another process is at work on the sweep"):
            _begin(folder, trials, resume=True)
        other.kill()
    _begin(folder, trials, resume=True)  # the system released what the killed one held


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"words": [], "trials": 3}'])
def test_a_damaged_list_of_trials_is_named(folder: SweepFolder, trials: list[Trial], content: str) -> None:
    _begin(folder, trials)
    (folder.path / "sweep.json").write_text(content)
    with pytest.raises(DataError, match=r"sweep.json cannot be read: .*; remove the file"):
        _begin(folder, trials, resume=True)


def test_a_run_that_is_finished_is_so_whatever_the_log_says(folder: SweepFolder, trials: list[Trial]) -> None:
    one, two, three, four = trials
    folder.path.mkdir(parents=True)
    leave_trial(one, 0.1, 0.2)
    folder.log("failed", one.id, reason="x")
    folder.log("failed", two.id, reason="no room", seconds=3.0)
    RunFolder(three.config.run_dir, three.config).create()
    found = folder.outcomes(trials)
    assert [found[trial.id].state for trial in trials] == ["finished", "failed", "unfinished", "waiting"]
    assert (found[two.id].reason, found[two.id].seconds) == ("no room", 3.0)
    folder.log("started", two.id)
    folder.log("started", two.id)
    folder.log("failed", two.id, reason="no room", seconds=3.0)
    assert folder.outcomes(trials)[two.id].seconds is None, "what the first start took is not known"
    assert folder.open_trials(trials) == [two, three, four]


def test_a_stopped_trial_keeps_the_figures_up_to_its_version(folder: SweepFolder, trials: list[Trial]) -> None:
    trial = trials[3]
    run = RunFolder(trial.config.run_dir, trial.config).create()
    for version, split, method in [(0, "val", "l2l"), (2, "val", "l2l"), (1, "val", "l2l"), (1, "testA", "l2l"),
                                   (1, "val", "prior_only")]:  # fmt: skip
        measure(run, version, version / 10, split, method)
    folder.log("stopped", trial.id, version=1)
    outcome = folder.outcomes(trials)[trial.id]
    assert (outcome.state, list(outcome.figures)) == ("stopped", [1])
    assert trial not in folder.open_trials(trials)


def test_the_log_lies_in_the_sweeps_folder(folder: SweepFolder, trials: list[Trial]) -> None:
    _begin(folder, trials)
    assert folder.events() == [{"event": "started", "trial": trials[0].id}]
    assert Path(folder.path / "trials.jsonl").exists()


def test_a_damaged_line_of_the_log_costs_one_event(folder: SweepFolder, trials: list[Trial]) -> None:
    folder.path.mkdir(parents=True)
    folder.log("failed", trials[0].id, reason="no room")
    with (folder.path / "trials.jsonl").open("a") as file:
        file.write('{"event": "sto\x00\n[1]\n{"event": "failed"}\n')
        for event, trial in (("failed", trials[2]), ("stopped", trials[3])):
            file.write(json.dumps({"event": event, "trial": trial.id}) + "\n")
    folder.log("failed", trials[1].id, reason="no room")
    states = [outcome.state for outcome in folder.outcomes(trials).values()]
    assert states == ["failed", "failed", "failed", "waiting"]


def test_trials_whose_ends_lie_on_other_nodes_are_named_and_run_again(folder: SweepFolder, trials: list[Trial]) -> None:
    here, failed, elsewhere, stopped = trials
    folder.path.mkdir(parents=True)
    leave_trial(here, 0.1, 0.2)
    folder.log("failed", failed.id, reason="no room")
    assert folder.unseen([here, failed]) == []
    folder.log("finished", elsewhere.id, seconds=3.0)
    folder.log("stopped", stopped.id, version=1)
    said = rf"2 trials ended without a result in .*s here: {elsewhere.id}, {stopped.id}; expected a folder that all .*"
    with pytest.raises(ClusterError, match=said + "--run_root on a file system that all of them see"):
        folder.require_seen(folder.unseen(trials, wait_s=0.0))
    assert folder.open_trials(trials) == [failed, elsewhere, stopped]
