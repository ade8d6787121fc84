"""AUC and risk by coverage against numbers worked out by hand, ties included."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2l_ray.loop.inference.ordering import NUM_STEPS, auc, ordering, risks

IOUS = np.array([0.9, 0.6, 0.3, 0.0])


@pytest.mark.parametrize(
    ("scores", "right", "expected"),
    [
        ([0.9, 0.8, 0.2], [1, 1, 0], 1.0),
        ([0.1, 0.2, 0.8], [1, 1, 0], 0.0),
        ([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0], 3.5 / 4),  # one of four pairs is tied: half
        ([0.9, 0.5, 0.7, 0.1], [1, 1, 0, 0], 3 / 4),
        ([1.0, 1.0, 0.0, 0.0, 0.0], [1, 0, 1, 0, 0], (1 + 1 + 0.5 + 0 + 0.5 + 0.5) / 6),  # a gate of 0 and 1
        ([0.5, 0.5], [1, 0], None),  # a constant score orders nothing
        ([0.9, 0.5], [1, 1], None),
        ([0.9, 0.5], [0, 0], None),
        ([], [], None),
    ],
)
def test_auc_by_hand(scores: list[float], right: list[int], expected: float | None) -> None:
    found = auc(np.array(scores), np.array(right, bool))
    assert found == (None if expected is None else pytest.approx(expected))


def test_risk_from_the_surest_label_down() -> None:
    # taken as 0.6, 0.9, 0.0, 0.3: risks 0.4, (0.4 + 0.1) / 2, (0.5 + 1) / 3, (1.5 + 0.7) / 4
    assert risks(np.array([0.7, 0.8, 0.1, 0.6]), IOUS).tolist() == pytest.approx([0.4, 0.25, 0.5, 0.55])


def test_equal_scores_count_with_their_mean() -> None:
    # 0.9 and 0.3 are tied behind 0.6: each has an expected risk of (0.1 + 0.7) / 2
    assert risks(np.array([0.5, 0.8, 0.5, 0.1]), IOUS).tolist() == pytest.approx([0.4, 0.4, 0.4, 0.55])


def test_area_and_excess_by_hand() -> None:
    found = ordering(IOUS, {"gate": np.array([0.7, 0.8, 0.1, 0.6])})
    best = (0.1 + 0.25 + 0.4 + 0.55) / 4
    area = (0.4 + 0.25 + 0.5 + 0.55) / 4
    assert found["best"]["area"] == pytest.approx(best) and found["random"]["area"] == pytest.approx(0.55)
    assert found["gate"]["area"] == pytest.approx(area)
    assert found["gate"]["excess"] == pytest.approx(area - best)
    assert found["gate"]["relative_excess"] == pytest.approx((area - best) / (0.55 - best))
    assert found["gate"]["auc"] == 1.0  # 0.9 and 0.6 have 0.7 and 0.8, the two that are not right 0.1 and 0.6


def test_the_best_order_has_no_excess_and_the_worst_more_than_a_random_one() -> None:
    found = ordering(IOUS, {"as true": IOUS / 2, "upside down": -IOUS})
    assert found["as true"]["excess"] == 0.0 and found["as true"]["relative_excess"] == 0.0
    assert found["upside down"]["relative_excess"] > 1
    assert found["upside down"]["risk"][-1] == found["as true"]["risk"][-1] == pytest.approx(0.55)


def test_curves_are_kept_at_shares_of_the_labels() -> None:
    ious = np.linspace(1, 0, 2 * NUM_STEPS)
    found = ordering(ious, {"gate": ious})
    assert found["coverage"][0] == 1 / NUM_STEPS and found["coverage"][-1] == 1.0
    assert found["gate"]["risk"] == pytest.approx(risks(ious, ious)[1::2])
    few = ordering(IOUS, {"gate": IOUS})["gate"]["risk"]  # 5 to 25 % of four labels is the first one
    assert few[:5] == pytest.approx([0.1] * 5) and few[5:7] == pytest.approx([0.25] * 2) and len(few) == NUM_STEPS


def test_a_constant_score_has_no_figures() -> None:
    assert set(ordering(IOUS, {"gate": np.ones(4)})["gate"].values()) == {None}


def test_labels_that_are_all_alike_have_no_share_of_excess() -> None:
    found = ordering(np.full(3, 0.75), {"gate": np.array([0.1, 0.2, 0.3])})["gate"]
    assert (found["auc"], found["excess"], found["relative_excess"]) == (None, 0.0, None)


def test_figures_are_the_same_in_any_order_of_the_labels() -> None:
    ious, gate = np.array([0.9, 0.1, 0.7, 0.35, 1 / 3]), np.array([0.5, 0.5, 0.5, 0.2, 0.8])
    orders = itertools.permutations(range(5))
    found = [ordering(ious[list(o)], {"gate": gate[list(o)]}) for o in orders]
    assert all(one == found[0] for one in found)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    scores, right = np.array([float(score) for score, _ in rows]), np.array([is_right for _, is_right in rows])
    pairs = [(a > b) + (a == b) / 2 for a in scores[right] for b in scores[~right]]
    found = auc(scores, right)
    if pairs and len(set(scores)) > 1:
        assert found == pytest.approx(sum(pairs) / len(pairs))
    else:
        assert found is None
