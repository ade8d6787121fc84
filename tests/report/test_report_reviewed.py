"""What people decided about a run's labels is said in its report, and on the cards of the labels."""

from __future__ import annotations

import html as markup
import json
import re
from pathlib import Path

import pytest

from l2l_ray.report.page import render
from l2l_ray.report.record import read_run
from l2l_ray.report.reviewed import reviewed
from l2l_ray.review.journal import FILE, Journal

pytestmark = pytest.mark.usefixtures("undrawn")

LABELS = (105, 104, 103)  # sent_ids of the unlabeled photos of the fake run, of which training used 104 alone


def test_decisions_are_counted_with_the_command_that_brings_them_home(run_dir: Path) -> None:
    assert reviewed(read_run(run_dir), None).sentences == ()
    assert "What people decided" not in render(read_run(run_dir))
    journal = Journal(run_dir)
    journal.add(1, "accept", "anna", 0, "1 accept")
    journal.add(2, "redraw", "<b>ben</b>", 0, "2 redraw", rle={"size": [2, 2], "counts": "04"}, iou=0.4)
    journal.add(3, "reject", "anna", 0, "3 reject")
    journal.add(3, "undo", "anna", 3, "3 undo")
    with (run_dir / FILE).open("a") as file:
        file.write("no line\n")
    found = reviewed(read_run(run_dir), Journal(run_dir))
    assert found.sentences == (
        "2 labels decided by <b>ben</b>, anna: 1 accepted, 1 redrawn (mean IoU of redrawn masks with the labels: 0.40)"
        ".",
        f"{FILE}: line 5 is damaged and does not count",
    )
    html = render(read_run(run_dir))
    assert "What people decided about its labels" in html and "<b>ben</b>" not in html


def test_what_was_decided_comes_home_to_the_runs_own_data_set(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal(run_dir).add(105, "reject", "anna", 0, "key")
    into_a_new_one = f"l2l data import review {run_dir} --root ROOT --dataset NAME"
    assert f"<pre>{into_a_new_one}</pre>" in render(read_run(run_dir)), "a benchmark stays what it is"
    (run_dir / "config.yaml").write_text("data: {root: /my data, dataset: own}\nselector: {name: l2l}\n")
    results = json.loads((run_dir / "results.json").read_text())
    (run_dir / "results.json").write_text(json.dumps({**results, "hidden_truth": None}))
    monkeypatch.chdir(run_dir.parent)
    html = markup.unescape(render(read_run(Path(run_dir.name))))
    command = f"l2l data import review {run_dir} --root '/my data' --dataset own --update"
    assert html.count(f"<pre>{command}</pre>") == 2, "in the box, and among what to do next"
    assert "ROOT" not in html and "`" not in re.sub(r"<(style|img)\b.*?>|base64,[^\"]*", "", html)


def test_open_labels_come_first_and_each_card_says_what_was_decided(run_dir: Path) -> None:
    index = run_dir / "panels" / "index.json"
    entries = json.loads(index.read_text())
    for entry in entries:
        entry["used"] = None if entry["split"] != "unlabeled" else True
    index.write_text(json.dumps(entries))

    def cards() -> list[str]:
        return re.findall(r'<article class="photo">.*?</article>', render(read_run(run_dir)), re.DOTALL)

    def order() -> list[int]:
        return [next(i for i in LABELS if f"scene-{i - 100}.jpg" in card) for card in cards()]

    assert order() == [103, 104, 105], "the least sure first"
    assert "Nobody has checked them: look at these first." in render(read_run(run_dir))
    journal = Journal(run_dir)
    journal.add(103, "wrong_object", "<i>anna</i>", 0, "1")
    assert "1 of those shown was decided in a review, as the cards say; open ones come first." in render(
        read_run(run_dir)
    )
    journal.add(104, "accept", "ben", 0, "2", rle={"size": [2, 2], "counts": "04"})
    journal.add(9, "reject", "ben", 0, "3")  # the label of a photo that is not shown
    page = render(read_run(run_dir))
    assert "2 of those shown were decided in a review, as the cards say; open ones come first." in page
    assert "Nobody has checked" not in page
    assert order() == [105, 103, 104]
    still_open, wrong, accepted = cards()
    assert "badge" not in still_open and "the run&#39;s label" not in still_open
    assert (
        "&lt;i&gt;anna&lt;/i&gt;: wrong object</span>" in wrong and "<figcaption>the run&#39;s label</figcap" in wrong
    )
    assert "ben: accepted</span>" in accepted and "<figcaption>label</figcaption>" in accepted
    journal.add(103, "undo", "anna", journal.last_number(103), "4")
    assert order() == [103, 105, 104], "an undone decision is none"


def test_masks_that_are_no_labels_have_no_decision(run_dir: Path) -> None:
    index = run_dir / "panels" / "index.json"
    entries = [{**entry, "used": None} for entry in json.loads(index.read_text())]
    index.write_text(json.dumps(entries))
    Journal(run_dir).add(105, "reject", "anna", 0, "key")
    assert 'class="badge decided"' not in render(read_run(run_dir))


def test_a_review_of_which_nothing_is_left_says_what_is_wrong_with_it(run_dir: Path) -> None:
    (run_dir / FILE).write_text("no line\n")
    found = reviewed(read_run(run_dir), Journal(run_dir))
    assert (found.sentences, found.step) == ((f"{FILE}: line 1 is damaged and does not count",), None)
