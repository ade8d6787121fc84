"""A round is labeled by a version fixed by the lag alone, and every round is unlocked exactly once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2l_ray.loop.state.staleness import label_version, rounds_unlocked_by


@pytest.mark.parametrize(
    ("lag", "versions"), [(0, [0, 1, 2, 3]), (1, [0, 0, 1, 2]), (2, [0, 0, 0, 1]), (9, [0, 0, 0, 0])]
)
def test_version_of_each_round(lag: int, versions: list[int]) -> None:
    assert [label_version(r, lag) for r in range(4)] == versions


def test_rounds_unlocked_with_lag_one() -> None:
    assert [rounds_unlocked_by(v, lag=1, rounds=4) for v in range(5)] == [[0, 1], [2], [3], [], []]


@given(rounds=st.integers(1, 20), lag=st.integers(0, 25))
def test_every_round_is_unlocked_once_and_in_time(rounds: int, lag: int) -> None:
    unlocked = [(r, v) for v in range(rounds + 1) for r in rounds_unlocked_by(v, lag, rounds)]
    assert sorted(r for r, _ in unlocked) == list(range(rounds))
    # Version v exists once round v - 1 is trained, so a round never waits for a version it has to make first.
    assert all(v <= r for r, v in unlocked)
