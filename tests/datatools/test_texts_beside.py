"""The texts beside the photos of a folder, changed there, change in the data set, whose ids and masks stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from l2l_ray import cli
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

    def update(rows: list[dict[str, Any]] | None = None, *more: str) -> str:
        source = ["folder", str(tmp_path / "photos")]
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


def _paint(tmp_path: Path, name: str, points: list[int]) -> None:
    mask = np.zeros((24, 32), np.uint8)
    mask[points[1] : points[5], points[0] : points[2]] = 255
    Image.fromarray(mask).save(tmp_path / "photos" / f"{name}_mask.png")


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


def test_a_later_decision_about_the_old_text_does_not_bring_it_back(bring: Bring, tmp_path: Path) -> None:
    (old,) = own_refs(tmp_path / "root")[2]["sent_ids"]
    _write(tmp_path, "c", "the bird")
    bring()
    row = {"image": "c.png", "expression": "bird", "sent_id": old, "polygon": RIGHT, "provenance": REVIEW}
    printed = bring([row])
    assert "notice: c.png, 'bird': it was decided on an earlier text, which the folder no longer has" in printed
    assert "0 corrected, 3 unchanged" in printed and _texts(tmp_path)[2] == ["the bird"]
