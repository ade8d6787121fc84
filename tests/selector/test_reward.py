from __future__ import annotations

import numpy as np
import pytest
import torch

from l2l_ray.selector.candidates import candidates_of
from l2l_ray.selector.reward import (
    TERMS,
    TermWeights,
    cell_values,
    class_balance,
    decision_values,
    truth_ious,
    unlabeled_terms,
)
from l2l_ray.types import Candidate

T, F = True, False


def test_truth_iou_by_hand():
    masks = torch.tensor([[[[T, T], [F, F]], [[F, F], [F, F]], [[T, F], [T, F]]]])
    assert truth_ious(masks, torch.tensor([[[T, F], [T, F]]])).tolist() == [pytest.approx([1 / 3, 0, 1])]
    assert truth_ious(masks, torch.tensor([[[F, F], [F, F]]])).tolist() == [[0, 0, 0]]


def test_using_a_label_pays_above_the_gates_cost():
    values = decision_values(torch.tensor([[1.0, 0.5, 0.0]]), 0.6)
    assert values.tolist() == [pytest.approx([0, 0.4, -0.1, -0.6])]


def test_classes_weigh_the_same():
    weights = class_balance(torch.tensor([[[T, F], [F, F]]]))
    assert weights.tolist() == [[[2.0, pytest.approx(2 / 3)], [pytest.approx(2 / 3), pytest.approx(2 / 3)]]]
    assert weights.mean().item() == pytest.approx(1.0)


@pytest.mark.parametrize("value", [T, F])
def test_an_absent_class_leaves_its_weight_to_the_other(value):
    assert (class_balance(torch.full((1, 3, 3), value)) == 1).all()


def test_weight_of_a_tiny_object_is_capped():
    foreground = torch.zeros(1, 32, 32, dtype=torch.bool)
    foreground[0, 0, 0] = True
    assert class_balance(foreground).max().item() == pytest.approx(25.0)


def test_cell_values_by_hand():
    label, truth = torch.tensor([[[T, F], [F, F]]]), torch.tensor([[[T, T], [F, F]]])
    # label or truth: 2 of 4 cells, so every cell weighs 1; the second one is wrong
    assert cell_values(label, truth, 3.0).tolist() == [[[1, -3], [1, 1]]]
    label = torch.tensor([[[T, F], [F, F]]])
    # 1 of 4 cells: the object's weighs 2, the others 2/3
    assert cell_values(label, label, 3.0).flatten().tolist() == pytest.approx([2, *[2 / 3] * 3])
    wrong = torch.tensor([[[F, F], [F, F]]])
    assert cell_values(wrong, label, 3.0).flatten().tolist() == pytest.approx([-6, *[2 / 3] * 3])


def test_terms_without_truth_by_hand(evidence_of):
    left, top, full = (torch.tensor([m]) for m in ([[1.0, 0], [1, 0]], [[1.0, 1], [0, 0]], [[1.0, 1], [1, 1]]))
    evidence = evidence_of(left, unguided=top, flipped=full, proposal=full)
    terms = unlabeled_terms(candidates_of(evidence))[0]
    assert terms.shape == (len(Candidate), len(TERMS))
    # the prior's mask is everything; its own agreement is with the unguided prediction
    assert terms[:, 0].tolist() == pytest.approx([1 / 2, 1 / 2, 1, 1 / 2])
    # with unguided and flipped, itself left out: (1/3 + 1/2) / 2, 1/2, 1/2, (1/2 + 1) / 2
    assert terms[:, 1].tolist() == pytest.approx([5 / 12, 1 / 2, 1 / 2, 3 / 4])


def test_nothing_agrees_without_a_prior(evidence_of):
    evidence = evidence_of(torch.full((1, 3, 3), 0.9), has_prior=torch.tensor([F]))
    assert (unlabeled_terms(candidates_of(evidence))[..., 0] == 0).all()


def _line(seed=0, noise=0.0):
    """Return terms, values that follow them, and which of them count; what does not count is nonsense."""
    generator = torch.Generator().manual_seed(seed)
    terms = torch.rand((40, 6, 2), generator=generator)
    values = 0.1 + 0.6 * terms[..., 0] + 0.2 * terms[..., 1] + noise * torch.randn((40, 6), generator=generator)
    counts = torch.rand((40, 6), generator=generator) < 0.7
    return terms, torch.where(counts, values, 9.0), counts


def test_term_weights_are_those_of_least_squares():
    terms, values, counts = _line(noise=0.1)
    weights = TermWeights(ridge=1e-6)
    weights.observe(terms, values, counts)
    rows = np.concatenate([terms[counts].numpy(), np.ones((int(counts.sum()), 1))], 1)
    expected = np.linalg.lstsq(rows, values[counts].numpy(), rcond=None)[0]
    assert weights.weights.tolist() == pytest.approx(expected.tolist(), abs=1e-3)


def test_the_ridge_pulls_the_terms_and_hardly_the_constant():
    terms, values, counts = _line(noise=0.1)
    weights = TermWeights(ridge=0.5)
    weights.observe(terms, values, counts)
    rows = np.concatenate([terms[counts].numpy(), np.ones((int(counts.sum()), 1))], 1).astype(np.float64)
    penalty = len(rows) * np.diag([0.5, 0.5, 0.0005])
    expected = np.linalg.solve(rows.T @ rows + penalty, rows.T @ values[counts].numpy())
    assert weights.weights.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert weights.weights[0] < 0.3  # 0.6 without it


def test_later_batches_count_more():
    weights = TermWeights(decay=0.5, ridge=1e-6)
    terms = torch.zeros(1, 1, 2)
    for value in (0.0, 1.0):
        weights.observe(terms, torch.full((1, 1), value), torch.ones((1, 1), dtype=torch.bool))
    assert weights.weights[-1].item() == pytest.approx((0.25 * 0 + 0.5 * 1) / 0.75, abs=1e-4)


def test_without_labeled_images_there_is_no_opinion():
    weights, terms = TermWeights(), torch.rand(3, 6, 2)
    assert (weights.value(terms) == 0).all()
    weights.observe(terms, torch.ones(3, 6), torch.zeros((3, 6), dtype=torch.bool))
    assert (weights.value(terms) == 0).all()


def test_values_are_those_of_the_line_and_stay_in_range():
    terms, values, counts = _line()
    weights = TermWeights(ridge=1e-6)
    weights.observe(terms, values, counts)
    assert torch.allclose(weights.value(terms)[counts], values[counts], atol=1e-3)
    beyond = weights.value(torch.tensor([[[2.0, 2.0], [-2.0, 0.0]]]))
    assert beyond.tolist() == [[1, 0]]


def test_a_prior_that_is_often_wrong_is_trusted_less(bandit):
    found = []
    for share in (0.9, 0.5, 0.1):
        evidence, truth = bandit(60, seed=3, prior_right=share)
        known, weights = candidates_of(evidence), TermWeights()
        weights.observe(unlabeled_terms(known), truth_ious(known.masks, truth > 0.5), known.possible)
        found.append(weights.weights[TERMS.index("agreement")].item())
    assert found[0] > found[1] + 0.1 > found[2] + 0.2
