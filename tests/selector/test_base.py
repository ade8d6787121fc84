from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from l2l_ray.confidence import estimated_iou
from l2l_ray.config import SelectorConfig
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.selector.base import (
    GRAD_CLIP,
    Decision,
    LabeledEvidence,
    UpdateBatch,
    make_selection,
    make_selector,
    take_step,
)
from l2l_ray.types import Candidate

T, F = True, False
PROBS = torch.tensor([[[0.9, 0.2], [0.7, 0.1]]])


def test_a_decision_is_by_default_the_whole_guided_label(evidence_of):
    selection = make_selection(evidence_of(PROBS), Decision(gate=torch.tensor([0.5])))
    assert selection.source.tolist() == [Candidate.GUIDED] and selection.source.dtype == torch.int8
    assert selection.target.tolist() == [[[T, F], [T, F]]]
    assert (selection.pixel_weight == 1).all() and selection.used.all()  # a gate of just 0.5 is open
    assert selection.mean_log_prob.tolist() == [0]
    assert selection.confidence.item() == pytest.approx((0.9 + 0.7) / (2 + 0.2 + 0.1))


def test_a_decision_may_take_another_candidate_and_part_of_it(evidence_of):
    evidence = evidence_of(PROBS, unguided=1 - PROBS)
    weight = torch.tensor([[[0.0, 0.5], [1.0, 0.0]]])
    decision = Decision(torch.tensor([0.8]), weight, torch.tensor([Candidate.UNGUIDED]), torch.tensor([-0.7]))
    selection = make_selection(evidence, decision)
    assert selection.target.tolist() == [[[F, T], [F, T]]]
    assert torch.equal(selection.pixel_weight, weight)
    assert selection.accepted.tolist() == [[[F, T], [T, F]]] and selection.used.all()
    assert selection.mean_log_prob.item() == pytest.approx(-0.7)
    assert torch.equal(selection.confidence, estimated_iou(selection.target, PROBS))


def test_a_shut_gate_leaves_the_sample_out_and_stays_visible(evidence_of):
    selection = make_selection(evidence_of(PROBS), Decision(torch.tensor([0.49])))
    assert (selection.pixel_weight == 0).all() and not selection.used.any()
    assert selection.gate.item() == pytest.approx(0.49) and selection.target.any()


def test_background_alone_is_not_used(evidence_of):
    background = (PROBS < 0.5).float()
    selection = make_selection(evidence_of(PROBS), Decision(torch.ones(1), background))
    assert selection.accepted.any() and not selection.used.any()


def test_keys_must_match_the_batch(bandit):
    evidence, _ = bandit(2)
    with pytest.raises(DataError, match="one key per sample, got 1 keys for 2 samples; make them with .*sample_key"):
        make_selector(SelectorConfig()).select(evidence, [1])


def test_settling_measures_the_share_of_labels_that_would_be_used(evidence_of):
    empty = torch.zeros_like(PROBS)
    parts = [LabeledEvidence(evidence_of(maps), maps) for maps in (PROBS, empty, torch.cat([PROBS, PROBS]))]
    metrics = make_selector(SelectorConfig(name="accept_all")).settle(parts, [])
    assert metrics == {"open_rate_labeled": 0.75}


def test_what_does_not_learn_says_so(evidence_of):
    batch = UpdateBatch(LabeledEvidence(evidence_of(PROBS), PROBS), None, torch.Generator())
    with pytest.raises(NotImplementedError, match="AcceptAll is registered with learns=True, but has no `update`"):
        make_selector(SelectorConfig(name="accept_all")).update(None, batch)


def test_a_step_by_what_is_no_number_is_refused_and_moves_nothing():
    layer = nn.Linear(1, 1, bias=False)
    before = layer.weight.item()
    optimizer = torch.optim.SGD(layer.parameters(), lr=2.0)
    with pytest.raises(ConfigError, match=r"gradient of a step is nan, expected a number; lower selector\.lr, got 2,"):
        take_step(layer, optimizer, math.nan * layer.weight.sum())
    assert layer.weight.item() == before


@pytest.mark.parametrize(("slope", "moved"), [(0.1, 0.1), (30.0, GRAD_CLIP)])
def test_a_step_is_no_longer_than_the_clip(slope, moved):
    layer = nn.Linear(1, 1, bias=False)
    before = layer.weight.item()
    take_step(layer, torch.optim.SGD(layer.parameters(), lr=1.0), slope * layer.weight.sum())
    assert before - layer.weight.item() == pytest.approx(moved, rel=1e-4)


@pytest.mark.parametrize(
    ("gate", "weight", "said"),
    [
        ([float("nan")], None, "a gate of nan"),
        ([1.5], None, "a gate of 1.5"),
        ([1.0], 1.5, "a weight of 1.5"),  # would wrap where it is stored
        ([1.0], -0.5, "a weight of -0.5"),
    ],
)
def test_what_is_no_share_is_refused(evidence_of, gate, weight, said):
    decision = Decision(torch.tensor(gate), None if weight is None else torch.full_like(PROBS, weight))
    with pytest.raises(ConfigError, match=rf"the selector gave {said}, expected numbers in \[0, 1\]"):
        make_selection(evidence_of(PROBS), decision)
