from __future__ import annotations

import math

import pytest
import torch

from l2l_ray.selector.objective import (
    entropy,
    group_advantage,
    policy_loss,
    sample_group,
)

PROBS = torch.tensor([0.1, 0.2, 0.0, 0.7])


def test_each_member_of_a_group_is_a_sample_of_the_policy():
    drawn = sample_group(PROBS.expand(4000, 4), 5, torch.Generator().manual_seed(0))
    assert drawn.shape == (5, 4000)
    for value, prob in enumerate(PROBS.tolist()):
        share = (drawn == value).float().mean(1)
        error = 4 * math.sqrt(prob * (1 - prob) / 4000)  # four standard errors
        assert (share - prob).abs().max() <= error


@pytest.mark.parametrize("seed", range(5))
def test_a_group_spreads_evenly(seed):
    drawn = sample_group(PROBS.expand(50, 4), 10, torch.Generator().manual_seed(seed))
    for value, expected in enumerate((1, 2, 0, 7)):
        assert ((drawn == value).sum(0) - expected).abs().max() <= 1
    assert ((drawn == 0).sum(0) == 1).float().mean() > 0.9  # off only where a bound is met exactly


def test_rows_are_drawn_apart_and_by_the_seed():
    rows = torch.full((2, 3, 40, 2), 0.5)
    first, again, other = (sample_group(rows, 1, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.float().mean().item() == pytest.approx(0.5, abs=0.13)  # 240 draws, four standard errors
    assert not torch.equal(first[:, 0], first[:, 1])


def test_advantage_by_hand():
    reward = torch.tensor([[1.0, 5.0], [-1.0, 5.0]])
    # no difference in the second group: no advantage, however high; one deviation of all: sqrt((1 + 1 + 0 + 0) / 4)
    assert torch.allclose(group_advantage(reward), torch.tensor([[2**0.5, 0], [-(2**0.5), 0]]))


def test_equal_rewards_give_no_advantage_and_no_nan():
    assert (group_advantage(torch.full((4, 2, 3, 3), 7.0)) == 0).all()


def test_costs_survive_the_normalisation():
    advantage = group_advantage(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))  # use | leave out, of a right and a wrong one
    assert advantage[0, 1].item() == pytest.approx(-2 * advantage[0, 0].item())


def test_the_gradient_is_the_policy_gradient():
    logits = torch.tensor([0.3, -0.2, 1.0], requires_grad=True)
    choice, advantage = torch.tensor([0, 2, 2, 1]), torch.tensor([1.0, -0.5, 0.2, 2.0])
    loss = policy_loss(torch.softmax(logits, 0), choice, advantage)
    gradient = torch.autograd.grad(loss, logits)[0]
    probs = torch.softmax(logits, 0)
    expected = -(advantage[:, None] * (torch.eye(3)[choice] - probs)).mean(0)  # REINFORCE of a softmax
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_entropy_by_hand():
    found = entropy(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.25, 0.25, 0.5]]))
    assert found.tolist() == pytest.approx([math.log(2), 0, 1.5 * math.log(2)])


@pytest.mark.parametrize(("size", "least", "mean"), [(3, 0.92, 0.98), (6, 0.98, 0.998)])
def test_the_expected_step_points_where_the_expected_reward_grows(size: int, least: float, mean: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, values = torch.randn(200, 5, generator=generator), torch.rand(200, 5, generator=generator)
    probs = torch.softmax(scores, 1)
    exact = probs * (values - (probs * values).sum(1, keepdim=True))
    rows, num = probs.expand(4000, 200, 5).clone().requires_grad_(), 4000
    choice = sample_group(rows.detach(), size, generator)
    earned = values.expand(size, num, 200, 5).gather(3, choice[..., None])[..., 0]
    (of_probs,) = torch.autograd.grad(policy_loss(rows, choice, group_advantage(earned)), rows)
    step = -of_probs.sum(0) * probs
    step -= probs * step.sum(1, keepdim=True)  # through the softmax
    cosine = torch.nn.functional.cosine_similarity(step, exact)
    assert cosine.min() > least and cosine.mean() > mean
