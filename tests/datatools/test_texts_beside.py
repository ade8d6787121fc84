"""The texts beside the photos of a folder, changed there, change in the data set, whose ids and masks stay."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from l2l_ray import cli
from l2l_ray.review.journal import Journal
from tests.own_data import LEFT, RIGHT, own_masks, own_refs, polygon_rle
from tests.refer_folder import draw

Bring = Callable[..., str]
REVIEW = {"source": "review", "action": "redraw", "number": 1, "as_of": 1, "updated_at": "2026-11-26T16:00:00+00:00"}


@pytest.fixture
def bring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bring:
    """Make a data set of the folder `photos`, whose first photo has a mask; give a function that updates it."""
    for name, text in (("a", "wet hair"), ("b", "dog\nthe dog"), ("c", "bird")):
        draw(tmp_path / "photos" / f"{name}.png", ord(name))
        _write(tmp_path, name, text)
    _paint(tmp_path, "a", LEFT)

    def update(rows: list[dict[str, Any]] | None = None, *more: str, folder: Path = tmp_path / "photos") -> str:
        source = ["folder", str(folder)]
        if rows is not None:
            (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            source = ["rows", str(tmp_path / "rows.jsonl"), "--images", str(tmp_path / "photos")]
        words = [*source, "--root", str(tmp_path / "root"), "--dataset", "own", *(more or ("--update",))]
        assert cli.main(["data", "import", *words]) == 0
        return capsys.readouterr().out

    update(None, "--copy")
    return update


def _write(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "photos" / f"{name}.txt").write_text(text)


def _paint(tmp_path: Path, name: str, points: list[int], folder: str = "photos") -> None:
    mask = np.zeros((24, 32), np.uint8)
    mask[points[1] : points[5], points[0] : points[2]] = 255
    Image.fromarray(mask).save(tmp_path / folder / f"{name}_mask.png")


def _texts(tmp_path: Path) -> list[list[str]]:
    return [[sentence["sent"] for sentence in ref["sentences"]] for ref in own_refs(tmp_path / "root")]


def test_a_corrected_text_takes_the_place_of_the_old_one(bring: Bring, tmp_path: Path) -> None:
    before = own_refs(tmp_path / "root")
    _write(tmp_path, "a", "the wet hair")
    printed = bring()
    assert "0 corrected, 1 new text, 1 earlier text left out, 2 unchanged" in printed
    assert "notice: a.png, 'the wet hair': in place of 'wet hair', as the folder says now" in printed
    assert _texts(tmp_path) == [["the wet hair"], ["dog", "the dog"], ["bird"]]
    after = own_refs(tmp_path / "root")
    assert [(ref["ref_id"], ref["image_id"]) for ref in after] == [(ref["ref_id"], ref["image_id"]) for ref in before]
    assert after[0]["sent_ids"] == [5] and after[1:] == before[1:], "an id is that of one text for good"
    assert own_masks(tmp_path / "root") == {"the wet hair": polygon_rle(LEFT)}
    assert "0 corrected, 3 unchanged" in bring()
    _write(tmp_path, "a", "wet hair")
    assert "1 new text, 1 earlier text left out" in bring() and _texts(tmp_path)[0] == ["wet hair"]


def test_of_several_texts_the_changed_one_is_replaced(bring: Bring, tmp_path: Path) -> None:
    _write(tmp_path, "b", "the black dog\ndog")
    assert "1 new text, 1 earlier text left out" in bring()
    assert _texts(tmp_path)[1] == ["dog", "the black dog"]
    _write(tmp_path, "b", "dog")
    assert "1 earlier text left out" in bring() and _texts(tmp_path)[1] == ["dog"]


def test_a_text_and_its_mask_are_corrected_in_one_update(bring: Bring, tmp_path: Path) -> None:
    _write(tmp_path, "a", "the wet hair")
    _paint(tmp_path, "a", RIGHT)
    assert "1 corrected, 1 new text, 1 earlier text left out" in bring()
    assert own_masks(tmp_path / "root") == {"the wet hair": polygon_rle(RIGHT)}


def test_a_reviewed_mask_stays_with_the_object(bring: Bring, tmp_path: Path) -> None:
    bring([{"image": "c.png", "expression": "bird", "polygon": RIGHT, "provenance": REVIEW}])
    _write(tmp_path, "c", "the bird")
    assert "1 earlier text left out" in bring()
    assert own_masks(tmp_path / "root")["the bird"] == polygon_rle(RIGHT)


@pytest.mark.parametrize(
    "said",
    [
        {"no_target": True, "provenance": REVIEW},
        {"rejected": {"source": "review", "number": 1}},
    ],
)
def test_what_was_said_against_the_old_text_is_not_said_of_the_new_one(
    bring: Bring, tmp_path: Path, said: dict[str, Any]
) -> None:
    bring([{"image": "c.png", "expression": "bird", **said}])
    _write(tmp_path, "c", "the crow")
    assert "1 new object" in bring()
    *_, old, new = own_refs(tmp_path / "root")
    assert [sentence["sent"] for ref in (old, new) for sentence in ref["sentences"]] == ["bird", "the crow"]
    assert "ann_ids" not in new and "rejected" not in new
    _write(tmp_path, "c", "the black crow")
    assert "1 earlier text left out" in bring(), "the file speaks of the new object"


def test_without_its_mask_a_changed_text_is_another_object(bring: Bring, tmp_path: Path) -> None:
    _write(tmp_path, "a", "the towel")
    (tmp_path / "photos" / "a_mask.png").unlink()
    assert "1 new object" in bring()
    assert own_masks(tmp_path / "root") == {"wet hair": polygon_rle(LEFT)}


def test_an_object_of_a_table_keeps_its_text(bring: Bring, tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "d.png", 9)
    bring([{"image": "d.png", "expression": "left man", "polygon": LEFT}])
    _write(tmp_path, "d", "right man")
    assert "1 new object" in bring() and _texts(tmp_path)[3:] == [["left man"], ["right man"]]


def test_a_folder_about_the_same_photos_takes_nothing_of_another_one(bring: Bring, tmp_path: Path) -> None:
    (second := tmp_path / "second").mkdir()
    for name, text in (("a", "towel"), ("b", "dog\nthe black dog"), ("c", "nest")):
        shutil.copy(tmp_path / "photos" / f"{name}.png", second)
        (second / f"{name}.txt").write_text(text)
    _paint(second.parent, "a", RIGHT, "second")
    printed = bring(None, "--update", folder=second)
    assert "0 corrected, 1 new mask, 2 new objects, 1 new text, 2 unchanged" in printed
    assert _texts(tmp_path) == [["wet hair"], ["dog", "the dog", "the black dog"], ["bird"], ["towel"], ["nest"]]
    assert own_masks(tmp_path / "root") == {"wet hair": polygon_rle(LEFT), "towel": polygon_rle(RIGHT)}
    _write(tmp_path, "a", "the wet hair")
    (second / "c.txt").write_text("the nest")
    assert "1 earlier text left out" in bring() and "1 earlier text left out" in bring(None, "--update", folder=second)
    assert [_texts(tmp_path)[place] for place in (0, 2, 3, 4)] == [["the wet hair"], ["bird"], ["towel"], ["the nest"]]


def test_a_folder_that_was_moved_still_has_the_texts_of_its_objects(bring: Bring, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "photos", moved)
    bring(None, "--update", folder=moved)
    (moved / "c.txt").write_text("the crow")
    assert "1 new object" in bring(None, "--update", folder=moved), "the other folder's texts are there, too"
    (tmp_path / "photos").rename(tmp_path / "old")
    assert ": 0 corrected, 4 unchanged" in bring(None, "--update", folder=moved)
    (moved / "b.txt").write_text("the black dog")
    assert "1 new text, 2 earlier texts left out" in bring(None, "--update", folder=moved)


def test_objects_of_an_earlier_version_get_their_files_where_the_texts_are_the_same(
    bring: Bring, tmp_path: Path
) -> None:
    path = tmp_path / "root" / "own" / "refs(own).p"
    refs = [{k: v for k, v in ref.items() if k != "texts_beside"} for ref in own_refs(tmp_path / "root")]
    refs[1]["source_id"] = "dog"  # a table's
    path.write_bytes(pickle.dumps(refs, protocol=4))
    _write(tmp_path, "a", "the wet hair")
    assert "1 new object, 3 unchanged" in bring(), "whose text it was is not known"
    assert "0 corrected, 4 unchanged" in bring()
    assert ["texts_beside" in ref for ref in own_refs(tmp_path / "root")[1:3]] == [False, True]
    before = path.stat().st_ino
    assert "0 corrected, 4 unchanged" in bring() and path.stat().st_ino == before, "it is noted by now"
    _write(tmp_path, "c", "the crow")
    assert "1 new text, 1 earlier text left out" in bring() and _texts(tmp_path)[2] == ["the crow"]
    _write(tmp_path, "b", "the black dog")
    assert "1 new object" in bring()


@pytest.mark.parametrize(
    "made",
    [
        REVIEW,
        {**REVIEW, "action": "accept", "confirmed_from": {"source": "pseudo_label"}},
        {"source": "label_studio"},
        None,
    ],
)
def test_a_mask_that_was_drawn_on_the_old_text_is_one_of_the_object(
    bring: Bring, tmp_path: Path, made: dict[str, Any] | None
) -> None:
    (old,) = own_refs(tmp_path / "root")[2]["sent_ids"]
    _write(tmp_path, "c", "the bird")
    bring()
    draw(tmp_path / "photos" / "d.png", 9)
    row = {"image": "c.png", "expression": "bird", "sent_id": old, "id": str(old), "polygon": RIGHT}
    row |= {} if made is None else {"provenance": made}
    bring([{"image": "c.png", "expression": "bird", "id": "another"}])
    printed = bring([row])
    said = "it was decided on an earlier text, which the folder no longer has; its mask is the object's"
    assert f"notice: c.png, 'bird': {said}\n" in printed and "3 unchanged" in printed
    assert _texts(tmp_path)[2:] == [["the bird"], ["bird"]]
    assert own_masks(tmp_path / "root") == {"wet hair": polygon_rle(LEFT), "the bird": polygon_rle(RIGHT)}
    assert own_refs(tmp_path / "root")[2].get("provenance", {}) == (made or {})
    printed = bring([row])
    assert "0 corrected, 4 unchanged" in printed and "earlier text" not in printed, "it counts already"


def test_a_review_of_a_run_before_the_texts_were_corrected(
    bring: Bring, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    journal = Journal(tmp_path / "run")
    label = {"split": "train", "provenance": {"source": "pseudo_label"}, "image_root": str(tmp_path / "photos")}
    for sent_id, name, text, action in ((2, "b", "dog", "reject"), (4, "c", "bird", "redraw")):
        about = {**label, "image": f"{name}.png", "expression": text, "id": str(sent_id), "sent_id": sent_id}
        about |= {"ref_id": sent_id, "rle": polygon_rle(LEFT)}
        journal.add(sent_id, action, "anna", 0, f"key {sent_id}", about, polygon_rle(RIGHT) if sent_id == 4 else None)
    _write(tmp_path, "b", "the black dog")
    _write(tmp_path, "c", "the bird")
    bring()
    words = ["review", str(tmp_path / "run"), "--root", str(tmp_path / "root"), "--dataset", "own", "--update"]
    for counts in ("1 corrected, 2 unchanged", "0 corrected, 3 unchanged"):
        assert cli.main(["data", "import", *words]) == 0
        printed = capsys.readouterr().out
        assert counts in printed and "notice: b.png, 'dog': it was decided on an earlier text" in printed
    assert own_masks(tmp_path / "root")["the bird"] == polygon_rle(RIGHT)
    assert "rejected" not in own_refs(tmp_path / "root")[1]


@pytest.mark.parametrize(
    "said",
    [
        {"rejected": {"source": "review", "number": 1}},
        {"no_target": True, "provenance": {**REVIEW, "number": 2}},
        {"polygon": RIGHT, "provenance": {"source": "pseudo_label"}},
        {"polygon": RIGHT, "provenance": {**REVIEW, "updated_at": "2025-11-26T16:00:00+00:00"}},
    ],
)
def test_what_else_was_said_of_the_old_text_does_not_count(bring: Bring, tmp_path: Path, said: dict[str, Any]) -> None:
    (old,) = own_refs(tmp_path / "root")[2]["sent_ids"]
    _write(tmp_path, "c", "the bird")
    bring()
    bring([{"image": "c.png", "expression": "the bird", "polygon": LEFT, "provenance": REVIEW}])
    before = own_refs(tmp_path / "root")
    printed = bring([{"image": "c.png", "expression": "bird", "sent_id": old, **said}])
    why = "it was decided on an earlier text, which the folder no longer has, and does not count"
    assert printed.count(f"notice: c.png, 'bird': {why}\n") == 1 and "0 corrected, 3 unchanged" in printed
    assert own_refs(tmp_path / "root") == before


def test_a_decision_that_counted_before_the_text_was_changed_is_not_told_as_lost(bring: Bring, tmp_path: Path) -> None:
    (old,) = own_refs(tmp_path / "root")[2]["sent_ids"]
    rejected = {"rejected": {"source": "review", "number": 1}}
    row = {"image": "c.png", "expression": "bird", "sent_id": old}
    bring([row | rejected])
    bring([row | {"polygon": RIGHT, "provenance": REVIEW}])
    _write(tmp_path, "c", "the bird")
    bring()
    for said in (rejected, {"polygon": RIGHT, "provenance": REVIEW}):
        printed = bring([row | said])
        assert "0 corrected, 3 unchanged" in printed and "earlier text" not in printed
    assert own_masks(tmp_path / "root")["the bird"] == polygon_rle(RIGHT)


def test_an_id_of_a_text_that_is_gone_is_given_to_no_other(bring: Bring, tmp_path: Path) -> None:
    for text in ("bird\nthe crow", "bird", "bird\nthe raven"):
        _write(tmp_path, "c", text)
        bring()
    assert own_refs(tmp_path / "root")[2]["sent_ids"] == [4, 6]
