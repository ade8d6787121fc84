"""The same run in one process and on Ray with two train workers: same result, and Ray shows who does what."""

from __future__ import annotations

import re
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from l2l_ray.actors import driver
from l2l_ray.loop.local import run_local
from l2l_ray.loop.state.run_folder import RunFolder
from tests.ray_runs import WAIT_S, actors, assert_same_result, ledger_keys, ray_config, started_job, wait_for
from tests.whole_run import changed

pytestmark = pytest.mark.slow

METRICS = "labels_total labels_per_s accepted_frac prior_latency_s prior_queue reward round mean_iou".split()


@dataclass(frozen=True)
class Seen:
    """A finished job, and what the cluster showed while it ran."""

    folder: RunFolder
    output: str
    names: set[str]
    num_workers: int
    metrics: set[str]


@pytest.fixture(scope="module")
def two_workers(ray_local: str, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Run a job with two train workers, looking at the cluster meanwhile."""
    config = ray_config(tmp_path_factory.mktemp("ray"), "two-workers", num_workers=2)
    folder = RunFolder(config.run_dir, config)
    metrics: set[str] = set()
    names: set[str] = set()
    num_workers = 0
    with started_job(config, ray_local) as job:
        while job.poll() is None:  # prior actors leave early, and an actor's figures leave the agent with it
            names |= {actor.name for actor in actors(config) if actor.name}
            num_workers = max(num_workers, len(actors(class_name="RayTrainWorker")))
            metrics |= {name for name in METRICS if f"ray_l2l_{name}" in _exported()}
            time.sleep(0.3)
        output = job.stdout.read() if job.stdout else ""
        assert job.returncode == 0, output
    return Seen(folder, output, names, num_workers, metrics)


def _exported() -> str:
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]  # type: ignore[no-untyped-call]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10.0) as page:
        return str(page.read().decode())


def test_two_train_workers_agree_with_one_process(whole_run: RunFolder, two_workers: Seen) -> None:
    assert_same_result(whole_run, two_workers.folder)


@pytest.mark.usefixtures("one_thread")
def test_labels_made_at_every_step_agree_too(ray_local: str, tmp_path: Path) -> None:
    selector = {"name": "online", "threshold": 0.6}  # low enough to use labels of so short a training
    config = changed(ray_config(tmp_path, "online", num_workers=2), compare=(), selector=selector)
    alone = run_local(changed(config, name="alone"))
    with started_job(config, ray_local) as job:
        output, _ = job.communicate(timeout=WAIT_S)
    assert job.returncode == 0, output
    folder = RunFolder(config.run_dir, config)
    assert_same_result(alone, folder)
    used = [event for event in alone.events() if event.get("loss_unlabeled", 0) > 0]
    assert len(used) == config.loop.rounds, "labels were trained on in every round"
    assert not ledger_keys(alone) and not ledger_keys(folder)


def test_every_role_is_gone_after_the_run(two_workers: Seen) -> None:
    wait_for(lambda: not actors(two_workers.folder.config), "the release of all actors")


def test_roles_have_names_a_person_understands(two_workers: Seen) -> None:
    assert two_workers.names >= {"coordinator", "prior-0", "labeler-0", "labeler-1"}
    assert two_workers.num_workers == 2


def test_the_metrics_agent_exports_what_happens(two_workers: Seen) -> None:
    assert two_workers.metrics == set(METRICS)


def test_the_terminal_says_where_things_are_and_how_it_went(two_workers: Seen) -> None:
    folder, output = two_workers.folder, two_workers.output
    assert f"run folder {folder.path}" in output and f"report     {folder.path / 'report.html'}" in output
    assert "L2L (RPLE)" in output


def test_the_terminal_shows_nothing_a_user_cannot_act_on(two_workers: Seen) -> None:
    progress, table = (
        r"run folder |dashboard |data  |texts  |note  |\[ *\w+\] ",
        r"method |---|.* (val|testA|testB) +\d",
    )
    known = re.compile(rf"$|{progress}|{table}|\(refshapes|left out |note |result |report |next ")
    assert [line for line in two_workers.output.splitlines() if not known.match(line)] == []


def test_a_finished_run_started_again_does_nothing_and_says_so(
    two_workers: Seen, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in two_workers.folder.path.rglob("*"))
    assert driver.run(two_workers.folder.config) == two_workers.folder.path
    assert "this run is finished: nothing to do" in capsys.readouterr().out
    assert sorted((path, path.stat().st_mtime_ns) for path in two_workers.folder.path.rglob("*")) == before
