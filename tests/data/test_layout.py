"""Names, places and the wording of problems."""

import os
import pickle
from pathlib import Path

import pytest

from l2l_ray.data.layout import (
    IMAGE_FOLDERS,
    BadValue,
    Notice,
    Problem,
    Words,
    by_kind,
    coco_number,
    file_below,
    gathered,
    image_folder,
    listed,
    plain_name,
    shown,
)
from l2l_ray.data.refer import ReferDataset
from l2l_ray.errors import DataError
from tests.refer_folder import write_tiny


def test_the_loader_looks_for_pictures_in_the_same_folders(tmp_path: Path) -> None:
    for dataset in (*IMAGE_FOLDERS, "own"):
        opened = ReferDataset.open(write_tiny(tmp_path, dataset).parent, dataset, "own")
        (found, *_) = opened.examples("train")[0]
        assert Path(found.image_path).parent == image_folder(tmp_path, dataset)
    assert image_folder(tmp_path, "refcoco+") == tmp_path / "images" / "mscoco" / "images" / "train2014"
    assert image_folder(tmp_path, "own") == tmp_path / "images" / "own"


def test_a_problem_says_where_what_got_expected_and_remedy() -> None:
    error = BadValue("box", [1, 2], "four numbers", "correct it")
    assert str(error.at("own.csv line 3")) == "own.csv line 3: box: got [1, 2]; expected four numbers; correct it"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert isinstance(error, DataError)


def test_problems_are_counted_by_kind() -> None:
    kinds = [Problem("x", what, "", "", "") for what in ("box", "mask", "box")]
    assert by_kind(kinds) == "2 box, 1 mask"


def test_what_is_said_of_many_places_is_one_line() -> None:
    few = [Problem(f"line {n}", "mask", "0", "1", "2") for n in range(5)]
    assert gathered(few) == few
    many = [*few, Problem("line 9", "mask", "0", "1", "2"), Problem("line 2", "box", "0", "1", "2")]
    assert [problem.where for problem in gathered(many)] == ["line 0 and 5 more, to line 9", "line 2"]


def test_values_are_shortened_to_one_line() -> None:
    assert shown("a\nb") == "'a\\nb'"
    assert shown("\ud800") == "'\\ud800'"
    assert shown("") == "''"
    assert shown("left man") == "'left man'"
    assert shown([0] * 100) == f"[{'0, ' * 12}...]"
    assert shown(" p.png ") == "' p.png '"
    assert shown("a" * 100) == f"'{'a' * 100}'", "what a person has to find again is whole"
    assert shown("a" * 1000 + "b").endswith("aaab'") and len(shown("a" * 1000 + "b")) < 170
    assert shown(10**5000) == "a value of type int"
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "[[[[[[[...]]]]]]]"


@pytest.mark.parametrize("text", ["1", "1.5", "-3e5", " 2 ", "true", "None", "nan"])
def test_a_text_that_looks_like_another_value_is_called_a_text(text: str) -> None:
    assert shown(text) == f"{text!r} (text)"
    assert "(text)" not in shown(Words(text))
    assert "(text)" not in shown(f"{text} px")


def test_errors_and_words_of_ours_are_whole() -> None:
    sentence = "a sentence of " + "many words and " * 30 + "an end"
    assert shown(DataError(sentence)) == shown(Words(sentence)) == sentence
    assert shown(ValueError(sentence)) == f"ValueError: {sentence}"
    assert shown(Words("two\nlines")) == "two\\nlines"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a\0", "x y"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="dataset must be letters, digits"):
        plain_name("dataset", name)


@pytest.mark.parametrize(
    "name",
    ["../secret.txt", "/etc/hostname", "a/../../secret.txt", "in\0side", "x" * 5000, "..\\x", "", None, 3],
)
def test_nothing_outside_the_folder_is_reached(tmp_path: Path, name: object) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    with pytest.raises(BadValue):
        file_below(folder, name, "image")


def test_a_link_in_the_folder_leads_out_of_it_only_where_links_are_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "pictures", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a.png").write_text("")
    os.symlink(elsewhere / "a.png", folder / "link.png")
    os.symlink(elsewhere, folder / "sub")
    for name in ("link.png", "sub/a.png"):
        assert file_below(folder, name, "image") == folder / name
        with pytest.raises(BadValue, match="the link leads outside"):
            file_below(folder, name, "text", follow_links=False)
    os.symlink(elsewhere / "gone.png", folder / "broken.png")
    with pytest.raises(BadValue, match="missing image"):
        file_below(folder, "broken.png", "image")


def test_files_inside_are_found_also_through_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("")
    (tmp_path / "c.txt").symlink_to(tmp_path / "a" / "b.txt")
    assert file_below(tmp_path, "a/b.txt", "image") == tmp_path / "a" / "b.txt"
    assert file_below(tmp_path, "c.txt", "image") == tmp_path / "c.txt"


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("COCO_train2014_000000581857.jpg", 581857),
        ("COCO_train2014_000000581857_16.jpg", 581857),
        ("000000000009.jpg", 9),
        ("own_000000000009.jpg", None),
        ("9.jpg", None),
    ],
)
def test_coco_numbers(name: str, number: int | None) -> None:
    assert coco_number(name) == number


def test_a_problem_can_be_printed_whatever_the_name() -> None:
    assert str(BadValue("id", "x", "y", "z").at("a\udcff.png")).encode() == b"a\\udcff.png: id: got 'x'; expected y; z"


def test_notices_of_one_text_are_one_line() -> None:
    notices = [Notice(f"{number}.png", "it is odd") for number in range(8)]
    notices.insert(3, Notice("x.png", "it is even"))
    assert listed(notices) == ["0.png, 1.png, 2.png, 3.png, 4.png and 3 more: it is odd", "x.png: it is even"]
