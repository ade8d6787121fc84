"""What to label next: by hand, and of a whole run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2l_ray.cli import main
from l2l_ray.datatools.label_studio import LABELING_CONFIG
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.loop.evaluation.suggest import MOST, choose, suggest, write_suggestions
from l2l_ray.loop.state.example_files import read_examples, write_examples
from l2l_ray.loop.state.ledger import Ledger, read_shard
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.review.journal import Journal

pytestmark = pytest.mark.usefixtures("one_thread")

# Three images alike, one of another kind, one of a third: the mean of all is the origin.
FEATURES = np.array([[1.0, 0], [1, 0], [1, 0], [-1, 1], [-2, -1]])


def test_who_stands_for_many_comes_first_and_its_likes_bring_nothing_more() -> None:
    found = choose(np.array([0.5, 0.5, 0.5, 1.0, 0.9]), FEATURES, 5)
    # image 0: 3 * 0.5; then image 4, alike to image 3 by (-2 * -1 + -1 * 1) / sqrt(10) = 0.316, so 0.9 + 0.316 * 1
    # against 1 + 0.316 * 0.9 = 1.285 of image 3; the last of them adds what is left of its own
    assert [place for place, _ in found][:3] == [0, 3, 4]
    assert [gain for _, gain in found] == pytest.approx([1.5, 1.285, 0.9 * (1 - 0.3162), 0, 0], abs=1e-3)


def test_doubt_decides_between_images_that_stand_alone() -> None:
    assert [place for place, _ in choose(np.array([0.1, 0.9, 0.5]), np.eye(3), 2)] == [1, 2]


def test_no_image_is_named_twice_nor_more_than_there_are() -> None:
    places = [place for place, _ in choose(np.zeros(3), np.ones((3, 2)), 9)]
    assert sorted(places) == [0, 1, 2]


def test_of_a_run_it_names_unlabeled_images_with_all_their_texts(whole_run: RunFolder) -> None:
    found = suggest(whole_run.path, 4)
    examples = read_examples(whole_run.examples_path("unlabeled"))
    assert len({one.image for one in found}) == len(found) == 4
    entries = Ledger(whole_run.ledger_path).entries("l2l", whole_run.config.loop.rounds - 1)
    labels = [label for entry in entries for label in read_shard(whole_run.path / entry.path)]
    confidence_of = {label.sent_id: label.confidence for label in labels}
    for one in found:
        texts = {row.sent_id: row.expression for row in examples if row.image_path == one.image}
        assert dict(zip(one.sent_ids, one.texts, strict=True)) == texts
        assert one.doubt == pytest.approx(sum(1 - confidence_of[sent_id] for sent_id in texts))
        confidences = [confidence_of[sent_id] for sent_id in one.sent_ids]
        assert confidences == sorted(confidences)
    assert found == suggest(whole_run.path, 4)


def test_the_list_the_sheet_and_the_tasks_are_of_the_same_images(whole_run: RunFolder, tmp_path: Path) -> None:
    found = suggest(whole_run.path, 3)
    out = write_suggestions(whole_run.path, found, tmp_path / "next")
    lines = [json.loads(line) for line in (out / "suggestions.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == [one.image for one in found]
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width > 3 * 224
    tasks = json.loads((out / "labelstudio" / "tasks.json").read_text())
    assert [task["data"]["sent_id"] for task in tasks] == [i for one in found for i in one.sent_ids]
    assert (out / "labelstudio" / "labeling_config.xml").read_text() == LABELING_CONFIG
    with pytest.raises(DataError, match="is there already; choose another --out"):
        write_suggestions(whole_run.path, found, tmp_path / "next")


def test_a_photo_that_is_gone_is_named_and_the_others_are_suggested(
    copied: Callable[..., RunFolder], caplog: pytest.LogCaptureFixture
) -> None:
    run = copied()
    every = suggest(run.path, MOST)
    examples = read_examples(run.examples_path("unlabeled"))
    gone = str(run.path / "gone.jpg")
    lost = [replace(one, image_path=gone) if one.image_path == every[0].image else one for one in examples]
    write_examples(run.examples_path("unlabeled"), lost)
    found = suggest(run.path, MOST)
    assert {one.image for one in found} == {one.image for one in every[1:]}
    assert [gone in record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [True]
    write_examples(run.examples_path("unlabeled"), [replace(one, image_path=gone) for one in examples])
    with pytest.raises(DataError, match=r"gone\.jpg cannot be read"):
        suggest(run.path, 1)


def test_what_cannot_be_answered_is_refused(copied: Callable[..., RunFolder]) -> None:
    with pytest.raises(ConfigError, match="--count must be 1 to 2000, got 0"):
        suggest(Path("nowhere"), 0)
    with pytest.raises(ConfigError, match="--count must be 1 to 2000, got 2001"):
        suggest(Path("nowhere"), 2001)
    run = copied()
    run.ledger_path.write_text("")
    with pytest.raises(DataError, match="has no whole round of pseudo-labels yet; let the run go on"):
        suggest(run.path, 1)


def test_what_was_decided_on_the_review_page_is_in_no_doubt(
    copied: Callable[..., RunFolder], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(without=())
    journal, words = Journal(run.path), ["suggest", str(run.path), "--count", "2000"]
    everything = [one for found in suggest(run.path, MOST) for one in found.sent_ids]
    first = suggest(run.path, 1)[0]
    for sent_id in first.sent_ids:
        journal.add(sent_id, "reject", "anna", 0, f"key{sent_id}")
    assert main(words) == 0
    assert first.image not in capsys.readouterr().out
    journal.add(first.sent_ids[0], "undo", "anna", journal.last_number(first.sent_ids[0]), "back")
    assert main(words) == 0
    assert f"{first.image} " in capsys.readouterr().out
    (again,) = [one for one in suggest(run.path, MOST, journal.decided) if one.image == first.image]
    assert again.sent_ids == first.sent_ids[:1]
    with pytest.raises(DataError, match=f"each of the {len(everything)} labels of .* was decided on the review page"):
        suggest(run.path, 1, everything)


def test_the_command_prints_a_line_per_image(whole_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suggest", str(whole_run.path), "--count", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "doubt" in lines[0]


def test_the_sheet_names_a_photo_with_its_folder(whole_run: RunFolder, tmp_path: Path) -> None:
    (one,) = suggest(whole_run.path, 1)
    folder = tmp_path / "images" / whole_run.config.data.dataset
    titled = [replace(one, image=str(folder / name)) for name in ("a.png", "sub/a.png")]
    sheets = [write_suggestions(whole_run.path, [found], tmp_path / f"next{n}") for n, found in enumerate(titled)]
    assert len({(sheet / "sheet.png").read_bytes() for sheet in sheets}) == 2
