"""Figures of a sweep: drawn where there is something to draw, and the trend by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from l2l_ray.report.sweep_plots import field_effects, share_curves, trend

SHARE, NAMES = "data.labeled_frac", {"data.labeled_frac": "labeled_frac", "selector.name": "selector", "loop.lr": "lr"}


def points(**columns: list[object]) -> pd.DataFrame:
    frame = pd.DataFrame({name.replace("__", "."): values for name, values in columns.items()})
    bounds = {"val_mean_iou_low": frame["val_mean_iou"] - 0.05, "val_mean_iou_high": frame["val_mean_iou"] + 0.05}
    return frame.assign(**bounds)


def test_a_trend_is_the_least_squares_line_with_its_correlation() -> None:
    # x - mean: -1, 0, 1; y - mean: -1, 1, 0: slope 1/2, correlation 1 / sqrt(2 * 2)
    assert trend([1, 2, 3], [1, 3, 2]) == pytest.approx((0.5, 1.0, 0.5))
    assert trend([0, 1], [4, 4]) == (0.0, 4.0, 0.0)


def test_shares_are_drawn_where_there_are_two() -> None:
    two = points(data__labeled_frac=[0.01, 0.1], selector__name=["l2l", "l2l"], val_mean_iou=[0.3, 0.4])
    figure = share_curves(two, [SHARE, "selector.name"], "l2l", NAMES)
    assert figure is not None and len(figure.axes[0].lines) == 1
    assert share_curves(two.iloc[:1], [SHARE, "selector.name"], "l2l", NAMES) is None
    assert share_curves(two.assign(val_mean_iou=None), [SHARE, "selector.name"], "l2l", NAMES) is None


def test_a_line_is_drawn_per_selector() -> None:
    shares, figures = [0.01, 0.1] * 2, [0.3, 0.4, 0.2, 0.3]
    two = points(data__labeled_frac=shares, selector__name=["l2l"] * 2 + ["supervised"] * 2, val_mean_iou=figures)
    one = points(data__labeled_frac=shares[:2], selector__name=["l2l"] * 2, val_mean_iou=figures[:2])
    fields = [SHARE, "selector.name"]
    drawn = [share_curves(frame, fields, "l2l", NAMES) for frame in (one, two)]
    assert [len(figure.axes[0].lines) for figure in drawn if figure is not None] == [1, 2]


def test_effects_are_drawn_of_numbers_with_three_values() -> None:
    three = points(loop__lr=[0.1, 0.2, 0.3], val_mean_iou=[0.3, 0.4, 0.35])
    assert field_effects(three, ["loop.lr"], NAMES) is not None
    assert field_effects(three.iloc[:2], ["loop.lr"], NAMES) is None
    words = points(selector__name=["a", "b", "c"], val_mean_iou=[0.1, 0.2, 0.3])
    assert field_effects(words, ["selector.name"], NAMES) is None


def test_lines_that_are_left_out_are_told_of() -> None:
    def drawn(num: int) -> Any:
        rates = [rate / 10 for rate in range(1, num + 1)]
        frame = points(
            data__labeled_frac=[0.01] * num + [0.1] * num, loop__lr=rates * 2, val_mean_iou=[0.3] * num + [0.4] * num
        )
        figure = share_curves(frame, [SHARE, "loop.lr"], "l2l", NAMES)
        return None if figure is None else (len(figure.axes[0].lines), figure.axes[0].get_title(loc="left"))

    assert [drawn(num) for num in (8, 9, 10)] == [(8, ""), (8, "the best 8 of 9 lines"), (8, "the best 8 of 10 lines")]
