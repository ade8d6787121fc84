"""ReferDataset: exact splits, skips by name, and an unlabeled path that cannot see truth."""

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from l2l_ray.data.masks import decode, mask_area_px
from l2l_ray.data.refer import ReferDataset
from l2l_ray.errors import DataError
from l2l_ray.types import Example, LabeledExample

SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]
TRUTH_KEYS = ("segmentation", "bbox", "area", "category_id", "iscrowd")


def ref(ref_id: int, image_id: int, split: str, *expressions: str, ann_id: int | None = None) -> dict[str, Any]:
    sentences = [{"sent_id": 10 * ref_id + k, "sent": text, "raw": text} for k, text in enumerate(expressions)]
    return {
        "ref_id": ref_id,
        "ann_id": ref_id if ann_id is None else ann_id,
        "image_id": image_id,
        "split": split,
        "category_id": 1,
        "file_name": f"wrong_{ref_id}.jpg",
        "sentences": sentences,
    }


def annotation(ann_id: int, image_id: int, segmentation: Any = SQUARE) -> dict[str, Any]:
    truth = {"segmentation": segmentation, "bbox": [1, 1, 4, 4], "area": 16, "category_id": 1, "iscrowd": 0}
    return {"id": ann_id, "image_id": image_id, **truth}


class World:
    """A data set in memory that can be changed before it is written."""

    def __init__(self, root: Path, dataset: str = "refcoco") -> None:
        self.root, self.dataset = root, dataset
        self.refs = [
            ref(1, 100, "train", "left cat", "the cat"),
            ref(2, 100, "train", "right cat"),
            ref(3, 101, "train", "dog", "big dog", "brown dog"),
            ref(4, 102, "val", "bird"),
            ref(5, 103, "testA", "man"),
            ref(6, 104, "testAB", "woman"),
            ref(7, 100, "val", "seen in train too"),
        ]
        self.images = [{"id": i, "file_name": f"{i}.png", "width": 8, "height": 6} for i in range(100, 105)]
        self.annotations: list[dict[str, Any]] | None = [annotation(r["ann_id"], r["image_id"]) for r in self.refs]

    def open(self) -> ReferDataset:
        folder = self.root / self.dataset
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "refs(unc).p").write_bytes(pickle.dumps(self.refs, 2))
        content: dict[str, Any] = {"images": self.images, "categories": [{"id": 1, "name": "animal"}]}
        if self.annotations is not None:
            content["annotations"] = self.annotations
        (folder / "instances.json").write_text(json.dumps(content))
        return ReferDataset.open(self.root, self.dataset, "unc")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_splits_are_exact_and_missing_ones_are_named(world: World, caplog: pytest.LogCaptureFixture) -> None:
    data = world.open()
    assert data.splits == ("train", "val", "testA", "testAB")
    assert data.missing_splits == ("testB",)
    assert "no refs of testB; it has train, val" in caplog.text
    assert data.image_ids("train") == [100, 101]
    assert data.image_ids("testA") == [103]
    assert [e.expression for e in data.examples("testA")[0]] == ["man"]
    with pytest.raises(DataError, match=r"split 'testB' has no refs.*present: \['train', 'val', 'testA', 'testAB'\]"):
        data.image_ids("testB")


def test_labeled_example_in_full(world: World) -> None:
    data = world.open()
    examples, skips = data.labeled_examples("val")
    path = str(world.root / "images/mscoco/images/train2014/102.png")
    assert not skips
    first = examples[0]
    assert first == LabeledExample(40, 4, 102, path, 8, 6, "bird", first.mask_rle, "animal")
    expected = np.zeros((6, 8), dtype=bool)
    expected[1:5, 1:5] = True
    np.testing.assert_array_equal(decode(first.mask_rle), expected)


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [("refcoco+", "mscoco/images/train2014"), ("refcocog", "mscoco/images/train2014"), ("refclef", "saiapr_tc-12"),
     ("refshapes", "refshapes")],
)  # fmt: skip
def test_image_folders(tmp_path: Path, dataset: str, folder: str) -> None:
    examples, _ = World(tmp_path, dataset).open().examples("val")
    assert examples[0].image_path == str(tmp_path / "images" / folder / "102.png")


def test_labeled_and_unlabeled_path_agree(world: World) -> None:
    data = world.open()
    plain, labeled = data.examples("train")[0], data.labeled_examples("train")[0]
    assert [Example(*(getattr(e, name) for name in Example.__dataclass_fields__)) for e in labeled] == plain
    assert all(type(e) is Example for e in plain)


def test_image_ids_select_whole_images_of_one_split(world: World) -> None:
    data = world.open()
    assert [e.sent_id for e in data.examples([101, 100])[0]] == [10, 11, 20, 30, 31, 32]
    # Ref 7 is a val ref of a train image: it must not come with the train image.
    assert [e.sent_id for e in data.labeled_examples([100])[0]] == [10, 11, 20]
    assert [e.sent_id for e in data.examples([100], split="val")[0]] == [70]
    with pytest.raises(DataError, match=r"image ids \[102\] \(1 in all\) have no refs in split 'train'"):
        data.examples([100, 102])


def test_expressions_per_ref_takes_the_first_usable_by_sent_id(world: World) -> None:
    world.refs[2]["sentences"].reverse()
    world.refs[0]["sentences"][0]["sent"] = "  "
    examples, skips = world.open().examples("train", expressions_per_ref=1)
    assert [(e.sent_id, e.expression) for e in examples] == [(11, "the cat"), (20, "right cat"), (30, "dog")]
    assert [(s.kind, s.sent_id) for s in skips] == [("empty_expression", 10)]


def test_long_expressions_are_cut_and_stay(world: World) -> None:
    world.refs[3]["sentences"][0]["sent"] = "a b  c d e"
    data = world.open()
    for examples, skips in (data.examples("val", max_words=3), data.labeled_examples("val", max_words=3)):
        assert examples[0].expression == "a b c"
        assert [(s.kind, s.sent_id) for s in skips] == [("long_expression_cut", 40), ("long_expression_cut", 70)]
        assert "5 words, cut to max_words=3" in skips[0].reason


def unlabeled_view(data: ReferDataset) -> tuple[bytes, bytes, str]:
    """Return everything the unlabeled path gives, as bytes."""
    return pickle.dumps(data.examples("train")), pickle.dumps(data.examples([101], 1, max_words=1)), data.digest


def test_truth_of_unlabeled_items_can_be_deleted(world: World) -> None:
    expected = unlabeled_view(world.open())
    for item in world.annotations or []:
        for key in TRUTH_KEYS:
            del item[key]
    assert unlabeled_view(world.open()) == expected
    for item in world.refs:
        del item["category_id"]
    world.annotations = None
    data = world.open()
    assert unlabeled_view(data) == expected
    labeled, skips = data.labeled_examples("train")
    assert not labeled and Counter(s.kind for s in skips) == {"missing_mask": 6}


def test_unlabeled_path_never_touches_truth(world: World) -> None:
    data = world.open()
    (path,) = (world.root / "home/cache/refer").glob("*.truth")
    path.unlink()
    (world.root / "refcoco/instances.json").unlink()
    assert len(data.examples("train")[0]) == 6
    assert data.digest and data.image_ids("train")
    with pytest.raises(DataError, match="changed since it was opened; open the data set again"):
        data.labeled_examples("train")


def test_digest_follows_refs_and_images(world: World) -> None:
    first = world.open().digest
    assert world.open().digest == first
    world.images.append({"id": 999, "file_name": "unused.png", "width": 1, "height": 1})
    assert world.open().digest == first
    world.images[0]["width"] = 9
    changed = world.open().digest
    world.refs[0]["sentences"][0]["sent"] = "left dog"
    assert len({first, changed, world.open().digest}) == 3


@pytest.mark.parametrize(
    ("segmentation", "kind"),
    [
        ([], "missing_mask"),
        (None, "missing_mask"),
        ([[20, 20, 30, 20, 30, 30]], "mask_outside_image"),
        ([[-9, 0, -2, 0, -2, 3]], "mask_outside_image"),
        ([[1, 1, 1, 1, 1, 1]], "empty_mask"),
        ([[1, 1, 3, 3]], "empty_mask"),
        ([{"size": [6, 8], "counts": [48]}], "empty_mask"),
        ({"size": [7, 8], "counts": [56]}, "invalid_mask"),
        ([[1, 1, 3]], "invalid_mask"),
    ],
)
def test_unusable_masks_are_skips_of_each_sentence(world: World, segmentation: Any, kind: str) -> None:
    world.annotations[0]["segmentation"] = segmentation
    data = world.open()
    examples, skips = data.labeled_examples("train")
    assert [(s.kind, s.sent_id) for s in skips] == [(kind, 10), (kind, 11)]
    assert "annotation 1" in skips[0].reason and skips[0].path.endswith("100.png")
    assert [e.sent_id for e in examples] == [20, 30, 31, 32]
    assert len(data.examples("train")[0]) == 6


def test_crowd_and_holes(world: World) -> None:
    ring = {"size": [6, 8], "counts": [7, 4, 2, 1, 2, 1, 2, 4, 25]}
    world.annotations[0]["segmentation"] = ring
    world.annotations[1]["segmentation"] = [ring, {"size": [6, 8], "counts": [0, 1, 47]}]
    examples, _ = world.open().labeled_examples([100])
    assert [mask_area_px(e.mask_rle) for e in examples] == [10, 10, 11]


def test_images_not_in_the_table(world: World) -> None:
    world.images.pop(0)
    examples, skips = world.open().examples("train")
    assert [e.image_id for e in examples] == [101] * 3
    assert Counter(s.kind for s in skips) == {"missing_image": 3}
    assert "image_id 100 is not in the images" in skips[0].reason


def test_null_sizes_are_read_from_the_image(world: World) -> None:
    for row in world.images:
        row["width"] = row["height"] = None
    folder = world.root / "images/mscoco/images/train2014"
    folder.mkdir(parents=True)
    Image.new("RGB", (11, 7)).save(folder / "100.png")
    (folder / "101.png").write_bytes(b"broken")
    data = world.open()
    examples, skips = data.examples("train")
    assert {(e.width_px, e.height_px) for e in examples} == {(11, 7)}
    assert Counter(s.kind for s in skips) == {"truncated_image": 3}
    assert Counter(s.kind for s in data.examples("testA")[1]) == {"missing_image": 1}
    labeled, _ = data.labeled_examples([100])
    assert labeled[0].mask_rle["size"] == [7, 11]


def test_what_is_there_is_listed_when_something_is_missing(world: World) -> None:
    world.open()
    with pytest.raises(
        DataError, match=r"refs\(umd\)\.p not found; .* holds \['instances.json', 'refs\(unc\).p'\]; check"
    ):
        ReferDataset.open(world.root, "refcoco", "umd")
    with pytest.raises(DataError, match=r"refcocog: .* not found; .* holds the data sets \['refcoco'\]"):
        ReferDataset.open(world.root, "refcocog", "umd")
    with pytest.raises(DataError, match="nowhere does not exist; check root"):
        ReferDataset.open(world.root / "nowhere", "refcoco", "unc")
    (world.root / "refcoco/instances.json").unlink()
    with pytest.raises(DataError, match=r"instances.json not found; .* holds \['refs\(unc\).p'\]"):
        ReferDataset.open(world.root, "refcoco", "unc")


def two_targets(world: World, *ann_ids: int) -> ReferDataset:
    """Open the world with ref 4, of val, pointing to these annotations."""
    del world.refs[3]["ann_id"]
    world.refs[3]["ann_ids"] = list(ann_ids)
    for row in world.annotations or ():
        if row["id"] in ann_ids:
            row["image_id"] = world.refs[3]["image_id"]
    return world.open()


def val_mask(data: ReferDataset) -> tuple[LabeledExample, np.ndarray]:
    example = next(e for e in data.labeled_examples("val")[0] if e.ref_id == 4)
    return example, decode(example.mask_rle)


def test_several_targets_are_one_mask(world: World) -> None:
    assert world.annotations is not None
    world.annotations[0]["segmentation"] = [[0, 0, 2, 0, 2, 2, 0, 2]]
    world.annotations[1]["segmentation"] = [[1, 1, 3, 1, 3, 3, 1, 3], [6, 0, 8, 0, 8, 1, 6, 1]]
    example, mask = val_mask(two_targets(world, 1, 2))
    expected = np.zeros((6, 8), dtype=bool)
    expected[0:2, 0:2] = expected[1:3, 1:3] = expected[0, 6:8] = True
    np.testing.assert_array_equal(mask, expected)
    assert example.category == "animal"


def test_targets_of_several_categories_have_none_in_common(world: World) -> None:
    assert world.annotations is not None
    world.annotations[1]["category_id"] = [1]
    assert val_mask(two_targets(world, 1, 2))[0].category == ""


def test_a_target_without_a_mask_leaves_the_ref_out(world: World) -> None:
    _, skips = two_targets(world, 1, 999).labeled_examples("val")
    assert [s.kind for s in skips] == ["missing_mask"]
    assert "missing annotation: got 999; expected an annotation of instances.json" in skips[0].reason


def test_an_annotation_of_another_image_is_no_mask(world: World) -> None:
    world.refs[3]["ann_id"] = 1
    _, skips = world.open().labeled_examples("val")
    assert [s.kind for s in skips] == ["invalid_mask"]
    assert "image of the annotation: got 100; expected image 102 as its ref" in skips[0].reason


def test_one_empty_target_of_several_is_no_fault(world: World) -> None:
    assert world.annotations is not None
    world.annotations[0]["segmentation"] = [[1, 1, 1, 1, 1, 1]]
    assert val_mask(two_targets(world, 1, 2))[1].sum() == 16
    world.annotations[1]["segmentation"] = [[20, 20, 30, 20, 30, 30]]
    _, skips = world.open().labeled_examples("val")
    assert [s.kind for s in skips] == ["empty_mask"]
    assert "annotation 1, 2: empty mask: got" in skips[0].reason


def test_no_target_is_an_empty_mask_only_where_the_ref_says_so(world: World) -> None:
    data = two_targets(world)
    example, mask = val_mask(data)
    assert mask.shape == (6, 8) and not mask.any() and example.category == ""
    assert not data.labeled_examples("val")[1]
    assert [e.sent_id for e in data.examples("val")[0]] == [40, 70]
    del world.refs[3]["ann_ids"]
    assert [s.kind for s in world.open().labeled_examples("val")[1]] == ["missing_mask"]


def test_no_target_needs_its_image_all_the_same(world: World) -> None:
    world.images = [row for row in world.images if row["id"] != 102]
    assert [s.kind for s in two_targets(world).labeled_examples("val")[1]] == ["missing_image"]


def test_the_mask_rule_reaches_the_masks(world: World) -> None:
    assert world.annotations is not None
    world.annotations[3]["segmentation"] = [[0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 6, 2, 6, 6, 2, 6]]
    assert val_mask(world.open())[1].sum() == 16 + 16 - 4
    lavt = ReferDataset.open(world.root, "refcoco", "unc", mask_rule="lavt")
    assert val_mask(lavt)[1].sum() == 16 + 16 - 8


@pytest.mark.parametrize(
    ("dataset", "split_by", "missing"),
    [
        ("refcoco", "unc", ("testA", "testB")),
        ("refcoco", "google", ()),
        ("refcoco+", "unc", ("testA", "testB")),
        ("refcocog", "umd", ("test",)),
        ("refcocog", "google", ()),
        ("refclef", "unc", ()),
        ("refclef", "berkeley", ()),
    ],
)
def test_every_published_data_set_opens(tmp_path: Path, dataset: str, split_by: str, missing: tuple[str, ...]) -> None:
    world = World(tmp_path, dataset)
    world.refs = [r for r in world.refs if r["split"] in ("train", "val")]
    world.open()
    (tmp_path / dataset / "refs(unc).p").rename(tmp_path / dataset / f"refs({split_by}).p")
    data = ReferDataset.open(tmp_path, dataset, split_by)
    assert data.missing_splits == missing
    assert len(data.labeled_examples("train")[0]) == 6 and len(data.labeled_examples("val")[0]) == 2


def test_texts_come_out_as_they_went_in(world: World) -> None:
    texts = ["café", "\u4e2d\u6587 \U0001f600", 'a, b; "c" (d)?', "\ud800", " ".join(f"w{i}" for i in range(37))]
    world.refs[3]["sentences"] = [{"sent_id": 500 + i, "sent": text} for i, text in enumerate(texts)]
    assert [e.expression for e in world.open().examples("val")[0] if e.sent_id >= 500] == texts


@pytest.mark.parametrize("name", ["../../x.png", "/etc/passwd", "a/../../../x.png", "..", "", "a\0b"])
def test_no_file_name_leads_out_of_the_image_folder(world: World, name: str) -> None:
    world.images[0]["file_name"] = name
    with pytest.raises(DataError, match="expected a path below the image folder"):
        world.open()


@pytest.mark.parametrize("name", ["\ud800.png", "x" * 300])
def test_impossible_file_names_are_skips(world: World, name: str) -> None:
    world.images[2].update(file_name=name, width=None)
    examples, skips = world.open().examples("val")
    assert {e.image_id for e in examples} == {100}
    assert [s.kind for s in skips] in (["truncated_image"], ["missing_image"])
