"""The pool's decisions, and the pool with workers that die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from l2l_ray.actors import labelers
from l2l_ray.actors.labelers import LabelerActor, LabelerPool, files_of
from l2l_ray.config import RunConfig
from l2l_ray.errors import ClusterError, DataError, LedgerError
from l2l_ray.loop.state import visibility
from l2l_ray.loop.state.plan import EvalItem, LabelItem, WorkItem
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.selector.registry import PRIOR_ONLY
from tests.actors.dying_worker import (
    A_WHILE,
    DISK_FULL,
    FAILS_ALWAYS,
    FAILS_ONCE,
    HANGS_ALWAYS,
    HANGS_ONCE,
    KILLS_ALWAYS,
    KILLS_ONCE,
    LATE_ERROR,
    SLOW_ONCE,
    SLOW_S,
    STOPS_ONCE,
    DyingWorker,
    WithoutReplacement,
)

LIMITS = {"work_timeout_s": 6.0, "heartbeat_timeout_s": 4.0, "max_item_retries": 2}


def _pool(config: RunConfig, **limits: float) -> LabelerPool:
    cluster = config.cluster.model_copy(update={**LIMITS, **limits})
    config = config.model_copy(update={"cluster": cluster})
    return LabelerPool(config, None, f"test-{os.getpid()}-{time.time_ns()}")


@pytest.fixture
def pool(ray_local: str, smoke: RunConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelerPool]:
    smoke.run_dir.mkdir(parents=True)
    monkeypatch.setattr(LabelerPool, "labeler", DyingWorker)
    pool = _pool(smoke)
    yield pool
    pool.close()


@pytest.fixture
def pool_without_replacement(
    ray_local: str, smoke: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LabelerPool]:
    smoke.run_dir.mkdir(parents=True)
    monkeypatch.setattr(LabelerPool, "labeler", WithoutReplacement)
    pool = _pool(smoke, start_timeout_s=8.0, work_timeout_s=60.0, max_item_retries=1)
    yield pool
    pool.close()


def _run(pool: LabelerPool, shards: list[int], double: bool = False) -> list[int]:
    return _done(pool, [LabelItem("l2l", 0, shard, 0) for shard in shards], double)


def _done(pool: LabelerPool, items: list[WorkItem], double: bool = False) -> list[int]:
    todo, results = list(items), list[int]()
    while todo or pool.busy:
        while todo and pool.has_room:
            pool.submit(todo.pop(0))
        if double:
            pool.double()
        results += [result for _, result in pool.finished(0.2) if isinstance(result, int)]
    return results


def test_dead_and_hanging_workers_are_replaced_and_no_shard_is_lost(pool: LabelerPool) -> None:
    pids = pool.pids()
    assert sorted(_run(pool, [0, KILLS_ONCE, HANGS_ONCE, 5, 6, 7])) == [0, 1, 2, 5, 6, 7]
    assert not set(pool.pids()) & set(pids), "both workers were lost once"


def test_a_stopped_worker_is_replaced_long_before_its_work_is_overdue(
    pool: LabelerPool, caplog: pytest.LogCaptureFixture
) -> None:
    pool.pids()
    begun = time.monotonic()
    assert sorted(_run(pool, [0, STOPS_ONCE])) == [0, STOPS_ONCE]
    assert "has not answered for cluster.heartbeat_timeout_s=4 s" in caplog.text
    assert "labeler-1.1 takes its place" in caplog.text or "labeler-0.1 takes its place" in caplog.text
    assert time.monotonic() - begun < 120.0


def test_the_last_item_is_given_to_an_idle_worker_as_well_and_ends_once(
    pool: LabelerPool, caplog: pytest.LogCaptureFixture
) -> None:
    pool.pids()
    begun = time.monotonic()
    assert sorted(_run(pool, [0, 5, 6, 7, SLOW_ONCE], double=True)) == [0, SLOW_ONCE, 5, 6, 7]
    assert time.monotonic() - begun < SLOW_S / 2
    assert not [record for record in caplog.records if "was lost" in record.getMessage()], "nobody is killed for it"


def test_a_shard_that_kills_every_worker_ends_the_run_with_its_name(pool: LabelerPool) -> None:
    with pytest.raises(ClusterError, match=r"shard 66 of .* lost its labeler 3 times, and cluster.max_item_retries=2"):
        _run(pool, [KILLS_ALWAYS])


def test_a_labeler_whose_node_fails_is_replaced(pool: LabelerPool, caplog: pytest.LogCaptureFixture) -> None:
    assert sorted(_run(pool, [0, FAILS_ONCE])) == [0, FAILS_ONCE]
    assert "failed at shard 68 of l2l round 0: " in caplog.text and "its item is handed out again" in caplog.text
    last = "could not be done 3 times, and .*; last: OSError: the disk of this node cannot be read; look at the errors"
    with pytest.raises(ClusterError, match=last):
        _run(pool, [FAILS_ALWAYS])


def test_an_error_raised_on_purpose_reaches_the_driver_as_it_is(pool: LabelerPool) -> None:
    with pytest.raises(LedgerError, match="no space left") as caught:
        _run(pool, [DISK_FULL])
    assert type(caught.value) is LedgerError and "\n" not in str(caught.value), (
        "one line, without the actor's traceback"
    )


def test_an_error_of_the_slower_of_two_attempts_is_no_error_of_the_run(
    pool: LabelerPool, caplog: pytest.LogCaptureFixture
) -> None:
    pool.pids()
    assert sorted(_run(pool, [0, 5, 6, LATE_ERROR], double=True)) == [0, 5, 6, LATE_ERROR]
    time.sleep(2.0)
    assert sorted(_run(pool, [10, 11, 12])) == [10, 11, 12]
    assert "which another one has done: this one's disk is full" in caplog.text


@pytest.mark.parametrize(
    ("item", "num"),
    [(LabelItem("l2l", 0, 0, 1), 4), (EvalItem("l2l", 1, "val", 0, 8), 4), (EvalItem(PRIOR_ONLY, 0, "val", 0, 8), 3)],
)
def test_a_labeler_waits_for_each_file_that_its_node_does_not_see(
    smoke: RunConfig, monkeypatch: pytest.MonkeyPatch, item: WorkItem, num: int
) -> None:
    monkeypatch.setattr(visibility, "SEEN_TIMEOUT_S", 0.01)
    monkeypatch.setattr(visibility, "LOOK_AGAIN_S", 0.02)
    unheard: Any = SimpleNamespace(noted=SimpleNamespace(remote=print))  # a coordinator that nothing is committed to
    labeler = LabelerActor(smoke, unheard, "labeler-0")
    files = files_of(item, RunFolder(smoke.run_dir, smoke))
    assert len(set(files)) == num
    for path in files:
        with pytest.raises(
            LedgerError, match=rf"{path} is not seen here, .* expected a file system on which all nodes"
        ):
            labeler.work(item)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(DataError):  # they are seen, and empty
        labeler.work(item)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second be the least that is learned as a limit."""
    monkeypatch.setattr(labelers, "LEAST_PATIENCE_S", 1.0)
    monkeypatch.setattr(labelers, "SEEN_TIMEOUT_S", 0.0)


def test_how_long_figures_of_the_prior_alone_take_says_nothing_about_those_of_a_network(
    impatient: None, pool: LabelerPool, caplog: pytest.LogCaptureFixture
) -> None:
    pool.pids()
    assert len(_done(pool, [EvalItem(PRIOR_ONLY, 0, "val", start, start + 1) for start in range(6)])) == 6
    assert _done(pool, [EvalItem("l2l", 0, "val", 7, 8)]) == [7]
    assert "was lost" not in caplog.text


def test_the_last_try_has_the_time_that_the_message_names(
    impatient: None, pool: LabelerPool, caplog: pytest.LogCaptureFixture
) -> None:
    pool.pids()
    assert len(_run(pool, [5, 6, 7])) == 3
    with pytest.raises(
        ClusterError, match=r"lost its labeler 3 times, .*; last: it took longer than cluster.work_timeout_s=6 s; if it"
    ):
        _run(pool, [HANGS_ALWAYS])
    assert caplog.text.count("s, the limit that follows from how long such work took before") == 2


@pytest.mark.slow
def test_where_no_labeler_comes_up_the_run_ends_and_accuses_no_item(pool_without_replacement: LabelerPool) -> None:
    pool_without_replacement.pids()
    with pytest.raises(ClusterError, match=r"nobody comes up in the place of labeler-\d, .* 2 in a row did not"):
        _run(pool_without_replacement, [KILLS_ONCE, STOPS_ONCE, 5])


@pytest.mark.slow
def test_a_labeler_that_never_comes_back_costs_no_item_while_another_one_is_up(
    pool_without_replacement: LabelerPool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_without_replacement
    pool.pids()
    assert sorted(_run(pool, [5, 6])) == [5, 6]
    assert sorted(_run(pool, [KILLS_ONCE, A_WHILE, 7], double=True)) == [KILLS_ONCE, 7, A_WHILE]
    assert "did not come up within cluster.start_timeout_s=8 s" in caplog.text


def test_a_labeler_that_dies_while_idle_is_replaced_though_another_one_is_up(
    pool: LabelerPool, caplog: pytest.LogCaptureFixture
) -> None:
    pids = pool.pids()
    assert sorted(_run(pool, [5, 6])) == [5, 6]
    os.kill(pids[0], signal.SIGKILL)
    deadline = time.monotonic() + 60.0
    while "was lost while idle" not in caplog.text:
        assert time.monotonic() < deadline and list(pool.finished(0.2)) == []
    assert len(set(pool.pids()) - set(pids)) == 1
