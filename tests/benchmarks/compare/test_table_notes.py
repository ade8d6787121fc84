"""What stands beneath the tables: rows of different commits, seeds that are not compared, moved boxes, the folds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.compare.rows import Task
from benchmarks.compare.runner import Comparison
from benchmarks.compare.summary import write_summary
from benchmarks.compare.table_notes import by_commits, named
from benchmarks.compare.tables import biased_table, main_table, origin_note, recovered_text
from tests.benchmarks.compare.records_by_hand import save

MOVED = {"kind": "same_class", "categories": ["heart", "star"], "moved": {"labeled": [1, 10], "val": [500, 2000]}}


def tables(folder: Path, **of_row: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return the table of some rows: row -> seed -> fields of its record."""
    for row, seeds in of_row.items():
        for seed, fields in seeds.items():
            save(Comparison([], folder / "compare", None), Task("refshapes", "5pct", seed, row), **fields)
    (table,) = write_summary(folder)["tables"]
    return dict(table)


def test_words_for_seeds_and_commits() -> None:
    assert named("seed", [11]) == "seed 11" and named("seed", [11, 12, 13]) == "seeds 11, 12 and 13"
    assert by_commits({"1": ["a", "b"], "2": ["a", "c"], "3": ["a", "b"]}) == (
        "of seeds 1 and 3 by a and b, of seed 2 by a and c"
    )


def test_rows_of_one_commit_need_no_note(tmp_path: Path) -> None:
    table = tables(tmp_path, l2l={1: {}, 2: {}}, accept_all={1: {}, 2: {}})
    assert "\n\n" not in main_table(table, ["selectors"])


def test_a_difference_of_rows_of_different_commits_says_so(tmp_path: Path) -> None:
    table = tables(
        tmp_path,
        l2l={1: {}, 2: {"commit": "old"}},
        accept_all={1: {}, 2: {"commit": "new"}},
        pwa={1: {}, 2: {"commit": "new"}},
        scorer={1: {}, 2: {"commit": "old"}},
        sample_oracle={1: {}, 2: {"commit": "new"}},
    )
    _, note = main_table(table, ["selectors"]).split("\n\n")[:2]
    assert note == (
        "The two rows of the difference of accept all and SemiRES pixel weights were made by different commits (of "
        "seed 2 by old and new): where these compute differently, if only in rounding, that is part of it."
    )
    assert "supervised scorer" not in note
    assert "come from several commits: of seed 2 by old and new." in recovered_text(table)


def test_seeds_that_are_not_compared_are_named_with_the_reason(tmp_path: Path) -> None:
    table = tables(
        tmp_path,
        l2l={1: {"processor": ""}, 2: {}, 3: {}},
        l2l_biased={1: {"biased_prior": MOVED}, 2: {"biased_prior": MOVED}, 3: {"processor": "another"}, 4: {}},
        accept_all_biased={1: {}},
    )
    found = biased_table(table)
    (line,) = (line for line in found.splitlines() if line.startswith("| L2L"))
    assert "| too few seeds (by 1 of 4 seeds) |" in line
    assert "| accept all, biased prior |" in found, "a row without any pair stays in the table"
    for why in (
        "The loss of L2L (RPLE), biased prior leaves out seed 1, for only one of its two rows names the kind",
        "leaves out seed 3, for different kinds of processor computed its two rows.",
        "leaves out seed 4, for the row it is compared with has no such seed.",
    ):
        assert why in found
    assert "Boxes that were moved: seed 1 (heart and star) 24.9% of all, labeled 1 of 10, val 500 of 2,000;" in found


def test_where_no_pair_is_left_the_reason_still_stands(tmp_path: Path) -> None:
    table = tables(tmp_path, l2l={1: {"processor": ""}}, l2l_biased={1: {}}, accept_all={1: {}})
    assert "| L2L (RPLE), biased prior | 50.0 |  |  |  |  |" in biased_table(table)
    assert "leaves out seed 1, for only one of its two rows names the kind" in biased_table(table)
    assert "The difference of accept all leaves out seed 1, for only one" in main_table(table, ["selectors"])


def test_rows_of_unlike_seeds_are_compared_over_those_they_share(tmp_path: Path) -> None:
    slow, fast = ({"cpu_s": {"training": seconds}} for seconds in (400.0, 100.0))
    on_another = {"processor": "another", **fast}
    table = tables(tmp_path, l2l={1: fast, 2: slow}, accept_all={1: {"cpu_s": {"training": 50.0}}, 2: on_another})
    few = tables(tmp_path / "few", l2l={1: fast, 2: slow}, accept_all={1: {"cpu_s": {"training": 50.0}}})
    for found in (table, few):
        (line,) = (line for line in main_table(found).splitlines() if line.startswith("| accept all"))
        assert line.endswith("| 0.50× |"), "seconds of another machine are no seconds of this one"
    note = "A row of fewer seeds is the mean of those alone: compare it by its difference and its time."
    assert note in main_table(few) and note not in main_table(table)


def test_the_page_says_which_commits_and_processors_made_a_table(tmp_path: Path) -> None:
    table = tables(tmp_path, l2l={1: {"processor": "p"}, 2: {"processor": "q", "commit": "new"}})
    assert origin_note(table) == (
        "Made by commits abc and new on processors p and q: what these change, if only rounding, is part of the spread "
        "over seeds."
    )


def test_seconds_are_without_the_shared_teachers_of_the_folds(tmp_path: Path) -> None:
    seconds = {"training": 60.0, "folds": 200.0, "evaluation": 900.0}
    late = {"training": 60.0, "folds": 20.0}  # another row had trained the burn-in, and most of the teachers
    first = {1: {"cpu_s": {**seconds, "burn-in": 40.0}}, 2: {"cpu_s": late}}
    table = tables(tmp_path, l2l=first, scorer={1: {}}, accept_all={1: {}})
    text = main_table(table)
    (line,) = (line for line in text.splitlines() if line.startswith("| **L2L"))
    assert line.endswith("| 60 s |")
    assert text.endswith(
        "Not in the time: the teachers of the folds, which L2L (RPLE) and supervised scorer learn from. Rows that "
        "share a burn-in share them; trained once: 3.33 of the time of L2L (RPLE)."
    )
    assert "teachers" not in main_table(tables(tmp_path / "other", accept_all={1: {}}))
