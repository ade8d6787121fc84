"""COCO with expressions and gRefCOCO: what comes out, and every bad item by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2l_ray.data.layout import Problem
from l2l_ray.data.masks import mask_area_px
from l2l_ray.data.plain_pickle import plain_records
from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.check import check
from l2l_ray.datatools.import_coco import import_coco, import_grefcoco
from l2l_ray.datatools.inventory import take_inventory
from l2l_ray.datatools.refer_writer import ReferWriter
from l2l_ray.errors import DataError
from l2l_ray.types import Hint
from tests.refer_folder import TRIANGLE, draw


def annotation(ann_id: int, image_id: int = 1, **changes: Any) -> dict[str, Any]:
    fields = {"id": ann_id, "image_id": image_id, "category_id": 3, "bbox": [2, 2, 18, 12], "iscrowd": 0, "area": 108}
    return {**fields, "segmentation": TRIANGLE, **changes}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def instances(tmp_path: Path, *annotations: Any) -> Path:
    for number in (1, 2):
        draw(tmp_path / "photos" / f"{number}.png", number)
    images = [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 24} for n in (1, 2)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "cat"}]}
    return write(tmp_path / "instances.json", content)


def coco(tmp_path: Path, *annotations: Any, captions: Any = None, **options: Any) -> list[Problem]:
    path = instances(tmp_path, *annotations)
    texts = None if captions is None else write(tmp_path / "captions.json", captions)
    with ReferWriter(tmp_path / "root", "own", "own") as writer:
        problems = import_coco(path, texts, tmp_path / "photos", options.get("split", "train"), writer)
        writer.write()
    return problems


@pytest.mark.parametrize(
    ("fields", "captions"),
    [
        ({"expression": "left cat"}, None),
        ({"captions": ["left cat"]}, None),
        ({}, {"5": "left cat"}),
        ({}, [{"ann_id": 5, "expression": "left cat"}]),
        ({}, {"annotations": [{"annotation_id": 5, "caption": "left cat"}]}),
    ],
)
def test_expressions_of_every_form(tmp_path: Path, fields: dict[str, Any], captions: Any) -> None:
    assert coco(tmp_path, annotation(5, **fields), annotation(6), captions=captions, split="val") == []
    examples, skips = ReferDataset.open(tmp_path / "root", "own", "own").labeled_examples("val")
    assert [(e.expression, e.category) for e in examples] == [("left cat", "cat")]
    assert skips == []


def test_a_box_without_a_mask_is_a_hint(tmp_path: Path) -> None:
    rows = [
        annotation(5, expression="a", segmentation=None),
        annotation(6, 2, expression="b", segmentation=[], bbox=None, point=[4, 6]),
        annotation(7, expression="c"),
        annotation(8, expression="d", segmentation=[], bbox=[40, 2, 3, 3]),
        annotation(5, expression="e", segmentation=[]),
        annotation(9, expression="f", hint={"points": [[4, 6]]}),
    ]
    problems = coco(tmp_path, *rows)
    assert [(p.where, p.what) for p in problems] == [
        ("instances.json annotation 8", "hint box outside image"), ("instances.json annotation 5", "annotation id"),
    ]  # fmt: skip
    data = ReferDataset.open(tmp_path / "root", "own", "own")
    box, point = Hint((2 / 32, 2 / 24, 20 / 32, 14 / 24), ()), Hint(None, ((4 / 32, 6 / 24),))
    examples, _ = data.examples("train")
    assert [(e.expression, e.hint) for e in examples] == [
        ("a", box), ("b", point), ("c", None), ("d", None), ("e", box), ("f", point)
    ]  # fmt: skip
    assert [e.expression for e in data.labeled_examples("train")[0]] == ["c", "f"]
    assert check(take_inventory(tmp_path / "root" / "own")) == []


def test_sentences_are_numbered_throughout(tmp_path: Path) -> None:
    assert coco(tmp_path, annotation(5, captions=["a", "b"]), annotation(6, 2, captions=["c"])) == []
    examples, _ = ReferDataset.open(tmp_path / "root", "own", "own").examples("train")
    assert [(e.sent_id, e.expression) for e in examples] == [(0, "a"), (1, "b"), (2, "c")]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"image_id": 9}, "missing image"),
        ({"image_id": "1"}, "image_id"),
        ({"id": 1.5}, "annotation id"),
        ({"id": 5}, "annotation id"),
        ({"expression": ""}, "expression"),
        ({"expression": {}}, "expression"),
        ({"split": "dev"}, "split"),
        ({"bbox": [28, 20, 3, 3]}, "mask outside its box"),
        ({"segmentation": [[5, 5]]}, "empty mask"),
        ({"segmentation": [[100, 100, 120, 100, 110, 110]]}, "mask outside image"),
        ({"segmentation": {"size": [24, 32], "counts": "zz"}}, "invalid mask"),
        ({"segmentation": "x"}, "polygon"),
        ({"segmentation": None, "bbox": None}, "missing mask"),
    ],
)
def test_a_bad_annotation_is_left_out_by_name(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    problems = coco(tmp_path, annotation(5, expression="good"), annotation(6, **{"expression": "bad", **changes}))
    assert [problem.what for problem in problems] == [what]
    examples, _ = ReferDataset.open(tmp_path / "root", "own", "own").labeled_examples("train")
    assert [e.expression for e in examples] == ["good"]


def test_a_photo_to_learn_from_is_not_evaluated_on(tmp_path: Path) -> None:
    rows = [annotation(5, expression="a"), annotation(6, expression="b", split="val"), annotation(7, 2, expression="c")]
    (problem,) = coco(tmp_path, *rows)
    assert str(problem).startswith("instances.json annotation 6: split of a photo: got val for '1.png'; expected train")
    assert len(ReferDataset.open(tmp_path / "root", "own", "own").refs()) == 2


def test_the_scores_of_a_refused_mask_go_with_it(tmp_path: Path) -> None:
    made = {"provenance": {"source": "hand"}, "confidence": 0.5, "sent_id": 7}
    assert len(coco(tmp_path, annotation(5, expression="a", segmentation=[[5, 5]], **made))) == 1
    (ref,) = plain_records(tmp_path / "root" / "own" / "refs(own).p")
    assert ref["sent_id"] == 7 and not ref.keys() & {"ann_id", "provenance", "confidence"}


def test_a_box_alone_is_kept_as_a_box(tmp_path: Path) -> None:
    assert coco(tmp_path, annotation(5, expression="good", segmentation=[], area=float("nan"))) == []
    examples, skips = ReferDataset.open(tmp_path / "root", "own", "own").labeled_examples("train")
    assert examples == []
    assert [skip.kind for skip in skips] == ["missing_mask"]


def test_expressions_of_no_annotation_and_pictures_of_another_size(tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "2.png", 2)
    path = instances(tmp_path, annotation(5), annotation(6, 2))
    draw(tmp_path / "photos" / "2.png", 2, size=(16, 12))
    texts = write(tmp_path / "captions.json", {"5": "a", "6": "b", "7": "c"})
    with ReferWriter(tmp_path / "root", "own", "own") as writer:
        problems = import_coco(path, texts, tmp_path / "photos", "train", writer)
    assert [(p.where, p.what, p.got) for p in problems] == [
        ("instances.json annotation 6", "image size", "16 x 12 px"),
        ("captions.json annotation 7", "missing annotation", "'7' (text)"),
    ]


def grefs(tmp_path: Path, *records: Any) -> list[Problem]:
    path = instances(tmp_path, annotation(5), annotation(6), annotation(7, 2), annotation(8, segmentation=[[1, 1]]))
    refs = write(tmp_path / "grefs(unc).json", records)
    with ReferWriter(tmp_path / "root", "grefcoco", "unc") as writer:
        problems = import_grefcoco(refs, path, tmp_path / "photos", writer)
        writer.write()
    return problems


def gref(ref_id: int, ann_id: Any, no_target: bool = False, **changes: Any) -> dict[str, Any]:
    sentences = [{"sent_id": 10 * ref_id, "sent": f"thing {ref_id}", "raw": "Thing", "tokens": []}]
    fields = {"ref_id": ref_id, "ann_id": ann_id, "image_id": 1, "split": "train", "no_target": no_target}
    return {**fields, "sentences": sentences, **changes}


def test_the_box_of_a_target_is_no_hint(tmp_path: Path) -> None:
    path = instances(tmp_path, annotation(5), annotation(6, segmentation=[], hint={"box": [2, 2, 18, 12]}))
    refs = write(tmp_path / "grefs(unc).json", [gref(1, [5], hint={"box": [2, 2, 18, 12]}), gref(2, [6])])
    with ReferWriter(tmp_path / "root", "grefcoco", "unc") as writer:
        assert import_grefcoco(refs, path, tmp_path / "photos", writer) == []
        writer.write()
    examples, _ = ReferDataset.open(tmp_path / "root", "grefcoco", "unc").examples("train")
    assert [(example.ref_id, example.hint) for example in examples] == [(1, None), (2, None)]


def test_a_target_of_several_parts_is_judged_whole(tmp_path: Path) -> None:
    assert grefs(tmp_path, gref(1, [5, 8])) == []
    (example,), skips = ReferDataset.open(tmp_path / "root", "grefcoco", "unc").labeled_examples("train")
    assert mask_area_px(example.mask_rle) > 0 and skips == []
    assert check(take_inventory(tmp_path / "root" / "grefcoco")) == []


@pytest.mark.parametrize("ann_id", [[5], {"id": 5}, None, "5"])
def test_annotations_whose_ids_are_none_are_passed_over(tmp_path: Path, ann_id: Any) -> None:
    path = instances(tmp_path, annotation(5), annotation(ann_id), {"id": ann_id, "segmentation": TRIANGLE})
    with ReferWriter(tmp_path / "root", "grefcoco", "unc") as writer:
        assert import_grefcoco(write(tmp_path / "grefs(unc).json", [gref(1, [5])]), path, None, writer) == []


def test_several_targets_and_none(tmp_path: Path) -> None:
    assert (
        grefs(tmp_path, gref(1, [5, 6]), gref(2, [-1], True), gref(3, [7], image_id=2, split="val"), gref(4, 5)) == []
    )
    data = ReferDataset.open(tmp_path / "root", "grefcoco", "unc")
    assert [ref.ann_ids for ref in data.refs()] == [(5, 6), (), (7,), (5,)]


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (gref(2, [5, 99]), "missing annotation"),
        (gref(2, [-1]), "no_target"),
        (gref(2, [5], True), "no_target"),
        (gref(2, [7]), "image of the annotation"),
        (gref(2, [8]), "empty mask"),
        (gref(2, ["5"]), "ann_id"),
        (gref(2, [-1], True, image_id=9), "missing image"),
        (gref(1, [5]), "ref_id"),
        (gref(2, [5], sentences=[]), "sentences"),
        (gref(2, [5], sentences=[{"sent_id": 1, "sent": " "}]), "expression"),
        (gref(2, [5], split="testZ"), "split"),
        (7, "ref"),
    ],
)
def test_a_bad_ref_is_left_out_by_name(tmp_path: Path, record: Any, what: str) -> None:
    problems = grefs(tmp_path, gref(1, [5]), record)
    assert [problem.what for problem in problems] == [what]
    assert "grefs(unc).json ref" in problems[0].where


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": 1, "annotations": []}', "[" * 100_000])
def test_files_that_are_something_else(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with ReferWriter(tmp_path / "root", "own", "own") as writer, pytest.raises(DataError, match=r"x\.json"):
        import_coco(tmp_path / "x.json", None, None, "train", writer)


scalars = (
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.sampled_from(["train", "1.png", "../1.png", "/x"])
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=6), max_leaves=8)
keys = ["id", "image_id", "file_name", "width", "height", "bbox", "segmentation", "expression", "split", "name"]
wild = st.dictionaries(st.sampled_from(keys), values, max_size=6) | values
some_image = st.builds(
    lambda row: {"id": 1, "file_name": "1.png", "width": 32, "height": 24, **row},
    st.dictionaries(st.sampled_from(keys), values, max_size=1),
)
some_annotation = st.builds(
    lambda row: {**annotation(5, expression="x"), **row}, st.dictionaries(st.sampled_from(keys), values, max_size=2)
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(images=st.lists(wild | some_image, max_size=2), annotations=st.lists(wild | some_annotation, max_size=3))
def test_any_content_is_imported_or_a_problem(
    tmp_path_factory: pytest.TempPathFactory, images: Any, annotations: Any
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    draw(root / "photos" / "1.png", 1)
    draw(root / "1.png", 1)
    path = write(root / "instances.json", {"images": images, "annotations": annotations, "categories": images})
    with ReferWriter(root / "data", "own", "own") as writer:
        try:
            import_coco(path, None, root / "photos", "train", writer)
        except DataError:
            return
        assert {row["file_name"] for row in writer.images.values()} <= {"1.png"}
        if writer.refs:
            writer.write()
            ReferDataset.open(root / "data", "own", "own")


def test_captions_of_whole_images_are_not_taken_for_objects(tmp_path: Path) -> None:
    rows = [{"id": 5, "image_id": 2, "caption": "a beach"}, {"ann_id": 6, "image_id": 1, "caption": "left cat"}]
    (problem,) = coco(tmp_path, annotation(5), annotation(6), captions={"annotations": rows})
    assert (problem.where, problem.what) == ("captions.json row 0", "caption of an image")
    examples, _ = ReferDataset.open(tmp_path / "root", "own", "own").examples("train")
    assert [e.expression for e in examples] == ["left cat"]


def test_ids_used_twice_in_grefcoco_are_named(tmp_path: Path) -> None:
    again = gref(1, [6], sentences=[{"sent_id": 90, "sent": "x"}])
    twice = gref(3, [6], sentences=[{"sent_id": 91, "sent": "x"}, {"sent_id": 91, "sent": "y"}])
    problems = grefs(tmp_path, gref(1, [5]), again, twice)
    assert [problem.what for problem in problems] == ["ref_id", "sent_id"]
    assert len(ReferDataset.open(tmp_path / "root", "grefcoco", "unc").refs()) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"category_id": "3"}, "category_id: got '3' (text); expected an integer"),
        ({"category_id": 9}, "missing category: got 9; expected a category of instances.json"),
        ({"segmentation": [{"x": 1, "y": 2}]}, "mask: got {'x': 1, 'y': 2}; expected x, y, x, y, ... in px"),
    ],
)
def test_what_an_annotation_would_lose_is_named_and_the_item_stays(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    (problem,) = coco(tmp_path, annotation(5, expression="left cat", **fields))
    assert str(problem).startswith(f"instances.json annotation 5: {message}")
    inventory = take_inventory(tmp_path / "root" / "own")
    assert len(inventory.items) == 1 and check(inventory) == []


@pytest.mark.parametrize("box", [[1, 2, -3, 4], [1, 2], "x", [float("nan"), 2, 3, 4], [2, 2, 32, 24], [2, 2, 0, 24]])
def test_a_box_that_cannot_be_used_costs_no_mask_and_is_told(tmp_path: Path, box: Any) -> None:
    path = instances(tmp_path, annotation(5, expression="left cat", bbox=box))
    with ReferWriter(tmp_path / "root", "own", "own") as writer:
        assert import_coco(path, None, tmp_path / "photos", "train", writer) == []
        writer.write()
    (notice,) = writer.notices
    assert notice.where.startswith("instances.json annotation 5 (") and "a box beside a mask, which is" in notice.text
    examples, skips = ReferDataset.open(tmp_path / "root", "own", "own").labeled_examples("train")
    assert [e.expression for e in examples] == ["left cat"] and skips == []
    assert check(take_inventory(tmp_path / "root" / "own")) == []


def test_a_hint_beyond_its_picture_is_told(tmp_path: Path) -> None:
    path = instances(tmp_path, annotation(5, expression="left cat", bbox=[20, 2, 40, 9], segmentation=[]))
    with ReferWriter(tmp_path / "root", "own", "own") as writer:
        assert import_coco(path, None, tmp_path / "photos", "train", writer) == []
    assert "annotation 5 (x 20 to 60, y 2 to 11 in 32 x 24 px): a hint box that reaches" in str(writer.notices[0])


def test_two_fields_of_texts_are_refused_and_an_empty_one_is_none(tmp_path: Path) -> None:
    both, null = {"expression": "a", "captions": ["b"]}, {"expression": None, "caption": "right cat"}
    (problem,) = coco(tmp_path, annotation(5, **both), annotation(6, **null))
    assert "annotation 5: expression: got expression and captions; expected one of them" in str(problem)


def test_rows_of_the_tables_that_are_none_and_annotations_without_text_are_told(tmp_path: Path) -> None:
    path = instances(tmp_path, annotation(5, expression="left cat"), annotation(6), 7)
    content = json.loads(path.read_text())
    content["images"] += [{**content["images"][0], "id": "1"}, 8]
    with ReferWriter(tmp_path / "root", "own", "own") as writer:
        problems = import_coco(write(path, content), None, tmp_path / "photos", "train", writer)
    assert [str(problem).split(";")[0] for problem in problems] == [
        "instances.json images number 2: image id: got '1' (text)",
        "instances.json images number 3: image: got 8",
        "instances.json annotations number 2: annotation: got 7",
    ]
    assert "1 of the annotations carries no expression and is left out" in str(writer.notices[0])


def test_a_file_under_several_ids_is_one_photo(tmp_path: Path) -> None:
    draw(tmp_path / "photos" / "a.png", 1)
    images = [{"id": n, "file_name": name, "width": 32, "height": 24} for n, name in ((4, "a.png"), (7, "./a.png"))]
    rows = [annotation(5, 7, expression="x"), annotation(6, 4, expression="y")]
    path = write(tmp_path / "instances.json", {"images": images, "annotations": rows})
    with ReferWriter(tmp_path / "root", "own", "own") as writer:
        assert import_coco(path, None, tmp_path / "photos", "train", writer) == []
        writer.write()
    data = take_inventory(tmp_path / "root" / "own")
    assert {item.image_id for item in data.items} == {7}
    assert {row["image_id"] for row in data.annotations.values()} == {7}
