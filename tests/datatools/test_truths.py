"""Masks, RLEs, polygons and boxes: hand-computed areas and boxes, and every kind of damage."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from l2l_ray.data.layout import BadValue, Notice
from l2l_ray.data.masks import box_of_mask, decode, encode, mask_area_px
from l2l_ray.data.object_masks import segmentation_rle
from l2l_ray.data.pixels import Header
from l2l_ray.data.refer_files import image_side
from l2l_ray.datatools.truths import read_row_hint, read_truth

SIZE = (8, 6)  # width, height
HEADER = Header(SIZE, 1, True)
SQUARE = [1, 1, 5, 1, 5, 4, 1, 4]  # 4 x 3 px from (1, 1)
MASK = np.zeros((6, 8), dtype=bool)
MASK[1:4, 1:5] = True


def test_one_object_in_every_form(tmp_path: Path) -> None:
    Image.fromarray(MASK.astype(np.uint8) * 255).save(tmp_path / "m.png")
    rle = encode(MASK)
    rows: list[dict[str, Any]] = [
        {"mask": "m.png"},
        {"rle": rle},
        {"rle": f'{{"size": [6, 8], "counts": "{rle["counts"]}"}}'},
        # 6 rows: 7 before (column 0 and one pixel), 3 inside, 3 outside, ..., 7 + 3 outside at the end
        {"rle": {"size": [6, 8], "counts": [7, 3, 3, 3, 3, 3, 3, 3, 20]}},
        {"polygon": SQUARE},
        {"polygon": [SQUARE]},
        {"polygon": str(SQUARE)},
    ]
    for row in rows:
        truth = read_truth(row, "row 1", HEADER, tmp_path, [])
        assert truth is not None, row
        assert truth.area_px == 12, row
        assert truth.bbox_xywh_px == [1.0, 1.0, 4.0, 3.0], row
        assert (decode(segmentation_rle(truth.segmentation, *SIZE)) == MASK).all(), row


def test_a_box_alone_is_a_hint_and_no_truth(tmp_path: Path) -> None:
    row = {"box": "[1, 2, 3, 2.5]"}
    assert read_truth(row, "row 1", HEADER, tmp_path, []) is None
    assert read_row_hint(row, HEADER) == ((1.0, 2.0, 3.0, 2.5), ())
    assert read_row_hint(row | {"polygon": SQUARE}, HEADER) is None
    assert read_truth({}, "row 1", HEADER, tmp_path, []) is None and read_row_hint({}, HEADER) is None


def test_a_given_box_is_kept_beside_a_mask(tmp_path: Path) -> None:
    truth = read_truth({"box": [0, 0, 8, 6], "polygon": SQUARE}, "row 1", HEADER, tmp_path, [])
    assert truth is not None
    assert truth.bbox_xywh_px == [0.0, 0.0, 8.0, 6.0]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "box",
    [
        [1, 1, -3, 2],
        [1, 1, 0, 2],
        [1, 1, 3],
        [1, 1, NAN, 2],
        [1, 1, INF, 2],
        [1, 1, 9, 2],
        [9, 1, 3, 2],
        "left",
        "[1, 1, 4]",
    ],
)
def test_a_box_that_cannot_be_used_costs_no_mask_and_is_told(tmp_path: Path, box: Any) -> None:
    notices: list[Notice] = []
    truth = read_truth({"polygon": SQUARE, "box": box}, "row 1", HEADER, tmp_path, notices)
    assert truth is not None and (truth.area_px, truth.bbox_xywh_px) == (12, [1.0, 1.0, 4.0, 3.0])
    (notice,) = notices
    assert notice.where.startswith("row 1 (") and "a box beside a mask, which is used without it; exp" in notice.text


def test_a_box_of_the_stored_pixels_is_no_slip_of_the_hand(tmp_path: Path) -> None:
    turned = Header(SIZE, 6, False)  # seen as 6 x 8 px
    with pytest.raises(BadValue, match="EXIF orientation"):
        read_truth({"polygon": [1, 1, 5, 1, 5, 4, 1, 4], "box": [1, 1, 8, 4]}, "row 1", turned, tmp_path, [])


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"polygon": [5, 5]}, "polygon"),
        ({"polygon": [[1, 1, 2, 2]]}, "polygon"),
        ({"polygon": [1, 1, 2, 2, 3]}, "polygon"),
        ({"polygon": [1, 1, NAN, 2, 3, 3]}, "polygon"),
        ({"polygon": [1, 1, 10**400, 2, 3, 3]}, "polygon"),
        ({"polygon": [1, 1, True, 2, 3, 3]}, "polygon"),
        ({"polygon": "not json"}, "polygon"),
        ({"polygon": "[" * 100_000}, "polygon"),
        ({"polygon": 7}, "polygon"),
        ({"polygon": []}, "missing mask"),
        ({"polygon": [20, 20, 30, 20, 30, 30]}, "mask outside image"),
        ({"polygon": [1, 1, 1, 1, 1, 1]}, "empty mask"),
        ({"rle": {"size": [8, 6], "counts": [48]}}, "invalid mask"),
        ({"rle": {"size": [6, 8], "counts": [47]}}, "invalid mask"),
        ({"rle": {"size": [6, 8], "counts": [-1, 49]}}, "invalid mask"),
        ({"rle": {"size": [6, 8], "counts": "x\ud800"}}, "invalid mask"),
        ({"rle": {"size": [6, 8], "counts": None}}, "invalid mask"),
        ({"rle": {"size": [6, 8], "counts": [48]}}, "empty mask"),
        ({"rle": [1, 2]}, "rle"),
        ({"polygon": SQUARE, "box": [7.5, 5, 0.5, 1]}, "mask outside its box"),
        ({"polygon": SQUARE, "rle": {}}, "truth"),
        ({"mask": "gone.png"}, "missing mask file"),
        ({"mask": "../m.png"}, "mask file"),
    ],
)
def test_damage_is_named(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    with pytest.raises(BadValue) as error:
        read_truth(row, "row 1", HEADER, tmp_path, [])
    assert error.value.args[0] == what


def test_short_polygons_are_ignored_where_the_loader_ignores_them() -> None:
    assert mask_area_px(segmentation_rle([[5, 5], SQUARE], *SIZE)) == 12
    with pytest.raises(BadValue, match="polygon"):
        segmentation_rle([[5, 5], SQUARE], *SIZE, strict=True)
    with pytest.raises(BadValue, match="empty mask"):
        segmentation_rle([[5, 5]], 60_000, 60_000)  # no memory for the image is asked for


def test_the_box_of_a_mask() -> None:
    one = np.zeros((6, 8), dtype=bool)
    one[5, 7] = True
    assert box_of_mask(encode(one)) == [7.0, 5.0, 1.0, 1.0]


@pytest.mark.parametrize("side", [0, -5, 1.5, True, None, "8", 10**9])
def test_impossible_sides(side: Any) -> None:
    with pytest.raises(BadValue, match="image size"):
        image_side(side)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=7) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.dictionaries(st.sampled_from(["mask", "rle", "polygon", "box"]), values, max_size=2))
def test_any_value_is_truth_or_a_problem(tmp_path: Path, row: dict[str, Any]) -> None:
    try:
        truth = read_truth(row, "row 1", HEADER, tmp_path, [])
    except BadValue as error:
        assert str(error.at("x"))
    else:
        assert truth is None or 0 < truth.area_px < float("inf")


@settings(max_examples=100)
@given(counts=st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=12))
def test_any_compressed_rle_fills_its_image_or_is_a_problem(counts: str) -> None:
    try:
        rle = segmentation_rle({"size": [6, 8], "counts": counts}, *SIZE)
    except BadValue:
        return
    assert 0 < decode(rle).sum() <= 48
