"""What is left and how long it takes, from records alone."""

from __future__ import annotations

from pathlib import Path

from benchmarks.compare.records import save_record
from benchmarks.compare.rows import Task, chosen_rows
from benchmarks.compare.runner import Comparison, Runner, list_text, shared_parts, tasks_of
from tests.benchmarks.compare.records_by_hand import labels, record, save

NAMES = ["l2l", "accept_all", "random_gate", "l2l_plain"]


def comparison(folder: Path) -> Comparison:
    return Comparison(tasks_of(["refshapes"], ["5pct"], [10, 11], chosen_rows(NAMES)), folder, None)


def test_a_seed_that_is_given_twice_is_run_once() -> None:
    tasks = tasks_of(["refshapes"], ["5pct", "5pct"], [10, 10], chosen_rows(NAMES))
    assert len(tasks) == len(set(tasks)) == len(NAMES)


def task(row: str, seed: int = 10) -> Task:
    return Task("refshapes", "5pct", seed, row)


def test_finished_rows_are_not_left_and_needed_ones_come_first(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    assert [(t.row, t.seed) for t in found.left()[:3]] == [("l2l", 10), ("accept_all", 10), ("random_gate", 10)]
    assert found.needed(task("random_gate")) is None and found.needed(task("accept_all")) == {}
    save(found, task("l2l"))
    assert task("l2l") not in found.left() and task("l2l", 11) in found.left()
    save(found, task("random_gate"))
    assert task("random_gate") not in found.left()


def test_what_is_left_of_a_seed_of_another_kind_of_processor_is_run_anew_as_a_whole(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    for row in NAMES:
        save(found, task(row), processor="another")
        save(found, task(row, 11))
    assert found.left() == [], "a finished seed stays, whoever computed it"
    found = Comparison([*found.tasks, task("scorer"), task("scorer", 11)], tmp_path, None)
    assert found.left() == [*(task(row) for row in NAMES), task("scorer"), task("scorer", 11)]


def test_a_record_is_void_when_what_it_followed_from_changes(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    save(found, task("l2l"))
    save(found, task("random_gate"))
    save(found, task("l2l"), rounds=[labels(used=0.9)])
    assert task("l2l") not in found.left() and task("random_gate") in found.left()


def test_the_list_says_what_is_done_and_how_long_the_rest_takes(tmp_path: Path) -> None:
    found = comparison(tmp_path)
    text = list_text(found, processes=2)
    assert "  l2l                       · ·                                 ?" in text.splitlines()
    assert text.endswith("0 of 8 done; 8 left, 8 of them unknown: an unknown time with 2 at a time")
    save(found, task("l2l"), wall_s={"training": 600.0})
    save(found, task("accept_all"), wall_s={"training": 120.0, "report": 180.0})
    lines = list_text(found, processes=2).splitlines()
    assert "  l2l                       10 ·                             10.0" in lines
    assert "  accept_all                10 ·                              5.0" in lines
    assert "  l2l_plain                 · ·                       7.5 (guess)" in lines
    # 600 + 300 for the two, and the mean of them, 450, for each of four others: 2700 s, two at a time
    assert lines[-1] == "2 of 8 done; 6 left: about 22m30s with 2 at a time"


def test_rows_share_a_burn_in_unless_they_change_what_it_rests_on() -> None:
    def parts(row: str, seed: int = 10) -> set[str]:
        return shared_parts(task(row, seed).config({}), task(row, seed).spec.is_biased)

    shared = parts("l2l")
    assert len(shared) == 2 and parts("scorer") == parts("l2l_no_rivals") == shared
    assert parts("accept_all") == parts("true_masks") < shared  # these need no teachers of folds
    others = [parts("l2l", 11), parts("l2l_plain"), parts("l2l_2_folds"), parts("l2l_biased")]
    assert not any(shared & other for other in others)
    assert parts("l2l_biased") == parts("scorer_biased") > parts("accept_all_biased")


def test_a_row_whose_steps_cannot_be_known_fails_by_name_and_the_others_are_done(tmp_path: Path) -> None:
    tasks = tasks_of(["refshapes"], ["5pct"], [10], chosen_rows(["l2l", "accept_all", "accept_all_same_cost"]))
    found = Comparison(tasks, tmp_path, str(tmp_path))
    save(found, task("l2l"), cpu_s={"training": 90.0, "folds": 1.0})  # another row trained the burn-in
    save(found, task("accept_all"))
    runner = Runner(found, 1)
    runner.run()
    ((failed, why),) = runner.failed.items()
    assert failed == task("accept_all_same_cost") and "what the folds' teachers cost is not known" in why
    save_record(tmp_path, failed.name, record(failed, (1.0, 0.5)))  # made when it was known
    assert found.left() == [failed] and "2 of 3 done" in list_text(found, 1)
