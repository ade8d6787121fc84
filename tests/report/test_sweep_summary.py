"""Points of a sweep: means and intervals over seeds, checked by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from l2l_ray.report.figures import NOTHING
from l2l_ray.report.sweep_summary import (
    best_point,
    figure_text,
    num_as_good,
    plain_text,
    points_frame,
    points_table,
    trials_table,
)

FIELDS = ["loop.lr"]
NAMES = {"loop.lr": "lr"}


def trials(*rows: tuple[float, int, str, float | None]) -> pd.DataFrame:
    """Return trials of (lr, seed, state, val mean IoU)."""
    frame = pd.DataFrame(rows, columns=["loop.lr", "seed", "state", "val_mean_iou"])
    more = {"trial": [f"t{number}" for number in range(len(frame))], "version": 2, "reason": "", "seconds": 10.0}
    return frame.assign(testA_mean_iou=frame["val_mean_iou"] / 2, **more).astype({"val_mean_iou": "float64"})


def test_mean_spread_and_interval_over_seeds_are_those_of_the_finished_trials() -> None:
    done, stopped = "finished", "stopped at version 1"
    points = points_frame(trials((0.1, 0, done, 0.3), (0.1, 1, done, 0.5), (0.1, 2, stopped, 0.9)), FIELDS)
    (row,) = points.to_dict("records")
    assert (row["seeds"], row["of"], row["states"]) == (2, 3, stopped)
    # mean 0.4; sd sqrt(0.02); t of 1 degree is 12.706, half width 12.706 * sqrt(0.02 / 2)
    assert (row["val_mean_iou"], row["val_mean_iou_sd"]) == pytest.approx((0.4, 0.1414214))
    assert (row["val_mean_iou_low"], row["val_mean_iou_high"]) == pytest.approx(
        (0.4 - 1.27062, 0.4 + 1.27062), abs=1e-5
    )
    assert row["testA_mean_iou"] == pytest.approx(0.2)
    assert figure_text(row, "val_mean_iou") == "40.0 ± 14.1 (-87.1 to 167.1)"


def test_more_finished_seeds_come_first_then_the_better_mean() -> None:
    done = "finished"
    rows = trials((0.1, 0, done, 0.3), (0.1, 1, done, 0.3), (0.2, 0, done, 0.9), (0.2, 1, "failed", None),
                  (0.3, 0, done, 0.4), (0.3, 1, done, 0.4))  # fmt: skip
    points = points_frame(rows, FIELDS)
    assert points["loop.lr"].tolist() == [0.3, 0.1, 0.2]
    best = best_point(points)
    assert best is not None and best["loop.lr"] == 0.3


def test_values_that_read_the_same_are_two_points() -> None:
    rows = trials((0.0012345671, 0, "finished", 0.3), (0.0012345679, 0, "finished", 0.4))
    assert points_frame(rows, FIELDS)["of"].tolist() == [1, 1]


def test_one_seed_has_no_interval_and_none_has_no_figure() -> None:
    points = points_frame(trials((0.1, 0, "finished", 0.3), (0.2, 0, "failed", None)), FIELDS)
    assert [figure_text(row, "val_mean_iou") for row in points.to_dict("records")] == ["30.0", NOTHING]
    assert best_point(points_frame(trials((0.2, 0, "failed", None)), FIELDS)) is None


def test_the_tables_name_fields_states_and_figures() -> None:
    rows = trials((0.1, 0, "finished", 0.3), (0.2, 0, "failed", None))
    table = points_table(points_frame(rows, FIELDS), FIELDS, NAMES)
    assert not any(cell.best for row in table.rows for cell in row), "the best of one is none"
    assert table.header == ("lr", "seeds", "val mean IoU", "testA mean IoU", "seconds")
    assert [cell.text for cell in table.rows[0]] == ["0.1", "1 of 1", "30.0", "15.0", "10"]
    assert [cell.text for cell in table.rows[1]] == ["0.2", "0 of 1 (failed)", NOTHING, NOTHING, NOTHING]
    assert [cell.text for cell in trials_table(rows, FIELDS, NAMES).rows[1]] == [
        "t1", "0.2", "0", "failed", "2", NOTHING, NOTHING, "10"
    ]  # fmt: skip
    assert plain_text(table).splitlines()[1] == "0.1  1 of 1           30.0          15.0            10"


def test_a_field_without_a_value_is_a_point_too() -> None:
    rows = trials((0.1, 0, "finished", 0.3), (0.2, 0, "finished", 0.4)).assign(**{"loop.lr": [None, 0.2]})
    points = points_frame(rows, FIELDS)
    assert len(points) == 2 and points["seeds"].tolist() == [1, 1]


@pytest.mark.parametrize(("second", "num"), [(0.3, 2), (0.2996, 2), (0.2994, 1), (None, 1)])
def test_the_best_is_marked_where_no_other_point_prints_the_same(second: float | None, num: int) -> None:
    rows = trials((0.1, 0, "finished", 0.3), (0.2, 0, "finished", second), (0.3, 0, "finished", 0.1))
    points = points_frame(rows, FIELDS)
    assert num_as_good(points) == num
    marks = [[cell.best for cell in row] for row in points_table(points, FIELDS, NAMES).rows]
    assert [row[2] for row in marks] == [num == 1, False, False]


def test_a_finished_trial_without_a_figure_is_no_seed_of_its_point() -> None:
    done = "finished"
    rows = trials((0.1, 0, done, 0.4), (0.1, 1, done, None), (0.2, 0, done, 0.3), (0.2, 1, done, 0.3))
    points = points_frame(rows, FIELDS)
    assert points["loop.lr"].tolist() == [0.2, 0.1] and points["seeds"].tolist() == [2, 1]
    assert num_as_good(points) == 1, "fewer seeds are not compared"


def test_seeds_that_all_come_to_the_same_have_no_interval() -> None:
    points = points_frame(trials(*((0.1, seed, "finished", 0.1) for seed in range(3))), FIELDS)
    assert figure_text(points.iloc[0], "val_mean_iou") == f"10.0 ± 0.0 ({NOTHING})"
