"""How long to wait for an item, and who is silent: an actor that works is not, one that was stopped is."""

from __future__ import annotations

import os
import signal
import time

import pytest
import ray

from l2l_ray.actors.cluster import actor_options, start_actor, wait_ready
from l2l_ray.actors.liveness import HEARTBEAT, HEARTBEAT_GROUP, Durations, Heartbeats, patience_s
from l2l_ray.errors import ClusterError


@pytest.mark.parametrize(
    ("seen", "limit"),
    [([], 1800.0), ([2.0, 2.0], 1800.0), ([0.1, 0.1, 0.1], 60.0), ([2.0, 5.0, 9.0], 180.0), ([400.0] * 3, 1800.0)],
)
def test_the_limit_follows_from_what_was_seen(seen: list[float], limit: float) -> None:
    assert patience_s(seen, 1800.0) == limit


def test_slow_means_far_longer_than_the_median() -> None:
    durations = Durations()
    assert durations.slow_s() == float("inf")
    for seconds in (4.0, 5.0, 60.0):
        durations.add(seconds)
    assert durations.slow_s() == 15.0
    for _ in range(10):
        durations.add(0.01)
    assert durations.slow_s() == 2.0


class _Worker:
    def ready(self) -> int:
        return os.getpid()

    @ray.method(concurrency_group=HEARTBEAT)
    def beat(self) -> int:
        return os.getpid()

    def work(self, seconds: float) -> None:
        time.sleep(seconds)


def test_work_is_no_silence_and_a_stopped_process_is(ray_local: str) -> None:
    options = actor_options("worker", "test-liveness", {}) | {"concurrency_groups": HEARTBEAT_GROUP}
    worker = start_actor(_Worker, options)
    beats = Heartbeats(timeout_s=3.0, start_timeout_s=600.0)
    beats.watch("worker", worker)
    (pid,) = wait_ready("worker", [worker], 600.0)
    assert not beats.is_up("nobody")
    worker.work.remote(3600.0)
    begun = time.monotonic()
    while time.monotonic() - begun < 5.0:
        assert beats.silent() == []
        time.sleep(0.1)
    assert beats.is_up("worker")
    os.kill(pid, signal.SIGSTOP)
    while not beats.silent():
        assert time.monotonic() - begun < 60.0
        time.sleep(0.1)
    ray.kill(worker)


def test_failed_starts_in_a_row_end_the_run_unless_another_one_is_up(ray_local: str) -> None:
    groups = {"concurrency_groups": HEARTBEAT_GROUP}
    lost = start_actor(_Worker, actor_options("lost", "test-starts", {"no_such_slot": 1.0}) | groups)
    beats = Heartbeats(timeout_s=600.0, start_timeout_s=600.0)
    beats.watch("worker-1.4", lost)
    beats.failed_start("worker-1.4", "is slow", 1)
    beats.watch("worker-0", worker := start_actor(_Worker, actor_options("up", "test-starts", {}) | groups))
    wait_ready("worker", [worker], 600.0)
    while not beats.is_up("worker-0"):
        beats.silent()
    for _ in range(5):
        beats.failed_start("worker-1.4", "is slow", 1)
    beats.forget("worker-0")
    beats.failed_start("worker-1.4", "is slow", 1)
    with pytest.raises(ClusterError, match="in the place of worker-1, .*: 2 in a row did not, .* the last one is slow"):
        beats.failed_start("worker-1.4", "is slow", 1)
    for actor in (lost, worker):
        ray.kill(actor)


def test_a_driver_that_slept_accuses_nobody(ray_local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = start_actor(_Worker, actor_options("lost", "test-liveness", {"no_such_slot": 1.0})
                       | {"concurrency_groups": HEARTBEAT_GROUP})  # fmt: skip
    beats = Heartbeats(timeout_s=3.0, start_timeout_s=3.0)
    beats.watch("lost", lost)
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 3600.0)
    assert beats.silent() == [], "one look after an hour is one look"
    ray.kill(lost)
