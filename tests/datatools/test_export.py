"""Every format gives the same masks back; exports appear whole or not at all, and replace nothing but exports."""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from l2l_ray.data.masks import decode, encode
from l2l_ray.datatools import export
from l2l_ray.datatools.export import FORMATS, is_as_written, write_export
from l2l_ray.datatools.import_coco import import_coco
from l2l_ray.datatools.import_rows import import_rows
from l2l_ray.datatools.label_studio import decode_brush, read_label_studio
from l2l_ray.datatools.record import RECORD, ExportedMask
from l2l_ray.datatools.refer_writer import ReferWriter
from l2l_ray.datatools.row_files import read_rows
from l2l_ray.errors import DataError
from l2l_ray.types import Example, Hint
from tests.refer_folder import draw

ABOUT = {"run": "whole", "method": "l2l", "round": 1, "model_version": 1}


def mask_of(number: int) -> np.ndarray:
    """A different shape for each, with a hole, of images of different sizes; number 3 is empty."""
    mask = np.zeros((20 + number // 2, 31 - number // 2), bool)
    mask[2 : 12 + number, 3:20] = number != 3
    mask[5, 6] = False
    return mask


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the photos of `masks`."""
    folder = tmp_path_factory.mktemp("own") / "photos"
    for name in ("val/0.jpg", "train/0.jpg", "val/1.jpg", "train/1.jpg", "val/2.jpg"):
        draw(folder / name, 1)
    return folder


@pytest.fixture
def masks(photos: Path) -> list[ExportedMask]:
    made = []
    for number in range(5):
        height, width = mask_of(number).shape
        path = str(photos / ("train" if number % 2 else "val") / f"{number // 2}.jpg")
        example = Example(100 + number, 7, number // 2, path, width, height, f'"left", größer {number}')
        accepted = encode(~mask_of(number)) if number else None
        gate = 0.75 if number else None
        made.append(ExportedMask(example, encode(mask_of(number)), accepted, 0.5 + number / 10, gate, ABOUT))
    return made


def _coco(folder: Path) -> dict[int, np.ndarray]:
    with contextlib.redirect_stdout(None):
        coco = COCO(folder / "annotations.json")
    assert coco.loadCats(1)[0]["name"] == "referent"
    found = {}
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation).astype(bool)
        assert annotation["area"] == mask.sum()
        rows, columns = np.nonzero(mask)
        if len(rows):
            x, y, w, h = annotation["bbox"]
            assert [x, y, x + w, y + h] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        found[annotation["sent_id"]] = mask
    return found


def _jsonl(folder: Path, name: str = "masks.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def _png(folder: Path) -> dict[int, np.ndarray]:
    rows = _jsonl(folder, "index.jsonl")
    assert sorted(str(path.relative_to(folder)) for path in (folder / "masks").rglob("*.png")) == sorted(
        row["mask"] for row in rows
    )
    return {int(row["id"]): np.asarray(Image.open(folder / row["mask"])) == 255 for row in rows}


def _parquet(path: Path) -> dict[int, np.ndarray]:
    return {row["sent_id"]: decode(row["rle"]) for row in pq.read_table(path).to_pylist()}


def _label_studio(folder: Path) -> dict[int, np.ndarray]:
    assert "BrushLabels" in (folder / "labeling_config.xml").read_text()
    found = {}
    for task in json.loads((folder / "tasks.json").read_text()):
        (region,) = task["predictions"][0]["result"]
        size = (region["original_height"], region["original_width"])
        found[task["data"]["sent_id"]] = decode_brush(region["value"]["rle"], *size)
    return found


READERS: dict[str, Callable[[Path], dict[int, np.ndarray]]] = {
    "coco": _coco,
    "jsonl": lambda folder: {int(row["id"]): decode(row["rle"]) for row in _jsonl(folder)},
    "parquet": lambda folder: _parquet(folder / "masks.parquet"),
    "hf": lambda folder: _parquet(folder / "data"),
    "png": _png,
    "labelstudio": _label_studio,
    "yolo": lambda folder: {int(row["id"]): decode(row["rle"]) for row in _jsonl(folder, "index.jsonl")},
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, on NumPy 2
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_masks_back(
    masks: list[ExportedMask], photos: Path, kind: str, tmp_path: Path
) -> None:
    folder = write_export(masks, kind, tmp_path / "out", {"run": "whole"})
    found = READERS[kind](folder)
    assert sorted(found) == [100, 101, 102, 103, 104]
    for number in range(5):
        np.testing.assert_array_equal(found[100 + number], mask_of(number))
    index = json.loads((folder / "export.json").read_text())
    root = str(photos.parent if kind == "labelstudio" else photos)  # Label Studio serves folders below its root only
    assert len(index.pop("files_sha256")) == 64 and is_as_written(folder)
    assert index == {"format": kind, "num": 5, "image_root": root, "run": "whole"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("change", ["edited", "added", "removed", "renamed", "no export"])
def test_a_change_of_any_file_is_seen(masks: list[ExportedMask], change: str, tmp_path: Path) -> None:
    folder = write_export(masks, "png", tmp_path / "out", {})
    picture = min((folder / "masks").rglob("*.png"))
    assert is_as_written(folder)
    if change == "edited":
        picture.write_bytes(picture.read_bytes() + b"\0")
    elif change == "added":
        (folder / "masks" / "note.txt").write_text("")
    elif change == "removed":
        picture.unlink()
    elif change == "renamed":
        picture.rename(picture.with_name("a.png"))
    else:
        (folder / "export.json").unlink()
    assert not is_as_written(folder)


def test_rows_of_own_data_name_images_below_the_root(masks: list[ExportedMask], tmp_path: Path) -> None:
    first, second, *_ = _jsonl(write_export(masks, "jsonl", tmp_path / "out", {}))
    assert list(first) == list(RECORD)
    assert (first["image"], first["expression"], first["id"]) == ("val/0.jpg", '"left", größer 0', "100")
    assert (first["confidence"], first["gate"], first["accepted_rle"], first["provenance"]) == (0.5, None, None, ABOUT)
    assert (second["confidence"], second["gate"]) == (0.6, 0.75)
    np.testing.assert_array_equal(decode(second["accepted_rle"]), ~mask_of(1))


def test_png_shows_where_a_label_was_believed(masks: list[ExportedMask], tmp_path: Path) -> None:
    folder = write_export(masks, "png", tmp_path / "out", {})
    first, second, *_ = _jsonl(folder, "index.jsonl")
    assert (first["mask"], second["mask"]) == ("masks/val/0_1_mask.png", "masks/train/0_1_mask.png")
    assert sorted(path.name for path in (folder / "accepted").rglob("*.png"))[0] == "0_1_mask.png"
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "accepted/train/0_1_mask.png")) == 255, ~mask_of(1))


def test_pictures_of_masks_are_named_after_photos_and_never_alike(tmp_path: Path) -> None:
    photos = ["a/x.jpg", "a/x.jpg", "a/X.png", "b/x.jpg", "a/x_1.jpg", f"b/{'ü' * 120}.jpg", f"b/{'ü' * 120}2.jpg"]
    made = [
        ExportedMask(
            Example(n, n, n, f"/photos/{photo}", 30, 20, "it"), encode(mask_of(0)[:20, :30]), None, 0.5, None, ABOUT
        )
        for n, photo in enumerate(photos)
    ]
    names = [row["mask"] for row in _jsonl(write_export(made, "png", tmp_path / "out", {}), "index.jsonl")]
    assert names[:5] == [f"masks/{name}_mask.png" for name in ("a/x_1", "a/x_2", "a/X_3", "b/x_1", "a/x_1_1")]
    assert len({name.lower() for name in names}) == len(photos) == len(list((tmp_path / "out").rglob("*_mask.png")))


def test_coco_annotations_keep_what_coco_has_no_field_for(masks: list[ExportedMask], tmp_path: Path) -> None:
    content = json.loads((write_export(masks, "coco", tmp_path / "out", {}) / "annotations.json").read_text())
    assert len(content["images"]) == 3  # 5 sentences of 3 images
    second = content["annotations"][1]
    assert (second["id"], second["sent_id"], second["split"]) == (2, 101, "train")
    assert (second["confidence"], second["gate"], second["provenance"]) == (0.6, 0.75, ABOUT)
    assert decode(second["accepted_rle"]).shape == mask_of(1).shape


def test_categories_are_classes_where_there_are_some(masks: list[ExportedMask], tmp_path: Path) -> None:
    named = [replace(masks[0], category="dog"), replace(masks[1], category="cat"), masks[2]]
    content = json.loads((write_export(named, "coco", tmp_path / "coco", {}) / "annotations.json").read_text())
    classes = {row["id"]: row["name"] for row in content["categories"]}
    assert [classes[row["category_id"]] for row in content["annotations"]] == ["dog", "cat", "referent"]
    assert yaml.safe_load((write_export(named, "yolo", tmp_path / "yolo", {}) / "data.yaml").read_text())["names"] == {
        0: "cat",
        1: "dog",
        2: "object",
    }


def test_the_hub_folder_has_a_card_that_fits_its_shards(
    masks: list[ExportedMask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "ROWS_PER_SHARD", 2)
    folder = write_export(masks, "hf", tmp_path / "out", {})
    names = sorted(path.name for path in (folder / "data").iterdir())
    assert names == [f"train-{shard:05d}-of-00003.parquet" for shard in range(3)]
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    table = pq.read_table(folder / "data")
    assert [feature["name"] for feature in card["dataset_info"]["features"]] == table.column_names
    assert card["dataset_info"]["splits"][0]["num_examples"] == table.num_rows == 5
    assert json.loads(table["provenance"][0].as_py()) == ABOUT and "confidence" in text


def test_label_studio_gets_no_photo_that_it_would_turn_away_under_its_mask(tmp_path: Path) -> None:
    exif, made = Image.Exif(), []
    exif[0x0112] = 3  # upside down: of one size either way
    for number, name in enumerate(("a.jpg", "b.jpg")):
        with Image.open(draw(tmp_path / "photos" / name, number)) as picture:
            picture.save(tmp_path / "photos" / name, **({"exif": exif} if name == "b.jpg" else {}))
        example = Example(number, number, number, str(tmp_path / "photos" / name), 32, 24, "cup")
        made.append(ExportedMask(example, encode(np.ones((24, 32), bool)), None, 0.5, None, {}))
    with pytest.raises(
        DataError, match=r"shows 1 photo of these turned as EXIF says \(.*b\.jpg\), .* take the tag away"
    ):
        write_export(made, "labelstudio", tmp_path / "out", ABOUT)
    assert not (tmp_path / "out").exists()
    write_export(made[:1], "labelstudio", tmp_path / "out", ABOUT)
    write_export(made, "coco", tmp_path / "coco", ABOUT)


@pytest.mark.parametrize("force", [False, True])
def test_what_came_while_it_was_written_stays(
    masks: list[ExportedMask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    out = tmp_path / "out"

    def written_meanwhile(masks: Sequence[ExportedMask], root: Path, folder: Path) -> None:
        FORMATS["jsonl"](masks, root, folder)
        out.mkdir()
        (out / "notes.txt").write_text("mine")

    monkeypatch.setitem(FORMATS, "slow", written_meanwhile)
    with pytest.raises(DataError, match="is no export"):
        write_export(masks, "slow", out, {}, force=force)
    assert (out / "notes.txt").read_text() == "mine" and list(tmp_path.iterdir()) == [out]


def test_only_another_export_is_replaced_and_only_by_force(masks: list[ExportedMask], tmp_path: Path) -> None:
    out = write_export(masks, "jsonl", tmp_path / "out", {})
    with pytest.raises(DataError, match="holds an export already; replace it with --force"):
        write_export(masks, "coco", out, {})
    write_export(masks[:2], "coco", out, {}, force=True)
    assert sorted(path.name for path in out.iterdir()) == ["annotations.json", "export.json"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(DataError, match=r"is no export \(it has no export.json\); choose another --out"):
            write_export(masks, "coco", mine, {}, force=force)
    assert (mine / "thesis.txt").exists()


def test_mistakes_are_named(masks: list[ExportedMask], tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="no export format 'xml'; use one of coco, jsonl, parquet, hf, png, labelstudio, yolo"
    ):
        write_export(masks, "xml", tmp_path / "out", {})
    with pytest.raises(DataError, match="no mask to export .*, expected at least one"):
        write_export([], "coco", tmp_path / "out", {})


@pytest.mark.parametrize("kind", FORMATS)
def test_a_full_disk_leaves_the_earlier_export(
    masks: list[ExportedMask], kind: str, tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    out = write_export(masks[:1], "jsonl", tmp_path / "out", {})
    before = {path: path.read_bytes() for path in out.iterdir()}
    with full_disk(60), pytest.raises(DataError, match=r"cannot write .*out.*nothing was exported"):
        write_export(masks, kind, out, {}, force=True)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert os.listdir(tmp_path) == ["out"]


def test_a_replacement_that_fails_leaves_the_old_export(
    masks: list[ExportedMask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_export(masks, "jsonl", out, {})
    before = (out / "export.json").read_bytes()
    replace = os.replace

    def fails(source: Path, target: Path) -> None:
        if Path(source).name.endswith(".tmp") and Path(target) == out:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(DataError, match="nothing was exported"):
        write_export(masks, "coco", out, {}, force=True)
    assert (out / "export.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", FORMATS)
def test_what_the_user_gave_as_a_hint_comes_back(kind: str, tmp_path: Path) -> None:
    mask = np.zeros((24, 32), bool)
    mask[6:18, 8:20] = True
    made = []
    for number, hint in enumerate((Hint((0.25, 0.25, 0.75, 0.75), ((0.3, 0.5),)), None)):
        photo = draw(tmp_path / "photos" / f"{number}.png", number)
        example = Example(100 + number, number, number, str(photo), 32, 24, "a man", hint=hint)
        made.append(ExportedMask(example, encode(mask), None, 0.9, None, ABOUT))
    folder = write_export(made, kind, tmp_path / "out", {})
    root = tmp_path if kind == "labelstudio" else tmp_path / "photos"
    with ReferWriter(tmp_path / "root", "own", "own") as writer:
        if kind == "coco":
            problems = import_coco(folder / "annotations.json", None, root, "train", writer)
        elif kind == "labelstudio":
            tasks = json.loads((folder / "tasks.json").read_text())
            for task in tasks:
                task["annotations"] = [{"result": task["predictions"][0]["result"]}]
            (tmp_path / "project.json").write_text(json.dumps(tasks))
            problems = import_rows(iter(read_label_studio(tmp_path / "project.json")), root, folder, writer)
        else:
            problems = import_rows(
                read_rows(next(path for path in folder.rglob("*") if path.suffix in (".jsonl", ".parquet"))),
                root,
                folder,
                writer,
            )
        writer.write()
    assert problems == []
    assert [ref.get("hint") for ref in writer.refs] == [{"box": [8, 6, 16, 12], "points": [[9.6, 12]]}, None]
    assert len(writer.annotations) == 2


@pytest.mark.parametrize(
    "out", ["file.txt", "file.txt/x", "broken", "x" * 300, "a\0b", "loop/x", ".", "new/..", "/proc/x"]
)
def test_places_that_no_export_can_have_are_named_and_untouched(
    masks: list[ExportedMask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("mine")
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = sorted(tmp_path.iterdir())
    for force in (False, True):
        with pytest.raises(DataError, match=r"cannot write|is no export") as raised:
            write_export(masks, "jsonl", Path(out), {}, force=force)
        assert "\n" not in str(raised.value) and "--out" in str(raised.value)
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "file.txt").read_text() == "mine"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, on NumPy 2
def test_a_photo_whose_name_is_no_text_is_exported_or_named(tmp_path: Path) -> None:
    photo = draw(tmp_path / os.fsdecode(b"photos/a\xff.jpg"), 1)
    example = Example(1, 1, 1, str(photo), 31, 20, "it")
    odd = [ExportedMask(example, encode(mask_of(0)), None, 0.5, None, ABOUT)]
    for kind in FORMATS:
        try:
            folder = write_export(odd, kind, tmp_path / kind, {})
            assert sorted(READERS[kind](folder)) == [1]
        except DataError as error:
            assert "is no text that UTF-8 can hold; rename the photo" in str(error)
            assert kind in ("parquet", "hf", "labelstudio") and not (tmp_path / kind).exists()
