import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_rle

from l2l_ray.errors import DataError
from l2l_ray.refshapes.expressions import LOCATION_WORDS
from l2l_ray.refshapes.scenes import SHAPES
from l2l_ray.refshapes.synthetic import ANGULAR_SHAPES, ROUND_SHAPES, STYLE_OF_DATASET, write_refshapes

SIZES = {"num_train_refs": 30, "num_eval_refs": 40}
SMALL = {"num_train_refs": 20, "num_eval_refs": 10}  # of the other styles, of which less is asked


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for dataset in STYLE_OF_DATASET:
        write_refshapes(root, dataset, **(SIZES if dataset == "refshapes" else SMALL))
    return root


def _read(root, dataset="refshapes"):
    instances = json.loads((root / dataset / "instances.json").read_text())
    refs = pickle.loads((root / dataset / "refs(l2l).p").read_bytes())
    return instances, refs


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_refshapes(tmp_path / name, seed=seed, num_train_refs=6, num_eval_refs=3)
    a, b, c = (_files(tmp_path / name) for name in "abc")
    assert a == b
    assert a["refshapes/instances.json"] != c["refshapes/instances.json"]
    assert not [name for name in a if name.endswith(".tmp")]


def test_a_larger_set_begins_with_the_images_of_a_smaller_one(tmp_path):
    for name, num in (("small", 4), ("large", 8)):
        write_refshapes(tmp_path / name, num_train_refs=num, num_eval_refs=2)
    small, large = (_files(tmp_path / name / "images") for name in ("small", "large"))
    assert small.items() <= large.items()


def test_refs_have_the_fields_of_refer_in_plain_types(root):
    _, refs = _read(root)
    assert [ref["ref_id"] for ref in refs] == list(range(1, len(refs) + 1))
    sent_ids = [sent_id for ref in refs for sent_id in ref["sent_ids"]]
    assert sent_ids == list(range(1, len(sent_ids) + 1))
    for ref in refs:
        assert set(ref) == {
            "ref_id", "ann_id", "category_id", "image_id", "file_name", "split", "sent_ids", "sentences"
        }  # fmt: skip
        assert all(type(ref[name]) is int for name in ("ref_id", "ann_id", "category_id", "image_id"))
        assert [sentence["sent_id"] for sentence in ref["sentences"]] == ref["sent_ids"]
        for sentence in ref["sentences"]:
            assert sentence["tokens"] == sentence["sent"].split()
            assert sentence["sent"] == sentence["raw"].lower()
    assert b"numpy" not in (root / "refshapes" / "refs(l2l).p").read_bytes()


def test_every_split_has_the_refs_asked_for_and_its_own_images(root):
    _, refs = _read(root)
    images = {}
    for split, num in (("train", 30), ("val", 40), ("testA", 40), ("testB", 40)):
        of_split = [ref for ref in refs if ref["split"] == split]
        assert len(of_split) == num
        images[split] = {ref["image_id"] for ref in of_split}
    assert sum(map(len, images.values())) == len(set.union(*images.values()))
    assert 2.0 < len(refs) / sum(map(len, images.values())) < 4.0


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with numpy 2
def test_masks_match_boxes_areas_and_image_sizes(root):
    instances, refs = _read(root)
    images = {image["id"]: image for image in instances["images"]}
    anns = {ann["id"]: ann for ann in instances["annotations"]}
    assert [category["name"] for category in instances["categories"]] == list(SHAPES)
    for ann in anns.values():
        image = images[ann["image_id"]]
        assert ann["segmentation"]["size"] == [image["height"], image["width"]]
        mask = coco_rle.decode(ann["segmentation"]).astype(bool)
        assert mask.sum() == ann["area"] > 0 and ann["iscrowd"] == 0
        assert coco_rle.toBbox(ann["segmentation"]).tolist() == ann["bbox"]
    for ref in refs:
        assert anns[ref["ann_id"]]["image_id"] == ref["image_id"]
        assert anns[ref["ann_id"]]["category_id"] == ref["category_id"]
        assert images[ref["image_id"]]["file_name"] == ref["file_name"]
    for image in instances["images"][:20]:
        with Image.open(root / "images" / "refshapes" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
    assert any(image["width"] != image["height"] for image in instances["images"])


def test_the_class_alone_rarely_tells_the_referred_object(root):
    for dataset in STYLE_OF_DATASET:
        instances, refs = _read(root, dataset)
        shapes_in: dict[int, list[int]] = {}
        for ann in instances["annotations"]:
            shapes_in.setdefault(ann["image_id"], []).append(ann["category_id"])
        same_class = [shapes_in[ref["image_id"]].count(ref["category_id"]) > 1 for ref in refs]
        assert np.mean(same_class) > 0.7


def test_splits_differ_in_kind(root):
    instances, refs = _read(root)
    names = {category["id"]: category["name"] for category in instances["categories"]}
    for split, family in (("testA", ROUND_SHAPES), ("testB", ANGULAR_SHAPES)):
        share = np.mean([names[ref["category_id"]] in family for ref in refs if ref["split"] == split])
        assert share > 0.8


def test_plus_has_no_location_words_and_g_is_longer(root):
    def expressions(dataset):
        return [sentence["tokens"] for ref in _read(root, dataset)[1] for sentence in ref["sentences"]]

    assert not any(LOCATION_WORDS & set(tokens) for tokens in expressions("refshapes+"))
    lengths = {dataset: np.mean([len(tokens) for tokens in expressions(dataset)]) for dataset in STYLE_OF_DATASET}
    assert lengths["refshapes"] < 5 and lengths["refshapesg"] > 8


def test_writing_again_returns_at_once(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert write_refshapes(root, **SIZES) == root / "refshapes"
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_other_arguments_in_the_same_place_are_refused(root):
    with pytest.raises(DataError, match="use another root, or delete"):
        write_refshapes(root, seed=9, **SIZES)


def test_an_interrupted_write_is_repaired(tmp_path):
    folder = write_refshapes(tmp_path, num_train_refs=3, num_eval_refs=2)
    complete = _files(tmp_path)
    (folder / "refshapes.json").unlink()
    (folder / "refs(l2l).p").write_bytes(b"half")
    write_refshapes(tmp_path, num_train_refs=3, num_eval_refs=2)
    assert _files(tmp_path) == complete


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"dataset": "refcoco"}, "unknown procedural dataset 'refcoco'"), ({"num_eval_refs": 0}, "at least 1, got 4000")],
)
def test_bad_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(DataError, match=message):
        write_refshapes(tmp_path, **arguments)
