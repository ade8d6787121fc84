"""Masks: hand-computed annotations, runs and coverage; round trips."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from l2l_ray.data.masks import (
    MaskRule,
    annotation_rle,
    decode,
    encode,
    grid_masks,
    mask_area_px,
    mask_box,
    mask_to_grid,
    nearest,
    union_rle,
)
from l2l_ray.errors import DataError
from tests.data.blobs import blobs


def rectangle(x0: int, y0: int, x1: int, y1: int) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def wrapping_counts(num_pixels: int) -> str:
    """Return COCO's string of three runs whose sum is right only because 64 bits overflow."""
    text = ""
    for run in (2**59 - 1,) * 2 + (num_pixels + 2 - 2**60,):
        while True:
            code, run = run & 0x1F, run >> 5
            more = run != (-1 if code & 0x10 else 0)
            text += chr(48 + code + 0x20 * more)
            if not more:
                break
    return text


def test_one_polygon() -> None:
    expected = np.zeros((6, 8), dtype=bool)
    expected[1:4, 2:7] = True
    rle = annotation_rle([rectangle(2, 1, 7, 4)], 6, 8)
    assert rle["size"] == [6, 8] and isinstance(rle["counts"], str)
    np.testing.assert_array_equal(decode(rle), expected)
    assert mask_area_px(rle) == 15
    assert annotation_rle(rectangle(2, 1, 7, 4), 6, 8) == rle  # a flat list is one polygon


def test_parts_are_united_where_they_overlap_and_where_they_do_not() -> None:
    first, second, apart = rectangle(0, 0, 4, 4), rectangle(2, 2, 6, 6), rectangle(7, 0, 8, 1)
    mask = decode(annotation_rle([first, second, apart], 6, 8))
    assert mask.sum() == 16 + 16 - 4 + 1
    assert mask[3, 3] and mask[0, 7]


def test_polygon_that_leaves_the_image_is_cut() -> None:
    assert mask_area_px(annotation_rle([rectangle(-5, -5, 2, 3)], 6, 8)) == 6
    assert mask_area_px(annotation_rle([rectangle(6, 4, 50, 60)], 6, 8)) == 4


@pytest.mark.parametrize(
    "segmentation", [[[1, 1, 3, 3]], [[1, 1]], [rectangle(20, 20, 30, 30)], [rectangle(-9, 0, -2, 3)]]
)
def test_polygons_without_pixels_give_an_empty_mask(segmentation: Any) -> None:
    # Four numbers are no polygon; pycocotools would take them for a box.
    assert mask_area_px(annotation_rle(segmentation, 6, 8)) == 0


def test_rle_in_all_its_forms() -> None:
    holed = np.ones((5, 7), dtype=bool)
    holed[2, 3] = False
    rle = encode(holed)
    other = encode(np.eye(5, 7, dtype=bool))
    assert annotation_rle(rle, 5, 7) == rle
    assert annotation_rle({"size": (5, 7), "counts": rle["counts"].encode()}, 5, 7) == rle
    assert annotation_rle({"size": [5, 7], "counts": [0, 17, 1, 17]}, 5, 7) == rle
    assert annotation_rle([other, encode(~holed)], 5, 7) == encode(np.eye(5, 7, dtype=bool) | ~holed)
    assert annotation_rle([encode(~holed), rectangle(0, 0, 1, 1)], 5, 7)["size"] == [5, 7]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "no segmentation"),
        ([], "no segmentation"),
        ([[1, 2, 3, 4, 5]], "x, y pairs"),
        ([[1, 2, 3, 4, 5, float("nan")]], "finite"),
        ([[1, 2, 3, 4, 5, 1e9]], "finite numbers below"),
        ([["a", "b"]], "flat list of numbers"),
        ([[[1, 2], [3, 4], [5, 6]]], r"got shape \(3, 2\)"),
        ({"size": [6, 7], "counts": "0"}, "does not fit its image of"),
        ({"counts": "0"}, "does not fit"),
        ({"size": [5, 7]}, "got NoneType"),
        ({"size": [5, 7], "counts": [3, 5]}, "sum to 5 x 7"),
        ({"size": [5, 7], "counts": [40, -5]}, "sum to 5 x 7"),
        ({"size": [5, 7], "counts": ""}, "do not describe a mask"),
        ({"size": [5, 7], "counts": "3"}, "do not describe a mask"),
        ({"size": [5, 7], "counts": "PPP"}, "do not describe a mask"),
        ({"size": [5, 7], "counts": b"\xff\xff"}, "do not describe a mask"),
        ({"size": [5, 7], "counts": "o" * 20 + "0"}, "do not describe a mask"),
        ({"size": [5, 7], "counts": wrapping_counts(5 * 7)}, "do not describe a mask"),
        ([[1, 2, 3, 4, 5, 10**400]], "flat list of numbers"),
        ([[0, 0, 99999, 0, 0, 99999] * 50], "px around, expected at most"),
        (True, "x, y pairs"),
        ("polygons", "flat list of numbers"),
        ([None], "x, y pairs"),
        ([{}], "does not fit"),
    ],
)
def test_malformed_segmentations_are_named(segmentation: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        annotation_rle(segmentation, 5, 7)


def test_the_lavt_rule_keeps_what_exactly_one_part_covers() -> None:
    first, second, third = rectangle(0, 0, 4, 4), rectangle(2, 2, 6, 6), rectangle(3, 3, 5, 5)
    num_parts = np.zeros((6, 8), dtype=int)
    for x0, y0, x1, y1 in ((0, 0, 4, 4), (2, 2, 6, 6), (3, 3, 5, 5)):
        num_parts[y0:y1, x0:x1] += 1
    assert num_parts.max() == 3
    for parts in ([first, second, third], [encode(decode(annotation_rle([p], 6, 8))) for p in (first, second, third)]):
        np.testing.assert_array_equal(decode(annotation_rle(parts, 6, 8, "lavt")), num_parts == 1)
        np.testing.assert_array_equal(decode(annotation_rle(parts, 6, 8)), num_parts > 0)
    assert annotation_rle([first], 6, 8, "lavt") == annotation_rle([first], 6, 8)
    assert mask_area_px(annotation_rle([first, first], 6, 8, "lavt")) == 0


def test_union_of_masks() -> None:
    left, right = (annotation_rle([rectangle(x, 0, x + 3, 2)], 6, 8) for x in (0, 2))
    assert mask_area_px(union_rle([left, right], 6, 8)) == 10
    assert union_rle([left], 6, 8) == left == union_rle([left, left], 6, 8)
    assert union_rle([], 6, 8) == encode(np.zeros((6, 8), dtype=bool))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools' decode
@pytest.mark.parametrize("seed", range(30))
def test_round_trip_and_agreement_with_pycocotools(seed: int) -> None:
    mask = (
        np.random.default_rng(seed).random((seed + 1, 2 * seed + 3)) < seed / 30 if seed % 2 else blobs(seed, 300, 200)
    )
    rle = encode(mask)
    np.testing.assert_array_equal(decode(rle), mask)
    np.testing.assert_array_equal(coco_mask.decode({"size": rle["size"], "counts": rle["counts"].encode()}), mask)
    assert mask_area_px(rle) == mask.sum()


def test_short_runs_never_decode_to_uninitialised_memory() -> None:
    with pytest.raises(DataError, match="do not describe a mask of height 4 and width 4"):
        decode({"size": [4, 4], "counts": "35"})


def exact_coverage(mask: np.ndarray, grid: int) -> np.ndarray:
    """Return the coverage by rational arithmetic, pixel by pixel."""
    height, width = mask.shape

    def overlap(cell: int, pixel: int, size: int) -> Fraction:
        low, high = Fraction(cell * size, grid), Fraction((cell + 1) * size, grid)
        return max(Fraction(0), min(high, Fraction(pixel + 1)) - max(low, Fraction(pixel)))

    cells = [[Fraction(0)] * grid for _ in range(grid)]
    for y, x in zip(*np.nonzero(mask), strict=True):
        for i in range(grid):
            if rows := overlap(i, int(y), height):
                for j in range(grid):
                    cells[i][j] += rows * overlap(j, int(x), width)
    area = Fraction(height * width, grid * grid)
    return np.array([[float(cell / area) for cell in row] for row in cells])


@pytest.mark.parametrize(
    ("height", "width", "grid"), [(8, 8, 4), (9, 7, 4), (5, 11, 3), (3, 4, 8), (1, 1, 3), (13, 2, 5)]
)
def test_coverage_is_exact(height: int, width: int, grid: int) -> None:
    for seed in range(4):
        mask = np.random.default_rng(seed).random((height, width)) < 0.5
        np.testing.assert_array_equal(mask_to_grid(encode(mask), grid), exact_coverage(mask, grid).astype(np.float32))


def test_coverage_by_hand() -> None:
    mask = np.zeros((3, 3), dtype=bool)
    mask[1, 1] = mask[0, 0] = True
    # Cells of 1.5 px: the corner pixel lies whole in the first, the middle one is shared by all four.
    corner, quarter = (1 + 0.25) / 2.25, 0.25 / 2.25
    np.testing.assert_allclose(mask_to_grid(encode(mask), 2), [[corner, quarter], [quarter, quarter]], rtol=1e-7)


def test_coverage_of_empty_and_full_masks() -> None:
    for fill in (False, True):
        cells = mask_to_grid(encode(np.full((427, 640), fill)), 120)
        assert cells.dtype == np.float32 and (cells == fill).all()


def test_coverage_keeps_the_area() -> None:
    mask = blobs(3, 427, 640)
    assert mask_to_grid(encode(mask), 30).mean(dtype=np.float64) == pytest.approx(mask.mean(), rel=1e-6)


def test_coverage_mirrors_with_the_mask() -> None:
    mask = blobs(4, 427, 641)
    mirrored = mask_to_grid(encode(mask[:, ::-1]), 16)
    np.testing.assert_array_equal(mirrored, mask_to_grid(encode(mask), 16)[:, ::-1])


def test_many_masks_at_once() -> None:
    rles = [encode(blobs(seed % 3, 40 + seed % 2, 50)) for seed in range(8)]
    np.testing.assert_array_equal(grid_masks(rles, 8), np.stack([mask_to_grid(rle, 8) for rle in rles]))
    assert grid_masks([], 8).shape == (0, 8, 8)


NUMBERS = st.none() | st.integers(-200, 200) | st.integers() | st.floats() | st.text(max_size=3)
PARTS = (
    NUMBERS
    | st.lists(NUMBERS, max_size=8)
    | st.lists(st.floats(-50, 50), min_size=6, max_size=12)
    | st.fixed_dictionaries(
        {}, optional={"size": st.just([5, 7]) | NUMBERS, "counts": st.lists(NUMBERS) | st.text() | st.binary()}
    )
)


@given(PARTS | st.lists(PARTS, max_size=3), st.sampled_from(("union", "lavt")))
def test_random_segmentations_end_as_masks_or_as_the_error(segmentation: Any, mask_rule: MaskRule) -> None:
    try:
        rle = annotation_rle(segmentation, 5, 7, mask_rule)
    except DataError:
        return
    assert decode(rle).shape == (5, 7)


def test_the_box_around_a_mask_ends_behind_its_last_pixel() -> None:
    mask = np.zeros((10, 20), dtype=bool)
    mask[2, 5] = mask[6, 14] = True
    assert mask_box(encode(mask)) == (5 / 20, 2 / 10, 15 / 20, 7 / 10)
    assert mask_box(encode(np.ones((3, 4), dtype=bool))) == (0, 0, 1, 1)
    assert mask_box(encode(np.zeros((3, 4), dtype=bool))) is None


def test_cells_reach_another_size_by_the_centre_of_each_pixel() -> None:
    cells = np.array([[True, False], [False, False]])
    assert nearest(cells, 3, 4).tolist() == [[True, True, False, False], *[[False] * 4] * 2]
    big = np.random.default_rng(0).random((8, 8)) > 0.5
    for size in ((8, 8), (16, 40), (99, 31)):
        np.testing.assert_array_equal(mask_to_grid(encode(nearest(big, *size)), 8) > 0.5, big)
