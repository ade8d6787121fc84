"""A `sent_id` of an export is that of the run's data set, also where its rows have become a data set of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from l2l_ray import cli
from l2l_ray.data.plain_pickle import plain_records
from tests.own_data import LEFT, RIGHT
from tests.refer_folder import draw

MIDDLE = [4, 4, 12, 4, 12, 12, 4, 12]
FIRST, SECOND = ({"source": "pseudo_label", "run": run, "dataset": run} for run in ("first", "second"))
Corrected = Callable[..., tuple[int, str]]


@pytest.fixture
def corrected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Corrected:
    """Give a function that imports rows of an export as the data set `second`, or more into it."""
    for name in ("a.png", "b.png"):
        draw(tmp_path / "photos" / name, ord(name[0]))

    def bring(rows: list[dict[str, Any]], *more: str) -> tuple[int, str]:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = ["rows", str(tmp_path / "rows.jsonl"), "--images", str(tmp_path / "photos")]
        status = cli.main(["data", "import", *words, "--root", str(tmp_path / "root"), "--dataset", "second", *more])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return bring


def _row(sent_id: int, points: list[int], about: dict[str, Any], text: str = "cup") -> dict[str, Any]:
    provenance = {"provenance": about} if about else {}
    ids = {"id": str(sent_id), "sent_id": sent_id}
    return {"image": "a.png", "expression": text, "polygon": points, **ids, **provenance}


def _by_person(about: dict[str, Any]) -> dict[str, Any]:
    return {"source": "label_studio", "updated_at": "2026", "corrected_from": about}


def _masks(tmp_path: Path) -> list[tuple[str, list[float]]]:
    """Return id and mask of each object."""
    folder = tmp_path / "root" / "second"
    masks = {
        row["id"]: row["segmentation"] for row in json.loads((folder / "instances.json").read_text())["annotations"]
    }
    return [(ref["source_id"], masks[ref["ann_id"]][0]) for ref in plain_records(folder / "refs(own).p")]


@pytest.mark.parametrize("about", [FIRST, {}])
def test_a_correction_is_of_the_object_that_came_from_its_sentence(
    corrected: Corrected, tmp_path: Path, about: dict[str, Any]
) -> None:
    rows = [_row(2, LEFT, about), _row(3, RIGHT, about)]  # here they are sentences 1 and 2
    assert corrected(rows)[0] == 0
    status, printed = corrected(rows, "--update")
    assert status == 0 and "0 corrected, 2 unchanged" in printed, printed
    status, printed = corrected([_row(2, MIDDLE, _by_person(about) if about else {})], "--update")
    assert status == 0 and "1 corrected, 1 unchanged" in printed, printed
    assert _masks(tmp_path) == [("2", MIDDLE), ("3", RIGHT)]


@pytest.mark.parametrize("text", ["cup", "cup on the left"])
def test_a_sentence_that_came_later_is_a_new_object(corrected: Corrected, tmp_path: Path, text: str) -> None:
    assert corrected([_row(7, LEFT, FIRST, "dog"), _row(3, RIGHT, FIRST, text)])[0] == 0
    status, printed = corrected([_row(2, MIDDLE, FIRST)], "--update")
    assert status == 0 and "0 corrected, 1 new mask, 1 new object, 2 unchanged" in printed, printed
    assert _masks(tmp_path) == [("7", LEFT), ("3", RIGHT), ("2", MIDDLE)]


def test_a_correction_of_a_run_on_the_new_data_set_is_of_its_own_sentence(corrected: Corrected, tmp_path: Path) -> None:
    assert corrected([_row(2, LEFT, FIRST), _row(3, RIGHT, FIRST)])[0] == 0
    status, printed = corrected([_row(2, MIDDLE, _by_person(SECOND))], "--update")
    assert status == 0 and "1 corrected, 1 unchanged" in printed, printed
    assert _masks(tmp_path) == [("2", LEFT), ("3", MIDDLE)]


def test_a_text_that_a_run_on_the_new_data_set_cut_is_of_the_whole_one(corrected: Corrected, tmp_path: Path) -> None:
    assert corrected([_row(2, LEFT, FIRST, "dog"), _row(3, RIGHT, FIRST, "cup on the left")])[0] == 0
    status, printed = corrected([_row(2, MIDDLE, _by_person(SECOND))], "--update")
    assert status == 0 and "1 corrected, 1 unchanged" in printed, printed
    assert _masks(tmp_path) == [("2", LEFT), ("3", MIDDLE)]


def test_where_nothing_tells_which_sentence_is_meant_nothing_changes(corrected: Corrected, tmp_path: Path) -> None:
    assert corrected([_row(2, LEFT, FIRST), _row(3, RIGHT, FIRST)])[0] == 0
    status, printed = corrected([_row(2, MIDDLE, {})], "--update")
    assert status == 1 and "a.png, 'cup': expression of several objects: got refs [1, 2]" in printed, printed
    assert "give the row the `provenance` that it was exported with" in printed
    assert _masks(tmp_path) == [("2", LEFT), ("3", RIGHT)]
    status, printed = corrected([_row(2, RIGHT, {})], "--update")
    assert status == 0 and "0 corrected, 2 unchanged" in printed, "its mask tells whose it is"


def test_an_export_to_coco_that_became_a_data_set_comes_again_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "photos" / "a.png", 1)
    rows = [
        {"id": n, "image_id": 1, "expression": "cup", "segmentation": [points], "sent_id": n + 1, "provenance": FIRST}
        for n, points in enumerate((LEFT, RIGHT, MIDDLE), 1)
    ]
    images = [{"id": 1, "file_name": "a.png", "width": 32, "height": 24}]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": []}))
    words = ["coco", str(tmp_path / "coco.json"), "--images", str(tmp_path / "photos"), "--dataset", "third"]
    for more, said in ((), "3 refs (3 with truth)"), (("--update",), "0 corrected, 3 unchanged"):
        assert cli.main(["data", "import", *words, "--root", str(tmp_path / "root"), *more]) == 0
        assert said in capsys.readouterr().out
