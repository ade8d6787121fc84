"""The files of the REFER layout: which pickles are read, what is kept of instances.json, how damage is named."""

import json
import os
import pickle
from array import array
from pathlib import Path
from typing import Any

import pytest

from l2l_ray.data.refer_files import ImageRow, Ref, Truth, read_instances, read_refs
from l2l_ray.errors import DataError


def record(ref_id: int = 3, sent_ids: tuple[int, ...] = (7, 8), **changes: Any) -> dict[str, Any]:
    sentences = [{"sent_id": i, "sent": f"cat  {i} ", "raw": "Cat", "tokens": ["cat"]} for i in sent_ids]
    fields = {"ref_id": ref_id, "ann_id": 5, "image_id": 9, "split": "train", "category_id": 1, "sentences": sentences}
    return {**fields, **changes}


def write(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_refs_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    extra = {"score": 0.5, "flag": True, "none": None, "tuple": (1, 2)}
    refs = read_refs(write(tmp_path / "refs(x).p", [record(**extra)], protocol))
    assert refs == [Ref(3, 5, 9, "train", ((7, "cat 7"), (8, "cat 8")))]


def test_python_2_strings_are_latin_1(tmp_path: Path) -> None:
    # A byte string of Python 2 is opcode U or S; it cannot be written from Python 3, so the pickle is patched.
    data = pickle.dumps([record(sentences=[{"sent_id": 7, "sent": "ma\x00ana"}])], 2)
    unicode_form, string_form = b"X\x06\x00\x00\x00ma\x00ana", b"U\x06ma\xf1ana"
    assert unicode_form in data
    path = tmp_path / "refs(x).p"
    path.write_bytes(data.replace(unicode_form, string_form))
    assert read_refs(path)[0].sentences == ((7, "ma\xf1ana"),)


def test_sentences_are_sorted_and_raw_is_the_fallback(tmp_path: Path) -> None:
    sentences = [{"sent_id": 9, "sent": "b"}, {"sent_id": 2, "raw": "A Cat"}]
    refs = read_refs(write(tmp_path / "r.p", [record(sentences=sentences)]))
    assert refs[0].sentences == ((2, "A Cat"), (9, "b"))


class _Runs:
    def __reduce__(self) -> Any:
        return os.mkdir, ("it_ran",)


@pytest.mark.parametrize("content", [[_Runs()], [record(split=Path("train"))], [record(image_id=array("i", [9]))]])
def test_pickles_that_name_anything_are_refused_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "refs(x).p", content)
    with pytest.raises(DataError, match=r"it asks for \w+\.\w+, which could run code; expected a list of dicts"):
        read_refs(path)
    assert not Path("it_ran").exists()


@pytest.mark.parametrize("data", [b"", b"not a pickle", pickle.dumps([record()])[:-20], b"Pme\n."])
def test_damaged_pickles_are_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "refs(x).p"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"refs\(x\)\.p cannot be read as a plain pickle"):
        read_refs(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "must hold a list of refs, got dict"),
        ([record(), 5], "ref number 1 of .* is malformed: TypeError"),
        ([{k: v for k, v in record().items() if k != "image_id"}], "KeyError: 'image_id'"),
        ([record(image_id="9")], "'9' is not an integer id"),
        ([record(sentences=[{"sent_id": 1, "sent": None}])], "expression of sent_id 1 is NoneType"),
        ([record(), record()], r"ref_id \[3\] used more than once"),
        ([record(3, (7, 8)), record(4, (8, 9))], r"sent_id \[8\] used more than once \(1 in all\)"),
        ([record(3, (7, 7))], r"sent_id \[7\] used more than once"),
    ],
)
def test_malformed_refs_are_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_refs(write(tmp_path / "r.p", content))


def instances(**changes: Any) -> dict[str, Any]:
    images = [{"id": 9, "file_name": "9.jpg", "width": 8, "height": 6}, {"id": 4, "file_name": "4.jpg", "width": None}]
    annotations = [
        {"id": 5, "image_id": 9, "category_id": 2, "segmentation": [[0, 0, 4, 0, 4, 4]], "bbox": [0, 0, 4, 4]},
        {"id": 6, "image_id": 9, "segmentation": {"size": [6, 8], "counts": [48]}},
        {"id": 7, "image_id": 4},
        {"id": 8, "image_id": 4, "category_id": 1, "segmentation": [["x"]]},
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 2, "name": "cat"}], **changes}


def test_instances_keep_what_refs_point_to(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(instances()))
    found = read_instances(path, {5, 6, 7, 99})
    assert found.images == {9: ImageRow("9.jpg", 8, 6), 4: ImageRow("4.jpg", None, None)}
    assert found.truths == {
        5: Truth([array("d", [0, 0, 4, 0, 4, 4])], 2),
        6: Truth({"size": [6, 8], "counts": [48]}, None),
        7: Truth(None, None),
    }
    assert found.categories == {2: "cat"}
    assert read_instances(path, {8}).truths == {8: Truth([["x"]], 1)}


def test_instances_may_lack_annotations_and_categories(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": instances()["images"]}))
    assert read_instances(path, {5}).truths == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "is not a COCO instances file"),
        ("{}", "KeyError: 'images'"),
        ('{"images": [{"id": 1}]}', "KeyError: 'file_name'"),
        ('{"images": [{"id": 1, "file_name": "../1.jpg"}]}', "must be a path below the image folder"),
        ('{"images": [{"id": 1, "file_name": "/1.jpg"}]}', "must be a path below the image folder"),
        ('{"images": [{"id": 1, "file_name": "a", "width": -2}]}', "has width -2 and height None"),
        (
            '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}',
            r"image id \[1\] used more than once",
        ),
    ],
)
def test_damaged_instances_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_instances(path, set())
