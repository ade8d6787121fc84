"""The pool of prior actors, with actors that die, hang and are stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l2l_ray.actors import liveness, priors
from l2l_ray.actors.priors import PriorPool
from l2l_ray.config import RunConfig
from l2l_ray.errors import ClusterError
from l2l_ray.loop.inference.asking import Question
from tests.actors.dying_prior import (
    DEVICE_FAILS_ONCE,
    FINE,
    HANGS,
    KILLS,
    SLOW,
    SLOW_S,
    STOPS_ONCE,
    DyingPrior,
    OtherReplacement,
    WithoutReplacement,
)
from tests.ray_runs import signaled

LIMITS = {"work_timeout_s": 5.0, "heartbeat_timeout_s": 4.0, "max_item_retries": 1}


def _pool(config: RunConfig, **limits: Any) -> PriorPool:
    config = config.model_copy(update={"cluster": config.cluster.model_copy(update={**LIMITS, **limits})})
    return PriorPool(config, f"test-{time.time_ns()}")


@pytest.fixture
def pool(ray_local: str, smoke: RunConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[PriorPool]:
    monkeypatch.setattr(priors, "PriorActor", DyingPrior)
    pool = _pool(smoke)
    yield pool
    pool.close()


@pytest.fixture
def pool_without_replacement(ray_local: str, smoke: RunConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[PriorPool]:
    monkeypatch.setattr(priors, "PriorActor", WithoutReplacement)
    pool = _pool(smoke, num_priors=2, prior_resources={"CPU": 0.5})
    yield pool
    pool.close()


def _asked(pool: PriorPool, *batches: list[str], marker: Path = Path("none")) -> dict[str, str]:
    """Ask for batches of expressions; the failure of each question by key, "" where it was answered."""
    numbered = iter(range(1000))
    questions = [[Question(f"{next(numbered)} {text}", str(marker), text, 8, 8) for text in batch] for batch in batches]
    found: dict[str, str] = {}
    for batch, replies in pool.ask(iter(questions)):
        for question, reply in zip(batch, replies, strict=True):
            assert question.key not in found, "no question is answered twice"
            assert reply.failure or reply.texts == (question.key,)
            found[question.key] = reply.failure
    return found


def test_the_model_is_asked_for_once_and_not_of_an_actor_that_hangs_meanwhile(pool: PriorPool) -> None:
    known = pool.identity()
    process_id = signaled(signal.SIGSTOP, "prior actor", name="prior-0")
    assert pool.identity() == known
    os.kill(process_id, signal.SIGCONT)


@pytest.mark.slow
def test_a_question_at_which_the_model_hangs_gets_no_prior_and_its_neighbours_get_theirs(
    pool: PriorPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(priors, "TRIES_TOGETHER", 1)
    found = _asked(pool, [FINE, FINE], [FINE, HANGS, FINE], [FINE])
    failed = {key: failure for key, failure in found.items() if failure}
    assert len(found) == 6 and list(failed) == [f"3 {HANGS}"]
    assert failed[f"3 {HANGS}"].startswith(
        "hung: 2 prior actors; has been at 1 questions for longer than cluster.work_timeout_s=5 s"
    )


@pytest.mark.slow
def test_where_no_actor_comes_up_the_run_ends_and_no_question_is_given_up(
    ray_local: str, smoke: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(priors, "PriorActor", WithoutReplacement)
    pool = _pool(smoke, start_timeout_s=20.0)
    pool.identity()
    assert _asked(pool, [FINE]) == {f"0 {FINE}": ""}
    with pytest.raises(
        ClusterError, match=r"nobody comes up in the place of prior-0, .*: 2 in a row did not, and clus"
    ):
        _asked(pool, [STOPS_ONCE], marker=tmp_path / "stopped")
    pool.close()


def test_a_server_that_is_busy_for_long_costs_no_actor(
    ray_local: str, smoke: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(priors, "PriorActor", DyingPrior)
    monkeypatch.setattr(priors, "LEAST_PATIENCE_S", SLOW_S / 4)
    monkeypatch.setattr(liveness, "PATIENCE_FACTOR", 1.0)
    with_url = smoke.model_copy(update={"prior": smoke.prior.model_copy(update={"url": "http://127.0.0.1:1/v1"})})
    for config, is_patient in ((with_url, True), (smoke, False)):
        caplog.clear()
        pool = _pool(config, work_timeout_s=60.0)
        pool.identity()
        asked = pool.ask(iter([[Question(str(n), "none", text, 8, 8)] for n, text in enumerate([*[FINE] * 3, SLOW])]))
        for _ in range(3):
            next(asked)
        if is_patient:
            assert [questions[0].key for questions, _ in asked] == ["3"] and not caplog.text
        else:
            assert next(asked)[1][0].failure.startswith("hung"), "a model in the actor has the limit of its like"
        pool.close()


def test_answers_that_came_while_the_driver_was_held_up_are_taken(
    ray_local: str, smoke: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(priors, "PriorActor", DyingPrior)
    pool = _pool(smoke)
    pool.identity()
    asked = pool.ask(iter([[Question(str(number), "none", FINE, 8, 8)] for number in range(3)]))
    next(asked)
    time.sleep(LIMITS["work_timeout_s"] + 1.0)
    assert [questions[0].key for questions, _ in asked] == ["1", "2"]
    assert "another one takes its place" not in caplog.text
    pool.close()


@pytest.mark.slow
def test_a_question_that_kills_its_actor_gets_no_prior_unless_all_do(
    pool: PriorPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(priors, "MAX_GIVEN_UP_IN_A_ROW", 1)
    asked = pool.ask(iter([[Question(str(number), "none", KILLS, 8, 8)] for number in range(3)]))
    _, (reply,) = next(asked)
    assert reply.failure.startswith("died: 2 prior actors")
    assert "prior-0 was lost with 1 question; another one takes its place" in caplog.text
    with pytest.raises(ClusterError, match="lost at each of 2 questions in a row, the last because it died"):
        next(asked)


def test_a_stopped_actor_is_replaced_and_a_closed_pool_holds_nothing(pool: PriorPool, tmp_path: Path) -> None:
    import ray

    def free() -> Any:
        return ray.available_resources().get("prior_gpu", 0.0)  # type: ignore[no-untyped-call]

    pool.identity()
    found = _asked(pool, [STOPS_ONCE, FINE], [FINE], marker=tmp_path / "stopped")
    assert set(found.values()) == {""}
    assert free() == 0.0
    pool.close()
    deadline = time.monotonic() + 30.0
    while free() < 1.0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(ClusterError, match="the prior service was closed"):
        pool.identity()


def test_an_actor_whose_device_failed_is_replaced_and_its_questions_are_asked_again(
    pool: PriorPool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert _asked(pool, [DEVICE_FAILS_ONCE], marker=tmp_path / "failed") == {f"0 {DEVICE_FAILS_ONCE}": ""}
    assert "prior-0: the device of the language model failed" in caplog.text
    assert "prior-0 was lost with 1 question; another one takes its place" in caplog.text


def test_answers_of_another_model_are_refused(
    ray_local: str, smoke: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(priors, "PriorActor", OtherReplacement)
    pool = _pool(smoke)
    assert pool.identity().fingerprint == "f00d"
    with pytest.raises(ClusterError, match="prior-0.1 holds another .*: fingerprint beef, expected f00d; give"):
        _asked(pool, [DEVICE_FAILS_ONCE], marker=tmp_path / "failed")
    pool.close()


@pytest.mark.slow
def test_no_question_waits_for_an_actor_that_never_comes_back_while_another_one_is_up(
    pool_without_replacement: PriorPool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_without_replacement
    pool.identity()
    found = _asked(pool, *[[FINE]] * 8, [STOPS_ONCE, FINE], *[[FINE]] * 8, marker=tmp_path / "stopped")
    assert len(found) == 18 and set(found.values()) == {""}
    assert "did not come up" not in caplog.text, "nothing waited for it so long"


@pytest.mark.slow
def test_an_actor_that_dies_while_idle_is_replaced_though_another_one_is_up(
    ray_local: str, smoke: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    monkeypatch.setattr(priors, "PriorActor", DyingPrior)
    cluster = smoke.cluster.model_copy(update={**LIMITS, "num_priors": 2, "prior_resources": {"CPU": 0.5}})
    pool = PriorPool(smoke.model_copy(update={"cluster": cluster}), namespace := f"test-{time.time_ns()}")
    pool.identity()
    idle = ray.get_actor("prior-1", namespace)  # of two, the first is asked first
    threading.Timer(1.0, ray.kill, [idle]).start()
    assert list(_asked(pool, [HANGS]).values())[0].startswith("hung")
    assert "prior-1 was lost while idle; another one takes its place" in caplog.text
    pool.close()
