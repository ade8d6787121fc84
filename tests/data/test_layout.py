"""Names, places and the wording of problems."""

import os
import pickle
from pathlib import Path

import pytest

from l2l_ray.data.layout import (
    IMAGE_FOLDERS,
    BadValue,
    Problem,
    by_kind,
    coco_number,
    file_below,
    image_folder,
    plain_name,
    short,
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


def test_values_are_shortened_to_one_line() -> None:
    assert short("a\nb") == "'a\\nb'"
    assert short([0] * 100, 10) == "[0, 0, ..."
    assert short("\ud800") == "'\\ud800'"
    assert short("") == "''"


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
    assert str(BadValue("id", "x", "y", "z").at("a\udcff.png")).encode() == b"a\\udcff.png: id: got x; expected y; z"
