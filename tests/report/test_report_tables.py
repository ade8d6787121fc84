from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from l2l_ray.errors import DataError
from l2l_ray.report.record import read_run
from l2l_ray.report.tables import (
    Cell,
    differences_table,
    metrics_frame,
    priors_table,
    results_table,
)


def row(method: str, overall: float, mean: float, half: float, **more: Any) -> dict[str, Any]:
    scores = {"overall_iou": overall, "mean_iou": mean, "precision_at": {"0.5": half}, "num": 50}
    return {"method": method, "label": method.upper(), "splits": {"val": scores}, **more}


ROWS = [row("l2l", 0.5234, 0.5, 0.6), row("supervised", 0.41, 0.5, float("nan"))]


def test_best_is_marked_only_where_there_is_something_to_compare() -> None:
    cells = results_table(ROWS, ("overall_iou", "mean_iou", "precision_at.0.5")).rows
    assert cells[0] == (Cell("L2L"), Cell("52.3", True), Cell("50.0"), Cell("60.0"))  # P@0.5: no rival
    assert cells[1] == (Cell("SUPERVISED"), Cell("41.0"), Cell("50.0"), Cell("–"))
    assert not any(cell.best for cell in results_table(ROWS[:1]).rows[0])


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ((0.50049, 0.49951, 0.3), [False] * 3),  # differ, but print the same: 50.0
        ((0.50051, 0.50049, 0.3), [True, False, False]),  # differ by less, but print 50.1 and 50.0
        ((0.3, 0.5, 0.5), [False] * 3),
        ((0.3, 0.3, 0.5), [False, False, True]),  # a tie below the best is none
    ],
)
def test_what_prints_the_same_is_a_tie_and_has_no_best(values: tuple[float, ...], best: list[bool]) -> None:
    table = results_table([row(str(i), 0.1, value, 0.1) for i, value in enumerate(values)], ("mean_iou",))
    assert [line[1].best for line in table.rows] == best


def test_a_reference_row_is_never_best() -> None:
    table = results_table([*ROWS, row("oracle", 0.9, 0.9, 0.9, reference=True)], ("overall_iou",))
    assert [line[1].best for line in table.rows] == [True, False, False]


def test_rows_may_lack_splits_and_thresholds_may_be_floats() -> None:
    lacking = {"method": "a", "splits": {"testA": {"mean_iou": 0.2, "precision_at": {0.5: 0.1}, "num": 9}}, "steps": 5}
    table = results_table([ROWS[0], lacking, {"method": "b", "splits": None}], ("mean_iou", "precision_at.0.5"))
    assert table.groups == (("", 1), ("val, 50 texts", 2), ("testA, 9 texts", 2), ("", 1))
    assert table.group_starts == {1, 3, 5}
    assert [cell.text for cell in table.rows[1]] == ["a", "–", "–", "20.0", "10.0", "5"]
    assert [cell.text for cell in table.rows[2]] == ["b", "–", "–", "–", "–", "–"]


def test_metrics_files_hold_one_line_per_version(run_dir: Path) -> None:
    frame = metrics_frame(run_dir)
    assert len(frame) == 1 + 5 * 5  # prior_only has one version, the others five
    again = pd.read_parquet(run_dir / "metrics.parquet")
    pd.testing.assert_frame_equal(frame, again)
    text = pd.read_csv(run_dir / "metrics.csv")
    assert list(text.columns) == list(frame.columns)
    line = text[(text.method == "l2l") & (text.version == 4)].iloc[0]
    assert line["round"] == 3 and line["reward.label"] == pytest.approx(0.25 * 2.2)
    assert not list(run_dir.glob(".metrics*"))


def test_metrics_files_of_an_empty_run(tmp_path: Path) -> None:
    assert len(metrics_frame(tmp_path)) == 0
    assert len(pd.read_parquet(tmp_path / "metrics.parquet")) == 0


def test_metrics_of_mixed_types_are_written_as_text(tmp_path: Path) -> None:
    lines = ['{"event": "train", "method": "a", "version": 1, "x": "big", "list": [1, 2]}']
    lines += ['{"event": "train", "method": "a", "version": 2, "x": 3}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    frame = metrics_frame(tmp_path)
    assert frame["train.x"].tolist() == ["big", "3"] and frame["train.list"].iloc[0] == "[1, 2]"


def test_differences_are_shown_with_their_sign_and_interval(run_dir: Path) -> None:
    record = read_run(run_dir)
    assert differences_table(record) is None
    found = {"method": "l2l", "versus": "supervised", "split": "val", "diff": 0.0316, "low": -0.002, "high": 0.06}
    record.results["differences"] = [found, {"method": "l2l"}]
    table = differences_table(record)
    assert table is not None and len(table.rows) == 1
    texts = [cell.text for cell in table.rows[0]]
    chose = "val, which chose the version"
    assert texts == ["L2L (RPLE) - supervised, with guidance", chose, "+3.2", "-0.2 to +6.0"]
    assert table.header[-1] == "95 % interval over images"


def test_answers_of_the_language_model_are_counted(run_dir: Path) -> None:
    record = read_run(run_dir)
    priors = priors_table(record)
    assert priors is not None
    assert [cell.text for cell in priors.rows[1]] == ["unlabeled", "3800", "3800", "76", "2"]
    empty = read_run(run_dir.parent)
    assert priors_table(empty) is None


@pytest.mark.parametrize("name", ["metrics.parquet", "metrics.csv"])
def test_a_file_that_cannot_be_written_is_named_in_one_line(run_dir: Path, name: str) -> None:
    (run_dir / name).mkdir()
    with pytest.raises(DataError, match=f"cannot write the report's files in .*{name}.*l2l report") as caught:
        metrics_frame(run_dir)
    assert "\n" not in str(caught.value)
