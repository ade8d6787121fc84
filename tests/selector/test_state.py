from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from l2l_ray.selector.state import (
    STATE_CHANNELS,
    SUMMARY_CHANNELS,
    binary_entropy,
    boundary_distance,
    build_state,
    label_candidates,
    normalize_features,
    soft_iou,
)
from l2l_ray.types import Evidence


def channel(state, name):
    return state.maps[:, STATE_CHANNELS.index(name)]


def summary(state, name):
    return state.summary[:, SUMMARY_CHANNELS.index(name)]


def test_soft_iou_by_hand():
    first, second = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]]), torch.tensor([[[0.5, 0.5], [0.5, 0.0]]])
    assert soft_iou(first, second).item() == pytest.approx(1.0 / 2.0, abs=1e-5)
    assert soft_iou(first, first).item() == pytest.approx(1.0)
    empty = torch.zeros(1, 2, 2)
    assert soft_iou(empty, empty).item() == pytest.approx(1.0)
    assert soft_iou(empty, torch.ones(1, 2, 2)).item() == pytest.approx(0.0, abs=1e-5)


def test_entropy_is_in_bits_and_finite_at_the_ends():
    entropy = binary_entropy(torch.tensor([0.0, 0.5, 1.0, 0.25]))
    assert entropy.tolist() == pytest.approx([0.0, 1.0, 0.0, 0.811278], abs=1e-5)


def test_boundary_distance_by_hand():
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[:, 3:8, 3:8] = True  # reach is 12 // 4 = 3 cells
    row = boundary_distance(mask)[0, 5] * 3
    assert row.tolist() == [-3, -2, -1, 1, 2, 3, 2, 1, -1, -2, -3, -3]


@pytest.mark.parametrize(("full", "expected"), [(True, 1.0), (False, -1.0)])
def test_boundary_distance_of_full_and_empty_masks(full, expected):
    assert (boundary_distance(torch.full((2, 6, 6), full)) == expected).all()


def test_channels_by_hand(evidence_of):
    guided = torch.full((1, 4, 4), 0.75)
    guided[0, 0, 0] = 0.25
    evidence = evidence_of(
        guided,
        unguided=torch.full((1, 4, 4), 0.25),
        previous=guided - 0.25,
        proposal=torch.full((1, 4, 4), 0.9),
        prior_score=torch.tensor([0.5]),
    )
    state = build_state(evidence)
    assert channel(state, "guided")[0, 1, 1] == pytest.approx(0.5)
    assert channel(state, "prior_shift")[0, 1, 1] == pytest.approx(0.5)
    assert channel(state, "scored_proposal")[0, 1, 1] == pytest.approx(0.4)
    assert channel(state, "instability")[0, 1, 1] == pytest.approx(0.25)
    # label foreground, unguided says background; label background, unguided agrees
    assert channel(state, "unguided_support")[0, 1, 1] == pytest.approx(-0.5)
    assert channel(state, "unguided_support")[0, 0, 0] == pytest.approx(0.5)
    assert channel(state, "prior_support")[0, 0, 0] == pytest.approx(-0.8)
    assert channel(state, "prior_unguided_iou")[0, 2, 2] == pytest.approx(0.25 / 0.9, abs=1e-5)
    assert summary(state, "unguided_inside").item() == pytest.approx(0.25)
    assert summary(state, "prior_score").item() == pytest.approx(0.5)


def test_prediction_variance_reaches_one_when_predictions_contradict(evidence_of):
    ones, zeros = torch.ones(1, 4, 4), torch.zeros(1, 4, 4)
    state = build_state(evidence_of(ones, unguided=zeros, flipped=zeros, perturbed=ones))
    assert (channel(state, "prediction_variance") == 1).all()


def test_everything_is_bounded_float32_and_shaped(bandit):
    evidence, _ = bandit(6, seed=3)
    state = build_state(evidence)
    assert state.maps.shape == (6, len(STATE_CHANNELS), 16, 16)
    assert state.summary.shape == (6, len(SUMMARY_CHANNELS))
    assert state.maps.abs().max() <= 1 and state.summary.abs().max() <= 1
    half = Evidence(**{
        field.name: value.bfloat16() if value.is_floating_point() else value
        for field in fields(Evidence)
        for value in [getattr(evidence, field.name)]
    })  # fmt: skip
    assert build_state(half).maps.dtype == torch.float32


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_extreme_probabilities_stay_finite(evidence_of, value):
    state = build_state(evidence_of(torch.full((1, 5, 5), value)))
    assert state.maps.isfinite().all() and state.summary.isfinite().all()
    assert state.maps.abs().max() <= 1


def test_absent_prior_leaves_no_trace(bandit):
    evidence, _ = bandit(4, seed=1)
    absent = replace(evidence, has_prior=torch.zeros(4, dtype=torch.bool))
    other = replace(absent, proposal=torch.rand(4, 16, 16), prior_score=torch.rand(4))
    first, second = build_state(absent), build_state(other)
    assert torch.equal(first.maps, second.maps) and torch.equal(first.summary, second.summary)


def test_a_sample_does_not_see_its_batch(bandit, rows_of):
    evidence, _ = bandit(5, seed=2)
    whole, part = build_state(evidence), build_state(rows_of(evidence, [3]))
    assert torch.allclose(whole.maps[3:4], part.maps, atol=1e-6)
    assert torch.allclose(whole.summary[3:4], part.summary, atol=1e-6)


def test_mirrored_predictions_give_mirrored_maps(bandit):
    evidence, _ = bandit(3, seed=4)
    mirrored = Evidence(**{
        field.name: value.flip(-1) if value.dim() > 1 else value
        for field in fields(Evidence)
        for value in [getattr(evidence, field.name)]
    })  # fmt: skip
    assert torch.allclose(build_state(mirrored).maps.flip(-1), build_state(evidence).maps, atol=1e-6)


def test_candidates_differ_only_where_there_is_a_prior(evidence_of):
    guided = torch.tensor([[[0.9, 0.1], [0.9, 0.1]]]).repeat(2, 1, 1)
    proposal = torch.tensor([[[0.9, 0.9], [0.1, 0.1]]]).repeat(2, 1, 1)
    candidates = label_candidates(evidence_of(guided, proposal=proposal, has_prior=torch.tensor([True, False])))
    assert candidates.differs.tolist() == [[[False, True], [True, False]], [[False, False], [False, False]]]
    assert candidates.claimed[0].tolist() == [[True, True], [True, False]]
    assert candidates.claimed[1].tolist() == [[True, False], [True, False]]


def test_features_are_normalised_per_cell():
    features = normalize_features(torch.randn(2, 16, 3, 3) * 5 + 2)
    assert features.mean(1).abs().max() < 1e-5
    assert torch.allclose(features.square().mean(1), torch.ones(2, 3, 3), atol=1e-3)
