"""Two jobs on a cluster with room for one: the second says what it waits for and who holds it, and both end."""

from __future__ import annotations

import pytest

from l2l_ray.loop.state.run_folder import RunFolder
from tests.ray_runs import WAIT_S, actors, ray_config, started_job, wait_for
from tests.whole_run import changed


@pytest.mark.slow
def test_the_second_job_waits_its_turn_and_both_end(ray_local: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("two")
    cluster = {"labeler_resources": {"CPU": 0.7}, "progress_every_s": 1.0}  # of the cluster's 2 CPUs a job takes 1.9
    one, two = (changed(ray_config(root, name), compare=(), cluster=cluster) for name in ("one", "two"))
    with started_job(one, ray_local) as first:
        wait_for(lambda: bool(actors(one, class_name="LabelerActor")), "the first job's labelers", first)
        with started_job(two, ray_local) as second:
            output, _ = first.communicate(timeout=WAIT_S)
            other, _ = second.communicate(timeout=WAIT_S)
    assert (first.returncode, second.returncode) == (0, 0), output + other
    assert RunFolder(one.run_dir, one).finished and RunFolder(two.run_dir, two).finished
    assert "waiting for 1.9 CPU (" in other and "labeler-0 of l2l-one-" in other, other
    assert "waiting for 1.9" not in output, "the first one had no reason to wait"
