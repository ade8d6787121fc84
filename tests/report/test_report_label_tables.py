"""What labels were worth: every figure in its column, dashes where one is absent, no column that nobody fills."""

import json
from pathlib import Path

from l2l_ray.report.label_tables import (
    expected_table,
    gate_table,
    labels_table,
    regions_table,
    rounds_table,
    sources_table,
)
from l2l_ray.report.record import read_run
from l2l_ray.report.tables import Table


def _texts(table: Table | None) -> list[list[str]]:
    assert table is not None
    assert sum(span for _, span in table.groups) == len(table.header)
    assert all(len(row) == len(table.header) for row in table.rows)
    return [[cell.text for cell in row] for row in table.rows]


def test_labels_are_those_of_the_last_measured_round(run_dir: Path) -> None:
    record = read_run(run_dir)
    table = labels_table(record, "hidden_truth")
    (line,) = _texts(table)
    assert table is not None and dict(zip(table.header, line, strict=True)) == {
        "Method": "L2L (RPLE)", "all": "3800", "used": "61.5", "mean IoU": "63.5", "stated confidence": "59.5",
        "right": "71.5", "poor outline": "10.0", "wrong object": "18.5", "refused": "12.5", "wrong again": "60.0",
        "same mask": "45.0", "precision": "71.5", "recall": "41.5", "gate": "81.5",
    }  # fmt: skip
    assert ("AUC", 1) in table.groups  # confidence put nothing in order, for no method


def test_on_val_nothing_is_held_against_a_round_before(run_dir: Path) -> None:
    table = labels_table(read_run(run_dir), "quality.val")
    (line,) = _texts(table)
    assert table is not None and "wrong again" not in table.header
    assert line[:4] == ["L2L (RPLE)", "256", "68.0", "70.0"]


def test_a_run_of_before_these_figures_shows_those_it_has(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    old = {"labels": {"num": 9, "used_frac": 0.5, "mean_iou": 0.25}, "object_precision": 0.75}
    (run_dir / "results.json").write_text(json.dumps({**results, "hidden_truth": {"l2l": [old]}, "gate_open": None}))
    record = read_run(run_dir)
    table = rounds_table(record)
    assert _texts(table) == [["0", "9", "50.0", "25.0", "75.0"]]
    assert table is not None and table.header == ("Round", "all", "used", "mean IoU", "precision")
    assert (gate_table(record), sources_table(record)) == (None, None)


def test_labels_of_every_round(run_dir: Path) -> None:
    table = rounds_table(read_run(run_dir))
    lines = _texts(table)
    assert table is not None and [line[0] for line in lines] == ["0", "1", "2", "3"]
    assert [line[table.header.index("mean IoU")] for line in lines] == ["59.0", "60.5", "62.0", "63.5"]
    assert [line[table.header.index("wrong again")] for line in lines] == ["–", "60.0", "60.0", "60.0"]


def test_open_rates_stand_beside_each_other(run_dir: Path) -> None:
    assert _texts(gate_table(read_run(run_dir))) == [["L2L (RPLE)", "0", "61.0", "56.3", "+4.7"]]


def test_whose_labels_were_used(run_dir: Path) -> None:
    table = sources_table(read_run(run_dir))
    assert _texts(table) == [["L2L (RPLE)", "75.0", "33.3", "25.0", "100.0"]]
    assert table is not None and table.groups == (("", 1), ("teacher", 2), ("language model", 2))


def test_labels_of_an_older_run_keep_the_names_they_had(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    for figures in results["hidden_truth"]["l2l"]:
        figures["sources"]["mixed"] = figures["sources"].pop("guided")
    (run_dir / "results.json").write_text(json.dumps(results))
    table = sources_table(read_run(run_dir))
    assert table is not None and table.groups == (("", 1), ("language model", 2), ("mixed", 2))


def test_accepted_cells_by_true_region(run_dir: Path) -> None:
    (line,) = _texts(regions_table(read_run(run_dir)))
    assert line == ["L2L (RPLE)", "73.5", "98.5", "62.5", "56.5", "83.5", "32.5"]


def test_an_empty_folder_has_no_such_tables(tmp_path: Path) -> None:
    empty = read_run(tmp_path)
    assert (labels_table(empty, "hidden_truth"), rounds_table(empty), regions_table(empty)) == (None,) * 3
    assert (gate_table(empty), sources_table(empty)) == (None,) * 2


def test_what_the_labels_are_worth_by_the_labeled_photos_alone(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    worth = {"labeled": {"images": 50, "texts": 150}, "reliability": {"ece": 0.021}}
    worth |= {"all": {"mean": 0.5, "low": 0.4, "high": 0.6}, "used": None}
    (run_dir / "results.json").write_text(json.dumps({**results, "expected": {"l2l": worth}}))
    (line,) = _texts(expected_table(read_run(run_dir)))
    assert line == ["L2L (RPLE)", "50", "150", "50.0 (40.0 to 60.0)", "–", "2.1"]
    (run_dir / "results.json").write_text(json.dumps(results))
    assert expected_table(read_run(run_dir)) is None
