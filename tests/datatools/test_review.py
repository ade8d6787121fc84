"""Decisions of the review page come into a data set: masks, no such object, or rejected and not labeled again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2l_ray import cli
from l2l_ray.config import RunConfig
from l2l_ray.data.masks import annotation_rle, encode
from l2l_ray.data.plain_pickle import plain_records
from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.check import check
from l2l_ray.datatools.inventory import take_inventory
from l2l_ray.datatools.review import read_review
from l2l_ray.errors import DataError
from l2l_ray.loop.state.candidates import find_candidates, open_dataset
from l2l_ray.review.journal import FILE, Journal
from l2l_ray.types import Rle
from tests.refer_folder import draw
from tests.whole_run import changed

TEXTS = {"a.png": "cat", "b.png": "dog", "c.png": "bird", "d.png": "fish", "e.png": "stone"}
MODEL = {"source": "pseudo_label", "run": "r", "round": 2}


def square(left: int) -> Rle:
    mask = np.zeros((24, 32), bool)
    mask[2:12, left : left + 8] = True
    return encode(mask)


class Reviewed:
    """A data set of five photos, of which the last has a mask, and the journal of a run on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.run_dir, self._capsys = folder / "root", folder / "run", capsys
        self.photos = self.root / "images" / "own"
        self.run_dir.mkdir()
        self._texts = dict(enumerate(TEXTS.items(), 1))  # photo and text by sent_id
        for name in TEXTS:
            draw(folder / "photos" / name, ord(name[0]))
        rows: list[dict[str, Any]] = [{"image": name, "expression": text} for name, text in TEXTS.items()]
        rows[-1]["rle"] = square(20)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        status, said = self.data("rows", str(folder / "rows.jsonl"), "--images", str(folder / "photos"))
        assert status == 0, said
        self.journal = Journal(self.run_dir)

    def data(self, *words: str) -> tuple[int, str]:
        status = cli.main(["data", "import", *words, "--root", str(self.root), "--dataset", "own"])
        printed = self._capsys.readouterr()
        return status, printed.out + printed.err

    def update(self) -> tuple[int, str]:
        return self.data("review", str(self.run_dir), "--update")

    def decide(self, sent_id: int, action: str, rle: Rle | None = None, **label: Any) -> None:
        name, text = self._texts[sent_id]
        about = {"image": name, "expression": text, "split": "train", "id": str(sent_id), "sent_id": sent_id}
        about |= {"confidence": 0.25, "provenance": MODEL, "image_root": str(self.photos), "ref_id": sent_id, **label}
        about |= {"rle": about.pop("label_rle")} if "label_rle" in about else {}
        last = self.journal.last_number(sent_id)
        self.journal.add(sent_id, action, "anna", last, f"{sent_id} {action} {last}", about, rle, 0.5 if rle else None)

    def table(self, *rows: dict[str, Any]) -> tuple[int, str]:
        """Import rows of the user's own table once more."""
        (self.root / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return self.data("rows", str(self.root / "table.jsonl"), "--images", str(self.photos), "--update")

    def say_otherwise(self) -> None:
        """Add two more texts about the cat, sentences 6 and 7."""
        self._texts |= {6: ("a.png", "the cat"), 7: ("a.png", "a grey cat")}
        row = {"image": "a.png", "expression": ["cat", "the cat", "a grey cat"]}
        (self.root / "texts.jsonl").write_text(json.dumps(row) + "\n")
        words = ["rows", str(self.root / "texts.jsonl"), "--images", str(self.photos), "--update"]
        assert "2 new texts" in self.data(*words)[1]

    def know(self, texts: dict[int, tuple[str, str]]) -> None:
        """Let decisions be made about more texts, by sentence: photo and text, as the run has it."""
        self._texts |= texts

    def ref_mask(self, text: str) -> Rle:
        """Return the mask of the object that has a text."""
        table = json.loads((self.root / "own" / "instances.json").read_text())
        wanted = self.ref_of(text)["ann_id"]
        found = next(row["segmentation"] for row in table["annotations"] if row["id"] == wanted)
        return annotation_rle(found, 24, 32)

    def ref_of(self, text: str) -> dict[str, Any]:
        return next(ref for ref in self.refs if text in [sentence["sent"] for sentence in ref["sentences"]])

    @property
    def refs(self) -> list[dict[str, Any]]:
        return list(plain_records(self.root / "own" / "refs(own).p"))

    @property
    def masks(self) -> dict[str, Rle]:
        examples, _ = ReferDataset.open(self.root, "own", "own").labeled_examples("train")
        return {example.expression: example.mask_rle for example in examples}


@pytest.fixture
def reviewed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Reviewed:
    return Reviewed(tmp_path, capsys)


def test_each_decision_becomes_what_it_says(reviewed: Reviewed, smoke: RunConfig) -> None:
    reviewed.decide(1, "accept", square(2))
    reviewed.decide(2, "redraw", square(4))
    reviewed.decide(3, "no_object")
    reviewed.decide(4, "reject")
    status, said = reviewed.update()
    assert status == 0 and ": 2 corrected, 1 confirmed, 1 rejected, 1 unchanged\n" in said, said
    empty = encode(np.zeros((24, 32), bool))
    assert reviewed.masks == {"cat": square(2), "dog": square(4), "bird": empty, "stone": square(20)}
    cat, dog, bird, fish, _ = reviewed.refs
    for ref, sent_id, more in (
        (cat, 1, {"action": "accept", "confirmed_from": MODEL}),
        (dog, 2, {"action": "redraw", "iou": 0.5, "corrected_from": MODEL}),
    ):
        who = {"source": "review", "completed_by": "anna", "number": sent_id, "as_of": sent_id, "sent_id": sent_id}
        assert ref["provenance"] == {**who, "updated_at": reviewed.journal.history(sent_id)[0].at, **more}
    assert bird["ann_ids"] == [] and bird["provenance"]["action"] == "no_object"
    assert fish["rejected"]["completed_by"] == "anna" and fish["rejected"]["rejected"] == MODEL
    assert not fish.keys() & {"ann_id", "ann_ids", "provenance"}
    assert check(take_inventory(reviewed.root / "own"), decode=True) == []

    data = {"root": str(reviewed.root), "dataset": "own", "split_by": "own"}
    config = changed(smoke, data=data)
    found = find_candidates(config, open_dataset(config))
    assert [example.expression for example in found.labeled] == ["cat", "dog", "bird", "stone"]
    assert found.unlabeled == [], "what was rejected is not labeled as if nothing had been said"
    assert [(skip.kind, skip.sent_id) for skip in found.skips] == [("rejected_label", 4)]


def test_the_same_again_changes_nothing_and_a_later_mask_ends_a_rejection(reviewed: Reviewed) -> None:
    reviewed.decide(4, "wrong_object")
    digest = ReferDataset.open(reviewed.root, "own", "own").digest
    assert ": 0 corrected, 1 rejected, 4 unchanged\n" in reviewed.update()[1]
    assert ReferDataset.open(reviewed.root, "own", "own").digest != digest, "a run that began before is told"
    tables = reviewed.root / "own" / "instances.json"
    before = tables.stat().st_ino, tables.stat().st_mtime_ns
    assert ": 0 corrected, 5 unchanged\n" in reviewed.update()[1]
    assert (tables.stat().st_ino, tables.stat().st_mtime_ns) == before
    reviewed.decide(4, "redraw", square(6))
    assert ": 1 corrected, 4 unchanged\n" in reviewed.update()[1]
    assert "rejected" not in reviewed.refs[3] and reviewed.masks["fish"] == square(6)


def test_what_is_said_of_one_text_holds_for_no_other_text_of_its_object(reviewed: Reviewed) -> None:
    reviewed.say_otherwise()
    reviewed.decide(6, "no_object")
    reviewed.decide(7, "reject")
    status, said = reviewed.update()
    assert status == 0 and ": 1 corrected, 1 rejected, 5 unchanged\n" in said, said
    cat, absent, rejected = (reviewed.ref_of(text) for text in ("cat", "the cat", "a grey cat"))
    assert [ref["sent_ids"] for ref in (cat, absent, rejected)] == [[1], [6], [7]], "sentences keep their ids"
    assert len({ref["ref_id"] for ref in reviewed.refs}) == len(reviewed.refs) == 7
    assert absent["ann_ids"] == [] and rejected["rejected"]["number"] == 2
    assert not cat.keys() & {"ann_id", "ann_ids", "provenance", "rejected"}, "it is labeled by the next run"
    assert check(take_inventory(reviewed.root / "own"), decode=True) == []
    assert ": 0 corrected, 7 unchanged\n" in reviewed.update()[1]
    reviewed.decide(7, "redraw", square(6))
    assert ": 1 corrected, 6 unchanged\n" in reviewed.update()[1]
    assert reviewed.masks["a grey cat"] == square(6) and "cat" not in reviewed.masks


def test_all_texts_of_an_object_may_be_rejected_one_by_one(reviewed: Reviewed) -> None:
    reviewed.say_otherwise()
    for sent_id in (1, 6, 7):
        reviewed.decide(sent_id, "reject")
    assert ": 0 corrected, 3 rejected, 4 unchanged\n" in reviewed.update()[1]
    assert all(ref["sentences"] for ref in reviewed.refs)
    assert [ref["sent_ids"] for ref in reviewed.refs if "rejected" in ref] == [[7], [1], [6]]


def test_a_later_decision_replaces_what_an_earlier_import_of_a_review_wrote(reviewed: Reviewed) -> None:
    reviewed.say_otherwise()
    reviewed.decide(1, "accept", square(2))
    reviewed.update()
    assert reviewed.masks == {**dict.fromkeys(("cat", "the cat", "a grey cat"), square(2)), "stone": square(20)}
    reviewed.decide(1, "reject")
    assert ": 0 corrected, 1 rejected, " in reviewed.update()[1]
    assert reviewed.masks.keys() == {"stone"}, "the mask was there by this text's decision alone"
    assert reviewed.ref_of("cat")["rejected"]["replaced"]["provenance"]["action"] == "accept"
    reviewed.decide(1, "accept", square(2))
    assert ": 0 corrected, 1 confirmed, " in reviewed.update()[1]
    assert reviewed.masks == {"cat": square(2), "stone": square(20)}

    reviewed.decide(2, "redraw", square(4))
    reviewed.update()
    reviewed.decide(2, "no_object")
    reviewed.update()
    assert reviewed.ref_of("dog")["ann_ids"] == []
    reviewed.decide(2, "undo")
    assert ": 1 corrected, " in reviewed.update()[1]
    assert reviewed.masks["dog"] == square(4), "the decision before it holds again"
    reviewed.decide(2, "undo")
    said = reviewed.update()[1]
    assert f"notice: {FILE} action 7: its decision was undone; if that was imported before, it stays" in said
    assert ": 0 corrected, 6 unchanged\n" in said


def test_a_rejection_does_not_take_a_persons_mask_from_elsewhere(reviewed: Reviewed) -> None:
    reviewed.decide(5, "reject")
    said = reviewed.update()[1]
    assert "e.png, 'stone': it was rejected, but has a mask of a person's, which stays" in said
    assert reviewed.masks["stone"] == square(20) and "rejected" not in reviewed.ref_of("stone")


def test_a_models_mask_is_confirmed_or_taken_away(reviewed: Reviewed, tmp_path: Path) -> None:
    rows = [
        {"image": name, "expression": TEXTS[name], "rle": square(2), "provenance": MODEL} for name in ("a.png", "b.png")
    ]
    (tmp_path / "models.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reviewed.data("rows", str(tmp_path / "models.jsonl"), "--images", str(reviewed.photos), "--update")
    reviewed.decide(1, "accept", square(2))
    reviewed.decide(2, "reject")
    assert ": 0 corrected, 1 confirmed, 1 rejected, 3 unchanged\n" in reviewed.update()[1]
    cat, dog = reviewed.refs[:2]
    assert cat["provenance"]["replaced"] == {"provenance": MODEL} and reviewed.masks.keys() == {"cat", "stone"}
    assert dog["rejected"]["replaced"]["provenance"] == MODEL and "ann_id" not in dog


def test_of_several_masks_of_one_object_one_counts(reviewed: Reviewed) -> None:
    for sent_id, action, rle in ((1, "redraw", square(2)), (2, "redraw", square(4)), (3, "accept", square(6))):
        reviewed.decide(sent_id, action, rle, ref_id=7)
    reviewed.decide(4, "reject", ref_id=7)
    rows, folder = read_review(reviewed.run_dir)
    (_, rejected), (_, notice), (where, row) = rows
    assert folder == reviewed.photos and where == f"{FILE} action 2" and row["rle"] == square(4)
    assert str(notice) == f"{FILE} action 2: of 3 masks of one object, this one counts: it is redrawn"
    assert rejected["expression"] == "fish" and "rle" not in rejected


def test_what_cannot_be_imported_is_said(reviewed: Reviewed, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nobody has reviewed it; `l2l review '\S*/else where'` opens"):
        read_review(tmp_path / "else where")
    reviewed.decide(1, "reject")
    reviewed.journal.add(1, "undo", "anna", 1, "undone")
    with pytest.raises(DataError, match="no decision that was not undone"):
        read_review(reviewed.run_dir)
    reviewed.decide(1, "reject", image_root="/one")
    reviewed.decide(2, "reject", image_root="/other")
    with pytest.raises(DataError, match="below several folders"):
        read_review(reviewed.run_dir)


def test_damaged_lines_are_told_and_the_others_imported(reviewed: Reviewed) -> None:
    reviewed.decide(1, "accept", square(2))
    with (reviewed.run_dir / FILE).open("a") as file:
        file.write("no line\n")
    status, said = reviewed.update()
    assert status == 0 and f"notice: {FILE}: {FILE}: line 2 is damaged and does not count" in said
    assert reviewed.masks["cat"] == square(2)


def test_photos_that_were_moved_are_found_by_images(
    reviewed: Reviewed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reviewed.decide(1, "accept", square(2), image_root="/gone")
    assert reviewed.update()[0] == 1
    status, said = reviewed.data("review", str(reviewed.run_dir), "--images", str(tmp_path / "photos"), "--update")
    assert status == 0 and "1 confirmed" in said


STANDS = "this mask was rejected, which stands; give another mask, or accept it on the page of the review"
COUNTS = "it was rejected, but this is another mask, which counts from now on"
FISH: dict[str, Any] = {"image": "d.png", "expression": "fish"}


NOT_KNOWN = "it was rejected, and of which mask is not known; this one counts from now on"
SINCE = "it was rejected, and accepted since"
EARLIER = "it was decided on an earlier photo, of another size, and does not count"


def test_a_rejection_that_was_undone_and_accepted_is_told_as_that(reviewed: Reviewed) -> None:
    reviewed.decide(4, "reject", label_rle=square(2))
    reviewed.update()
    reviewed.decide(4, "undo")
    reviewed.decide(4, "accept", square(2), label_rle=square(2))
    status, said = reviewed.update()
    assert status == 0 and f"notice: d.png, 'fish': {SINCE}\n" in said and COUNTS not in said, said
    assert reviewed.masks["fish"] == square(2)


def test_a_rejection_without_its_mask_does_not_say_that_another_one_comes(reviewed: Reviewed) -> None:
    reviewed.decide(4, "reject")  # as journals had it before labels came with their masks
    reviewed.update()
    status, said = reviewed.table(FISH | {"rle": square(2)})
    assert status == 0 and f"notice: d.png, 'fish': {NOT_KNOWN}\n" in said and COUNTS not in said, said


@pytest.mark.parametrize("label", [{"label_rle": square(2)}, {}])
def test_decisions_about_a_photo_end_where_one_of_another_size_takes_its_place(
    reviewed: Reviewed, tmp_path: Path, label: dict[str, Any]
) -> None:
    reviewed.decide(3, "no_object", **label)
    reviewed.decide(4, "reject", **label)
    reviewed.update()
    draw(tmp_path / "photos" / "c.png", 98, (64, 48))
    draw(tmp_path / "photos" / "d.png", 99, (64, 48))
    status, said = reviewed.update()
    assert status == 1 and "without a new no_target of 'bird'" in said, "the old decision says nothing about it"
    assert "1 photo of another size" in said and f"notice: d.png, 'fish': {EARLIER}\n" in said, said
    fish = reviewed.ref_of("fish")
    assert "notice: d.png, 'fish': what was rejected was a label of the earlier photo; it counts as" in said
    assert "rejected" not in fish and fish["lifted"]["action"] == "reject"
    said = reviewed.update()[1]
    assert f"notice: d.png, 'fish': {EARLIER}\n" in said and "rejected" not in reviewed.ref_of("fish")
    reviewed.decide(4, "undo")
    reviewed.decide(4, "reject")
    assert ": 0 corrected, 1 rejected, " in reviewed.update()[1], "the new photo's label"


@pytest.mark.parametrize("source", [{"provenance": MODEL}, {}])
@pytest.mark.parametrize("was_there", [True, False])
def test_a_rejected_mask_does_not_come_back_from_a_table_and_another_one_counts(
    reviewed: Reviewed, was_there: bool, source: dict[str, Any]
) -> None:
    old, new = FISH | source | {"rle": square(2)}, FISH | source | {"rle": square(9)}
    if was_there:
        assert "1 new mask" in reviewed.table(FISH | {"rle": square(2), "provenance": MODEL})[1]
        reviewed.decide(4, "reject")
    else:  # it was the run's label alone, as the page keeps it
        reviewed.decide(4, "wrong_object", label_rle=square(2))
    reviewed.update()
    bird = {"image": "c.png", "expression": "bird", "rle": square(3)}
    status, said = reviewed.table(old, bird)
    assert status == 0 and ": 0 corrected, 1 new mask, 4 unchanged\n" in said
    assert f"notice: d.png, 'fish': {STANDS}\n" in said
    assert "rejected" in reviewed.refs[3] and reviewed.masks.keys() == {"bird", "stone"}
    reviewed.decide(4, "undo")
    reviewed.decide(4, "reject")
    assert ": 0 corrected, 1 rejected, 4 unchanged\n" in reviewed.update()[1]
    assert STANDS in reviewed.table(old)[1], "a rejection that was said anew forgets nothing"

    status, said = reviewed.table(new)
    assert status == 0 and ": 0 corrected, 1 new mask, 4 unchanged\n" in said
    assert f"notice: d.png, 'fish': {COUNTS}\n" in said and reviewed.masks["fish"] == square(9)
    assert "an older mask of it, which was corrected since, stays replaced" in reviewed.table(old)[1]
    assert "d.png, 'fish': it was rejected, but has " in reviewed.update()[1], "it was said of another mask"
    assert reviewed.masks["fish"] == square(9) and "rejected" not in reviewed.refs[3]


def test_a_rejection_of_what_came_later_is_no_old_one(reviewed: Reviewed) -> None:
    reviewed.decide(4, "reject")
    reviewed.update()
    reviewed.table(FISH | {"rle": square(9), "provenance": MODEL})
    reviewed.decide(4, "wrong_object")
    assert ": 0 corrected, 1 rejected, 4 unchanged\n" in reviewed.update()[1]
    assert STANDS in reviewed.table(FISH | {"rle": square(9)})[1] and "fish" not in reviewed.masks


@pytest.mark.parametrize(("action", "drawn"), [("redraw", square(6)), ("no_object", None)])
def test_a_mask_that_was_drawn_anew_or_is_of_no_object_does_not_come_back(
    reviewed: Reviewed, action: str, drawn: Rle | None
) -> None:
    reviewed.decide(4, action, drawn, label_rle=square(2))
    reviewed.update()
    before = reviewed.masks
    assert ": 0 corrected, 5 unchanged\n" in reviewed.table(FISH | {"rle": square(2)})[1]
    assert reviewed.masks == before
    reviewed.decide(4, "accept", square(2))
    reviewed.update()
    assert reviewed.masks["fish"] == square(2), "the page decides anew"


def test_one_text_of_several_stays_rejected_until_another_mask_names_it(reviewed: Reviewed) -> None:
    reviewed.say_otherwise()
    every = {"image": "a.png", "expression": ["cat", "the cat", "a grey cat"]}
    reviewed.table(every | {"rle": square(2), "provenance": MODEL})
    reviewed.decide(6, "reject")
    assert "1 rejected" in reviewed.update()[1] and reviewed.masks.keys() == {"cat", "a grey cat", "stone"}
    refs = reviewed.refs
    status, said = reviewed.table(every | {"rle": square(2)})
    assert status == 0 and f"notice: a.png, 'the cat': {STANDS}\n" in said and reviewed.refs == refs
    status, said = reviewed.table(every | {"rle": square(9)})
    assert status == 0 and f"notice: a.png, 'the cat': {COUNTS}\n" in said, said
    assert reviewed.masks == {**dict.fromkeys(every["expression"], square(9)), "stone": square(20)}
    assert [ref["sent_ids"] for ref in reviewed.refs if ref["image_id"] == 1] == [[1, 7], [6]]
