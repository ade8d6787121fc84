"""ASHA among rivals: who goes on after which version."""

from __future__ import annotations

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler

from l2l_ray.actors.asha import METRIC, LikeWithLike

RIVALS = {"a": "seed 0", "b": "seed 0", "c": "seed 0", "x": "seed 1"}


def scheduler(rounds: int = 4, known: dict[str, dict[int, float]] | None = None) -> tuple[LikeWithLike, dict[str, int]]:
    stopped: dict[str, int] = {}
    return LikeWithLike(RIVALS, dict.fromkeys(RIVALS, rounds), known or {}, stopped.__setitem__), stopped


def test_one_below_the_median_of_the_rivals_before_it_leaves_the_race() -> None:
    asha, _ = scheduler()
    assert asha.decide("a", 1, 0.5)  # the first has none to be behind
    assert asha.decide("b", 1, 0.3) is False  # median of 0.5
    assert asha.decide("c", 1, 0.41)  # median of 0.5 and 0.3 is 0.4


def test_figures_of_the_same_version_alone_are_compared() -> None:
    asha, _ = scheduler()
    assert asha.decide("a", 1, 0.3) and asha.decide("a", 2, 0.6)
    assert asha.decide("b", 1, 0.4)  # behind a's version 2, ahead of its version 1
    assert asha.decide("b", 2, 0.5) is False


def test_another_seed_or_other_data_are_no_rivals() -> None:
    asha, _ = scheduler()
    assert asha.decide("a", 1, 0.9)
    assert asha.decide("x", 1, 0.1)


def test_the_last_version_stops_nobody_and_neither_does_one_between_rungs() -> None:
    asha, _ = scheduler(rounds=4)  # rungs 1 and 2
    for version in (1, 2, 3, 4):
        asha.decide("a", version, 0.9)
    assert asha.decide("b", 1, 0.95) and asha.decide("b", 2, 0.95)
    assert asha.decide("b", 3, 0.1) and asha.decide("b", 4, 0.1)
    rounds = {"a": 4, "b": 4, "c": 4, "x": 2}
    mixed = LikeWithLike(RIVALS | {"y": "seed 1"}, rounds | {"y": 2}, {}, lambda trial, version: None)
    assert mixed.decide("x", 1, 0.5) and mixed.decide("y", 1, 0.6)
    assert mixed.decide("y", 2, 0.6) and mixed.decide("x", 2, 0.1), "its own last version"
    two, _ = scheduler(rounds=2)  # rung 1
    assert two.decide("a", 1, 0.5) and two.decide("b", 1, 0.5) and two.decide("a", 2, 0.9) and two.decide("b", 2, 0.1)


def test_what_was_measured_before_counts_and_is_not_decided_again() -> None:
    asha, _ = scheduler(known={"a": {1: 0.5, 2: 0.6}, "b": {1: 0.2}})
    assert asha.decide("b", 1, 0.2)  # it went on before the kill, and goes on
    assert asha.decide("b", 2, 0.3) is False
    assert asha.decide("c", 1, 0.3) is False


def test_tune_is_told_and_so_is_the_sweep() -> None:
    asha, stopped = scheduler(known={"a": {1: 0.5}})
    trial = TuneTrial("any", config={"trial": "b"}, stub=True)
    assert asha.on_trial_result(None, trial, {"failed": "no room"}) == TrialScheduler.CONTINUE
    assert asha.on_trial_result(None, trial, {"version": 1, METRIC: 0.1}) == TrialScheduler.STOP
    assert stopped == {"b": 1}
