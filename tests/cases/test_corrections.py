"""Own output is accepted by own input: cases 01 (linked pictures), 11 (COCO forgot the split), 20 (own Parquet)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from l2l_ray import cli
from l2l_ray.data.masks import mask_area_px
from l2l_ray.data.plain_pickle import plain_records
from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.export import FORMATS, write_export
from l2l_ray.datatools.record import ExportedMask
from l2l_ray.types import LabeledExample

CASES = Path(__file__).parent
NUM = 24

# How docs/export.md says that each format comes back.
WORDS: dict[str, Callable[[Path], list[str]]] = {
    "jsonl": lambda out: ["rows", str(out / "masks.jsonl")],
    "parquet": lambda out: ["rows", str(out / "masks.parquet")],
    "hf": lambda out: ["rows", *map(str, sorted((out / "data").glob("*.parquet")))],
    "png": lambda out: ["rows", str(out / "index.jsonl"), "--masks", str(out)],
    "yolo": lambda out: ["rows", str(out / "index.jsonl")],
    "coco": lambda out: ["coco", str(out / "annotations.json")],
    "labelstudio": lambda out: ["labelstudio", str(out / "tasks.json")],
}


def _import(words: list[str], images: Path, root: Path, dataset: str) -> None:
    more = ["--images", str(images), "--root", str(root), "--dataset", dataset]
    assert cli.main(["data", "import", *words, *more]) == 0


def _labeled(root: Path, dataset: str) -> list[LabeledExample]:
    opened = ReferDataset.open(root, dataset, "own")
    return [example for split in opened.splits for example in opened.labeled_examples(split)[0]]


def _export(examples: list[LabeledExample], kind: str, out: Path) -> Path:
    """Export what is known of each item as a run does; of Label Studio, with every mask accepted by somebody."""
    about = {"source": "prediction", "run": "r"}
    splits = ["val" if number < 5 else "train" for number in range(len(examples))]
    masks = [
        ExportedMask(e.without_truth(), e.mask_rle, None, 0.5, None, about, split)
        for e, split in zip(examples, splits, strict=True)
    ]
    write_export(masks, kind, out, {})
    if kind == "labelstudio":
        tasks = json.loads((out / "tasks.json").read_text())
        for task in tasks:
            task["annotations"] = [{"id": 1, "result": task["predictions"][0]["result"]}]
        (out / "tasks.json").write_text(json.dumps(tasks))
    return Path(json.loads((out / "export.json").read_text())["image_root"])


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dataset", ["own", "refcoco"])  # refcoco's pictures: mscoco/images/train2014, here a link
def test_case_01_every_mask_of_linked_pictures_comes_back(tmp_path: Path, kind: str, dataset: str) -> None:
    root = tmp_path / "root"
    if dataset == "refcoco":
        # The folder of the pictures is a link, as where a disk of data sets is shared.
        shared = tmp_path / "disk" / "train2014"
        shared.parent.mkdir()
        shared.symlink_to(CASES / "01" / "ph")
        (root / "images" / "mscoco" / "images").mkdir(parents=True)
        (root / "images" / "mscoco" / "images" / "train2014").symlink_to(shared)
        _import(["rows", str(CASES / "01" / "rows.jsonl")], CASES / "01" / "ph", tmp_path / "first", "own")
        (tmp_path / "first" / "own").rename(root / "refcoco")
    else:
        _import(["rows", str(CASES / "01" / "rows.jsonl")], CASES / "01" / "ph", root, dataset)
    before = _labeled(root, dataset)
    images = _export(before, kind, tmp_path / "out")
    _import(WORDS[kind](tmp_path / "out"), images, tmp_path / "again", "mine")
    after = _labeled(tmp_path / "again", "mine")
    assert len(before) == len(after) == NUM and all(mask_area_px(example.mask_rle) for example in after)
    found, expected = ({Path(e.image_path).resolve(): e.mask_rle for e in some} for some in (after, before))
    assert found == expected and len(found) == NUM


def test_case_11_a_coco_export_keeps_its_split_and_where_it_comes_from(tmp_path: Path) -> None:
    _import(["coco", str(CASES / "11" / "annotations.json")], CASES / "11" / "ph", tmp_path, "d")
    (ref,) = plain_records(tmp_path / "d" / "refs(own).p")
    assert (ref["split"], ref["sent_id"], ref["source_id"], ref["confidence"]) == ("testA", 41, "41", 0.9)
    assert ref["provenance"] == {"run": "r", "source": "prediction", "split": "testA"}


@pytest.mark.parametrize("kind", ["parquet", "hf"])
def test_case_20_own_parquet_is_own_data(tmp_path: Path, kind: str) -> None:
    _import(["rows", str(CASES / "01" / "rows.jsonl")], CASES / "01" / "ph", tmp_path, "own")
    for name in (kind, "jsonl"):
        images = _export(_labeled(tmp_path, "own"), name, tmp_path / name)
        _import(WORDS[name](tmp_path / name), images, tmp_path / "again", name)
    kept = ("file_name", "split", "source_id", "sent_id", "confidence", "provenance")
    found, expected = (
        sorted([ref[name] for name in kept] for ref in plain_records(tmp_path / "again" / name / "refs(own).p"))
        for name in (kind, "jsonl")
    )
    assert found == expected and len(found) == NUM
