"""IoU metrics against hand-computed tables; exact merging; sets with no-target expressions."""

import json
import pickle
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2l_ray.errors import DataError
from l2l_ray.intervals import BootstrapInterval, ratio_intervals
from l2l_ray.metrics import IouMeter, compare_figures


def meter(*rows: tuple[int, ...]) -> IouMeter:
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


# (sent_id, image_id, intersection, union, predicted): a good mask, a right "nothing here", a mask where nothing is, and
# "nothing" where something is.
MIXED = ((1, 1, 30, 40, 35), (2, 1, 0, 0, 0), (3, 2, 0, 20, 20), (4, 2, 0, 50, 0))


def test_no_target_figures_by_hand() -> None:
    found = meter(*MIXED).no_target_summary()
    assert found["gres_giou"] == pytest.approx((0.75 + 1 + 0 + 0) / 4)
    assert found["gres_ciou"] == 30 / (40 + 0 + 20 + 50)
    assert (found["n_acc"], found["t_acc"]) == (0.5, 0.5)
    assert found["gres_precision_at"] == {0.5: 0.5, 0.6: 0.5, 0.7: 0.5, 0.8: 0.0, 0.9: 0.0}
    assert (found["num_no_target"], found["num_target"]) == (2, 2)
    assert (found["empty_union_rule"], found["small_prediction_rule"]) == ("IoU 1, union 0", "none")
    json.dumps(found)


def test_small_predictions_count_as_empty_only_when_asked() -> None:
    found = meter(*MIXED, (5, 3, 8, 12, 10)).no_target_summary(min_predicted_px=21)
    # Sentence 3 is now right; sentence 5 loses its 8 px, and its union is the target's 10 px.
    assert found["n_acc"] == 1.0 and found["t_acc"] == pytest.approx(1 / 3)
    assert found["gres_giou"] == pytest.approx((0.75 + 1 + 1 + 0 + 0) / 5)
    assert found["gres_ciou"] == 30 / (40 + 0 + 0 + 50 + 10)
    assert found["small_prediction_rule"] == "below 21 px = empty"


def test_no_target_figures_where_there_is_nothing_to_judge() -> None:
    everywhere = meter((1, 1, 30, 40, 35)).no_target_summary()
    assert everywhere["n_acc"] is None and everywhere["t_acc"] == 1.0
    nowhere = meter((1, 1, 0, 0, 0)).no_target_summary()
    assert (nowhere["gres_giou"], nowhere["gres_ciou"], nowhere["n_acc"], nowhere["t_acc"]) == (1.0, 1.0, 1.0, None)
    assert not meter((1, 1, 30, 40, 35)).has_no_target() and meter(*MIXED).has_no_target()
    with pytest.raises(DataError, match="predicted_px in every row"):
        meter((1, 1, 30, 40)).no_target_summary()
    with pytest.raises(DataError, match="prediction 50 px are impossible"):
        meter((1, 1, 30, 40, 50))


def test_lavt_counts_an_empty_union_as_nothing() -> None:
    lavt = IouMeter(empty_union_iou=0.0)
    lavt.add(1, 1, 0, 0)
    lavt.add(2, 1, 1, 2)
    assert (lavt.summary()["mean_iou"], lavt.summary()["precision_at"][0.5]) == (0.25, 0.5)
    with pytest.raises(DataError, match=r"empty union as 1\.0 and 0\.0"):
        meter((3, 1, 1, 2)).merge(lavt)


def test_intervals_hold_their_figures_and_follow_images() -> None:
    rows = [(i, i // 2, 50 + i % 40, 100, 60 + i % 40) for i in range(60)]
    found, point = meter(*rows).intervals(), meter(*rows).summary()
    for name in ("overall_iou", "mean_iou"):
        assert found[name]["low"] < point[name] < found[name]["high"]
    assert found["precision_at"][0.5] == {"low": 1.0, "high": 1.0}
    one_image = meter(*((i, 1, 50 + i, 100, 60 + i) for i in range(10)))
    assert one_image.intervals()["mean_iou"] == {"low": None, "high": None}
    assert meter(*rows).no_target_intervals()["n_acc"] == {"low": None, "high": None}
    mixed = meter(*((i, i, 0, i % 2, i % 2) for i in range(8))).no_target_intervals()
    assert mixed["n_acc"] == {"low": 0.125, "high": 0.875}


def test_all_figures_of_two_meters_are_compared_in_the_same_draws() -> None:
    first = meter(*((i, i // 2, 50 + i % 40, 100) for i in range(60)))
    second = meter(*((i, i // 2, 40 + i % 30, 100) for i in range(60)))
    found, points = compare_figures(first, second, 2000), (first.summary(), second.summary())
    diffs = [row["iou"] - other["iou"] for row, other in zip(first.rows(), second.rows(), strict=True)]
    ids = [row["image_id"] for row in first.rows()]
    ((low, high),) = ratio_intervals([(diffs, [1] * 60)], ids, 2000)  # a difference of means is the mean difference
    assert found["mean_iou"] == pytest.approx((sum(diffs) / 60, low, high))
    assert found["overall_iou"] == pytest.approx(found["mean_iou"])  # all unions are as large
    share = points[0]["precision_at"][0.5] - points[1]["precision_at"][0.5]
    assert found["precision_at.0.5"].diff == pytest.approx(share) and share > 0
    with pytest.raises(DataError, match="60 and 59, of which 1 in one only"):
        compare_figures(first, meter(*((i, i // 2, 40, 100) for i in range(59))))
    nothing = compare_figures(meter((1, 1, 0, 0)), meter((1, 1, 0, 0)))  # no draw has a pixel
    assert set(nothing.values()) == {BootstrapInterval(0.0, None, None)}


def counts() -> st.SearchStrategy[tuple[int, ...]]:
    def row(target: int, predicted: int, share: float, image_id: int) -> tuple[int, ...]:
        both = int(min(target, predicted) * share)
        return image_id, both, target + predicted - both, predicted

    pixels = st.integers(0, 10**6) | st.just(0)
    return st.builds(row, pixels, pixels, st.floats(0, 1), st.integers(1, 5))


@given(st.lists(counts(), min_size=1, max_size=30), st.integers(1, 5), st.randoms(use_true_random=False))
def test_any_split_over_workers_gives_the_same_figures(
    found: list[Any], num_workers: int, order: random.Random
) -> None:
    rows = [(i, *row) for i, row in enumerate(found)]
    whole = meter(*rows)
    order.shuffle(rows)
    total = IouMeter()
    for part in [meter(*rows[i::num_workers]) for i in range(num_workers)]:
        total.merge(part)
    assert total.summary() == whole.summary()
    assert total.no_target_summary() == whole.no_target_summary()
    # The mask decides what is empty, so both names mean the same figure here.
    assert whole.no_target_summary()["gres_giou"] == whole.summary()["mean_iou"]
    assert whole.no_target_summary()["gres_ciou"] == whole.summary()["overall_iou"]
    assert total.intervals(50) == whole.intervals(50)
