"""A photo that is learned from is not evaluated on, under whatever name it lies there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from l2l_ray import cli
from l2l_ray.data.layout import BadValue
from l2l_ray.data.plain_pickle import plain_records
from l2l_ray.datatools.photo_splits import PhotoSplits
from tests.refer_folder import draw


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(("train/a.png", "train/b.png", "val/c.png")):
        draw(tmp_path / "photos" / name, number)
    return tmp_path / "photos"


@pytest.mark.parametrize("way", ["copy", "link"])
def test_a_photo_in_two_folders_is_named_and_left_out_of_the_later(
    photos: Path, way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if way == "copy":
        shutil.copyfile(photos / "train" / "a.png", photos / "val" / "again.png")
    else:
        (photos / "val" / "again.png").symlink_to(photos / "train" / "a.png")
    for photo in photos.rglob("*.png"):
        photo.with_suffix(".txt").write_text("cup\n")
    assert cli.main(["data", "import", "folder", str(photos), "--root", str(tmp_path), "--dataset", "own"]) == 1
    told = "split of a photo: got val for 'val/again.png'; expected train, as 'train/a.png', the same photo, has"
    assert told in "".join(capsys.readouterr())
    refs = plain_records(tmp_path / "own" / "refs(own).p")
    assert sorted(ref["file_name"] for ref in refs) == ["train/a.png", "train/b.png", "val/c.png"]


@pytest.mark.parametrize("images", ["at hand", "not at hand"])
def test_annotations_of_one_photo_are_in_one_split(
    photos: Path, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["train/a.png", "train/a.png" if images == "not at hand" else "val/again.png"]
    shutil.copyfile(photos / "train" / "a.png", photos / "val" / "again.png")
    rows = [{"id": i, "file_name": name, "width": 32, "height": 24} for i, name in enumerate(names)]
    said = [
        {"id": i, "image_id": i, "bbox": [1, 1, 5, 5], "caption": "cup", "split": split}
        for i, split in enumerate(("train", "val"))
    ]
    (tmp_path / "x.json").write_text(json.dumps({"images": rows, "annotations": said}))
    words = ["--images", str(photos)] if images == "at hand" else []
    words += ["--root", str(tmp_path), "--dataset", "own"]
    assert cli.main(["data", "import", "coco", str(tmp_path / "x.json"), *words]) == 1
    assert f"split of a photo: got val for '{names[1]}'; expected train" in "".join(capsys.readouterr())


def test_two_evaluated_splits_may_share_a_photo_and_other_content_of_one_size_is_another(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path, content in zip(paths, (b"one", b"two", b"one"), strict=True):
        path.write_bytes(content)
    splits = PhotoSplits()
    assert splits.take("a", paths[0], "val") == "val"
    splits.require_apart("c", paths[2], "testA")
    splits.require_apart("b", paths[1], "train")
    with pytest.raises(BadValue, match="expected val, as an earlier item of this photo has"):
        splits.require_apart("a", paths[0], "train")
    with pytest.raises(BadValue, match="expected val, as 'a', the same photo, has"):
        splits.require_apart("c", paths[2], "train")
    assert splits.take("a", paths[0], "testA") == "val"
