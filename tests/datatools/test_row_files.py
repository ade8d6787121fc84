"""Tables as programs write them: spreadsheets, pandas, and what in them says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from l2l_ray.datatools.import_rows import import_rows
from l2l_ray.datatools.refer_writer import ReferWriter
from l2l_ray.datatools.row_files import read_rows
from tests.refer_folder import draw


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number, name in enumerate(("a.png", "c.png")):
        draw(tmp_path / "pictures" / name, number)
    return tmp_path / "pictures"


def _lines(tmp_path: Path, pictures: Path, content: str) -> tuple[list[str], list[str], list[str]]:
    """Return the expressions, problems and notices of a CSV."""
    path = tmp_path / "own.csv"
    path.write_text(content)
    with ReferWriter(tmp_path / "root", "own", "own") as writer:
        problems = import_rows(read_rows(path), pictures, pictures, writer)
        texts = [sentence["raw"] for ref in writer.refs for sentence in ref["sentences"]]
        return texts, [str(problem) for problem in problems], [str(notice) for notice in writer.notices]


def test_what_spreadsheets_write_around_a_table_is_understood(tmp_path: Path, pictures: Path) -> None:
    texts, problems, notices = _lines(tmp_path, pictures, "sep=;\nimage;expression\na.png;left; man\na.png;man\n;\n")
    assert texts == ["man"] and "own.csv line 3: CSV: got" in problems[0] and len(problems) == 1
    assert notices == ["own.csv line 2: the cells are separated by ';'"]


def test_the_first_line_is_whole_whatever_is_in_its_columns(tmp_path: Path, pictures: Path) -> None:
    texts, problems, _ = _lines(tmp_path, pictures, "my\u2028notes;image;expression\nx;a.png;man\n")
    (unknown,) = problems
    assert texts == ["man"] and "column: got 'my\\u2028notes'" in unknown


@pytest.mark.parametrize("cell", ['"[""left"", ""right""]"', "\"['left', 'right']\""])
def test_a_list_of_texts_in_a_cell_is_a_list(tmp_path: Path, pictures: Path, cell: str) -> None:
    assert _lines(tmp_path, pictures, f"image,expression\na.png,{cell}\n") == (["left", "right"], [], [])


@pytest.mark.parametrize("text", ["NaN", "nan", "None", "<NA>", "\u200b", "\u2800"])
def test_what_says_nothing_is_no_expression(tmp_path: Path, pictures: Path, text: str) -> None:
    texts, problems, _ = _lines(tmp_path, pictures, f"image,expression\na.png,{text}\na.png,[SEP]\n")
    assert texts == ["[SEP]"] and "own.csv line 2: expression: got" in problems[0]


def test_a_column_without_a_name_is_told_and_refused_where_it_is_no_index(tmp_path: Path, pictures: Path) -> None:
    _, problems, notices = _lines(tmp_path, pictures, ",image,expression\n0,a.png,man\n")
    assert problems == [] and "the column '' is an index of pandas" in notices[0]
    _, problems, notices = _lines(tmp_path, pictures, "image,expression,\na.png,man,m.png\n")
    assert "column: got ''; expected one of image" in problems[0] and notices == []


@pytest.mark.parametrize("mask", ["", '"[2, 2, 20, 2, 2, 14]"'], ids=["without masks", "with masks"])
def test_repeated_items_and_photos_in_two_splits_are_told(tmp_path: Path, pictures: Path, mask: str) -> None:
    rows = ["a.png,man,val,", "a.png,man,val,", "a.png,man,val,hat", "a.png,dog,testA,", "c.png,man,train,"]
    content = "image,expression,split,category,polygon\n" + "".join(f"{row},{mask}\n" for row in rows)
    texts, problems, notices = _lines(tmp_path, pictures, content)
    assert texts == ["man", "man", "dog", "man"] and problems == []
    assert notices == [
        "own.csv line 3: it says the same as an earlier row, and is not used",
        "own.csv line 4: an earlier row has the same photo and expression",
        "own.csv line 5 (a.png: val and testA): its photo is in another split, too",
    ]


@pytest.mark.parametrize("mask", ["", '"[2, 2, 20, 2, 2, 14]"'], ids=["without masks", "with masks"])
def test_a_photo_that_is_learned_from_is_not_evaluated_on(tmp_path: Path, pictures: Path, mask: str) -> None:
    content = f"image,expression,split,polygon\na.png,man,train,{mask}\nc.png,man,val,{mask}\na.png,dog,val,{mask}\n"
    texts, problems, notices = _lines(tmp_path, pictures, content)
    assert texts == ["man", "man"] and notices == []
    assert len(problems) == 1 and problems[0].startswith("own.csv line 4: split of a photo: got val for 'a.png'"), (
        problems
    )


def test_a_text_that_an_object_has_already_is_stored_once(tmp_path: Path, pictures: Path) -> None:
    content = 'image,expression,id,polygon\na.png,man,m,\na.png, man,m,"[2, 2, 20, 2, 2, 14]"\n'
    content += 'c.png,"[""dog"", ""dog ""]",,\n'
    assert _lines(tmp_path, pictures, content) == (["man", "dog"], [], [])


def test_one_object_is_in_one_split(tmp_path: Path, pictures: Path) -> None:
    content = "image,expression,split,id\na.png,man,val,m\na.png,dog,testA,m\n"
    texts, problems, _ = _lines(tmp_path, pictures, content)
    assert texts == ["man"] and len(problems) == 1
    assert problems[0].startswith("own.csv line 3: split of a repeated id: got 'testA'; expected 'val'")


def test_outlines_beyond_the_picture_are_told_and_shares_of_it_are_refused(tmp_path: Path, pictures: Path) -> None:
    content = 'image,expression,polygon,box\na.png,a,"[2, 2, 300, 2, 300, 200]",\na.png,b,,"[4, 4, 300, 9]"\n'
    content += 'a.png,c,"[0.1, 0.1, 1, 0.1, 1, 1]",\na.png,d,,"[0.1, 0.1, 0.5, 0.5]"\n'
    _, problems, notices = _lines(tmp_path, pictures, content)
    assert [line.split(":")[0] for line in problems] == ["own.csv line 4", "own.csv line 5"]
    assert all("expected px, not shares of the picture from 0 to 1" in line for line in problems)
    assert ["polygon that reaches beyond" in notices[0], "hint box that reaches beyond" in notices[1]] == [True, True]
