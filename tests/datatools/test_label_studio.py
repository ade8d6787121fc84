"""Label Studio's brush RLE bit by bit, round trips, and what comes back from a project."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from l2l_ray.data.masks import decode
from l2l_ray.datatools.label_studio import LABELING_CONFIG, decode_brush, encode_brush, read_label_studio, task
from l2l_ray.errors import DataError

EMPTY_THEN_FULL = np.array([[False, True]])


def test_the_bits_of_two_pixels() -> None:
    # 8 values (32 bits), word size 8 (5 bits), run sizes 3 4 8 16 (4 x 4 bits), then run, size 0, 4 - 1, 0; and 255.
    bits = "000000000000000000000000000010000011100100011011111111000110000000010001111111111"
    padded = bits + "0" * (-len(bits) % 8)
    assert encode_brush(EMPTY_THEN_FULL) == [int(padded[i : i + 8], 2) for i in range(0, len(padded), 8)]
    np.testing.assert_array_equal(decode_brush(encode_brush(EMPTY_THEN_FULL), 1, 2), EMPTY_THEN_FULL)


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_masks_come_back(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_brush(encode_brush(mask), *mask.shape), mask)


@pytest.mark.parametrize("fill", [False, True])
def test_runs_longer_than_the_longest_are_cut(fill: bool) -> None:
    mask = np.full((300, 400), fill)
    mask[0, 0] = not fill
    np.testing.assert_array_equal(decode_brush(encode_brush(mask), 300, 400), mask)


def _packed(num: int, *chunks: str, word: int = 8) -> np.ndarray:
    text = f"{num:032b}{word - 1:05b}" + "0010001101111111" + "".join(chunks)
    return np.array([int(bit) for bit in text], np.uint8)


@pytest.mark.parametrize("word", [8, 9])
def test_literal_values_and_other_word_sizes_are_read(word: int) -> None:
    values = "".join(f"{value:0{word}b}" for value in (200, 200, 200, 100))
    literal, run = "0" + "00" + "011" + values, "1" + "01" + "0011" + f"{200:0{word}b}"
    data = np.packbits(_packed(8, literal, run, word=word)).tolist()
    assert decode_brush(data, 1, 2).tolist() == [[False, True]]


def test_soft_edges_belong_to_the_mask_from_one_half() -> None:
    alpha = [0, 127, 128, 255]
    values = "".join(f"{v:08b}" for a in alpha for v in (9, 9, 9, a))
    bits = _packed(16, "0" + "01" + "1111" + values)
    data = np.packbits(bits).tolist()
    assert decode_brush(data, 1, 4).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize(
    ("rle", "match"),
    [
        ([], "ends too early"),
        (encode_brush(EMPTY_THEN_FULL)[:-3], "ends too early"),
        (encode_brush(np.ones((3, 3), bool)), "holds 36 values, expected 8"),
        ([300], r"must be a list of bytes, got \[300\]"),
        (["a"], "must be a list of bytes"),
    ],
)
def test_damaged_brushes_are_named(rle: list[Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        decode_brush(rle, 1, 2)
    with pytest.raises(DataError, match="no pixels"):
        encode_brush(np.zeros((0, 3), bool))


def _mask() -> np.ndarray:
    mask = np.zeros((20, 30), bool)
    mask[3:11, 5:25] = True
    return mask


RECORD = {
    "image": "train/a b.jpg", "expression": "left man", "split": "train", "id": "7", "sent_id": 7, "category": "",
    "confidence": 0.8, "gate": None, "accepted_rle": None, "provenance": {"method": "l2l", "model_version": 2},
}  # fmt: skip


def _corrected(mask: np.ndarray, **annotation: Any) -> dict[str, Any]:
    """A task as Label Studio exports it after somebody drew `mask`."""
    item = task(_mask(), RECORD)
    region = {**item["predictions"][0]["result"][0], "origin": "manual"}
    region["value"] = {**region["value"], "rle": encode_brush(mask)}
    found = {"id": 31, "completed_by": 4, "was_cancelled": False, "result": [region], "updated_at": "2026-01-02"}
    return {"id": 1, "data": item["data"], "annotations": [{**found, **annotation}]}


def _read(tmp_path: Path, *tasks: Any) -> list[dict[str, Any]]:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(list(tasks)))
    return [row for _, row in read_label_studio(path)]  # type: ignore[misc]


def test_a_task_is_a_prediction_to_correct() -> None:
    item = task(_mask(), RECORD)
    assert item["data"]["image"] == "/data/local-files/?d=train/a%20b.jpg"
    (prediction,) = item["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("l2l-v2", 0.8)
    (region,) = prediction["result"]
    assert (region["original_width"], region["original_height"], region["type"]) == (30, 20, "brushlabels")
    for name in (region["from_name"], region["to_name"], *region["value"]["brushlabels"]):
        assert f'"{name}"' in LABELING_CONFIG
    np.testing.assert_array_equal(decode_brush(region["value"]["rle"], 20, 30), _mask())


def test_a_correction_comes_back_as_own_data(tmp_path: Path) -> None:
    drawn = ~_mask()
    (row,) = _read(tmp_path, _corrected(drawn))
    np.testing.assert_array_equal(decode(row.pop("rle")), drawn)
    provenance = row.pop("provenance")
    assert row == {name: value for name, value in RECORD.items() if value is not None and name != "provenance"}
    assert (provenance["source"], provenance["annotation"], provenance["completed_by"]) == ("label_studio", 31, 4)
    assert provenance["corrected_from"] == {"method": "l2l", "model_version": 2}


def test_the_number_of_a_task_is_no_id_and_an_own_one_is(tmp_path: Path) -> None:
    item = _corrected(_mask())
    data = {name: value for name, value in item["data"].items() if name != "sent_id"}
    found = _read(tmp_path, *({**item, "data": data | own} for own in ({}, {"id": "cup"}, {"id": 7, "sent_id": None})))
    assert [row.get("id") for row in found] == [None, "cup", "7"]


def test_where_everything_is_erased_there_is_no_hint_either(tmp_path: Path) -> None:
    item = _corrected(np.zeros((20, 30), bool))
    item["data"]["hint"] = {"points": [[3, 4]]}
    (row,) = _read(tmp_path, item)
    assert row["no_target"] is True and "hint" not in row


def test_the_last_annotation_that_was_not_cancelled_counts(tmp_path: Path) -> None:
    first, second = _corrected(_mask()), _corrected(~_mask())
    cancelled = _corrected(_mask(), was_cancelled=True)["annotations"]
    untouched = {**first, "annotations": []}
    both = {**first, "annotations": [*first["annotations"], *second["annotations"], *cancelled]}
    row, differ, without = _read(tmp_path, untouched, both, {**first, "annotations": cancelled})
    np.testing.assert_array_equal(decode(row["rle"]), ~_mask())
    assert "(2): its annotations differ, the last one counts" in str(differ)
    assert "2 of its 3 tasks have no annotation that was submitted and are left out" in str(without)
    both["annotations"][0]["ground_truth"] = True
    row, differ = _read(tmp_path, both)
    np.testing.assert_array_equal(decode(row["rle"]), _mask())
    assert "the one that is ground truth counts" in str(differ)


def test_a_region_without_its_size_is_no_erased_mask(tmp_path: Path) -> None:
    item = _corrected(_mask())
    for side in ("original_width", "original_height"):
        item["annotations"][0]["result"][0].pop(side)
    row, problem = _read(tmp_path, item)
    assert not row.keys() & {"rle", "no_target"}
    assert "image size: got None" in str(problem)


@pytest.mark.parametrize("url", ["/data/upload/1/abc-p.png", "https://x.y/p.png", "s3://b/p.png"])
def test_an_address_that_is_no_local_file_is_named(tmp_path: Path, url: str) -> None:
    item = _corrected(_mask())
    item["data"]["image"] = url
    (problem,) = _read(tmp_path, item)
    assert f"image: got '{url}'; expected /data/local-files/?d=PATH" in str(problem)


def test_a_polygon_beyond_its_picture_and_several_labels_are_told(tmp_path: Path) -> None:
    item = _corrected(_mask())
    polygon = {"type": "polygonlabels", "original_width": 30, "original_height": 20}
    polygon["value"] = {"points": [[0, 50], [150, 50], [50, 100]], "polygonlabels": ["person", "dog"]}  # type: ignore
    item["annotations"][0]["result"].append(polygon)
    _, cut, labels = _read(tmp_path, item)
    assert "x 0 to 45" in str(cut) and "cut at the border" in str(cut)
    assert "(dog, person): its regions have several labels" in str(labels)


def test_regions_are_united_and_polygons_are_in_percent(tmp_path: Path) -> None:
    item = _corrected(_mask())
    points = [[0, 50], [50, 50], [50, 100], [0, 100]]
    polygon = {"type": "polygonlabels", "original_width": 30, "original_height": 20}
    polygon["value"] = {"points": points, "polygonlabels": ["person"]}  # type: ignore[assignment]
    item["annotations"][0]["result"].append(polygon)
    (row,) = _read(tmp_path, item)
    expected = _mask()
    expected[10:, :15] = True
    np.testing.assert_array_equal(decode(row["rle"]), expected)
    assert row["category"] == "person"


def test_everything_erased_says_that_there_is_no_target(tmp_path: Path) -> None:
    (row,) = _read(tmp_path, _corrected(_mask(), result=[]))
    assert row["no_target"] is True and "rle" not in row


def test_exports_that_are_none_are_named(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    for content, match in (
        ("{", "cannot be read as JSON"),
        ("{}", "choose JSON, not JSON-MIN"),
        ('[{"image": 1}]', "JSON-MIN"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=match):
            read_label_studio(path)
    broken = _corrected(_mask())
    del broken["data"]["expression"]
    torn = _corrected(_mask())
    torn["annotations"][0]["result"][0]["value"]["rle"] = [1, 2, 3]
    box = _corrected(_mask())
    box["annotations"][0]["result"][0]["type"] = "rectanglelabels"
    silent, *found = _read(tmp_path, broken, torn, box, _corrected(_mask()))
    assert "expression" not in silent, "the importer names it, as that of any row"
    without, torn_mask, unlabeled, only_a_box, good = found
    for row in (without, unlabeled):
        assert isinstance(row, dict) and "rle" not in row and "no_target" not in row, "the item stays, unlabeled"
    assert "cannot be read for an image of 30 x 20 px" in str(torn_mask)
    assert "task 1: region: got rectanglelabels; expected brushlabels or polygonlabels" in str(only_a_box)
    assert good["image"] == "train/a b.jpg" and "rle" in good, "one bad task leaves the others alone"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"original_width": -30}, "image size: got -30; expected an integer from 1"),
        ({"original_width": float("nan")}, "image size: got nan; expected an integer"),
        ({"original_width": 60_000, "original_height": 60_000}, "image size: got 60000 x 60000 px; expected at most"),
        ({"value": None}, "value of a region: got None"),
        ({"value": {"rle": 7}}, "rle: got brush RLE must be a list of bytes, got 7"),
        ({"value": {"rle": [float("nan")]}}, "rle: got brush RLE must be a list of bytes"),
        ({"value": {"rle": [0, 0, 0, 1]}}, "rle: got brush RLE of 4 bytes cannot be read"),
        ({"type": "polygonlabels", "value": {"points": [[1, 1]]}}, "points: got [[1, 1]]"),
        ({"type": "polygonlabels", "value": {"points": [[1, 1], [2, None], [3, 3]]}}, "points: got [1, 1, 2, None"),
    ],
)
def test_a_damaged_region_leaves_its_item_unlabeled(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    item = _corrected(_mask())
    item["annotations"][0]["result"][0].update(changes)
    row, problem = _read(tmp_path, item)
    assert "rle" not in row and "no_target" not in row
    assert message in str(problem)


@pytest.mark.parametrize("annotations", ["abc", 5, {"a": 1}, [7], [{"result": 3}], [{"result": [[]]}]])
def test_annotations_that_are_no_lists_of_objects_are_named(tmp_path: Path, annotations: Any) -> None:
    problem = _read(tmp_path, {**_corrected(_mask()), "annotations": annotations})[-1]
    assert "expected a list of objects" in str(problem)


def test_a_corrected_test_mask_is_no_training_data(tmp_path: Path) -> None:
    item = task(_mask(), {**RECORD, "split": "testA"})
    (row,) = _read(tmp_path, {**item, "annotations": [{"id": 1, "result": item["predictions"][0]["result"]}]})
    assert row["split"] == "testA"


@given(st.lists(st.integers(0, 255), max_size=60))
def test_no_bytes_crash_the_decoder(data: list[int]) -> None:
    try:
        assert decode_brush(data, 2, 3).shape == (2, 3)
    except DataError:
        pass
