"""SIGKILL a prior actor, the driver in mid-round, a labeler in mid-shard, the coordinator, a train worker: nothing is
lost, nothing done twice.

One job is killed and resumed, so this is also the third parity case: killed and resumed agrees with one process.
"""

from __future__ import annotations

import hashlib
import json
import signal

import pytest

from l2l_ray.loop.state.example_files import read_examples
from l2l_ray.loop.state.run_folder import RunFolder
from tests.ray_runs import WAIT_S, assert_same_result, ledger_keys, ray_config, signaled, started_job, wait_for


def _num_shards(folder: RunFolder) -> int:
    return -(-len(read_examples(folder.examples_path("unlabeled"))) // folder.config.loop.shard_size)


@pytest.fixture(scope="module")
def killed(ray_local: str, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A job that was killed in every way, and resumed to its end."""
    config = ray_config(tmp_path_factory.mktemp("chaos"), "killed")
    folder = RunFolder(config.run_dir, config)

    with started_job(config, ray_local) as first:
        wait_for(folder.priors_path("labeled").exists, "the first priors", first)
        signaled(signal.SIGKILL, "prior actor", config, name="prior-0")
        wait_for(lambda: len(ledger_keys(folder)) >= 2, "two committed shards", first)
        first.send_signal(signal.SIGKILL)
        first.wait()
    before = ledger_keys(folder)
    assert len(before) < _num_shards(folder), "the driver was not killed in mid-round"

    with started_job(config, ray_local, "--resume") as second:
        wait_for(lambda: len(ledger_keys(folder)) > len(before), "a shard after resuming", second)
        signaled(signal.SIGKILL, "labeler", config, name="labeler-0")
        assert len(ledger_keys(folder)) < _num_shards(folder), "no shard was left when the labeler was killed"
        wait_for(folder.version_dir("l2l", 1).exists, "version 1", second)
        signaled(signal.SIGKILL, "coordinator", config, name="coordinator")
        signaled(signal.SIGKILL, "train worker", class_name="RayTrainWorker")
        output, _ = second.communicate(timeout=WAIT_S)
        assert second.returncode == 0, output
    assert output.count("the coordinator was lost and started again") == 1, output  # its end is no loss
    assert output.count("a train worker was lost or did not answer") == 1, output
    return folder


def test_every_shard_is_committed_exactly_once(killed: RunFolder) -> None:
    shards = range(_num_shards(killed))
    assert sorted(ledger_keys(killed)) == [("l2l", round_index, shard) for round_index in range(2) for shard in shards]


def test_every_committed_file_is_the_one_in_the_ledger(killed: RunFolder) -> None:
    for line in killed.ledger_path.read_text().splitlines():
        entry = json.loads(line)
        assert hashlib.sha256((killed.path / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]


def test_no_question_was_stored_twice_and_none_is_missing(killed: RunFolder) -> None:
    asked = {e["set"]: e["num"] for e in killed.events() if e["event"] == "priors"}
    assert set(asked) == {"labeled", "unlabeled", "val", "testA", "testB"} and min(asked.values()) > 0


def test_the_resumed_run_ends_with_its_report(killed: RunFolder) -> None:
    assert killed.finished and (killed.path / "report.html").exists()


def test_nothing_half_written_is_left(killed: RunFolder) -> None:
    assert not list(killed.path.rglob("*.tmp"))


def test_a_killed_and_resumed_run_agrees_with_an_undisturbed_one(killed: RunFolder, whole_run: RunFolder) -> None:
    assert_same_result(whole_run, killed)
