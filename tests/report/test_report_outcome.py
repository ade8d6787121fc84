"""What came out, in sentences: figures with their intervals, no verdict from one seed, and what to look at first."""

from pathlib import Path
from typing import Any

import pytest

from l2l_ray.doubt import Doubt
from l2l_ray.report.outcome import doubt_of, outcome
from l2l_ray.report.record import RunRecord

ENDS = {"mean_iou": {"low": 0.372, "high": 0.418}}


def row(method: str, label: str, *splits: str, **scores: Any) -> dict[str, Any]:
    return {"method": method, "label": label, "splits": {name: {"mean_iou": 0.395, **scores} for name in splits}}


def difference(versus: str, diff: float, low: float, high: float, split: str = "tests") -> dict[str, Any]:
    return {"method": "l2l", "versus": versus, "split": split, "diff": diff, "low": low, "high": high}


def sentences(rows: list[dict[str, Any]], **results: Any) -> tuple[str, ...]:
    config = {"selector": {"name": "l2l"}}
    return outcome(RunRecord(Path("runs/a b"), config, {}, {"rows": rows, **results}, (), (), {}, (), (), ())).sentences


FIXED = row("fixed_threshold", "fixed threshold", "val")
MAIN = row("l2l", "L2L", "val", interval=ENDS)


def test_the_figure_of_the_main_method_comes_first_with_its_interval() -> None:
    assert sentences([FIXED, MAIN]) == ("L2L reached a mean IoU of 39.5 % on val (95 % interval 37.2 to 41.8).",)
    assert sentences([row("l2l", "L2L", "testA")]) == ("L2L reached a mean IoU of 39.5 % on testA.",)
    (held_out,) = sentences([row("l2l", "L2L", "val")], val_source="labeled")
    assert held_out == "L2L reached a mean IoU of 39.5 % on the held-out photos."


def test_it_is_compared_with_the_best_of_the_others() -> None:
    several = row("l2l", "L2L", "val", "testA", "testB")
    found = [difference("prior_only", 0.2, 0.1, 0.3), difference("fixed_threshold", 0.011, -0.002, 0.024)]
    assert sentences([FIXED, several], differences=found)[1] == (
        "On the tests together it is 1.1 points above fixed threshold, the best of the others: undecided (-0.2 to "
        "+2.4)."
    )
    for split, where in (
        ("testA", "On testA"),
        ("val", "There, where its version was chosen,"),
        ("all", "On all splits together"),  # of an older run
    ):
        told = sentences([FIXED, several], differences=[difference("fixed_threshold", 0.011, -0.002, 0.024, split)])[1]
        assert told == f"{where} it is 1.1 points above fixed threshold: undecided (-0.2 to +2.4)."


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((-0.02, -0.03, -0.01), "2.0 points below fixed threshold (95 % interval over images -3.0 to -1.0); another"),
        ((0.02, 0.01, 0.03), "2.0 points above fixed threshold (95 % interval over images +1.0 to +3.0); another"),
        ((0.02, 0.02, 0.02), "2.0 points above fixed threshold: undecided (the same on all images)."),
    ],
)
def test_one_run_is_no_verdict_on_methods(numbers: tuple[float, float, float], said: str) -> None:
    assert said in sentences([FIXED, MAIN], differences=[difference("fixed_threshold", *numbers)])[1]


@pytest.mark.parametrize("found", [3, ["x"], [{"method": "l2l"}], None])
def test_differences_that_are_no_such_thing_are_left_out(found: Any) -> None:
    assert len(sentences([MAIN], differences=found)) == 1


def test_doubtful_labels_are_counted_with_the_command_that_shows_them() -> None:
    results = {"rows": [MAIN], "doubt": {"num": 3791, "sure": 1200, "doubtful": 412}}
    record = RunRecord(Path("runs/a b"), {}, {}, results, (), (), {}, (), (), ())
    found = outcome(record)
    assert found.sentences[-1] == (
        "412 of 3,791 labels of the last round are doubtful (confidence below 0.4), 1,200 sure (0.7 or more): look at "
        "the doubtful first."
    )
    assert found.step is not None and found.step.command == f"l2l review '{Path.cwd()}/runs/a b'"
    after = outcome(record, Doubt.of([0.5] * 500 + [0.1] * 411))
    assert after.sentences[-1].endswith(
        ": look at the doubtful first. 911 of the 3,791 were decided in a review since."
    )
    assert after.step == found.step
    done = outcome(record, Doubt.of([0.5] * 5 + [0.1] * 412))
    assert done.step is None and done.sentences[-1].endswith(
        "sure (0.7 or more). 417 of the 3,791 were decided in a review since, all the doubtful among them."
    )
    results["doubt"] = {"num": 5, "sure": 5, "doubtful": 0}
    assert outcome(record).step is None and "look at" not in outcome(record).sentences[-1]


@pytest.mark.parametrize("found", [None, 3, {}, {"num": 0, "sure": 0, "doubtful": 0}, {"num": 4, "sure": "x"}])
def test_without_counts_nothing_is_said_of_doubt(found: Any) -> None:
    record = RunRecord(Path("x"), {}, {}, {"doubt": found}, (), (), {}, (), (), ())
    assert doubt_of(record) is None
    record.results["doubt"] = {"num": 4, "sure": 1, "doubtful": 2}
    assert doubt_of(record) == Doubt(4, 1, 2)


def test_what_was_not_measured_is_said_and_an_unfinished_run_says_nothing() -> None:
    assert sentences([row("l2l", "L2L")])[0].startswith("How good the masks are was not measured: ")
    assert sentences([]) == ()


def test_what_the_labels_are_worth_by_the_labeled_photos_is_said_with_its_interval() -> None:
    worth = {"all": {"mean": 0.512, "low": 0.48, "high": 0.54}, "used": None}
    assert sentences([MAIN], expected={"l2l": worth})[1] == (
        "By the labeled photos, as teachers of the burn-in label them, the mean IoU is about 51.2 % for all labels "
        "with a mask of the last round (95 % interval 48.0 to 54.0)."
    )
    both = {**worth, "used": {"mean": 0.7, "low": 0.6, "high": 0.8}}
    assert sentences([MAIN], expected={"l2l": both})[1].endswith(
        "to 54.0), 70.0 % for those it learned from (95 % interval 60.0 to 80.0)."
    )
    assert len(sentences([MAIN], expected={"l2l": {"all": {"mean": "?"}}})) == 1
    assert len(sentences([MAIN], expected="damaged")) == 1
