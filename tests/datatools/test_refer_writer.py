"""The writer: what it writes the loader reads, and it writes all or nothing and over nothing."""

from pathlib import Path

import pytest

from l2l_ray.data.layout import PROBLEMS_FILE
from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.refer_writer import ReferWriter, sentence
from l2l_ray.errors import DataError
from tests.refer_folder import draw, write_tiny


def test_the_loader_reads_it(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    data = ReferDataset.open(tmp_path, "tiny", "own")
    assert data.splits == ("train", "val", "testA")
    examples, skips = data.labeled_examples("train")
    assert [e.expression for e in examples] == [f"cat {i} {k}" for i in (1, 2, 3) for k in (0, 1)]
    assert skips == []
    assert (examples[0].width_px, examples[0].height_px, examples[0].category) == (32, 24, "cat")
    assert sorted(path.name for path in folder.iterdir()) == ["instances.json", "origin.txt", "refs(own).p"]
    assert not list(tmp_path.glob(".*"))


def test_an_existing_data_set_is_not_touched(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    with pytest.raises(DataError, match="tiny exists and is not overwritten; add to it by --update, or choose"):
        ReferWriter(tmp_path, "tiny", "own")


def test_a_different_picture_of_the_same_name_is_not_replaced(tmp_path: Path) -> None:
    old = draw(tmp_path / "images" / "tiny" / "3.png", seed=99)
    before = old.read_bytes()
    with pytest.raises(DataError, match=r"3.png is a different picture than"):
        write_tiny(tmp_path)
    assert old.read_bytes() == before
    assert not (tmp_path / "tiny").exists()
    assert not list(tmp_path.glob(".*"))


def test_the_same_picture_is_kept(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "tiny" / "3.png", seed=3)
    write_tiny(tmp_path)
    assert not (tmp_path / "images" / "tiny" / "3.png").is_symlink()
    assert (tmp_path / "images" / "tiny" / "4.png").is_symlink()


def test_a_linked_folder_that_has_the_pictures_is_used_and_nothing_is_written_through_it(tmp_path: Path) -> None:
    for number in range(1, 6):
        draw(tmp_path / "shared" / f"{number}.png", number)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "tiny").symlink_to(tmp_path / "shared")
    write_tiny(tmp_path)
    (tmp_path / "images" / "other").symlink_to(tmp_path / "shared")
    (tmp_path / "shared" / "3.png").unlink()
    with pytest.raises(
        DataError, match=r"other is a link to a folder that lacks 1 picture of these \(3\.png\).*--images"
    ):
        write_tiny(tmp_path, "other")
    assert not (tmp_path / "shared" / "3.png").exists() and not (tmp_path / "other").exists()


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyError), ReferWriter(tmp_path, "own", "own") as writer:
        writer.add_image(1, "a.png", (2, 2), b"content")
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_pictures_given_as_bytes_and_unused_images(tmp_path: Path) -> None:
    with ReferWriter(tmp_path, "own", "own") as writer:
        writer.add_image(1, "a.png", (2, 2), b"content")
        writer.add_image(2, "b.png", (2, 2), b"unused")
        writer.add_ref({"ref_id": 1, "image_id": 1, "split": "train"}, [sentence(1, " A  b ")])
        writer.write()
    assert [path.name for path in (tmp_path / "images" / "own").iterdir()] == ["a.png"]
    assert (tmp_path / "images" / "own" / "a.png").read_bytes() == b"content"


def test_sentences_keep_their_case() -> None:
    assert sentence(3, " Left  man ") == {
        "sent_id": 3,
        "raw": " Left  man ",
        "sent": "Left man",
        "tokens": ["Left", "man"],
    }


def test_the_folder_of_all_pictures_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the name 'images' is that of the folder of all pictures; choose another"):
        ReferWriter(tmp_path, "images", "own")


def test_a_problem_is_kept_once_whatever_is_in_its_line(tmp_path: Path) -> None:
    for number in (1, 2):
        with ReferWriter(tmp_path, "own", "own", update=number == 2) as writer:
            writer.add_image(number, f"{number}.png", (2, 2), b"content")
            writer.add_ref({"ref_id": number, "image_id": number, "split": "train"}, [sentence(number, "cat")])
            writer.problems.append("a\u2028b\x85.png: missing text")
            folder = writer.write()
    assert (folder / PROBLEMS_FILE).read_text() == "a\u2028b\x85.png: missing text\n"


def test_one_update_at_a_time(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    with ReferWriter(tmp_path, "tiny", "own", update=True):
        with (
            pytest.raises(DataError, match=f"another process updates {folder}; try again when it has ended"),
            ReferWriter(tmp_path, "tiny", "own", update=True),
        ):
            pass
        write_tiny(tmp_path, "other")
    with ReferWriter(tmp_path, "tiny", "own", update=True) as writer:
        assert writer.folder == folder
