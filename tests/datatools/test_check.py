"""The checker and the inventory under it: every kind of damage is named with its place, and none stops the others."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2l_ray.datatools.check import check
from l2l_ray.datatools.inventory import take_inventory
from l2l_ray.datatools.stats import statistics
from l2l_ray.errors import DataError
from tests.refer_folder import draw, write_tiny

REAL = os.environ.get("L2L_REAL_DATA")


def found(folder: Path, decode: bool = False) -> list[tuple[str, str]]:
    return [(problem.what, problem.where) for problem in check(take_inventory(folder), decode)]


def change_refs(folder: Path, change: Any) -> None:
    path = folder / "refs(own).p"
    refs = pickle.loads(path.read_bytes())
    change(refs)
    path.write_bytes(pickle.dumps(refs))


def change_instances(folder: Path, change: Any) -> None:
    path = folder / "instances.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_sound_data_set_has_no_problem(tmp_path: Path) -> None:
    assert found(write_tiny(tmp_path), decode=True) == []


def test_hints_without_masks_are_no_problem(tmp_path: Path) -> None:
    def change(refs: Any) -> None:
        for ref, hint in zip(refs, ({"box": [4, 6, 8, 12]}, {"points": [[4, 6]]}), strict=False):
            del ref["ann_id"]
            ref["hint"] = hint

    folder = write_tiny(tmp_path)
    change_refs(folder, change)
    assert found(folder) == []
    assert "hints: 1 with a box, 1 of points alone" in statistics(take_inventory(folder))


@pytest.mark.parametrize(
    ("hint", "what"),
    [
        ({"box": [40, 6, 8, 12]}, "hint box outside image"),
        ({"box": [4, 6, 0, 12]}, "hint box"),
        ({"points": [[4, 60]]}, "hint point outside image"),
        ("left", "hint"),
        ([10**5000], "hint"),
    ],
)
def test_a_bad_hint_is_named(tmp_path: Path, hint: Any, what: str) -> None:
    folder = write_tiny(tmp_path)
    change_refs(folder, lambda refs: refs[1].update(hint=hint))
    assert found(folder) == [(what, "refs(own).p ref_id 2")]
    assert not any(line.startswith("hints: ") for line in statistics(take_inventory(folder)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda refs: refs[1].update(ref_id=1), ("ref_id", "refs(own).p ref number 1")),
        (lambda refs: refs[1]["sentences"][0].update(sent_id=10), ("sent_id", "refs(own).p ref number 1")),
        (lambda refs: refs[1].update(image_id="2"), ("image_id", "refs(own).p ref number 1")),
        (lambda refs: refs.append(5), ("ref", "refs(own).p ref number 5")),
        (lambda refs: refs[1].update(sentences=[]), ("sentences", "refs(own).p ref_id 2")),
        (lambda refs: refs[1]["sentences"][0].update(sent=None), ("sentence", "refs(own).p ref number 1")),
        (lambda refs: refs[1].update(split=None), ("split", "refs(own).p ref number 1")),
        (lambda refs: refs[1].update(ann_ids=3), ("ann_ids", "refs(own).p ref number 1")),
        (lambda refs: refs[1]["sentences"][0].update(sent=" "), ("empty expression", "refs(own).p ref_id 2")),
        (lambda refs: refs[1].update(split="dev"), ("split", "refs(own).p ref_id 2")),
        (lambda refs: refs[1].update(ann_id=99), ("missing annotation", "refs(own).p ref_id 2")),
        (
            lambda refs: refs[1].update(ann_id=51),
            ("image of the annotation", "instances.json annotation 51 of ref_id 2"),
        ),
        (lambda refs: refs[1].update(image_id=4), ("image in several splits", "image 4")),
        (lambda refs: refs[1].update(image_id=77), ("missing image row", "instances.json image 77")),
        (lambda refs: refs[3].pop("ann_id"), ("missing mask", "refs(own).p ref_id 4")),
    ],
)
def test_damaged_refs(tmp_path: Path, change: Any, expected: tuple[str, str]) -> None:
    folder = write_tiny(tmp_path)
    change_refs(folder, change)
    assert expected in found(folder)


def test_a_train_ref_without_annotation_and_an_expression_without_target_are_fine(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)

    def change(refs: Any) -> None:
        del refs[0]["ann_id"], refs[3]["ann_id"]
        refs[3]["ann_ids"] = []

    change_refs(folder, change)
    assert found(folder) == []


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c["annotations"][1].update(segmentation=[]), "missing mask"),
        (lambda c: c["annotations"][1].update(segmentation=[[1, 1]]), "empty mask"),
        (lambda c: c["annotations"][1].update(segmentation=[[1, 1, NAN, 2, 3, 3]]), "polygon"),
        (lambda c: c["annotations"][1].update(segmentation={"size": [24, 32], "counts": "?"}), "invalid mask"),
        (lambda c: c["annotations"][1].update(segmentation=[[99, 99, 120, 99, 120, 120]]), "mask outside image"),
        (lambda c: c["annotations"][1].update(bbox=[1, 1, -2, 2]), "bbox"),
        (lambda c: c["annotations"][1].update(bbox=[1, 1, 200, 2]), "bbox"),
        (lambda c: c["annotations"][1].update(bbox=[1, 1, 2]), "bbox"),
        (lambda c: c["annotations"].append(c["annotations"][1]), "annotation id"),
        (lambda c: c["images"].append(c["images"][1]), "image id"),
        (lambda c: c["images"][1].update(file_name="../2.png"), "file_name"),
        (lambda c: c["images"][1].update(file_name="/2.png"), "file_name"),
        (lambda c: c["images"][1].update(file_name="gone.png"), "missing image"),
        (lambda c: c["images"][1].update(width=None, file_name="gone.png"), "missing image"),
        (lambda c: c["images"][1].update(width=-32), "image size"),
        (lambda c: c["images"][1].update(width=33), "image size"),
    ],
)
def test_damaged_instances(tmp_path: Path, change: Any, expected: str) -> None:
    folder = write_tiny(tmp_path)
    change_instances(folder, change)
    assert expected in [what for what, _ in found(folder)]


def test_damaged_pictures(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    picture = tmp_path / "pictures" / "2.png"
    (tmp_path / "pictures" / "1.png").write_bytes(b"no picture")
    picture.write_bytes(picture.read_bytes()[:-60])
    assert found(folder) == [("unreadable image", "instances.json image 1")]
    assert ("truncated image", "instances.json image 2") in found(folder, decode=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("refs(own).p", b"\x80\x04."),
        ("refs(own).p", b"cos\nsystem\n."),
        ("instances.json", b"[]"),
        ("instances.json", b"{"),
    ],
)
def test_files_that_cannot_be_read_as_a_whole(tmp_path: Path, name: str, content: bytes) -> None:
    folder = write_tiny(tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match="refs|instances"):
        take_inventory(folder)


def test_the_only_split_by_is_found_and_others_are_listed(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    assert take_inventory(folder).split_by == "own"
    with pytest.raises(DataError, match=r"holds refs of \['own'\], got --split-by unc; choose one of these"):
        take_inventory(folder, "unc")
    with pytest.raises(DataError, match="is no folder; give the folder of a data set"):
        take_inventory(tmp_path / "nowhere")


scalars = st.none() | st.booleans() | st.integers(-3, 60) | st.floats() | st.text(max_size=3)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=6), max_leaves=8)
keys = st.sampled_from(
    ["ref_id", "ann_id", "ann_ids", "image_id", "split", "sentences", "segmentation", "bbox", "width", "file_name"]
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.sampled_from(["refs", "images", "annotations"]), number=st.integers(0, 4), key=keys, value=values)
def test_any_value_anywhere_is_checked_to_the_end(
    tmp_path_factory: pytest.TempPathFactory, where: str, number: int, key: str, value: Any
) -> None:
    folder = write_tiny(tmp_path_factory.mktemp("fuzz"))
    if where == "refs":
        change_refs(folder, lambda refs: refs[number].update({key: value}))
    else:
        change_instances(folder, lambda content: content[where][number].update({key: value}))
    assert all(str(problem) for problem in check(take_inventory(folder)))


@pytest.mark.skipif(REAL is None, reason="L2L_REAL_DATA is not set")
def test_real_photos_masks_and_expressions_have_no_problem() -> None:
    assert found(Path(str(REAL)) / "refer" / "refcoco") == []


def test_a_picture_of_another_size_than_the_table_says(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    draw(tmp_path / "pictures" / "2.png", 2, size=(16, 12))
    (problem,) = check(take_inventory(folder))
    assert str(problem) == (
        "instances.json image 2: image size: got 32 x 24 px; expected 16 x 12 px as the file has; "
        "correct the table, or use the original picture"
    )


def test_sentences_shared_by_every_ref_do_not_multiply(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    shared = [{"sent_id": number, "sent": "a"} for number in range(300)]
    refs = [{"ref_id": n, "ann_id": 51, "image_id": 1, "split": "train", "sentences": shared} for n in range(400)]
    (folder / "refs(own).p").write_bytes(pickle.dumps(refs))
    problems = take_inventory(folder).problems
    assert len(problems) == 399 and any("no more sentences than bytes in the file" in str(p) for p in problems[1:])
