"""IoU metrics against hand-computed tables; exact merging; the bootstrap."""

import json
import pickle
import random

import numpy as np
import pytest

from l2l_ray.errors import DataError
from l2l_ray.metrics import BootstrapInterval, IouMeter, compare, paired_bootstrap


def meter(*rows: tuple[int, int, int, int]) -> IouMeter:
    filled = IouMeter()
    for row in rows:
        filled.add(*row)
    return filled


def test_summary_by_hand() -> None:
    # IoU: 0.5, 0.9, 0, 1 (both empty), 0.7
    summary = meter((1, 1, 5, 10), (2, 1, 90, 100), (3, 2, 0, 40), (4, 2, 0, 0), (5, 3, 7, 10)).summary()
    assert summary["num"] == 5
    assert summary["overall_iou"] == 102 / 160
    assert summary["mean_iou"] == pytest.approx((0.5 + 0.9 + 0 + 1 + 0.7) / 5, abs=1e-15)
    assert summary["precision_at"] == {0.5: 4 / 5, 0.6: 3 / 5, 0.7: 3 / 5, 0.8: 2 / 5, 0.9: 2 / 5}
    json.dumps(summary)


@pytest.mark.parametrize(
    ("intersection", "union", "expected"),
    [(0, 0, 1.0), (0, 1, 0.0), (1, 1, 1.0), (0, 307_200, 0.0), (307_200, 307_200, 1.0)],
)
def test_corner_cases(intersection: int, union: int, expected: float) -> None:
    one = meter((1, 1, intersection, union))
    assert one.rows()[0]["iou"] == expected
    assert one.summary()["overall_iou"] == expected
    assert one.summary()["mean_iou"] == expected


@pytest.mark.parametrize("tenths", [5, 6, 7, 8, 9])
def test_precision_counts_equality(tenths: int) -> None:
    for union in (10, 30, 70, 1230):
        precision = meter((1, 1, union * tenths // 10, union)).summary()["precision_at"]
        assert precision == {t: float(t <= tenths / 10) for t in (0.5, 0.6, 0.7, 0.8, 0.9)}


def test_rows_are_sorted_and_pickle() -> None:
    filled = meter((9, 1, 1, 4), (2, 1, 3, 3))
    assert filled.rows() == [
        {"sent_id": 2, "image_id": 1, "intersection_px": 3, "union_px": 3, "iou": 1.0},
        {"sent_id": 9, "image_id": 1, "intersection_px": 1, "union_px": 4, "iou": 0.25},
    ]
    assert pickle.loads(pickle.dumps(filled)).rows() == filled.rows()


def test_merging_is_exact_in_any_order() -> None:
    rng = random.Random(0)
    rows = [(i, i // 3, u // 3, u) for i in range(500) for u in [rng.randrange(1, 10**6)]]
    whole = meter(*rows).summary()
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        parts = [meter(*rows[i::4]) for i in range(4)]
        total = IouMeter()
        for part in parts:
            total.merge(part)
        total.merge(parts[0])  # a shard delivered twice
        assert total.summary() == whole


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(DataError, match="sent_id 1.*impossible"):
        meter((1, 1, 5, 4))
    with pytest.raises(DataError, match="impossible"):
        meter((1, 1, -1, 4))
    with pytest.raises(DataError, match="sent_id 1 was evaluated twice"):
        meter((1, 1, 2, 4), (1, 1, 3, 4))
    with pytest.raises(DataError, match="without rows"):
        IouMeter().summary()


def test_bootstrap_of_equal_methods_is_zero() -> None:
    rows = [(i, i // 2, i, 100) for i in range(40)]
    assert compare(meter(*rows), meter(*rows)) == BootstrapInterval(0.0, 0.0, 0.0)


def test_bootstrap_of_a_constant_difference_has_no_width() -> None:
    first = meter(*((i, i // 2, 75, 100) for i in range(40)))
    second = meter(*((i, i // 2, 50, 100) for i in range(40)))
    assert compare(first, second) == pytest.approx((0.25, 0.25, 0.25))
    assert compare(second, first) == pytest.approx((-0.25, -0.25, -0.25))


def test_bootstrap_matches_the_analytic_interval() -> None:
    rng = np.random.default_rng(0)
    ious = rng.integers(0, 1001, size=400)
    first = meter(*((i, i, int(iou), 1000) for i, iou in enumerate(ious)))
    second = meter(*((i, i, 0, 1000) for i in range(400)))
    diff, low, high = compare(first, second)
    error = ious.std() / 1000 / 20
    assert diff == pytest.approx(ious.mean() / 1000)
    assert low == pytest.approx(diff - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(diff + 1.96 * error, abs=0.1 * error)


def test_bootstrap_resamples_images_not_sentences() -> None:
    # 10 images of 40 sentences that agree within an image: the interval must be that of 10 values, not of 400.
    better = [100 if image % 2 else 0 for image in range(10)]
    first = meter(*((i, i // 40, better[i // 40], 100) for i in range(400)))
    second = meter(*((i, i // 40, 50, 100) for i in range(400)))
    by_image = compare(first, second)
    by_sentence = compare(
        meter(*((i, i, better[i // 40], 100) for i in range(400))), meter(*((i, i, 50, 100) for i in range(400)))
    )
    assert by_image.diff == by_sentence.diff == 0
    assert by_image.high > 5 * by_sentence.high


def test_bootstrap_is_seeded_and_checks_its_input() -> None:
    first, second = meter((1, 1, 1, 3), (2, 2, 2, 3), (3, 3, 3, 3)), meter((1, 1, 0, 3), (2, 2, 2, 3), (3, 3, 1, 3))
    assert compare(first, second, 700, seed=1) == compare(first, second, 700, seed=1)
    with pytest.raises(DataError, match=r"same sentences.*first ids: \[3\]"):
        compare(first, meter((1, 1, 0, 3), (2, 2, 2, 3)))
    with pytest.raises(DataError, match="one value per sentence"):
        compare(IouMeter(), IouMeter())
    with pytest.raises(ValueError, match="level"):
        paired_bootstrap([1.0], [0.0], [1], level=95.0)
    with pytest.raises(DataError, match=r"shapes \(2,\), \(1,\) and \(2,\)"):
        paired_bootstrap([1.0, 0.0], [0.0], [1, 2])


def test_bootstrap_takes_seed_means_and_image_names() -> None:
    first, second, images = np.array([0.25, 0.5, 1.0]), np.array([0.0, 0.5, 0.25]), ["val1", "val1", "testA1"]
    diff, low, high = paired_bootstrap(first, second, images)
    assert diff == pytest.approx(1 / 3)
    # The draws: both images, or twice val1, or twice testA1.
    assert (low, high) == pytest.approx((0.125, 0.75))
