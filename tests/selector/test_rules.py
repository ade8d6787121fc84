from __future__ import annotations

import pytest
import torch

from l2l_ray.config import SelectorConfig
from l2l_ray.randomness import sample_key
from l2l_ray.selector.base import make_selector
from l2l_ray.selector.rules import certainty, mean_object_probs, pwa_weight
from l2l_ray.types import Candidate

T, F = True, False
RULES = "supervised accept_all fixed_threshold pwa matching agreement prior_label random_gate".split()


def select(name, evidence, **fields):
    selector = make_selector(SelectorConfig(name=name, **fields))
    return selector.select(evidence, list(range(len(evidence.mask_probs))))


@pytest.mark.parametrize("name", RULES)
def test_rules_keep_nothing(name):
    assert not make_selector(SelectorConfig(name=name)).state_dict()


def test_supervised_believes_nothing(bandit):
    selection = select("supervised", bandit(3)[0])
    assert not selection.accepted.any() and (selection.gate == 0).all()


def test_accept_all_takes_every_teacher_label(evidence_of):
    selection = select("accept_all", evidence_of(torch.tensor([[[0.9, 0.2], [0.4, 0.6]]])))
    assert (selection.source == Candidate.GUIDED).all() and (selection.pixel_weight == 1).all()
    assert selection.target.tolist() == [[[T, F], [F, T]]]
    assert selection.confidence.item() == pytest.approx((0.9 + 0.6) / (2 + 0.2 + 0.4))


def test_fixed_threshold_cuts_on_both_sides(evidence_of):
    evidence = evidence_of(torch.tensor([[[0.96, 0.94], [0.04, 0.06]]]))
    assert select("fixed_threshold", evidence, threshold=0.95).pixel_weight.tolist() == [[[1, 0], [1, 0]]]


def test_pwa_weights_are_those_of_semires():
    assert pwa_weight(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0.9386, 0.0384, 0.9386], abs=1e-4)
    rising = pwa_weight(torch.linspace(0.5, 1, 11))
    assert (rising.diff() > 0).all()


def test_pwa_uses_every_cell(evidence_of):
    selection = select("pwa", evidence_of(torch.tensor([[[0.5, 1.0], [0.0, 0.9]]])))
    assert selection.accepted.all()
    assert selection.pixel_weight[0, 0].tolist() == pytest.approx([0.0384, 0.9386], abs=1e-4)


def test_matching_takes_the_whole_candidate_or_falls_back(evidence_of):
    guided = torch.tensor([[[0.9, 0.9], [0.9, 0.1]]]).repeat(4, 1, 1)
    near = torch.tensor([[0.9, 0.9], [0.1, 0.1]])  # IoU 2/3
    far = torch.tensor([[0.1, 0.1], [0.9, 0.9]])  # IoU 1/4
    has_prior = torch.tensor([T, T, F, T])
    evidence = evidence_of(guided, proposal=torch.stack((near, far, near, 0 * near)), has_prior=has_prior)
    selection = select("matching", evidence, match_iou=0.5)
    assert selection.source.tolist() == [Candidate.PRIOR, *[Candidate.GUIDED] * 3]
    assert (selection.pixel_weight[0] == 1).all()
    assert selection.target[0].tolist() == [[T, T], [F, F]]
    for row in (1, 2, 3):
        assert torch.allclose(selection.pixel_weight[row], pwa_weight(guided[row]))
    assert (select("matching", evidence, match_iou=0.7).source == Candidate.GUIDED).all()


def test_agreement_by_hand(evidence_of):
    guided = torch.tensor([[[0.9, 0.9, 0.1], [0.9, 0.1, 0.1], [0.1, 0.1, 0.1]]]).repeat(3, 1, 1)
    unguided = torch.tensor([[[0.6, 0.6, 0.4], [0.4, 0.4, 0.4], [0.4, 0.4, 0.6]]]).repeat(3, 1, 1)  # IoU 2/4
    unguided[2] = 0.1
    proposal = torch.tensor([[[0.9, 0.1, 0.9], [0.9, 0.9, 0.9], [0.1, 0.1, 0.1]]]).repeat(3, 1, 1)
    has_prior = torch.tensor([T, F, T])
    selection = select("agreement", evidence_of(guided, unguided=unguided, proposal=proposal, has_prior=has_prior))
    assert selection.gate.tolist() == [1, 0, 0]
    # outside the proposal; labels differ at [1,0] and [2,2]; background inside the box is fine
    assert selection.accepted[0].tolist() == [[T, F, T], [F, T, T], [T, T, F]]
    assert not selection.accepted[1:].any()


def test_the_priors_own_mask_is_the_label_wherever_there_is_a_prior(evidence_of):
    guided = torch.tensor([[[0.9, 0.1], [0.1, 0.1]]]).repeat(2, 1, 1)
    proposal = torch.tensor([[[0.1, 0.1], [0.9, 0.6]]]).repeat(2, 1, 1)
    selection = select("prior_label", evidence_of(guided, proposal=proposal, has_prior=torch.tensor([T, F])))
    assert (selection.source == Candidate.PRIOR).all()
    assert selection.target.tolist() == [[[F, F], [T, T]], [[F, F], [F, F]]]
    assert selection.gate.tolist() == [1, 0] and selection.used.tolist() == [T, F]


def test_a_random_gate_opens_by_its_rate_and_the_keys_alone(evidence_of):
    evidence = evidence_of(torch.full((600, 2, 2), 0.9))
    keys = [sample_key(0, "label", number) for number in range(600)]
    gates = {rate: make_selector(SelectorConfig(name="random_gate", rate=rate)) for rate in (0.2, 0.6)}
    used = {rate: gate.select(evidence, keys).used for rate, gate in gates.items()}
    for rate, found in used.items():
        assert found.float().mean().item() == pytest.approx(rate, abs=0.08)  # four standard errors of 600 draws
    assert (used[0.6] | ~used[0.2]).all(), "a higher rate uses more, not others"
    assert torch.equal(gates[0.6].select(evidence, keys[::-1]).used, used[0.6].flip(0))
    other = [sample_key(1, "label", number) for number in range(600)]
    assert not torch.equal(gates[0.6].select(evidence, other).used, used[0.6])


def test_certainty_and_mean_object_probability_by_hand(evidence_of):
    probs = torch.tensor([[[0.9, 0.7], [0.2, 0.5]], [[0.1, 0.2], [0.3, 0.4]]])
    assert certainty(probs).flatten().tolist() == pytest.approx([0.9, 0.7, 0.8, 0.5, 0.9, 0.8, 0.7, 0.6])
    assert mean_object_probs(evidence_of(probs)).tolist() == pytest.approx([0.8, 0])
