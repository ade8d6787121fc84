"""Intervals, no-target figures and the breakdown: shown where a run has them, absent where it does not."""

from pathlib import Path
from typing import Any

import pytest

from l2l_ray.report.details import MAX_CATEGORIES, breakdown_table, intervals_table, no_target_table
from l2l_ray.report.record import RunRecord


def record(**results: Any) -> RunRecord:
    return RunRecord(Path(), {"selector": {"name": "l2l"}}, {}, results, (), (), {}, (), (), ())


def row(**scores: Any) -> dict[str, Any]:
    return {"method": "l2l", "label": "L2L", "splits": {"val": {"mean_iou": 0.5, "num": 9, **scores}}}


def texts(table: Any) -> list[list[str]]:
    return [[cell.text for cell in line] for line in table.rows]


@pytest.mark.parametrize(
    "results", [{}, {"rows": [row()]}, {"rows": [row(interval=3, no_target=[])], "breakdown": ["x"]}]
)
def test_older_and_damaged_runs_have_no_such_tables(results: dict[str, Any]) -> None:
    found = record(**results)
    assert (intervals_table(found), no_target_table(found), breakdown_table(found)) == (None, None, None)


@pytest.mark.parametrize("half", ["0.5", 0.5])  # as read from JSON, and as in memory
def test_intervals_of_the_headline(half: Any) -> None:
    ends = {"mean_iou": {"low": 0.41, "high": 0.59}, "precision_at": {half: {"low": 0.2, "high": 0.3}}}
    table = intervals_table(record(rows=[row(interval=ends)]))
    assert table is not None and table.header == ("Method", "overall IoU", "mean IoU", "IoU ≥ 50 %")
    assert texts(table) == [["L2L", "–", "41.0 to 59.0", "20.0 to 30.0"]]


def test_an_interval_without_width_is_a_dash() -> None:
    ends = {"mean_iou": {"low": 0.2, "high": 0.2}, "overall_iou": {"low": 0.1, "high": 0.3}}
    table = intervals_table(record(rows=[row(interval=ends)]))
    assert table is not None and texts(table) == [["L2L", "10.0 to 30.0", "–", "–"]]


def test_no_target_figures_name_their_rules() -> None:
    found = {"gres_giou": 0.5, "gres_ciou": 0.4, "n_acc": None, "t_acc": 1.0, "num_no_target": 3}
    rules = {"empty_union_rule": "IoU 1, union 0", "small_prediction_rule": "none"}
    table = no_target_table(record(rows=[row(no_target=found | rules)]))
    assert table is not None
    (line,) = texts(table)
    assert line == ["L2L", "val", "3 of 9", "50.0", "40.0", "–", "100.0", "empty union: IoU 1, union 0; small: none"]


def test_breakdown_of_the_main_method() -> None:
    def part(split: str, by: str, group: str, num: int, method: str = "l2l") -> dict[str, Any]:
        return {
            "method": method,
            "split": split,
            "by": by,
            "group": group,
            "num": num,
            "overall_iou": 0.5,
            "mean_iou": 0.4,
        }

    parts = [part("val", "category", f"c{i}", i) for i in range(20)]
    parts += [part("val", "size", "small", 5), part("testA", "size", "small", 6), part("val", "size", "big", 5, "pwa")]
    table = breakdown_table(record(rows=[row()], breakdown=parts))
    assert table is not None and table.groups == (("", 1), ("val", 3), ("testA", 3))
    lines = texts(table)
    assert len(lines) == MAX_CATEGORIES + 1 and lines[0][:2] == ["category: c19", "19"]
    assert lines[-1] == ["size: small", "5", "50.0", "40.0", "6", "50.0", "40.0"]
