"""What comes back of a text that a run cut is of the whole text: from its review, an export, and Label Studio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from l2l_ray.data.masks import decode
from l2l_ray.datatools.label_studio import task
from tests.datatools.test_review import MODEL, Reviewed, square


@pytest.fixture
def reviewed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Reviewed:
    return Reviewed(tmp_path, capsys)


WORDS = [f"word{number}" for number in range(70)]  # a run reads the first 64 of them
LONG, CUT = " ".join(WORDS), " ".join(WORDS[:64])


def with_long_texts(reviewed: Reviewed) -> tuple[int, int]:
    """Add a long text about the cat, and a long one that is an object's only text; return their sentences."""
    rows = [{"image": "a.png", "expression": ["cat", LONG]}, {"image": "b.png", "expression": f"{LONG} once more"}]
    assert reviewed.table(*rows)[0] == 0
    sentences = {s["sent"]: s["sent_id"] for ref in reviewed.refs for s in ref["sentences"]}
    ids = sentences[LONG], sentences[f"{LONG} once more"]
    reviewed.know({ids[0]: ("a.png", CUT), ids[1]: ("b.png", CUT)})
    return ids


def texts_of(reviewed: Reviewed) -> list[list[str]]:
    return sorted([sentence["sent"] for sentence in ref["sentences"]] for ref in reviewed.refs)


@pytest.mark.parametrize("action", ["accept", "redraw", "reject", "no_object"])
def test_a_decision_about_a_text_that_the_run_cut_is_of_the_whole_text(reviewed: Reviewed, action: str) -> None:
    beside, alone = with_long_texts(reviewed)
    rle = square(6) if action in ("accept", "redraw") else None
    for sent_id, ref_id in ((beside, 1), (alone, 6)):
        reviewed.decide(sent_id, action, rle, ref_id=ref_id)
    before = texts_of(reviewed)
    status, said = reviewed.update()
    assert status == 0 and "new" not in said.partition("own: ")[2].partition("mask")[0], said
    if rle is not None:
        assert texts_of(reviewed) == before
        assert reviewed.masks["cat"] == reviewed.ref_mask(LONG) == reviewed.ref_mask(f"{LONG} once more") == rle
    else:
        apart = [["cat"], [LONG]]
        assert texts_of(reviewed) == sorted([texts for texts in before if texts != ["cat", LONG]] + apart)
        for text in (LONG, f"{LONG} once more"):
            ref = reviewed.ref_of(text)
            assert "rejected" in ref if action == "reject" else ref["ann_ids"] == []
        assert "rejected" not in reviewed.ref_of("cat") and "ann_ids" not in reviewed.ref_of("cat")
    now = texts_of(reviewed)
    assert reviewed.update()[0] == 0 and texts_of(reviewed) == now, "nothing is new the second time"


def test_an_export_of_a_text_that_the_run_cut_is_of_the_whole_text(reviewed: Reviewed, tmp_path: Path) -> None:
    beside, alone = with_long_texts(reviewed)
    before = texts_of(reviewed)
    row = {"image": "b.png", "expression": CUT, "id": str(alone), "sent_id": alone, "confidence": 0.5, "gate": None}
    status, said = reviewed.table({**row, "rle": square(9), "provenance": MODEL})
    assert status == 0 and texts_of(reviewed) == before, said
    assert reviewed.ref_mask(f"{LONG} once more") == square(9)

    record = {**row, "image": "own/a.png", "sent_id": beside, "id": str(beside), "split": "train", "provenance": MODEL}
    made = task(decode(square(3)), record)
    made["annotations"] = [{"id": 1, "completed_by": 4, "result": made["predictions"][0]["result"]}]
    (tmp_path / "tasks.json").write_text(json.dumps([made]))
    words = ["labelstudio", str(tmp_path / "tasks.json"), "--images", str(reviewed.photos.parent), "--update"]
    status, said = reviewed.data(*words)
    assert status == 0 and texts_of(reviewed) == before, said
    assert reviewed.ref_mask(LONG) == square(3)


def test_a_text_of_the_photo_that_begins_another_one_was_not_cut(reviewed: Reviewed) -> None:
    """As where the data set was made anew, and its sentences have other ids than those of the run."""
    rows = [{"image": "b.png", "expression": text} for text in ("cup on the left", "cup")]
    assert reviewed.table(*rows)[0] == 0
    ids = {s["sent"]: s["sent_id"] for ref in reviewed.refs for s in ref["sentences"]}
    row = {"image": "b.png", "expression": "cup", "id": "9", "sent_id": ids["cup on the left"], "rle": square(9)}
    status, said = reviewed.table({**row, "confidence": 0.5, "gate": None, "provenance": MODEL})
    assert status == 0, said
    assert reviewed.ref_mask("cup") == square(9) and "ann_id" not in reviewed.ref_of("cup on the left")


def test_other_words_than_the_beginning_are_another_text(reviewed: Reviewed) -> None:
    _, alone = with_long_texts(reviewed)
    for image, text in (("b.png", " ".join(WORDS[1:])), ("c.png", CUT)):
        status, said = reviewed.table({"image": image, "expression": text, "sent_id": alone, "id": str(alone)})
        assert status == 0 and "1 new object" in said, said
