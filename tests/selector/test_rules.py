from __future__ import annotations

import pytest
import torch

from l2l_ray.config import SelectorConfig
from l2l_ray.selector.base import make_selector
from l2l_ray.selector.rules import pwa_weight
from l2l_ray.types import Action

RULES = ("supervised", "accept_all", "fixed_threshold", "pwa", "matching", "agreement")


def select(name, evidence, **fields):
    selector = make_selector(SelectorConfig(name=name, **fields), evidence.features.shape[1])
    return selector.select(evidence, list(range(len(evidence.mask_probs))))


@pytest.mark.parametrize("name", RULES)
def test_rules_have_no_parameters(name):
    assert not make_selector(SelectorConfig(name=name), 8).state_dict()


def test_supervised_believes_nothing(bandit):
    selection = select("supervised", bandit(3)[0])
    assert (selection.action == Action.IGNORE).all() and (selection.gate == 0).all()


def test_accept_all_takes_every_teacher_label(evidence_of):
    selection = select("accept_all", evidence_of(torch.tensor([[[0.9, 0.2], [0.4, 0.6]]])))
    assert (selection.action == Action.TEACHER).all() and (selection.pixel_weight == 1).all()
    assert selection.target.tolist() == [[[True, False], [False, True]]]
    assert selection.confidence.item() == pytest.approx((0.9 + 0.6) / (2 + 0.2 + 0.4))


def test_fixed_threshold_cuts_on_both_sides(evidence_of):
    evidence = evidence_of(torch.tensor([[[0.96, 0.94], [0.04, 0.06]]]))
    assert select("fixed_threshold", evidence, threshold=0.95).action.tolist() == [[[1, 0], [1, 0]]]


def test_pwa_weights_are_those_of_semires():
    assert pwa_weight(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0.9386, 0.0384, 0.9386], abs=1e-4)
    rising = pwa_weight(torch.linspace(0.5, 1, 11))
    assert (rising.diff() > 0).all()


def test_pwa_uses_every_cell(evidence_of):
    selection = select("pwa", evidence_of(torch.tensor([[[0.5, 1.0], [0.0, 0.9]]])))
    assert (selection.action == Action.TEACHER).all()
    assert selection.pixel_weight[0, 0].tolist() == pytest.approx([0.0384, 0.9386], abs=1e-4)


def test_matching_takes_the_whole_candidate_or_falls_back(evidence_of):
    guided = torch.tensor([[[0.9, 0.9], [0.9, 0.1]]]).repeat(4, 1, 1)
    near = torch.tensor([[0.9, 0.9], [0.1, 0.1]])  # IoU 2/3
    far = torch.tensor([[0.1, 0.1], [0.9, 0.9]])  # IoU 1/4
    has_prior = torch.tensor([True, True, False, True])
    evidence = evidence_of(guided, proposal=torch.stack((near, far, near, 0 * near)), has_prior=has_prior)
    selection = select("matching", evidence, match_iou=0.5)
    assert (selection.action[0] == Action.PRIOR).all() and (selection.pixel_weight[0] == 1).all()
    assert selection.target[0].tolist() == [[True, True], [False, False]]
    for row in (1, 2, 3):
        assert (selection.action[row] == Action.TEACHER).all()
        assert torch.allclose(selection.pixel_weight[row], pwa_weight(guided[row]))
    assert (select("matching", evidence, match_iou=0.7).action == Action.TEACHER).all()


def test_agreement_by_hand(evidence_of):
    guided = torch.tensor([[[0.9, 0.9, 0.1], [0.9, 0.1, 0.1], [0.1, 0.1, 0.1]]]).repeat(3, 1, 1)
    unguided = torch.tensor([[[0.6, 0.6, 0.4], [0.4, 0.4, 0.4], [0.4, 0.4, 0.6]]]).repeat(3, 1, 1)  # IoU 2/4
    unguided[2] = 0.1
    proposal = torch.tensor([[[0.9, 0.1, 0.9], [0.9, 0.9, 0.9], [0.1, 0.1, 0.1]]]).repeat(3, 1, 1)
    has_prior = torch.tensor([True, False, True])
    selection = select("agreement", evidence_of(guided, unguided=unguided, proposal=proposal, has_prior=has_prior))
    assert selection.gate.tolist() == [1, 0, 0]
    # outside the proposal; labels differ at [1,0] and [2,2]; background inside the box is fine
    assert selection.action[0].tolist() == [[1, 0, 1], [0, 1, 1], [1, 1, 0]]
    assert (selection.action[1:] == Action.IGNORE).all()
