"""The files of the REFER layout: which pickles are read, what is kept of instances.json, how damage is named."""

import json
import os
import pickle
import time
import tracemalloc
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2l_ray.data import json_stream
from l2l_ray.data.refer_files import ImageRow, Instances, Ref, Truth, read_instances, read_refs
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
    assert refs == [Ref(3, (5,), 9, "train", ((7, "cat 7"), (8, "cat 8")))]


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
        ([record(), 5], r"r\.p: ref number 1: ref: got 5; expected a dict of ref_id"),
        ([{k: v for k, v in record().items() if k != "image_id"}], "image_id: got None; expected an integer"),
        ([record(image_id="9")], r"image_id: got '9' \(text\); expected an integer"),
        (
            [record(sentences=[{"sent_id": 1, "sent": None}])],
            "sentence: got None; expected a dict with sent_id and sent",
        ),
        ([record(), record()], "ref number 1: (ref_id: got 3|sent_id: got .7, 8.); expected an id that is used once"),
        ([record(3, (7, 8)), record(4, (8, 9))], "ref number 1: sent_id: got 8; expected an id that is used once"),
        ([record(3, (7, 7))], "ref number 0: sent_id: got 7; expected an id that is used once"),
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
        5: Truth([array("d", [0, 0, 4, 0, 4, 4])], 2, 9),
        6: Truth({"size": [6, 8], "counts": [48]}, None, 9),
        7: Truth(None, None, 4),
    }
    assert found.categories == {2: "cat"}
    assert read_instances(path, {8}).truths == {8: Truth([["x"]], 1, 4)}


def test_instances_may_lack_annotations_and_categories(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": instances()["images"]}))
    assert read_instances(path, {5}).truths == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting value at character 1"),
        ("[]", "is not a COCO instances file"),
        ("{}", "KeyError: 'images'"),
        ('{"images": [{"id": 1}]}', "images number 0: file_name: got None; expected a path below the image folder"),
        (
            '{"images": [{"id": 1, "file_name": "../1.jpg"}]}',
            "file_name: got '(../|/)1.jpg'; expected a path below",
        ),
        (
            '{"images": [{"id": 1, "file_name": "/1.jpg"}]}',
            "file_name: got '(../|/)1.jpg'; expected a path below",
        ),
        ('{"images": [{"id": 1, "file_name": "a", "width": -2}]}', "image size: got -2; expected an integer from 1 to"),
        (
            '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}',
            "images number 1: image id: got 1; expected an id that is used once",
        ),
    ],
)
def test_damaged_instances_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_instances(path, set())


def load(tmp_path: Path, data: bytes) -> Any:
    """Read these bytes as refs; the refs, or the error if it is the one that callers expect."""
    path = tmp_path / "refs(x).p"
    path.write_bytes(data)
    try:
        return read_refs(path)
    except DataError as error:
        return error


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cos\nsystem\n(S'touch it_ran'\ntR.", "it asks for os.system"),
        (b'cbuiltins\neval\n(S\'open("it_ran", "w")\'\ntR.', "it asks for builtins.eval"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch it_ran\x85R.", "it asks for os.system"),
        (b"c__builtin__\ngetattr\n(cos\nS'system'\ntR.", "it asks for __builtin__.getattr"),
        (b"(S'touch it_ran'\nios\nsystem\n.", "builds sets or objects"),
        (b"(cos\nsystem\no.", "it asks for os.system"),
        (b"ccopyreg\n_reconstructor\n.", "it asks for copyreg._reconstructor"),
        (b"\x82\x01.", "builds sets or objects"),  # a number of copyreg's registry of classes
        (b"Psomewhere\n.", "an object outside the file"),
        (b"\x80\x02K\x01Q.", "an object outside the file"),
        (b"\x80\x04\x8f.", "builds sets or objects"),
        (b"\x80\x02}}b.", "builds sets or objects"),
        (b"\x80\x02})R.", "builds sets or objects"),
        (b"\x80\x02}K\x01K\x02s.", "a key that is not text"),
        (b"\x80\x02}(K\x01K\x02u.", "a key that is not text"),
        (b"(I1\nI2\nd.", "a key that is not text"),
    ],
)
def test_handmade_pickles_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in str(load(tmp_path, data))
    assert not Path("it_ran").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02]r\xff\xff\xff\xff.",  # the 4294967295th memo
        b"]p99999999999999\n.",
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"x.",  # bytes of an exabyte
        b"\x80\x05\x96" + b"\xff" * 5 + b"\x00" * 3 + b"x.",  # an array of a terabyte
        b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f" + b"].",  # a frame of an exabyte
        b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",  # an integer of 2 GB
        b"\x80\x02K\x01" + b"2\x86" * 200 + b".",  # tuples of tuples: 2^200 leaves if walked through
        b"\x80\x02}K\x01" + b"2\x86" * 200 + b"K\x01s.",  # as a key
        b"\x80\x02]" + b"2a" * 3 + b".",
        b"\x80\x02](" + b"2\x86" * 200 + b"e.",
    ],
)
def test_small_pickles_take_little_time_and_memory(tmp_path: Path, data: bytes) -> None:
    tracemalloc.start()
    started = time.perf_counter()
    found = load(tmp_path, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found, DataError) or found == []
    assert peak < 2**20 and time.perf_counter() - started < 5


def test_cyclic_refs_are_refused(tmp_path: Path) -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    assert "ref number 0" in str(load(tmp_path, pickle.dumps(cyclic)))
    looped = record()
    looped["sentences"].append(looped)
    assert "sentence: got None; expected a dict with sent_id and sent" in str(load(tmp_path, pickle.dumps([looped])))
    looped = record()
    looped["split"] = looped["image_id"] = looped
    assert "expected an integer of 64 bits" in str(load(tmp_path, pickle.dumps([looped])))


def test_lists_that_all_refs_share_are_not_multiplied(tmp_path: Path) -> None:
    shared = [{"sent_id": i, "sent": "cat"} for i in range(2000)]
    content = [{**record(i), "sentences": shared} for i in range(2000)]
    assert "expected an id that is used once" in str(load(tmp_path, pickle.dumps(content)))
    numbers = list(range(2000))
    for ref in content:
        ref.update(sentences=[], ann_ids=numbers)
    assert "more sentences than bytes in the file" in str(load(tmp_path, pickle.dumps(content)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ann_ids": 5}, "ann_ids: got 5"),
        ({"ann_ids": "56"}, "ann_ids: got '56' (text); expected a list"),
        ({"ann_ids": [5, None]}, "ann_id: got None; expected an integer"),
        ({"ann_id": 2**63}, "expected an integer of 64 bits"),
        ({"ref_id": True}, "ref_id: got True; expected an integer"),
        ({"split": 5}, "split: got 5; expected a split's name"),
        ({"sentences": None}, "sentences: got None; expected a list"),
        ({"sentences": "abc"}, "sentences: got 'abc'; expected a list"),
    ],
)
def test_refs_of_wrong_types_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in str(load(tmp_path, pickle.dumps([record(**changes)])))


def test_which_annotations_a_ref_points_to(tmp_path: Path) -> None:
    bare = record(6, (1,))
    del bare["ann_id"]
    refs = load(tmp_path, pickle.dumps([record(4, (7,), ann_ids=[8, 5]), record(5, (9,), ann_ids=[]), bare]))
    assert [ref.ann_ids for ref in refs] == [(8, 5), (), (-1,)]


@given(st.binary(max_size=200))
def test_random_bytes_are_no_refs(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    assert isinstance(load(tmp_path_factory.getbasetemp(), data), list | DataError)


@given(st.integers(0, 2000), st.integers(0, 255), st.sampled_from((0, 1, 2, 4, 5)))
def test_changed_and_cut_pickles_end_as_refs_or_as_the_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, protocol: int
) -> None:
    data = bytearray(pickle.dumps([record(), record(4, (1, 2))], protocol))
    at %= len(data)
    root = tmp_path_factory.getbasetemp()
    assert isinstance(load(root, bytes(data[:at])), DataError)
    data[at] = byte
    assert isinstance(load(root, bytes(data)), list | DataError)


def parse(tmp_path: Path, text: str | bytes) -> Any:
    path = tmp_path / "instances.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        return read_instances(path, {5, 6})
    except DataError as error:
        return error


@pytest.mark.parametrize("chunk", [1, 7, 64, 2**20])
@pytest.mark.parametrize("layout", [None, 2])
def test_the_file_may_be_read_in_pieces_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, layout: int | None
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_CHARS", chunk)
    monkeypatch.setattr(json_stream, "LOOKAHEAD_CHARS", 20)
    content = instances(info={"year": -12.5e3, "text": 'a "\\ é ['}, licenses=[], more=12345678901)
    found = parse(tmp_path, json.dumps(content, indent=layout))
    assert found.images == {9: ImageRow("9.jpg", 8, 6), 4: ImageRow("4.jpg", None, None)}
    assert sorted(found.truths) == [5, 6] and found.categories == {2: "cat"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
def test_encodings_of_json(tmp_path: Path, encoding: str) -> None:
    text = '{"images": [{"id": 9, "file_name": "é\U0001f600.jpg"}]}'
    assert parse(tmp_path, text.encode(encoding)).images == {9: ImageRow("é\U0001f600.jpg", None, None)}


IMAGE = '"images": [{"id": 9, "file_name": "9.jpg"}]'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected '}' at character 0"),
        ("{" + IMAGE, "expected '}'"),
        ("{" + IMAGE + ", }", "Expecting value"),
        ("{" + IMAGE + "} x", "expected 'the end'"),
        ("{" + IMAGE + ", " + IMAGE + "}", "'images' is there twice"),
        ("{" + IMAGE + ', "annotations": 5}', "'annotations' must be an array"),
        ("{" + IMAGE + ', "annotations": [{"id": 5}', "expected ']'"),
        ("{" + IMAGE + ', "annotations": [{"id": 5, "segmentation": [[1, 2', "at character"),
        ('{"images": null}', "KeyError: 'images'"),
        ('{"images": {"id": 1}}', "'images' must be an array"),
        ('{"images": [5]}', "image: got 5; expected an object"),
        ('{"images": [null]}', "image: got None; expected an object"),
        ('{"images": [{"id": 1e400, "file_name": "a"}]}', "image id: got inf; expected an integer"),
        ('{"images": [{"id": NaN, "file_name": "a"}]}', "image id: got nan; expected an integer"),
        ('{"images": [{"id": 1, "file_name": ["../a"]}]}', "expected a path below"),
        ('{"images": [{"id": 1, "file_name": "a/../../b"}]}', "expected a path below"),
        ('{"images": [{"id": 1, "file_name": "a", "width": 1.5}]}', "image size: got 1.5; expected an integer"),
        ('{"images": [{"id": 1, "file_name": "a", "width": 60000, "height": 60000}]}', "at most 268435456 px"),
        ('{"images": [{"id": 1' + "0" * 5000 + ', "file_name": "a"}]}', "ValueError"),
        ('{"images": ' + "[" * 100000, "RecursionError"),
        ('{"images": [], "annotations": [' + '{"a":' * 100000, "RecursionError"),
        ('{"info": ' + "[" * 100000, "RecursionError"),
        ('{"images": [], "categories": [{"id": [], "name": "a"}]}', "category id: got []; expected an integer"),
    ],
)
def test_hostile_instances_are_named(tmp_path: Path, text: str, message: str) -> None:
    found = parse(tmp_path, text)
    assert isinstance(found, DataError) and message in str(found)


def test_annotations_of_wrong_types_are_left_to_whoever_asks_for_them(tmp_path: Path) -> None:
    odd = [5, None, [], {}, {"id": []}, {"id": True}, {"id": 5, "category_id": [1], "segmentation": [[1, 10**400]]}]
    found = parse(tmp_path, json.dumps({"images": [], "annotations": odd}))
    assert found.truths == {5: Truth([[1, 10**400]], None, None)}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(("id", "file_name", "images", "segmentation", "width")), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(("images", "annotations", "categories", "info")), JSON))
def test_random_json_ends_as_instances_or_as_the_error(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    assert isinstance(parse(tmp_path_factory.getbasetemp(), json.dumps(content)), Instances | DataError)


@given(st.binary(max_size=100))
def test_random_bytes_are_no_instances(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    assert isinstance(parse(tmp_path_factory.getbasetemp(), data), DataError)
