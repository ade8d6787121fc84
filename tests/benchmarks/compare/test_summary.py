"""The tables by hand: differences, intervals, Holm, the recovered share, and what is left out."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from benchmarks.compare.records import SplitFigures, processor
from benchmarks.compare.rows import REPORT_SEEDS, Task
from benchmarks.compare.runner import Comparison
from benchmarks.compare.summary import difference, mean_of, spread_of, summarize, valid_records, write_summary
from benchmarks.compare.tables import (
    biased_table,
    curve_table,
    label_table,
    main_table,
    origin_note,
    recovered_text,
    text_tables,
)
from l2l_ray.errors import DataError
from tests.benchmarks.compare.records_by_hand import labels, record, save

ROWS = ("l2l", "accept_all", "pwa", "sample_oracle", "l2l_biased")
# Sums of IoU on two images with two and one sentences, per seed; means .5, .6 | .4, .4 | .5, .6 | .6, .7 | .45, .55
SUMS = {
    "l2l": [(1.0, 0.5), (1.2, 0.6)],
    "accept_all": [(0.8, 0.4), (0.8, 0.4)],
    "pwa": [(1.0, 0.5), (1.2, 0.6)],
    "sample_oracle": [(1.2, 0.6), (1.4, 0.7)],
    "l2l_biased": [(0.9, 0.45), (1.1, 0.55)],
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder of records: five rows, two seeds."""
    comparison = Comparison([], tmp_path / "compare", None)
    for row in ROWS:
        for seed, sums in zip((10, 11), SUMS[row], strict=True):
            save(comparison, Task("refshapes", "5pct", seed, row), sums, rounds=[labels(), labels(ece=seed / 250)])
    return tmp_path


def test_the_table_by_hand(results: Path) -> None:
    (table,) = write_summary(results)["tables"]
    assert json.loads((results / "compare.json").read_text())["tables"] == [table]
    rows = {row["row"]: row for row in table["rows"]}
    assert list(rows) == ["l2l", "accept_all", "pwa", "sample_oracle", "l2l_biased"]
    assert rows["l2l"]["all"]["mean_iou"] == pytest.approx({"mean": 0.55, "std": 0.0707107})
    assert rows["l2l"]["calibration_error_by_seed"] == [0.04, 0.044]  # of the last round
    found = rows["accept_all"]["versus_minus_this"]
    assert found["by_seed"] == pytest.approx([0.1, 0.2]) and found["diff"] == pytest.approx(0.15)
    # Standard error 0.05, times 12.706 for one degree of freedom.
    assert found["over_seeds"] == pytest.approx({"low": 0.15 - 0.635310, "high": 0.15 + 0.635310})
    assert found["over_both"] is None, "two seeds are too few to draw from"
    assert found["verdict"] == "undecided" and found["seeds"] == [10, 11]
    # Rows of the group: p of t = 3 with one degree is .2048, times 2; no difference has p = 1.
    assert found["p_holm"] == pytest.approx(2 * 0.2048328, abs=1e-6)
    assert rows["pwa"]["versus_minus_this"]["p_holm"] == 1.0
    assert rows["l2l_biased"]["loss_by_bias"]["diff"] == pytest.approx(0.05)
    assert "versus_minus_this" not in rows["l2l"]
    # (.55 - .4) / (.65 - .4)
    assert table["recovered"]["share"] == pytest.approx(0.6) and table["recovered"]["span"] == pytest.approx(0.25)


def test_the_interval_over_seeds_and_images_by_hand(results: Path) -> None:
    for row, sums in {"l2l": (1.1, 0.55), "accept_all": (0.8, 0.4), "sample_oracle": (1.3, 0.65)}.items():
        save(Comparison([], results / "compare", None), Task("refshapes", "5pct", 12, row), sums)
    (table,) = write_summary(results)["tables"]
    (accept_all,) = (row for row in table["rows"] if row["row"] == "accept_all")
    # All images differ by the seed's difference, .1, .2 or .15, so only seeds are drawn; the ends are a seed thrice.
    assert accept_all["versus_minus_this"]["over_both"] == pytest.approx({"low": 0.1, "high": 0.2})
    # Seed 10 alone gives .1 / .2, seed 11 .2 / .3, seed 12 .15 / .25.
    assert (table["recovered"]["low"], table["recovered"]["high"]) == pytest.approx((0.5, 2 / 3))
    assert recovered_text(table) == (
        "L2L recovers 60% (50% to 67%) of right labels alone minus accept all: +25.00 (+20.00 to +30.00); 3 seeds."
    )


def test_the_tables_in_words(results: Path) -> None:
    (table,) = write_summary(results)["tables"]
    lines = main_table(table).partition("\n\n")[0].splitlines()
    assert len({line.count("|") for line in lines}) == 1
    (accept_all,) = (line for line in lines if line.startswith("| accept all |"))
    assert "| 40.0 ± 0.0 | 50.0 | +15.00 | -48.53 to +78.53 | too few seeds | 0.410 | undecided | 1400 | 1.00× |" in (
        accept_all
    )
    assert recovered_text(table) == (
        "L2L recovers 60% (no interval) of right labels alone minus accept all: +25.00 (too few seeds); 2 seeds."
    )
    (of_l2l,) = (line for line in label_table(table).splitlines() if "**" in line)
    assert of_l2l.startswith("| **L2L (RPLE)** | 50.0 → 50.0 | 60.0 → 60.0 | 70.0 → 70.0 | 10.0 → 10.0 |")
    assert "| 30.0 → 30.0 | 20.0 → 20.0 | 90.0 → 90.0 |" in of_l2l  # object recall, other candidates, AUC
    assert of_l2l.endswith("| 3.0 → 4.2 |")  # calibration error: of the last round .04 and .044
    assert "| L2L (RPLE), biased prior | 50.0 ± 7.1 | +5.00 | +5.00 to +5.00 |  |  |" in biased_table(table)


def test_what_was_made_with_other_settings_is_named_and_left_out(
    results: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = results / "compare" / "refshapes" / "5pct-seed11-pwa.json"
    path.write_text(path.read_text().replace('"digest":"', '"digest":"0'))
    (path.parent / "5pct-seed11-gone.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        found = valid_records(results / "compare")
    assert len(found) == 9 and Task("refshapes", "5pct", 11, "pwa") not in found
    assert "5pct-seed11-pwa.json is left out" in caplog.text and "5pct-seed11-gone.json is left out" in caplog.text
    (table,) = summarize(found)["tables"]
    (pwa,) = (row for row in table["rows"] if row["row"] == "pwa")
    assert pwa["seeds"] == [10] and pwa["versus_minus_this"]["over_seeds"] is None
    assert pwa["versus_minus_this"]["over_both"] is None, "one seed has no spread"


def test_a_damaged_record_is_named_and_the_rest_is_shown(results: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = results / "compare" / "refshapes" / "5pct-seed11-pwa.json"
    path.write_text(path.read_text()[:40])
    with caplog.at_level(logging.WARNING):
        (table,) = write_summary(results)["tables"]
    assert {row["row"]: row["seeds"] for row in table["rows"]}["pwa"] == [10]
    assert "5pct-seed11-pwa.json is no record: " in caplog.text and "delete it, and the row runs again" in caplog.text


def test_records_of_other_seeds_are_named_and_enter_no_table(results: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (table,) = write_summary(results, REPORT_SEEDS)["tables"]
    assert table["seeds"] == [11] and {tuple(row["seeds"]) for row in table["rows"]} == {(11,)}
    assert table["rows"][0]["all"]["mean_iou"]["mean"] == pytest.approx(0.6)
    assert "5pct-seed10-l2l.json is left out: its seed is none of 11, 12, 13, 14, 15" in caplog.text
    assert write_summary(results)["tables"][0]["seeds"] == [10, 11], "a folder of one's own shows what it holds"


def test_seeds_that_do_not_name_their_processor_stay_and_are_named(results: Path) -> None:
    (table,) = write_summary(results)["tables"]
    assert table["processors"] == [processor()] and table["seeds_without_processor"] == []
    assert origin_note(table) == f"Made by commit abc on processor {processor()}."
    comparison = Comparison([], results / "compare", None)
    for row in ROWS:
        save(comparison, Task("refshapes", "5pct", 11, row), SUMS[row][1], processor="")
    summary = write_summary(results)
    (table,) = summary["tables"]
    assert table["processors"] == [processor()] and table["seeds_without_processor"] == [11]
    (accept_all,) = (row for row in table["rows"] if row["row"] == "accept_all")
    assert accept_all["versus_minus_this"]["by_seed"] == pytest.approx([0.1, 0.2])
    assert "Records of seed 11 do not name their kind of processor" in origin_note(table)
    assert origin_note(table) in text_tables(summary)


def test_a_difference_over_fewer_seeds_than_its_row_says_so(results: Path) -> None:
    assert "by 1 of 2 seeds" not in main_table(write_summary(results)["tables"][0])
    comparison = Comparison([], results / "compare", None)
    save(comparison, Task("refshapes", "5pct", 11, "accept_all"), SUMS["accept_all"][1], processor="another")
    (table,) = write_summary(results)["tables"]
    (line,) = (line for line in main_table(table).splitlines() if line.startswith("| accept all"))
    assert "| 2 |" in line and "| +10.00 |" in line and "| undecided (by 1 of 2 seeds) |" in line


def test_a_span_that_may_be_nothing_gives_no_interval(tmp_path: Path) -> None:
    comparison = Comparison([], tmp_path / "compare", None)
    for row, sums in {**SUMS, "sample_oracle": [(0.9, 0.4), (0.7, 0.4)]}.items():
        for seed, pair in zip((10, 11), sums, strict=True):
            save(comparison, Task("refshapes", "5pct", seed, row), pair)
    (table,) = write_summary(tmp_path)["tables"]
    assert table["recovered"]["share"] is None and table["recovered"]["low"] is None
    assert recovered_text(table).startswith("L2L recovers no share: right labels alone minus accept all: +0.00")


def test_the_ends_over_both_are_further_out_where_seeds_are_few() -> None:
    # Nine images that are alike, nine seeds of which one differs by 0.9: the ninth of 0.9 times how often it is drawn.
    # More than 3 times come 1.2 % of the draws, more than 4 times 0.15 %. By Student's t with 8 degrees of freedom the
    # end is at 99.3 %, which is 4 times; the plain percentile, at 97.5 %, would be 3 times.
    task, figures = Task("refshapes", "5pct", 10, "l2l"), {"mean_iou": 0.0}
    none, much = ({"val": SplitFigures(figures, "ids", (1,) * 9, (iou,) * 9)} for iou in (0.0, 0.9))
    base = {seed: record(task, (0.0, 0.0), splits=none) for seed in range(9)}
    found = difference({**base, 0: record(task, (0.0, 0.0), splits=much)}, base)
    assert found is not None and found["over_both"] == pytest.approx({"low": 0.0, "high": 0.9 * 4 / 9})


def test_one_seed_has_no_interval_over_both(results: Path) -> None:
    (table,) = write_summary(results, [10])["tables"]
    assert table["recovered"]["span_over_both"] is None and table["recovered"]["low"] is None
    assert recovered_text(table) == (
        "L2L recovers 50% (no interval) of right labels alone minus accept all: +20.00 (too few seeds); "
        "by seed 10 alone."
    )
    (line,) = (line for line in main_table(table).splitlines() if line.startswith("| accept all |"))
    assert "| +10.00 | too few seeds | too few seeds |  | undecided |" in line


def test_rows_on_other_images_are_refused() -> None:
    first = record(Task("refshapes", "5pct", 10, "l2l"), (1.0, 0.5))
    other = record(Task("refshapes", "5pct", 10, "pwa"), (1.0, 0.5), splits={})
    with pytest.raises(DataError, match="pwa of seed 10 was measured on other images than l2l of seed 10"):
        difference({10: first}, {10: other})


def test_rows_that_different_kinds_of_processor_computed_are_not_compared() -> None:
    task = Task("refshapes", "5pct", 10, "l2l")
    first = {10: record(task, (1.0, 0.5)), 11: record(task, (1.2, 0.6), processor="another")}
    other = {10: record(task, (0.7, 0.5)), 11: record(task, (0.1, 0.1))}
    found = difference(first, other)
    assert found is not None and found["by_seed"] == pytest.approx([0.1])
    assert difference({11: first[11]}, {11: other[11]}) is None


def test_the_label_curve_has_a_column_per_share(results: Path) -> None:
    comparison = Comparison([], results / "compare", None)
    save(comparison, Task("refshapes", "1pct", 10, "l2l"), (0.6, 0.3), labeled_frac=0.01)
    lines = curve_table(write_summary(results)).splitlines()
    assert lines[0] == "| refshapes | 1.0% | 5.0% |"
    assert lines[2:] == ["| accept all |  | 40.0 ± 0.0 |", "| L2L (RPLE) | 30.0 | 55.0 ± 7.1 |"]
    assert "## Label curve" in text_tables(write_summary(results))


def test_means_over_seeds_reach_inside_and_leave_out_what_is_not_there() -> None:
    parts = [{"a": [1.0, 2.0], "b": None, "name": "x"}, {"a": [3.0, 4.0, 5.0], "b": 6.0, "name": "x"}]
    assert mean_of(parts) == {"a": [2.0, 3.0], "b": 6.0, "name": "x"}
    assert mean_of([None, None]) is None
    assert spread_of([{"a": {"b": 1.0}}, {"a": {"b": 3.0}}]) == {
        "a": {"b": {"mean": 2.0, "std": pytest.approx(2**0.5)}}
    }
