"""The data room on real RefCOCO: photos, masks and expressions, and loading at real scale.

Set L2L_REAL_DATA to the folder that holds `refer/` and `refcoco_boxes_only.tar.xz`.
"""

import json
import os
import pickle
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from l2l_ray.data.images import ImageStore, LabeledSet
from l2l_ray.data.masks import decode, mask_area_px
from l2l_ray.data.native_size import batch_native_iou, grid_logits_to_native
from l2l_ray.data.refer import ReferDataset
from l2l_ray.data.splits import split_labeled
from l2l_ray.data.words import swap_left_right
from l2l_ray.metrics import IouMeter

REAL = os.environ.get("L2L_REAL_DATA", "")
pytestmark = pytest.mark.skipif(not REAL, reason="L2L_REAL_DATA is not set: no real RefCOCO to check against")


@pytest.fixture(scope="module")
def photos() -> ReferDataset:
    return ReferDataset.open(Path(REAL) / "refer", "refcoco", "smoke")


@pytest.fixture(scope="module")
def boxes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("boxes")
    with tarfile.open(Path(REAL) / "refcoco_boxes_only.tar.xz") as archive:
        archive.extractall(root, filter="data")
    return root


@pytest.fixture
def store() -> Iterator[ImageStore]:
    opened = ImageStore(64, cache_mb=16)
    yield opened
    opened.close()


def refer_parts(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Return REFER's getMask: every part decoded, and added up. A pixel of n parts has the value n."""
    parts = coco_mask.frPyObjects(segmentation, height, width) if isinstance(segmentation[0], list) else segmentation
    summed: np.ndarray = coco_mask.decode(parts).sum(axis=2)
    return summed


class ReferApi:
    """What the REFER API answers, stated again: two files, whole, and look-ups by id."""

    def __init__(self, folder: Path, split_by: str) -> None:
        self.refs = {ref["ref_id"]: ref for ref in pickle.loads((folder / f"refs({split_by}).p").read_bytes())}
        instances = json.loads((folder / "instances.json").read_text())
        self.images = {item["id"]: item for item in instances["images"]}
        self.annotations = {item["id"]: item for item in instances["annotations"]}
        self.categories = {item["id"]: item["name"] for item in instances["categories"]}

    def annotation(self, ref_id: int) -> dict[str, Any]:
        found: dict[str, Any] = self.annotations[self.refs[ref_id]["ann_id"]]
        return found


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools' decode
def test_everything_is_that_of_refer(photos: ReferDataset) -> None:
    api = ReferApi(photos.root / "refcoco", "smoke")
    lavt = ReferDataset.open(photos.root, "refcoco", "smoke", mask_rule="lavt")
    seen: Counter[int] = Counter()
    for split in photos.splits:
        examples, skips = photos.labeled_examples(split)
        assert not skips
        for e, other in zip(examples, lavt.labeled_examples(split)[0], strict=True):
            ref, annotation = api.refs[e.ref_id], api.annotation(e.ref_id)
            image = api.images[ref["image_id"]]
            assert (e.image_id, split) == (ref["image_id"], ref["split"])
            assert (Path(e.image_path).name, e.width_px, e.height_px) == tuple(
                image[key] for key in ("file_name", "width", "height")
            )
            sentence = next(s for s in ref["sentences"] if s["sent_id"] == e.sent_id)
            assert e.expression == sentence["sent"] and e.expression.split() == sentence["tokens"]
            parts = refer_parts(annotation["segmentation"], e.height_px, e.width_px)
            mask = decode(e.mask_rle)
            np.testing.assert_array_equal(mask, parts > 0)
            np.testing.assert_array_equal(decode(other.mask_rle), parts == 1)
            assert mask_area_px(e.mask_rle) == (parts > 0).sum() > 0
            assert e.category == api.categories[annotation["category_id"]]
            _check_box(mask, annotation["bbox"])
            seen[e.ref_id] += 1
    assert seen == {i: len(ref["sentences"]) for i, ref in api.refs.items()} and len(seen) == 81


def _check_box(mask: np.ndarray, box_xywh: list[float]) -> None:
    """Check that a mask fills its annotation's box: COCO's boxes are up to 6 px off its outlines (IoU 0.967 here)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y, width, height = box_xywh
    found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    common = np.minimum(found[2:], (x + width, y + height)) - np.maximum(found[:2], (x, y))
    union = (found[2] - found[0]) * (found[3] - found[1]) + width * height - common.prod()
    assert common.min() > 0 and common.prod() / union > 0.95


def test_all_photos_are_usable(photos: ReferDataset, store: ImageStore) -> None:
    assert photos.splits == ("train", "val")
    for split in photos.splits:
        examples, _ = photos.examples(split)
        assert store.check(examples) == (examples, [])
    assert len(set(photos.image_ids("train")) | set(photos.image_ids("val"))) == 75
    assert not set(photos.image_ids("train")) & set(photos.image_ids("val"))


def test_deleting_truth_changes_nothing_without_truth(photos: ReferDataset, tmp_path: Path) -> None:
    folder = tmp_path / "refcoco"
    folder.mkdir()
    shutil.copyfile(photos.root / "refcoco/refs(smoke).p", folder / "refs(smoke).p")
    instances = json.loads((photos.root / "refcoco/instances.json").read_text())
    for item in instances["annotations"]:
        for key in ("segmentation", "bbox", "area", "category_id", "iscrowd"):
            item.pop(key, None)
    (folder / "instances.json").write_text(json.dumps(instances))
    bare = ReferDataset.open(tmp_path, "refcoco", "smoke")
    assert bare.digest == photos.digest
    found, expected = bare.examples("train"), photos.examples("train")
    assert len(expected[0]) > 0 and found[1] == expected[1] == []
    for here, there in zip(found[0], expected[0], strict=True):
        name = Path(there.image_path).relative_to(photos.root)
        assert here == replace(there, image_path=str(tmp_path / name))


def test_a_perfect_grid_scores_high_at_native_size(photos: ReferDataset) -> None:
    examples, _ = photos.labeled_examples("train", expressions_per_ref=1)
    masks = LabeledSet(examples, grid=64).masks
    logits = torch.logit(masks.clamp(1e-3, 1 - 1e-3))
    intersections, unions = batch_native_iou(
        logits, [e.mask_rle for e in examples], [(e.height_px, e.width_px) for e in examples]
    )
    meter = IouMeter()
    for e, intersection, union in zip(examples, intersections.tolist(), unions.tolist(), strict=True):
        meter.add(e.sent_id, e.image_id, intersection, union)
    assert meter.summary()["mean_iou"] > 0.85
    first = (grid_logits_to_native(logits[0], examples[0].height_px, examples[0].width_px) > 0).numpy()
    assert intersections[0] == (first & decode(examples[0].mask_rle)).sum()


def test_all_refs_and_sentences_of_refcoco_load(boxes_root: Path) -> None:
    api = ReferApi(boxes_root / "refcoco", "unc")
    data = ReferDataset.open(boxes_root, "refcoco", "unc")
    refs = data.refs()
    assert len(refs) == 8029 == len(api.refs)
    num_sentences = 0
    for ref in refs:
        expected = api.refs[ref.ref_id]
        assert (ref.ann_ids, ref.image_id, ref.split) == (
            (expected["ann_id"],),
            expected["image_id"],
            expected["split"],
        )
        sentences = {s["sent_id"]: s["sent"] for s in expected["sentences"]}
        assert {i: text.split() for i, text in ref.sentences} == {i: text.split() for i, text in sentences.items()}
        num_sentences += len(sentences)
    assert num_sentences == 22_811


def test_boxes_only_truth_is_missing_by_name(boxes_root: Path) -> None:
    data = ReferDataset.open(boxes_root, "refcoco", "unc")
    assert data.splits == ("train", "val", "testA", "testB") and not data.missing_splits
    num = {"train": 1225, "val": 10834, "testA": 5657, "testB": 5095}
    for split in data.splits:
        labeled, skips = data.labeled_examples(split)
        assert not labeled and Counter(s.kind for s in skips) == {"missing_mask": num[split]}
        # Without photos nobody knows the null sizes; one train image has its size in the table.
        plain, skips = data.examples(split)
        assert {e.image_id for e in plain} == ({581857} if split == "train" else set())
        assert Counter(s.kind for s in skips) == {"missing_image": num[split] - len(plain)}


def test_text_at_real_scale(boxes_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "refcoco"
    folder.mkdir()
    shutil.copyfile(boxes_root / "refcoco/refs(unc).p", folder / "refs(unc).p")
    instances = json.loads((boxes_root / "refcoco/instances.json").read_text())
    for row in instances["images"]:
        row["width"], row["height"] = 640, 480
    (folder / "instances.json").write_text(json.dumps(instances))
    data = ReferDataset.open(tmp_path, "refcoco", "unc")
    examples = [e for split in data.splits for e in data.examples(split)[0]]
    assert len(examples) == 22_811 == len({e.sent_id for e in examples})
    assert max(len(e.expression.split()) for e in examples) == 27
    assert [len(data.image_ids(split)) for split in data.splits] == [170, 1500, 750, 750]
    assert Counter(s.kind for s in data.examples("val", max_words=18)[1]) == {"long_expression_cut": 1}
    labeled, unlabeled = split_labeled(data.image_ids("val"), 0.01, seed=0)
    assert (len(labeled), len(unlabeled)) == (15, 1485)
    mirrored = {e.expression: swap_left_right(e.expression) for e in examples[::3]}
    assert sum(text is not None for text in mirrored.values()) > 0.95 * len(mirrored)
    assert all(swap_left_right(text) == old for old, text in mirrored.items() if text is not None)
