"""What people decided about a run's labels is said in its report."""

from __future__ import annotations

from pathlib import Path

from l2l_ray.report.page import render
from l2l_ray.report.record import read_run
from l2l_ray.report.reviewed import reviewed
from l2l_ray.review.journal import FILE, Journal


def test_decisions_are_counted_with_the_command_that_brings_them_home(run_dir: Path) -> None:
    assert reviewed(read_run(run_dir)) == [] and "What people decided" not in render(read_run(run_dir))
    journal = Journal(run_dir)
    journal.add(1, "accept", "anna", 0, "1 accept")
    journal.add(2, "redraw", "<b>ben</b>", 0, "2 redraw", rle={"size": [2, 2], "counts": "04"}, iou=0.4)
    journal.add(3, "reject", "anna", 0, "3 reject")
    journal.add(3, "undo", "anna", 3, "3 undo")
    with (run_dir / FILE).open("a") as file:
        file.write("no line\n")
    first, second, third = reviewed(read_run(run_dir))
    assert first == (
        "2 labels decided by <b>ben</b>, anna: 1 accepted, 1 redrawn (mean IoU of redrawn masks with the labels: 0.40)."
    )
    assert second.startswith(f"`l2l data import review {run_dir} --root ROOT --dataset NAME --update` brings them")
    assert third == f"{FILE}: line 5 is damaged and does not count"
    html = render(read_run(run_dir))
    assert "What people decided about its labels" in html and "<b>ben</b>" not in html


def test_a_review_of_which_nothing_is_left_says_what_is_wrong_with_it(run_dir: Path) -> None:
    (run_dir / FILE).write_text("no line\n")
    assert reviewed(read_run(run_dir)) == [f"{FILE}: line 1 is damaged and does not count"]
