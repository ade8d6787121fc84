"""Confidence by hand."""

from __future__ import annotations

import pytest
import torch

from l2l_ray.calibration import Curve
from l2l_ray.confidence import NO_CELL, estimated_iou, label_confidence, prediction_confidence

T, F = True, False


@pytest.mark.parametrize(
    ("mask", "probs", "expected"),
    [
        ([[T, F], [F, T]], [[0.8, 0.5], [0.1, 0.6]], (0.8 + 0.6) / (2 + 0.5 + 0.1)),
        ([[T, F], [F, F]], [[1.0, 0.0], [0.0, 0.0]], 1.0),  # sure of this very mask
        ([[T, F], [F, F]], [[0.0, 1.0], [1.0, 1.0]], 0.0),  # sure of all the rest
        ([[T, T], [T, T]], [[0.5, 0.5], [0.5, 0.5]], 0.5),
        ([[F, F], [F, F]], [[0.0, 0.0], [0.0, 0.0]], 0.0),  # empty, and sure of it
        ([[F, F], [F, F]], [[0.4, 0.4], [0.4, 0.4]], 0.0),
        ([[T]], [[0.75]], 0.75),
    ],
)
def test_by_hand(mask: list[list[bool]], probs: list[list[float]], expected: float) -> None:
    assert estimated_iou(torch.tensor(mask), torch.tensor(probs)).item() == pytest.approx(expected)


def test_each_mask_of_a_batch_has_its_own() -> None:
    mask = torch.tensor([[[T, F]], [[T, T]]])
    probs = torch.tensor([[[0.9, 0.1]], [[0.9, 0.1]]])
    assert estimated_iou(mask, probs).tolist() == pytest.approx([0.9 / 1.1, 1.0 / 2])
    assert estimated_iou(mask[None], probs[None]).shape == (1, 2)


def test_it_is_the_exact_iou_where_the_probabilities_are_the_truth() -> None:
    generator = torch.Generator().manual_seed(0)
    mask, truth = (torch.rand((20, 9, 7), generator=generator) < 0.4 for _ in range(2))
    iou = (mask & truth).sum((1, 2)) / (mask | truth).sum((1, 2))
    assert torch.allclose(estimated_iou(mask, truth.float()), iou)


def test_surer_probabilities_of_the_same_mask_give_more() -> None:
    mask = torch.tensor([[T, T, F, F]])
    values = [estimated_iou(mask, torch.tensor([[p, p, 1 - p, 1 - p]])).item() for p in (0.6, 0.8, 0.95)]
    assert values == sorted(values) and values[0] < 0.5 < values[-1]


def test_half_precision_is_added_up_in_full() -> None:
    probs = torch.full((100, 100), 0.75, dtype=torch.bfloat16)
    assert estimated_iou(torch.ones(100, 100, dtype=torch.bool), probs).item() == pytest.approx(0.75)


def test_an_estimate_nobody_knows_the_meaning_of_stays_as_it_is() -> None:
    logits = torch.tensor([[0.9, 0.6], [0.25, 0.25]]).logit()
    estimate = 1.5 / (2 + 0.5)
    assert prediction_confidence(None, logits, True) == pytest.approx(estimate)
    assert prediction_confidence(Curve((0.0, 1.0), (0.0, 0.5)), logits, True) == pytest.approx(estimate / 2)


def test_what_has_no_cell_has_the_lowest_confidence_whatever_a_curve_says_of_its_score() -> None:
    curve = Curve((0.0, 1.0), (0.4, 0.8))
    labels = torch.tensor([[[T, F]], [[F, F]]])
    assert label_confidence(curve, labels, torch.tensor([0.5, 0.5])).tolist() == pytest.approx([0.6, NO_CELL])
    assert prediction_confidence(curve, torch.tensor([[-1.0, -2.0]]), False) == NO_CELL
    # A cell above 0.5 of which no pixel of the photo is.
    assert prediction_confidence(curve, torch.tensor([[0.1, -9.0]]), False) == NO_CELL
