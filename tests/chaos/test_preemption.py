"""Machines that come and go: a run starts before there are any; a trainer's machine is announced to go away."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l2l_ray.actors.session import remove_folder
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.versions import newest_checkpoint
from tests.ray_runs import WAIT_S, ray_config, started_job, wait_for
from tests.whole_run import changed

NOTICE_S = 60


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that works on nothing itself, in a folder of its own; nodes are added to it."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="l2l-t-", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield nodes
    nodes.shutdown()
    remove_folder(Path(folder))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nodes_come_after_the_start_and_a_trainers_node_goes_with_a_notice(cluster: Any, tmp_path: Path) -> None:
    config = changed(
        ray_config(tmp_path, "leaving"),
        compare=(),
        loop={"checkpoint_steps": 0, "rounds": 1, "round_steps": 100},
        cluster={"worker_resources": {"CPU": 0.5, "steady": 0.01}, "autoscaled": True},
    )
    folder = RunFolder(config.run_dir, config)
    with started_job(config, cluster.address) as job:
        wait_for(folder.train_dir.exists, "a train group that waits for its node", job)
        cluster.add_node(num_cpus=2, resources={"prior_gpu": 1})
        leaving = cluster.add_node(num_cpus=1, resources={"steady": 1})
        wait_for(lambda: _trains_in_round_0(folder), "steps of round 0", job)
        drain = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", cluster.address]
        drain += ["--node-id", leaving.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        drain += ["--reason-message", "test", "--deadline-remaining-seconds", str(NOTICE_S)]
        subprocess.run(drain, check=True, timeout=WAIT_S)
        wait_for(lambda: "-s" in (newest_checkpoint(folder, "l2l") or Path()).name, "a checkpoint in mid-round", job)
        cluster.add_node(num_cpus=1, resources={"steady": 1})
        cluster.remove_node(leaving)
        output, _ = job.communicate(timeout=WAIT_S)
        assert job.returncode == 0, output
    assert folder.finished


def _trains_in_round_0(folder: RunFolder) -> bool:
    state = folder.path / "state.json"
    return state.exists() and '"stage": "l2l round 0"' in state.read_text()
