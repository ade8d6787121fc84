from __future__ import annotations

import math

import pytest
import torch

from l2l_ray.selector.objective import (
    clipped_loss,
    entropy,
    floor_loss,
    group_advantage,
    kl_divergence,
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


def test_clipped_loss_by_hand():
    ratios = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1])
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0, 1.0])
    old = torch.tensor([-0.3, -1.0, -0.2, -0.1, -2.0])
    log_probs = (old + ratios.log()).requires_grad_()
    loss = clipped_loss(log_probs, old, advantage, 0.2)
    # what has moved too far in its own favour is cut: 1.2 * 2 and 0.8 * -2
    assert loss.item() == pytest.approx(-(2.4 - 3.0 + 1.0 - 1.6 + 1.1) / 5)
    loss.backward()
    assert log_probs.grad.tolist() == pytest.approx([0, 3 / 5, -1 / 5, 0, -1.1 / 5], abs=1e-6)


def test_at_the_start_the_gradient_is_the_policy_gradient():
    logits = torch.tensor([0.3, -0.2, 1.0], requires_grad=True)
    choice, advantage = torch.tensor([0, 2, 2, 1]), torch.tensor([1.0, -0.5, 0.2, 2.0])
    log_probs = torch.log_softmax(logits, 0)[choice]
    loss = clipped_loss(log_probs, log_probs.detach(), advantage, 0.2)
    gradient = torch.autograd.grad(loss, logits)[0]
    probs = torch.softmax(logits, 0)
    expected = -(advantage[:, None] * (torch.eye(3)[choice] - probs)).mean(0)  # REINFORCE of a softmax
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_entropy_by_hand():
    found = entropy(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.25, 0.25, 0.5]]))
    assert found.tolist() == pytest.approx([math.log(2), 0, 1.5 * math.log(2)])


def test_entropy_is_pushed_up_only_below_the_floor():
    logits = torch.tensor([[0.0, 0.0], [6.0, 0.0]], requires_grad=True)
    probs = torch.softmax(logits, 1)
    loss = floor_loss(probs, 0.3)
    assert loss.item() == pytest.approx((0 + 0.3 - entropy(probs)[1].item()) / 2)
    gradient = torch.autograd.grad(loss, logits)[0]
    assert (gradient[0] == 0).all() and gradient[1, 0] > 0 > gradient[1, 1]


def test_kl_by_hand():
    policy, reference = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(policy, reference).item() == pytest.approx(expected / 2)  # mean over rows; the second is 0
    assert kl_divergence(reference, policy).item() != pytest.approx(expected / 2, abs=1e-3)
