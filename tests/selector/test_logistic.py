from __future__ import annotations

import pytest
import torch

from l2l_ray.config import RewardConfig, SelectorConfig
from l2l_ray.selector.logistic import LogisticControl
from l2l_ray.selector.state import STATE_CHANNELS
from l2l_ray.types import Action
from tests.selector.learning import STRICT, balanced_reward, seeded_selector, train


def test_control_follows_its_probability(evidence_of):
    control = LogisticControl(SelectorConfig(name="logistic", reward=RewardConfig(wrong_cost=2.0)), 3)
    assert control.accept_prob == pytest.approx(2 / 3)
    guided = torch.tensor([[[0.9, 0.1], [0.9, 0.1]]])
    evidence = evidence_of(guided, proposal=torch.tensor([[[0.9, 0.9], [0.1, 0.1]]]))
    assert (control.select(evidence, [0]).action == Action.IGNORE).all()  # undecided
    torch.nn.init.constant_(control.pixel.bias, 1.0)
    assert (control.select(evidence, [0]).action == Action.TEACHER).all()
    torch.nn.init.constant_(control.pixel.bias, -1.0)
    selection = control.select(evidence, [0])  # surely wrong: the prior's label where it is another one
    assert selection.action.tolist() == [[[0, 2], [2, 0]]]
    assert selection.confidence.item() == pytest.approx((0.9 + 0.1) / (2 + 0.9 + 0.1))  # of the label: row 0


@pytest.mark.parametrize(("bias", "action"), [(0.1, 1), (-0.1, 2)])
def test_where_a_wrong_cell_costs_little_the_control_still_takes_the_likelier_label(evidence_of, bias, action):
    control = LogisticControl(SelectorConfig(name="logistic", reward=RewardConfig(wrong_cost=0.5)), 3)
    torch.nn.init.constant_(control.pixel.bias, bias)
    guided = torch.tensor([[[0.9, 0.1], [0.1, 0.9]]])
    evidence = evidence_of(guided, proposal=1 - guided)
    selection = control.select(evidence, [0])
    assert (selection.action == action).all()
    assert torch.equal(selection.target, control.ranking(evidence)[1])


def test_the_control_leaves_out_a_sample_whose_object_is_doubtful(evidence_of):
    control = LogisticControl(SelectorConfig(name="logistic", reward=RewardConfig(wrong_cost=2.0)), 3)
    torch.nn.init.constant_(control.pixel.weight[:, STATE_CHANNELS.index("guided")], -1.0)  # background is right
    evidence = evidence_of(torch.tensor([[[0.9, 0.01], [0.9, 0.01]], [[0.01, 0.01], [0.01, 0.01]]]))
    selection = control.select(evidence, [0, 1])
    assert selection.gate.tolist() == [0, 0]
    torch.nn.init.constant_(control.pixel.weight[:, STATE_CHANNELS.index("guided")], 1.0)  # objects are right
    selection = control.select(evidence, [0, 1])
    assert selection.gate.tolist() == [1, 0] and selection.action[0].tolist() == [[1, 0], [1, 0]]


def test_the_control_learns_from_the_same_images(bandit, worlds):
    config = SelectorConfig(name="logistic", reward=STRICT)
    control = seeded_selector(config)
    metrics = train(control, worlds, 30)
    evidence, truth = bandit(150, seed=999)
    earned, share = balanced_reward(control, evidence, truth)
    assert earned > 0.5 and 0.05 < share < 0.98
    assert metrics["accepted_precision"] > 0.95


def test_the_control_draws_nothing(bandit):
    evidence, truth = bandit(4, seed=2)
    results = []
    for seed in (0, 1):
        control = seeded_selector(SelectorConfig(name="logistic"))
        metrics = train(control, [(evidence, truth, evidence)], 2, seed=seed)
        assert all(isinstance(value, float) for value in metrics.values())
        results.append(torch.cat([p.detach().flatten() for p in control.parameters()]))
    assert torch.equal(*results) and results[0].abs().max() > 0
