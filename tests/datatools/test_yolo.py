"""Outlines that mean exactly their mask, and the folder that Ultralytics reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageOps

from l2l_ray.data.masks import encode
from l2l_ray.datatools.export import index_of, write_export
from l2l_ray.datatools.record import ExportedMask
from l2l_ray.datatools.yolo import outline_of
from l2l_ray.errors import DataError
from l2l_ray.types import Example
from tests.object_store import ObjectStore
from tests.refer_folder import draw


def _inside(outline: np.ndarray, height: int, width: int) -> np.ndarray:
    """Tell by the even-odd rule which pixels' centres lie in an outline: count what a ray to the right crosses."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), bool)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def _mask(height: int = 24, width: int = 32) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[2:12, 3:20] = True
    mask[4:8, 6:12] = False
    mask[5:7, 8:10] = True  # an island in the hole
    mask[20:, 25:] = True
    mask[15, 0] = True
    return mask


@settings(max_examples=100, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_an_outline_is_its_mask(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(_inside(outline_of(mask), *mask.shape), mask)


@pytest.mark.parametrize("mask", [_mask(), ~_mask(), np.ones((5, 5), bool), np.zeros((5, 5), bool), np.eye(7) > 0])
def test_holes_islands_parts_and_edges(mask: np.ndarray) -> None:
    outline = outline_of(mask)
    np.testing.assert_array_equal(_inside(outline, *mask.shape), mask)
    assert len(outline) == 0 or (outline.min() >= 0 and (outline.max(axis=0) <= mask.shape[::-1]).all())


def _export(tmp_path: Path, photos: list[tuple[str, np.ndarray, str, str]]) -> Path:
    masks = []
    for number, (name, mask, split, category) in enumerate(photos):
        path = tmp_path / "photos" / name
        if not path.exists():
            draw(path, number)
        example = Example(number, number, number, str(path), 32, 24, f"text {number}")
        masks.append(ExportedMask(example, encode(mask), None, 0.5, None, {}, split, category))
    return write_export(masks, "yolo", tmp_path / "out", {})


def test_the_folder_is_what_ultralytics_reads(tmp_path: Path) -> None:
    empty = np.zeros((24, 32), bool)
    photos = [
        ("a.jpg", _mask(), "train", ""),
        ("a.jpg", _mask(), "train", ""),  # another text of the object
        ("a.jpg", ~_mask(), "train", "cat"),
        ("images/a.jpg", _mask(), "train", "cat"),
        ("a.png", _mask(), "train", ""),
        ("b.png", empty, "train", ""),
        ("c.png", _mask(), "val", "cat"),
    ]
    folder = _export(tmp_path, photos)
    data = yaml.safe_load((folder / "data.yaml").read_text())
    assert data == {"train": "images/train", "val": "images/val", "names": {0: "cat", 1: "object"}}
    images = sorted(path.relative_to(folder).as_posix() for path in (folder / "images").rglob("*.*g"))
    assert images == [f"images/{name}" for name in ("train/a.jpg", "train/a_2.jpg", "train/a_3.png", "val/c.png")]
    labels = sorted(path.relative_to(folder).as_posix() for path in (folder / "labels").rglob("*.txt"))
    # Ultralytics puts labels for the last images in a path, and txt for its ending.
    assert labels == sorted(f"labels/{name[7:].rpartition('.')[0]}.txt" for name in images)
    assert (folder / "images/train/a_2.jpg").samefile(tmp_path / "photos/images/a.jpg")
    lines = (folder / "labels/train/a.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["1", "0"], "one line for the equal masks"
    numbers = np.array(lines[0].split()[1:], float)
    assert len(numbers) >= 6 and len(numbers) % 2 == 0 and 0 <= numbers.min() and numbers.max() <= 1
    np.testing.assert_array_equal(_inside(numbers.reshape(-1, 2) * (32, 24), 24, 32), _mask())
    assert len((folder / "index.jsonl").read_text().splitlines()) == len(photos)


def test_without_val_masks_the_file_says_so(tmp_path: Path) -> None:
    folder = _export(tmp_path, [("a.png", _mask(), "testA", "")])
    text = (folder / "data.yaml").read_text()
    assert yaml.safe_load(text) == {"train": "images/testA", "val": "images/testA", "names": {0: "object"}}
    assert text.startswith("# This export has no val masks")


def test_a_photo_that_ultralytics_would_mend_in_place_is_copied(tmp_path: Path) -> None:
    good, torn = draw(tmp_path / "photos" / "good.jpg", 1), draw(tmp_path / "photos" / "torn.jpg", 2)
    torn.write_bytes(torn.read_bytes()[:-2])
    folder = _export(tmp_path, [("good.jpg", _mask(), "train", ""), ("torn.jpg", _mask(), "train", "")])
    assert (folder / "images/train/good.jpg").samefile(good)
    copy = folder / "images/train/torn.jpg"
    assert not copy.is_symlink() and copy.read_bytes() == torn.read_bytes()
    with Image.open(copy) as picture:
        assert picture.size == (32, 24)


def test_what_ultralytics_passes_over_gets_an_ending_that_it_reads(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    jpeg = draw(photos / "a.jpg", 1).rename(photos / "a.JFIF")
    rows = [(name, _mask(), "train", "") for name in ("a.JFIF", "b.gif", "a.png")]
    folder = _export(tmp_path, rows)
    assert sorted(path.name for path in (folder / "images/train").iterdir()) == ["a.jpg", "a_2.png", "b.png"]
    assert (folder / "images/train/a.jpg").samefile(jpeg)
    with Image.open(folder / "images/train/b.png") as given, Image.open(photos / "b.gif") as photo:
        assert given.format == "PNG" and given.tobytes() == photo.convert("RGB").tobytes()


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_photo_that_tools_would_turn_is_given_as_its_masks_see_it(tmp_path: Path, ending: str) -> None:
    photo, exif = draw(tmp_path / "photos" / f"a.{ending}", 1), Image.Exif()
    exif[0x0112] = 6
    with Image.open(photo) as picture:
        picture.save(photo, exif=exif)
    folder = _export(tmp_path, [(f"a.{ending}", _mask(), "train", "")])
    with Image.open(folder / "images/train/a.png") as given, Image.open(photo) as stored:
        assert ImageOps.exif_transpose(given).tobytes() == stored.tobytes() and given.size == (32, 24)
    assert [path.name for path in (folder / "labels/train").iterdir()] == ["a.txt"]
    assert not (folder / "images/train/a.png").is_symlink()


def test_a_photo_that_is_gone_is_named(tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "a.png", 1).unlink()
    example = Example(0, 0, 0, str(tmp_path / "photos" / "a.png"), 32, 24, "text")
    with pytest.raises(DataError, match=r"a\.png cannot be read: image file not found; put it back"):
        write_export(
            [ExportedMask(example, encode(_mask()), None, 0.5, None, {}, "train", "")], "yolo", tmp_path / "out", {}
        )
    assert not (tmp_path / "out").exists()


def test_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 1 masks has a pixel"):
        _export(tmp_path, [("a.png", np.zeros((24, 32), bool), "train", "")])
    assert not (tmp_path / "out").exists()


def test_photos_of_an_object_store_are_copied(tmp_path: Path, store: ObjectStore) -> None:
    masks = []
    for number, name in enumerate(("a.jpg", "b.jpg")):
        photo = store.place("refer") / "images" / "own" / name
        photo.write_bytes(draw(tmp_path / "drawn" / name, number).read_bytes())
        masks.append(
            ExportedMask(Example(number, 1, number, str(photo), 32, 24, "cup"), encode(_mask()), None, 0.5, None, {})
        )
    folder = write_export(masks, "yolo", tmp_path / "out", {})
    for name in ("a.jpg", "b.jpg"):
        copy = folder / "images" / "train" / name
        assert not copy.is_symlink() and copy.read_bytes() == (tmp_path / "drawn" / name).read_bytes()
    assert index_of(folder)["image_root"] == "s3://bucket/refer/images/own"
    assert [json.loads(line)["image"] for line in (folder / "index.jsonl").read_text().splitlines()] == [
        "a.jpg",
        "b.jpg",
    ]
    with pytest.raises(DataError, match=r"these lie in s3://bucket/refer/images/own; copy them to a disk"):
        write_export(masks, "labelstudio", tmp_path / "tasks", {})
