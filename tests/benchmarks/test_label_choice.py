"""Means over seeds of which labels selectors take: a seed without a used label has no figures of used labels."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import label_choice
from benchmarks.label_choice import ROWS, figures, order_figures, summarize
from l2l_ray.config import RunConfig


def test_a_seed_in_which_a_row_uses_no_label_counts_for_its_share_alone() -> None:
    names = ("auc", "iou_at_coverage", "right_at_coverage", "right_of_all", "object_precision", "object_recall")

    def seed(value: float) -> dict[str, dict[str, float]]:
        return {row: {"used": 0.5, **dict.fromkeys(names, value)} for row in ROWS}

    by_seed = {"0": seed(0.4), "1": seed(0.6), "2": seed(0.8)}
    by_seed["2"]["L2L, pixel by pixel"] = {"used": 0.0, "right_of_all": 0.8}
    found = summarize(by_seed)
    assert found["L2L"]["auc"] == pytest.approx(0.6) and found["L2L"]["num_using"] == 3
    without = found["L2L, pixel by pixel"]
    assert without["num_using"] == 2
    assert without["used"] == pytest.approx(1 / 3) and without["auc"] == pytest.approx(0.5)
    assert without["l2l_minus_this"]["auc"]["mean"] == pytest.approx(0.0)


def test_order_figures_by_hand() -> None:
    found = order_figures(np.array([0.9, 0.8, 0.3, 0.2, 0.1]), np.array([0.7, 0.3, 0.6, 0.0, 0.0]))
    # the surest two of five; of the six pairs of a right and a wrong label one is in the wrong order
    assert found == pytest.approx({"iou_at_coverage": 0.5, "right_at_coverage": 0.5, "auc": 5 / 6})
    wrong_way = order_figures(np.array([0.9, 0.8, 0.2, 0.1]), np.array([0.1, 0.2, 0.8, 0.9]))
    assert wrong_way["auc"] == 0.0 and order_figures(np.ones(4), np.array([0.1, 0.2, 0.8, 0.9]))["auc"] == 0.5


def test_labels_of_one_score_count_by_their_share_whatever_their_order() -> None:
    # Two of five are taken: that of 0.9, and one of the three of 0.5: mean IoU 0.3, one of them right.
    score, iou = np.array([0.5, 0.9, 0.5, 0.1, 0.5]), np.array([0.6, 0.8, 0.1, 1.0, 0.2])
    for order in ([0, 1, 2, 3, 4], [2, 4, 3, 1, 0]):
        found = order_figures(score[order], iou[order])
        assert found["iou_at_coverage"] == pytest.approx((0.8 + 0.3) / 2)
        assert found["right_at_coverage"] == pytest.approx((1 + 1 / 3) / 2)
    found = order_figures(np.ones(5), iou)  # a rule that accepts all: the figures of all labels
    assert found["iou_at_coverage"] == pytest.approx(iou.mean()) and found["right_at_coverage"] == pytest.approx(3 / 5)


def test_rules_that_settle_and_selectors_that_learn_are_measured(
    smoke: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("confidence gate", "L2L")
    monkeypatch.setattr(label_choice, "ROWS", {name: ROWS[name] for name in names})
    found = figures(smoke)
    assert set(found) == set(names)
    assert all(0 < row["used"] <= 1 and 0 <= row["right_of_all"] <= 1 for row in found.values())
