"""What a person gives to `l2l predict` becomes photos and texts, or a sentence about what is missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from l2l_ray.data.layout import Problem
from l2l_ray.datatools.photos import photos_and_texts
from l2l_ray.errors import DataError
from l2l_ray.types import PhotoText
from tests.refer_folder import draw


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("a.png", "sub/b.JPG", "sub/b_mask.png")):
        draw(tmp_path / name, number)
    (tmp_path / "a.txt").write_text("left man\n\nman in red\n")
    return tmp_path


def test_a_folder_gives_each_photo_with_the_lines_beside_it(folder: Path) -> None:
    *asked, problem = photos_and_texts(folder)
    assert asked == [PhotoText(folder / "a.png", "left man"), PhotoText(folder / "a.png", "man in red")]
    assert isinstance(problem, Problem) and "sub/b.JPG" in problem.where


def test_a_text_for_a_folder_is_asked_of_every_photo_and_of_no_mask(folder: Path) -> None:
    assert photos_and_texts(folder, "a dog") == [PhotoText(folder / name, "a dog") for name in ("a.png", "sub/b.JPG")]


def test_rows_are_looked_up_below_their_file_or_the_folder_that_is_named(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "expression": ["x", "y", "x"]},
        {"image": "a.png"},
        {"image": "/etc/passwd", "expression": "z"},
    ]
    for place, images in ((folder, None), (tmp_path / "elsewhere", folder)):
        place.mkdir(exist_ok=True)
        table = place / "rows.jsonl"
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        *asked, without, outside = photos_and_texts(table, images=images)
        assert asked == [PhotoText(folder / "a.png", "x"), PhotoText(folder / "a.png", "y")]
        assert isinstance(without, Problem) and isinstance(outside, Problem) and "/etc/passwd" in str(outside)


@pytest.mark.parametrize(
    ("cells", "hint"),
    [
        ({"box": "[1, 2, 9, 12]"}, {"box": [1, 2, 9, 12]}),
        ({"Point": "[3, 4]"}, {"points": [[3, 4]]}),
        ({"points": "[[3, 4], [5, 6]]", "box": "[1, 2, 9, 12]"}, {"box": [1, 2, 9, 12], "points": [[3, 4], [5, 6]]}),
        ({"hint": '{"points": [3, 4]}'}, {"points": [[3, 4]]}),
        ({"box": "[1, 2, 9, 12]", "mask": "m.png"}, {"box": [1, 2, 9, 12]}),  # the mask is not looked at
    ],
)
@pytest.mark.parametrize("kind", [".csv", ".jsonl"])
def test_the_hints_of_a_table_go_with_their_texts(folder: Path, cells: dict[str, str], hint: Any, kind: str) -> None:
    row, table = {"Image": "a.png", "expression": "dog"} | cells, folder / f"rows{kind}"
    with table.open("w", newline="") as file:
        if kind == ".csv":
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerows([row, row])
        else:
            file.write((json.dumps(row) + "\n") * 2)
    assert photos_and_texts(table) == [PhotoText(folder / "a.png", "dog", hint)]


def test_a_bad_hint_is_named_and_its_text_asked_without_it(folder: Path) -> None:
    rows = [{"image": "a.png", "expression": text, "box": box} for text, box in (("dog", [900, 2, 9, 9]), ("cat", 5))]
    rows.append({"image": "a.txt", "expression": "fish", "point": [1, 2]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outside, dog, malformed, cat, unreadable, fish = photos_and_texts(folder / "rows.jsonl")
    assert (dog, cat) == (PhotoText(folder / "a.png", "dog"), PhotoText(folder / "a.png", "cat"))
    assert "line 1: hint box outside image: got [900, 2, 9, 9]" in str(outside)
    assert "line 2: hint box: got 5; expected [x, y, width, height]" in str(malformed)
    assert "line 3: unreadable image: got 'a.txt'" in str(unreadable) and fish == PhotoText(folder / "a.txt", "fish")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.jpg", "dog", r"there is no .*gone\.jpg; give a photo, a folder"),
        ("a.png", None, r"no text for the photo .*a\.png; say what to look for"),
        ("my a.png", None, r"e\.g\. l2l predict '\S*/my a\.png' 'the left cup'"),
        ("rows.csv", "dog", r"rows\.csv brings its own texts, got also 'dog'"),
        ("empty", "dog", r"empty holds nothing to look at; expected photos"),
    ],
)
def test_what_is_missing_is_said(folder: Path, name: str, text: str | None, message: str) -> None:
    (folder / "empty").mkdir()
    (folder / "my a.png").write_bytes(b"")
    (folder / "rows.csv").write_text("image,expression\na.png,dog\n")
    with pytest.raises(DataError, match=message):
        photos_and_texts(folder / name, text)


def test_an_empty_cell_is_no_hint_and_hides_none(folder: Path) -> None:
    rows = [{"image": "a.png", "expression": "cup", "box": ""}]
    rows += [{"image": "a.png", "expression": "dog", "hint": " ", "point": [3, 4]}]  # type: ignore[dict-item]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [getattr(one, "hint", one) for one in photos_and_texts(folder / "own.jsonl")] == [None, {"points": [[3, 4]]}]


def test_answers_that_lie_among_the_photos_are_not_asked_again(tmp_path: Path) -> None:
    for name in ("a.png", "a-dog-mask.png", "a-dog-overlay.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    index = '{"image": "a.png", "mask": "a-dog-mask.png", "overlay": "a-dog-overlay.png"}\n5\n'
    (tmp_path / "predictions.jsonl").write_text(index)
    assert photos_and_texts(tmp_path, "a dog") == [PhotoText(tmp_path / "a.png", "a dog")]
