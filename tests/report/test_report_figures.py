"""Figures of results.json as text."""

from typing import Any

import pytest

from l2l_ray.report.figures import NOTHING, ends_of, float_keys, interval, percent, splits_of


def test_percent() -> None:
    assert [percent(v) for v in (0.12345, 1, None, float("nan"), "x")] == ["12.3", "100.0", "–", "–", "–"]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0.1, 0.2, "10.0 to 20.0"), (0.2, 0.2, NOTHING), (None, 0.2, NOTHING), (0.1, "x", NOTHING)],
)
def test_an_interval_without_width_or_ends_is_a_dash(low: Any, high: Any, text: str) -> None:
    assert interval(low, high) == text


def test_odd_scores_are_left_out() -> None:
    assert splits_of({"splits": {"val": {"num": 3}, "testA": 7}}) == {"val": {"num": 3}}
    assert splits_of({"splits": [1]}) == splits_of({}) == ends_of({}) == ends_of({"interval": 3}) == {}


def test_ends_are_found_by_the_name_of_their_figure() -> None:
    ends = {"mean_iou": {"low": 0.1, "high": 0.2}, "precision_at": {0.5: {"low": 0.0, "high": 1.0}}}
    found = ends_of({"interval": ends})
    assert found["mean_iou.low"] == 0.1 and found["precision_at.0.5.high"] == 1.0
    assert float_keys({"precision_at": {"0.50": 1}}) == {"precision_at": {"0.5": 1}}
