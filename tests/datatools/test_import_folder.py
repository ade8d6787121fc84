"""A folder of pictures with texts and masks beside them."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2l_ray.data.layout import Notice, Problem
from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.import_folder import folder_rows
from l2l_ray.datatools.import_rows import import_rows
from l2l_ray.datatools.photos import photos_and_texts
from l2l_ray.datatools.refer_writer import ReferWriter
from l2l_ray.types import PhotoText
from tests.refer_folder import draw


def test_a_folder_of_pictures_and_texts(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    mask = np.zeros((24, 32), dtype=np.uint8)
    mask[4:8, 4:10] = 255
    draw(folder / "a.jpg", 1)
    (folder / "a.txt").write_text("left man\n\nman in red\n")
    Image.fromarray(mask).save(folder / "a.png")
    draw(folder / "val" / "b.png", 2)
    (folder / "val" / "b.txt").write_text("dog\n")
    Image.fromarray(mask).save(folder / "val" / "b_mask.png")
    draw(folder / "c.jpg", 3)
    (folder / "c.txt").write_text("no mask")
    draw(folder / "alone.jpg", 4)
    (folder / "lonely.txt").write_text("no picture")
    (folder / "bytes.txt").write_bytes(b"\xff")
    draw(folder / "bytes.jpg", 5)
    with ReferWriter(tmp_path / "root", "own", "own") as writer:
        problems = import_rows(folder_rows(folder), folder, folder, writer)
        writer.write()
    assert [(p.where, p.what) for p in problems] == [
        ("photos/alone.jpg", "missing text"), ("photos/bytes.txt", "text"), ("photos/lonely.txt", "missing image"),
    ]  # fmt: skip
    data = ReferDataset.open(tmp_path / "root", "own", "own")
    assert [e.expression for e in data.labeled_examples("train")[0]] == ["left man", "man in red"]
    assert [e.expression for e in data.labeled_examples("val")[0]] == ["dog"]
    assert [e.expression for e in data.examples("train")[0]] == ["left man", "man in red", "no mask"]


def test_a_folder_with_capital_endings_and_marks_before_the_text(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    draw(folder / "a.png", 1).rename(folder / "a.JPG")
    Image.fromarray(np.full((24, 32), 255, np.uint8)).save(folder / "a_mask.PNG", "PNG")
    (folder / "a.TXT").write_bytes(b"\xef\xbb\xbfleft man\r\n")
    ((_, row),) = folder_rows(folder)
    assert row == {"image": "a.JPG", "expression": ["left man"], "mask": "a_mask.PNG"}


def test_an_expression_ends_at_the_end_of_a_line_alone(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    (tmp_path / "a.txt").write_bytes("the man\x85 left\u2028of her\rdog\r\n".encode())
    ((_, row),) = folder_rows(tmp_path)
    assert row["expression"] == ["the man\x85 left\u2028of her", "dog"]


def test_a_text_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "a.png", 1)
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "photos" / "a.txt").symlink_to(tmp_path / "secret.txt")
    ((_, problem),) = folder_rows(tmp_path / "photos")
    assert isinstance(problem, Problem) and "leads outside" in str(problem)


def _photo(path: Path, text: str = "cup") -> None:
    draw(path, 1)
    path.with_suffix(".txt").write_text(text)


def _told(folder: Path) -> tuple[list[str], list[str]]:
    """Return the pictures that become rows, and what is said of the others."""
    rows = list(folder_rows(folder))
    return [row["image"] for _, row in rows if isinstance(row, dict)], [
        str(row) for _, row in rows if isinstance(row, Problem | Notice)
    ]


def test_links_to_folders_and_to_nothing_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    _photo(folder / "a.jpg")
    _photo(tmp_path / "other" / "b.jpg")
    (folder / "sub").symlink_to(tmp_path / "other")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.jpg").symlink_to(tmp_path / "gone.jpg")
    pictures, told = _told(folder)
    assert pictures == ["a.jpg"]
    assert [line.split(";")[0] for line in told] == [
        "photos/gone.jpg: broken link: got a link to nothing",
        "photos/loop: linked folder: got a link to a folder",
        "photos/sub: linked folder: got a link to a folder",
    ]
    assert [item for item in photos_and_texts(folder, "cup") if isinstance(item, Problem)]


def test_files_of_systems_are_quiet_and_other_unused_ones_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    _photo(folder / "a.jpg")
    for name in (".DS_Store", "._a.jpg", "._a.txt", "Thumbs.db"):
        (folder / name).write_bytes(b"\0")
    assert _told(folder) == (["a.jpg"], [])
    _photo(folder / ".old" / "b.jpg")
    (folder / "c.heic").write_bytes(b"x")
    pictures, told = _told(folder)
    assert pictures == ["a.jpg"]
    assert [line.partition(" ")[0] for line in told] == ["photos/.old/b.jpg:", "photos/.old/b.txt:", "photos/c.heic:"]


def test_a_folder_that_almost_names_a_split_is_refused_and_tiffs_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in ("Test/a.jpg", "validation/b.jpg", "test/c.tif", "mine/d.jpg"):
        _photo(folder / name)
    pictures, told = _told(folder)
    assert pictures == ["mine/d.jpg", "test/c.tif"]
    assert [line.split(";")[0] for line in told] == [
        "photos/Test/a.jpg: split: got 'Test'",
        "photos/validation/b.jpg: split: got 'validation'",
    ]


@pytest.fixture
def not_root() -> Iterator[Path]:
    """Give an empty folder to somebody who may not read everything."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # those of pytest are root's alone
        Path(place).chmod(0o755)
        yield Path(place)
        if os.getuid() == 0:
            os.seteuid(0)


def _lose_rights() -> None:
    if os.getuid() == 0:
        os.seteuid(65534)


def test_a_folder_that_cannot_be_read_is_named(not_root: Path) -> None:
    draw(not_root / "a.jpg", 1)
    (not_root / "a.txt").write_text("left man\n")
    for name in ("val", ".hidden"):
        draw(not_root / name / "b.jpg", 2)
        (not_root / name).chmod(0)
    list(folder_rows(not_root))  # loads the codec, whose file may be root's alone
    _lose_rights()
    rows = dict(folder_rows(not_root))
    where = f"{not_root.name}/val"
    assert rows == {
        f"{not_root.name}/a.jpg": {"image": "a.jpg", "expression": ["left man"]},
        where: Problem(
            where,
            "folder",
            "'Permission denied'",
            "a folder that can be read",
            "correct its rights, or move it elsewhere",
        ),
    }
    photo, problem = photos_and_texts(not_root, "dog")
    assert (photo, problem) == (PhotoText(not_root / "a.jpg", "dog"), rows[where])


def test_a_name_that_is_no_utf8_leaves_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in (b"no\xe9", b"a"):
        draw(folder / os.fsdecode(name + b".png"), 1)
        (folder / os.fsdecode(name + b".txt")).write_text("a cup\n")
    with ReferWriter(tmp_path / "root", "own", "own") as writer:
        (problem,) = import_rows(folder_rows(folder), folder, folder, writer)
        writer.problems = [str(problem)]
        writer.write()
    assert str(problem).startswith("photos/no\\udce9.txt: text: got ") and "rename the file" in str(problem)
    assert [row["file_name"] for row in writer.images.values()] == ["a.png"]


def _mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((24, 32), dtype=np.uint8)
    mask[4:8, 4:10] = 255
    Image.fromarray(mask).save(path)


@pytest.mark.parametrize(
    "name", ["masks/a.png", "a-mask.png", "a_mask_2.png", "orphan_mask.png", "labels/a.png", "a-object.png"]
)
def test_a_mask_of_another_name_is_told_what_it_should_be_called(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "photos"
    _photo(folder / "a.jpg")
    (folder / "orphan.txt").write_text("cup")
    _mask(folder / name)
    pictures, told = _told(folder)
    (line,) = [line for line in told if line.startswith(f"photos/{name}: missing text")]
    assert pictures == ["a.jpg"]
    assert "if it is a mask, call it <name>_mask.png, beside its photo <name>; else add the text" in line


def test_a_photo_without_a_text_is_not_taken_for_a_mask(tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "alone.png", 4)
    (line,) = _told(tmp_path / "photos")[1]
    assert line.endswith("expected alone.txt; add the text, one expression per line, or remove the picture")


def test_a_photo_that_is_taken_for_a_mask_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    _photo(folder / "face.jpg")
    _photo(folder / "face_mask.jpg", "the green mask")
    pictures, told = _told(folder)
    (line,) = told
    assert pictures == ["face.jpg"] and line.startswith(
        "photos/face_mask.txt: missing image: got face_mask.jpg, which is taken as the mask of face.jpg; expected one "
    )
    assert line.endswith("; if it is a photo, rename it and its text; else remove the text")


@pytest.mark.parametrize("ending", ["heic", "HEIF", "cr2"])
def test_a_picture_of_an_ending_that_is_not_read_is_named_once(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "photos"
    _photo(folder / "a.jpg")
    (folder / f"b.{ending}").write_bytes(b"x")
    (folder / "b.txt").write_text("cup")
    (line,) = _told(folder)[1]
    assert line.startswith(f"photos/b.txt: missing image: got b.{ending}, whose ending is not read from folders;")
    assert line.endswith("; if that is the picture, save it as JPEG")


@pytest.mark.parametrize(("ending", "kind"), [("jfif", "JPEG"), ("avif", "AVIF"), ("AVIF", "AVIF")])
def test_pictures_of_the_web_and_of_phones_are_taken(tmp_path: Path, ending: str, kind: str) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 24), (200, 30, 30)).save(folder / f"a.{ending}", kind, exif=exif)
    (folder / "a.txt").write_text("red")
    with ReferWriter(tmp_path / "root", "own", "own") as writer:
        assert import_rows(folder_rows(folder), folder, folder, writer) == []
        writer.write()
    (example,) = ReferDataset.open(tmp_path / "root", "own", "own").examples("train")[0]
    assert (example.width_px, example.height_px) == (24, 32)
