"""Photos as people have them: 16 bits, turned by EXIF, bombs, and masks saved as JPEG."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from l2l_ray import cli
from l2l_ray.config import PriorConfig
from l2l_ray.data.images import ImageStore
from l2l_ray.data.masks import decode, encode
from l2l_ray.data.pixels import read_rgb
from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.inventory import take_inventory
from l2l_ray.datatools.sheet import tile
from l2l_ray.errors import DataError
from l2l_ray.loop.inference.asking import Question, answer_batch
from l2l_ray.prior.loading import PriorModels
from l2l_ray.prior.mllm import MllmPrior

CASES = Path(__file__).parent
RED_BOX = np.zeros((160, 120), bool)  # as people see tall.jpg of case 10
RED_BOX[20:60, 70:110] = True


def imported(root: Path, kind: str, source: Path, *words: str) -> int:
    return cli.main(["data", "import", kind, str(source), "--root", str(root), "--dataset", "own", *words])


def masks(root: Path) -> list[np.ndarray]:
    """Return the masks of a data set, and make sure that its pictures have the size that it names."""
    examples, _ = ReferDataset.open(root, "own", "own").labeled_examples("train")
    store = ImageStore(32, cache_mb=1)
    usable, skips = store.check(examples)
    store.close()
    assert not skips
    return [decode(example.mask_rle) for example in usable]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


class Seen(MllmPrior):
    """The real MLLM, which keeps the pictures that it is shown."""

    pictures: list[np.ndarray]

    def ask(self, images: Sequence[Image.Image], expressions: Sequence[str]) -> Any:
        self.pictures = [np.asarray(image) for image in images]
        return super().ask(images, expressions)


@pytest.mark.parametrize("name", ["gray16.png", "gray16be.tif"])
def test_16_bits_are_the_same_pixels_for_all_who_read_them(tmp_path: Path, name: str) -> None:
    folder = CASES / "09/ph"
    expected = np.asarray(read_rgb(folder / "gray8.png"))
    assert expected.max() < 255  # which is what clipped pixels were
    mllm = Seen.load(PriorConfig())
    models = PriorModels(PriorConfig(), mllm)
    answers = [
        answer_batch(models, [Question("k", str(folder / file), "circle", 160, 120)]) for file in (name, "gray8.png")
    ]
    assert answers[0] == answers[1]
    np.testing.assert_array_equal(mllm.pictures[0], expected)

    store = ImageStore(64, cache_mb=1)
    one, eight = store.get([str(folder / name), str(folder / "gray8.png")])
    np.testing.assert_array_equal(np.asarray(read_rgb(folder / name, upright=True)), expected)  # of `l2l predict`
    store.close()
    assert one.equal(eight)

    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"image": file, "expression": "circle"}) + "\n" for file in (name, "gray8.png"))
    )
    assert imported(tmp_path, "rows", tmp_path / "rows.jsonl", "--images", str(folder)) == 0
    inventory = take_inventory(tmp_path / "own")
    shown = [np.asarray(tile(inventory, item)) for item in inventory.items]
    np.testing.assert_array_equal(shown[0], shown[1])


def test_a_polygon_on_a_turned_picture_is_as_people_see_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(tmp_path, "rows", CASES / "10/rows.jsonl", "--images", str(CASES / "10/ph")) == 0
    assert "notice: tall.jpg: turned as EXIF says, the data set holds an upright copy" in capsys.readouterr().out
    red_box, second = masks(tmp_path)
    assert iou(red_box, RED_BOX) == 1
    assert second.sum() == 1600  # wholly inside as shown
    copy = tmp_path / "images/own/tall.jpg"
    with Image.open(copy) as picture:
        assert not copy.is_symlink() and not picture.getexif()
    red, _, blue = np.moveaxis(np.asarray(read_rgb(copy)).astype(int), 2, 0)
    assert iou(red > blue + 100, RED_BOX) > 0.95


def test_a_brush_of_label_studio_on_a_turned_picture(tmp_path: Path) -> None:
    shutil.copytree(CASES / "10", tmp_path / "project")
    assert imported(tmp_path, "labelstudio", tmp_path / "project/ls.json") == 0
    brushed = RED_BOX.copy()
    brushed[20:61, 70:111] = True  # the brush holds the last row and column, too
    assert iou(masks(tmp_path)[0], brushed) == 1


def test_a_mask_as_jpeg_is_the_disc_and_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--images", str(CASES / "17/ph"), "--masks", str(CASES / "17/ms"))
    assert imported(tmp_path, "rows", CASES / "17/rows.jsonl", *words) == 0
    (said,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("notice: "))
    assert said.startswith("notice: mask.jpg (") and said.endswith("mask is not two-valued, cut at half of its range")
    assert abs(masks(tmp_path)[0].sum() - 2025) < 0.02 * 2025


def test_a_mask_as_jpeg_beside_its_photo_is_no_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(CASES / "17/ph/p.png", folder / "p.png")
    shutil.copy(CASES / "17/ms/mask.jpg", folder / "p_mask.jpg")
    (folder / "p.txt").write_text("the disc")
    assert imported(tmp_path / "root", "folder", folder) == 0
    assert "p_mask.jpg (" in capsys.readouterr().out
    assert abs(masks(tmp_path / "root")[0].sum() - 2025) < 0.02 * 2025
    shutil.copy(CASES / "17/ms/mask.jpg", folder / "p_mask.jpeg")
    assert imported(tmp_path / "more", "folder", folder) == 1
    assert "masks of one name: got p_mask.jpg and p_mask.jpeg; expected one mask" in capsys.readouterr().out


def test_an_upright_copy_is_a_file_also_where_the_root_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    assert imported(tmp_path / "root", "rows", CASES / "10/rows.jsonl", "--images", str(CASES / "10/ph")) == 0
    assert len(masks(tmp_path / "root")) == 2


def test_a_bomb_is_one_line_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 10_000)).save(bomb)
    shutil.copy(CASES / "17/ph/p.png", tmp_path / "p.png")
    rows = [{"image": "bomb.png", "expression": "a"}, {"image": "p.png", "mask": "bomb.png", "expression": "b"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    imported(tmp_path / "root", "rows", tmp_path / "rows.jsonl")
    printed = capsys.readouterr().out
    assert "rows.jsonl line 1: unreadable image: got 'bomb.png': it claims more than 179 million pixels" in printed
    assert "rows.jsonl line 2: mask file: got 'bomb.png': it claims more than 179 million pixels" in printed
    (reply,) = answer_batch(PriorModels(PriorConfig()), [Question("k", str(bomb), "circle", 20_000, 10_000)])
    assert "bomb.png cannot be read: it claims more than 179 million pixels" in reply.failure
    store = ImageStore(32, cache_mb=1)
    with pytest.raises(DataError, match=r"bomb\.png cannot be read"):
        store.get([str(bomb)])
    store.close()


ORIENTATIONS = range(1, 9)


def turned_photo(path: Path, orientation: int, size: tuple[int, int] = (48, 32)) -> tuple[np.ndarray, np.ndarray]:
    """Write a picture stored in `size`; return a mask of its white patch as stored and as shown."""
    stored = np.zeros(size[::-1], bool)
    stored[4:12, 6:26] = True
    stored[4:20, 6:12] = True
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.repeat(stored[..., None], 3, axis=2).astype(np.uint8) * 255)
    picture.save(path, exif=exif)
    return stored, np.asarray(read_rgb(path, upright=True))[..., 0] > 128


def ring(mask: np.ndarray) -> dict[str, Any]:
    return {"size": list(mask.shape), "counts": encode(mask)["counts"]}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("form", ["rle", "mask"])
@pytest.mark.parametrize("square", [False, True])
def test_truth_in_either_frame_is_known_by_its_size_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], orientation: int, form: str, square: bool
) -> None:
    stored, shown = turned_photo(tmp_path / "a.png", orientation, (40, 40) if square else (48, 32))
    for name, mask in (("stored", stored), ("shown", shown)):
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
        row = {"image": "a.png", "expression": "patch"} | (
            {"rle": ring(mask)} if form == "rle" else {"mask": f"{name}.png"}
        )
        (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "a.png", "expression": "x"}) + "\n" + json.dumps(row))
        status = imported(tmp_path / name, "rows", tmp_path / "rows.jsonl")
        printed = capsys.readouterr().out
        if orientation == 1 or (orientation >= 5 and not square):
            assert status == 0
            np.testing.assert_array_equal(masks(tmp_path / name)[0], shown)
        else:
            assert status == 1
            assert f"EXIF orientation: got {orientation}, and a mask of" in printed
            assert "save the picture upright" in printed


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_mask_that_carries_the_orientation_of_its_picture_is_turned_with_it(tmp_path: Path, orientation: int) -> None:
    stored, shown = turned_photo(tmp_path / "a.png", orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "m.png", exif=exif)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "a.png", "expression": "patch", "mask": "m.png"}))
    assert imported(tmp_path, "rows", tmp_path / "rows.jsonl") == 0
    np.testing.assert_array_equal(masks(tmp_path)[0], shown)


def test_a_mask_turned_otherwise_than_its_picture_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turned_photo(tmp_path / "a.png", 1)
    turned_photo(tmp_path / "m.png", 3)
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"image": "a.png", "expression": "x"})
        + "\n"
        + json.dumps({"image": "a.png", "expression": "patch", "mask": "m.png"})
    )
    assert imported(tmp_path, "rows", tmp_path / "rows.jsonl") == 1
    assert "EXIF orientation of the mask: got 3; expected 1 as its image" in capsys.readouterr().out


@pytest.mark.parametrize("orientation", range(5, 9))
@pytest.mark.parametrize("field", ["polygon", "box"])
def test_a_polygon_or_box_of_the_stored_pixels_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], orientation: int, field: str
) -> None:
    turned_photo(tmp_path / "a.png", orientation)
    value = [36, 4, 46, 4, 46, 20] if field == "polygon" else [36, 4, 10, 16]
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"image": "a.png", "expression": "x"})
        + "\n"
        + json.dumps({"image": "a.png", "expression": "patch", field: value})
    )
    assert imported(tmp_path, "rows", tmp_path / "rows.jsonl") == 1
    assert f"EXIF orientation: got {orientation}, and a {field} that fits 48 x 32 px" in capsys.readouterr().out


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    x, y = int(columns.min()), int(rows.min())
    return [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]


def hints(root: Path) -> list[dict[str, Any]]:
    return [item.record.get("hint", {}) for item in take_inventory(root / "own").items]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_hint_on_a_turned_picture_is_as_people_see_it(tmp_path: Path, orientation: int) -> None:
    _, shown = turned_photo(tmp_path / "a.png", orientation)
    box = box_of(shown)
    row = {"image": "a.png", "expression": "patch", "box": box, "point": box[:2]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert imported(tmp_path, "rows", tmp_path / "rows.jsonl") == 0
    assert hints(tmp_path) == [{"box": box, "points": [box[:2]]}]


@pytest.mark.parametrize("orientation", range(5, 9))
def test_a_point_of_the_stored_pixels_is_refused_and_the_item_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], orientation: int
) -> None:
    turned_photo(tmp_path / "a.png", orientation)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "a.png", "expression": "patch", "point": [40, 9]}))
    assert imported(tmp_path, "rows", tmp_path / "rows.jsonl") == 1
    assert f"EXIF orientation: got {orientation}, and a point that fits 48 x 32 px" in capsys.readouterr().out
    assert hints(tmp_path) == [{}]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("frame", ["stored", "shown"])
def test_hints_of_coco_are_turned_with_their_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], orientation: int, frame: str
) -> None:
    masks_of = dict(zip(("stored", "shown"), turned_photo(tmp_path / "a.png", orientation), strict=True))
    points = {}
    for name, mask in masks_of.items():  # the end of the patch's long arm is the same place in both
        height, width = mask.shape
        stored_xy = np.zeros(masks_of["stored"].shape, bool)
        stored_xy[10, 25] = True
        picture = Image.fromarray(stored_xy)
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.save(tmp_path / "point.png", exif=exif)
        found = np.asarray(read_rgb(tmp_path / "point.png", upright=name == "shown"))[..., 0] > 0
        x, y, _, _ = box_of(found)
        points[name] = [x + 0.5, y + 0.5]
    height, width = masks_of[frame].shape
    table = {
        "images": [{"id": 7, "file_name": "a.png", "width": width, "height": height}],
        "annotations": [
            {"id": 1, "image_id": 7, "bbox": box_of(masks_of[frame]), "point": points[frame], "expression": "patch"}
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(table))
    status = imported(tmp_path / "root", "coco", tmp_path / "coco.json", "--images", str(tmp_path))
    if 2 <= orientation <= 4:
        assert status == 1 and hints(tmp_path / "root") == [{}]
        assert f"EXIF orientation: got {orientation}, and a hint of 48 x 32 px" in capsys.readouterr().out
    else:
        assert status == 0
        assert hints(tmp_path / "root") == [{"box": box_of(masks_of["shown"]), "points": [points["shown"]]}]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("frame", ["stored", "shown"])
def test_coco_tells_the_frame_by_the_size_in_its_image_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], orientation: int, frame: str
) -> None:
    stored, shown = turned_photo(tmp_path / "a.png", orientation)
    mask = stored if frame == "stored" else shown
    height, width = mask.shape
    table = {
        "images": [{"id": 7, "file_name": "a.png", "width": width, "height": height}],
        "annotations": [
            {"id": k, "image_id": 7, "bbox": box_of(mask), "segmentation": ring(mask), "expression": f"patch {k}"}
            for k in (1, 2)
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(table))
    words = ("--images", str(tmp_path))
    if 2 <= orientation <= 4:
        assert imported(tmp_path / "root", "coco", tmp_path / "coco.json", *words) == 1
        assert f"EXIF orientation: got {orientation}, and an annotation of 48 x 32 px" in capsys.readouterr().out
        return
    assert imported(tmp_path / "root", "coco", tmp_path / "coco.json", *words) == 0
    for found in masks(tmp_path / "root"):
        np.testing.assert_array_equal(found, shown)
    content = json.loads((tmp_path / "root/own/instances.json").read_text())
    assert [row["bbox"] for row in content["annotations"]] == [box_of(shown), box_of(shown)]
    assert (content["images"][0]["width"], content["images"][0]["height"]) == shown.shape[::-1]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_label_studio_shows_every_turned_picture_turned(tmp_path: Path, orientation: int) -> None:
    _, shown = turned_photo(tmp_path / "a.png", orientation, (40, 40))
    from l2l_ray.datatools.label_studio import encode_brush

    region = {
        "type": "brushlabels",
        "original_width": 40,
        "original_height": 40,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(shown), "brushlabels": ["referent"]},
    }
    task = {"id": 1, "data": {"image": "a.png", "expression": "patch"}, "annotations": [{"id": 1, "result": [region]}]}
    (tmp_path / "ls.json").write_text(json.dumps([task]))
    assert imported(tmp_path / "root", "labelstudio", tmp_path / "ls.json") == 0
    np.testing.assert_array_equal(masks(tmp_path / "root")[0], shown)


def test_a_region_drawn_on_a_view_rotated_by_hand_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = json.loads((CASES / "10/ls.json").read_text())
    tasks[0]["annotations"][0]["result"][0]["image_rotation"] = 90
    (tmp_path / "ls.json").write_text(json.dumps(tasks))
    assert imported(tmp_path, "labelstudio", tmp_path / "ls.json", "--images", str(CASES / "10")) == 1
    assert "image_rotation: got 90; expected 0" in capsys.readouterr().out


def test_check_says_that_a_picture_is_turned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turned_photo(tmp_path / "a.png", 1)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "a.png", "expression": "patch"}))
    assert imported(tmp_path, "rows", tmp_path / "rows.jsonl", "--copy") == 0
    assert cli.main(["data", "check", str(tmp_path / "own")]) == 0
    assert "EXIF" not in capsys.readouterr().out
    turned_photo(tmp_path / "images/own/a.png", 6)
    assert cli.main(["data", "check", str(tmp_path / "own")]) == 0
    printed = capsys.readouterr().out
    assert "notice: a.png (6): viewers turn it as EXIF says; its pixels are used as stored" in printed
