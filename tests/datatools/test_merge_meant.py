"""Which object of a data set a row of an update means: by id, text, or not at all; and what then stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.own_data import LEFT, RIGHT, Import, own_masks, own_refs, polygon_rle
from tests.refer_folder import draw


def test_a_table_of_objects_that_no_row_tells_apart_comes_again_without_a_word(own: Import, tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "e.png", 5)
    cups = [{"image": "e.png", "expression": "cup", "polygon": LEFT}, {"image": "e.png", "expression": "cup"}]
    own([*cups, cups[1]], "--update")
    before = own_refs(tmp_path / "root")
    assert len([ref for ref in before if ref["sentences"][0]["sent"] == "cup"]) == 2, "the third says what another said"
    status, printed = own([*cups, cups[1]], "--update")
    assert status == 0 and "0 corrected, 5 unchanged" in printed, printed
    status, printed = own([{"image": "e.png", "expression": "cup", "polygon": RIGHT}], "--update")
    assert status == 1 and "give the row the `id` that the meant one was imported with, or the `sent_id`" in printed
    assert own_refs(tmp_path / "root") == before


@pytest.mark.parametrize("blank", ["", "  "])
def test_an_id_that_is_empty_is_none(own: Import, tmp_path: Path, blank: str) -> None:
    draw(tmp_path / "photos" / "e.png", 5)
    rows = [
        {"image": "e.png", "expression": "left man", "id": blank, "polygon": LEFT},
        {"image": "e.png", "expression": "right dog", "id": blank, "split": blank},
    ]
    status, printed = own(rows, "--update")
    assert status == 0 and "2 new objects" in printed, printed
    refs = [ref for ref in own_refs(tmp_path / "root") if ref["image_id"] == 4]
    assert ["ann_id" in ref for ref in refs] == [True, False] and not any("source_id" in ref for ref in refs)


def test_a_text_that_was_set_apart_is_meant_by_the_id_of_its_object_too(own: Import, tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "e.png", 5)
    own([{"image": "e.png", "expression": ["cat", "dog"], "id": "x", "polygon": LEFT}], "--update")
    own([{"image": "e.png", "expression": "cat", "no_target": True}], "--update")
    status, printed = own([{"image": "e.png", "expression": "cat", "id": "x", "polygon": RIGHT}], "--update")
    assert status == 0 and "1 corrected" in printed, printed
    masks = own_masks(tmp_path / "root")
    assert masks["cat"] == polygon_rle(RIGHT) and masks["dog"] == polygon_rle(LEFT)


def test_two_who_differ_about_a_text_change_nothing_however_often(own: Import, tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "e.png", 5)
    own([{"image": "e.png", "expression": ["cat", "dog"], "id": "x"}], "--update")
    before = own_refs(tmp_path / "root")
    rows = [
        {"image": "e.png", "expression": "cat", "polygon": LEFT, "id": "x"},
        {"image": "e.png", "expression": "cat", "no_target": True},
    ]
    for _ in range(2):
        status, printed = own(rows, "--update")
        assert status == 1 and "two corrections: got 2 different masks" in printed, printed
        assert own_refs(tmp_path / "root") == before


def test_tables_that_are_links_to_those_of_another_data_set_leave_that_as_it_is(own: Import, tmp_path: Path) -> None:
    folder, other = tmp_path / "root" / "own", tmp_path / "root" / "other"
    folder.rename(other)
    folder.mkdir()
    for path in other.iterdir():
        (folder / path.name).symlink_to(path)
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    status, printed = own([{"image": "a.png", "expression": "left cat", "polygon": RIGHT}], "--update")
    assert status == 0 and "1 corrected" in printed, printed
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before
    assert own_masks(tmp_path / "root")["left cat"] == polygon_rle(RIGHT)


@pytest.mark.parametrize("mask", [{"polygon": RIGHT}, {}])
def test_a_row_with_a_new_id_is_a_new_object_whatever_its_text(
    own: Import, tmp_path: Path, mask: dict[str, list[int]]
) -> None:
    first = {"image": "a.png", "expression": "left cat", "id": "cat", "polygon": LEFT}
    second = {"image": "a.png", "expression": "left cat", "id": "cat 2", **mask}
    for rows, new in (
        ([second], "1 new object, 3 unchanged"),
        ([second], "4 unchanged"),
        ([first, second], "4 unchan"),
    ):
        status, printed = own(rows, "--update")
        assert status == 0 and "0 corrected" in printed and new in printed, printed
    cats = [ref for ref in own_refs(tmp_path / "root") if ref["sentences"][0]["sent"] == "left cat"]
    assert [(ref["source_id"], "ann_id" in ref) for ref in cats] == [("cat", True), ("cat 2", bool(mask))]
    status, printed = own([{**second, "polygon": [4, 4, 10, 4, 10, 12, 4, 12]}], "--update")
    assert status == 0 and ("1 corrected" if mask else "1 new mask") in printed, printed
    assert own_refs(tmp_path / "root")[0] == cats[0]


def test_a_row_with_a_new_id_is_not_a_text_that_was_set_apart_from_another_object(own: Import, tmp_path: Path) -> None:
    assert own([{"image": "a.png", "expression": "the cat", "no_target": True}], "--update")[0] == 0
    before = own_refs(tmp_path / "root")
    status, printed = own([{"image": "a.png", "expression": "the cat", "id": "other", "polygon": RIGHT}], "--update")
    assert status == 0 and "1 new object" in printed, printed
    assert own_refs(tmp_path / "root")[:-1] == before


def test_a_row_with_an_id_is_known_by_its_text_where_the_object_has_none(own: Import, tmp_path: Path) -> None:
    rows = [{"image": "c.png", "expression": "bird", "id": "7", "polygon": LEFT}]
    assert "1 new mask, 2 unchanged" in own(rows, "--update")[1]
    del rows[0]["id"]
    assert "0 corrected, 3 unchanged" in own(rows, "--update")[1]
    status, printed = own([{"image": "a.png", "expression": "left cat", "polygon": RIGHT}], "--update")
    assert status == 0 and "1 corrected, 2 unchanged" in printed, "a row without an id may be of any object"
