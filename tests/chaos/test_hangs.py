"""SIGSTOP a prior actor, a labeler, the coordinator, a train worker: a stopped process dies of nothing and answers
nothing. Each is noticed by its missing heartbeat, named and replaced, and the run ends as an unharmed one does.
"""

from __future__ import annotations

import json
import signal
import time

import pytest

from l2l_ray.loop.state.run_folder import RunFolder
from tests.ray_runs import WAIT_S, assert_same_result, ledger_keys, ray_config, signaled, started_job, wait_for
from tests.whole_run import changed

SILENCE_S = 6.0


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stopped(ray_local: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """A job each of whose roles was stopped once, and what it said."""
    config = ray_config(tmp_path_factory.mktemp("hangs"), "stopped")
    config = changed(config, cluster={"heartbeat_timeout_s": SILENCE_S, "progress_every_s": 1.0})
    folder = RunFolder(config.run_dir, config)
    with started_job(config, ray_local) as job:
        wait_for(folder.priors_path("labeled").exists, "the first priors", job)
        signaled(signal.SIGSTOP, "prior actor", config, name="prior-0")
        wait_for(lambda: len(ledger_keys(folder)) >= 1, "a committed shard", job)
        signaled(signal.SIGSTOP, "labeler", config, name="labeler-0")
        wait_for(folder.version_dir("l2l", 1).exists, "version 1", job)
        signaled(signal.SIGSTOP, "coordinator", config, name="coordinator")
        time.sleep(1.0)
        signaled(signal.SIGSTOP, "train worker", class_name="RayTrainWorker")
        output, _ = job.communicate(timeout=WAIT_S)
        assert job.returncode == 0, output
    return folder, output


def test_a_run_whose_roles_were_stopped_agrees_with_an_undisturbed_one(
    stopped: tuple[RunFolder, str], whole_run: RunFolder
) -> None:
    assert_same_result(whole_run, stopped[0])


def test_every_shard_is_committed_exactly_once(stopped: tuple[RunFolder, str]) -> None:
    folder = stopped[0]
    keys = ledger_keys(folder)
    assert len(keys) == len(set(keys)) == json.loads((folder.path / "state.json").read_text())["shards_total"]


def test_the_terminal_names_who_did_not_answer(stopped: tuple[RunFolder, str]) -> None:
    output = stopped[1]
    limit = f"has not answered for cluster.heartbeat_timeout_s={SILENCE_S:g} s"
    for name in ("prior-0", "labeler-0", "the coordinator"):
        assert f"{name} {limit}" in output, output
    assert "labeler-0.1 takes its place" in output, output
