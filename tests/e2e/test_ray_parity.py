"""The same run in one process and on Ray with two train workers: same result, and Ray shows who does what."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from l2l_ray.actors import driver
from l2l_ray.actors.cluster import namespace_of
from l2l_ray.loop.run_folder import RunFolder
from tests.ray_runs import WAIT_S, actors, assert_same_result, ledger_keys, ray_config, start_job, wait_for


@pytest.fixture(scope="module")
def two_workers(ray_local: str, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Run a job with two train workers, looking at the cluster while it labels."""
    config = ray_config(tmp_path_factory.mktemp("ray"), "two-workers", num_workers=2)
    folder = RunFolder(config.run_dir, config)
    job = start_job(config, ray_local)
    wait_for(lambda: bool(ledger_keys(folder)), "a committed shard", job)
    named = {actor.name for actor in actors(namespace_of(config))}
    workers = actors(class_name="RayTrainWorker")
    output, _ = job.communicate(timeout=WAIT_S)
    assert job.returncode == 0, output
    assert named >= {"coordinator", "prior-0", "labeler-0", "labeler-1"} and len(workers) == 2
    assert f"run folder {folder.path}" in output and "report     " in output
    return folder


def test_two_train_workers_agree_with_one_process(whole_run: RunFolder, two_workers: RunFolder) -> None:
    assert_same_result(whole_run, two_workers)


def test_every_role_is_gone_after_the_run(two_workers: RunFolder) -> None:
    wait_for(lambda: not actors(namespace_of(two_workers.config)), "the release of all actors")


def test_the_metrics_agent_exports_what_the_issue_asks_for(two_workers: RunFolder) -> None:
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]  # type: ignore[no-untyped-call]
    names = "labels_total labels_per_s accepted_frac prior_latency_s prior_queue reward round mean_iou".split()
    wanted = {f"ray_l2l_{name}" for name in names}

    def exported() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10.0) as page:
            text = page.read().decode()
        return all(name in text for name in wanted)

    wait_for(exported, f"all of {sorted(wanted)} at the agent")


def test_a_finished_run_started_again_does_nothing_and_says_so(
    two_workers: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in Path(two_workers.path).rglob("*"))
    assert driver.run(two_workers.config) == two_workers.path
    assert "this run is finished: nothing to do" in capsys.readouterr().out
    assert sorted((path, path.stat().st_mtime_ns) for path in Path(two_workers.path).rglob("*")) == before
