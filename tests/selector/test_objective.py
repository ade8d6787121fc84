from __future__ import annotations

import pytest
import torch

from l2l_ray.config import RewardConfig, SelectorConfig
from l2l_ray.selector.network import PolicyNetwork, PolicyOutput
from l2l_ray.selector.objective import (
    clipped_surrogate,
    group_advantage,
    grpo_loss,
    make_rollout,
    sample_group,
    share_credit,
)
from l2l_ray.selector.reward import total_reward
from l2l_ray.types import Action

PLAIN = RewardConfig(agreement=0, consistency=0, coverage=0, utility=0)


def test_each_map_of_a_group_follows_the_policy():
    logits = torch.tensor([0.0, 1.0, -1.0]).view(1, 3, 1, 1).expand(400, 3, 6, 6)
    output = PolicyOutput(logits, torch.full((400,), 1.0))
    config = SelectorConfig(credit_radius=1, group_size=5)
    action, gate = sample_group(output, config, torch.Generator().manual_seed(0))
    probs = torch.softmax(logits[0, :, 0, 0], 0)
    for member in Action:
        share = (action == member).float().mean((1, 2, 3))
        assert torch.allclose(share, probs[member].expand(5), atol=0.05)  # 400 x 4 blocks
    assert torch.allclose(gate.float().mean(1), torch.sigmoid(torch.tensor(1.0)).expand(5), atol=0.1)


def test_a_group_spreads_evenly_over_the_actions():
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, Action.PRIOR] = -1e4
    action, _ = sample_group(PolicyOutput(logits, torch.zeros(1)), SelectorConfig(), torch.Generator().manual_seed(1))
    assert ((action == Action.TEACHER).sum(0) == 3).all()  # half of six, at every cell


@pytest.mark.parametrize("radius", [0, 1])
def test_blocks_explore_together(radius):
    output = PolicyOutput(torch.zeros(1, 3, 12, 12), torch.zeros(1))
    config = SelectorConfig(credit_radius=radius)
    action, _ = sample_group(output, config, torch.Generator().manual_seed(2))
    same = (action[..., 1:] == action[..., :-1]).float().mean().item()
    assert same == pytest.approx([1 / 3, 2 / 3 + 1 / 9][radius], abs=0.12)


def test_credit_is_shared_in_a_window():
    reward = torch.zeros(1, 1, 4, 4)
    reward[0, 0, 0, 0] = 1.0
    shared = share_credit(reward, 1)[0, 0]
    assert shared[0, 0].item() == pytest.approx(1 / 4)  # the window is cut at the corner
    assert shared[0, 1].item() == pytest.approx(1 / 6)
    assert shared[1, 1].item() == pytest.approx(1 / 9)
    assert shared[2, 2].item() == 0
    assert torch.equal(share_credit(reward, 0), reward)


def test_advantage_by_hand():
    reward = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).repeat(1, 1, 2, 2)
    reward[:, 0, 0] = 5.0  # no difference in the group: no advantage, however high
    advantage = group_advantage(reward)
    assert advantage[:, 0, 1, 0].tolist() == pytest.approx([2**0.5, -(2**0.5)])
    assert (advantage[:, 0, 0] == 0).all()


def test_equal_rewards_give_no_advantage_and_no_nan():
    assert (group_advantage(torch.full((4, 2, 3, 3), 7.0)) == 0).all()


def test_costs_survive_the_normalisation():
    reward = torch.tensor([[1.0, -2.0], [0.0, 0.0]]).view(2, 2, 1, 1)  # accept | ignore, a right and a wrong sample
    advantage = group_advantage(reward)
    assert advantage[0, 1].item() == pytest.approx(-2 * advantage[0, 0].item())


def test_surrogate_over_actions_equals_ppo_over_maps():
    generator = torch.Generator().manual_seed(3)
    old = torch.log_softmax(torch.randn((2, 3, 4, 4), generator=generator), 1)
    new = torch.log_softmax(torch.randn((2, 3, 4, 4), generator=generator), 1)
    action = torch.randint(0, 3, (5, 2, 4, 4), generator=generator)
    advantage = torch.randn((5, 2, 4, 4), generator=generator)
    ratio_of = (new - old).exp()
    ratio = torch.gather(ratio_of.expand(5, -1, -1, -1, -1), 2, action[:, :, None])[:, :, 0]
    ppo = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
    taken = [action == member for member in Action]
    positive = torch.stack([(advantage.clamp(min=0) * t).mean(0) for t in taken], 1)
    negative = torch.stack([(-advantage.clamp(max=0) * t).mean(0) for t in taken], 1)
    assert clipped_surrogate(ratio_of, positive, negative, 0.2).sum(1).mean().item() == pytest.approx(
        ppo.item(), abs=1e-6
    )


@pytest.mark.parametrize(("truth", "direction"), [(1.0, 1), (0.0, -1)])
def test_two_armed_bandit_gradient_sign(evidence_of, truth, direction):
    """Right labels become likelier, wrong ones less likely."""
    evidence = evidence_of(torch.full((2, 4, 4), 0.9), has_prior=torch.zeros(2, dtype=torch.bool))
    config = SelectorConfig(hidden=8, reward=PLAIN, credit_radius=0)
    policy = PolicyNetwork(config, 3)
    output = policy.distribution(evidence)
    action, gate = sample_group(output, config, torch.Generator().manual_seed(0))
    terms = total_reward(action, evidence, torch.full((2, 4, 4), truth) > 0.5, None, config)
    rollout = make_rollout(output, action, gate, terms, config)
    logits = output.action_logits
    logits.retain_grad()
    loss, _ = grpo_loss(output, rollout, None, config)
    loss.backward()
    assert (logits.grad[:, Action.TEACHER] * -direction > 0).all()
    assert (logits.grad[:, Action.IGNORE] * direction > 0).all()
    assert (logits.grad[:, Action.PRIOR] == 0).all()


def _gate_gradient(evidence, truth, known, action=None):
    """Return the gate logits' gradient when every cell of every sample is accepted, or under other actions."""
    config = SelectorConfig(hidden=8, reward=PLAIN)
    output = PolicyNetwork(config, 3).distribution(evidence)
    _, gate = sample_group(output, config, torch.Generator().manual_seed(0))
    accept_all = torch.ones((config.group_size, *evidence.mask_probs.shape), dtype=torch.long)
    action = accept_all if action is None else action.expand_as(accept_all)
    terms = total_reward(action, evidence, truth[:known], None, config)
    output.gate_logit.retain_grad()
    grpo_loss(output, make_rollout(output, action, gate, terms, config), None, config)[0].backward()
    return output.gate_logit.grad


def test_the_gate_opens_for_right_labels_and_shuts_for_wrong_ones(evidence_of):
    evidence = evidence_of(torch.full((3, 4, 4), 0.9), has_prior=torch.zeros(3, dtype=torch.bool))
    truth = torch.stack([torch.ones(4, 4), torch.zeros(4, 4), torch.ones(4, 4)]) > 0.5
    gradient = _gate_gradient(evidence, truth, known=2)
    assert gradient[0] < 0 < gradient[1]
    assert gradient[2] == 0, "a sample without truth does not move the gate"


def test_of_bad_labels_the_better_part_is_used(evidence_of):
    evidence = evidence_of(torch.full((4, 4, 4), 0.9), has_prior=torch.zeros(4, dtype=torch.bool))
    truth = torch.zeros(4, 4, 4, dtype=torch.bool)
    truth[0, :, :1], truth[3, :, :2] = True, True  # IoU 1/4, 0, 0: reward -1/2, -1, -1
    action = torch.ones(4, 4, 4, dtype=torch.long)
    action[3] = Action.IGNORE  # labels nothing
    gradient = _gate_gradient(evidence, truth, 4, action)
    assert gradient[0] < 0 and (gradient[1:3] > 0).all()
    assert gradient[3] == 0, "a label of nothing is neither good nor bad, and does not move the mean"


def test_labels_that_are_all_as_bad_do_not_shut_the_gate(evidence_of):
    evidence = evidence_of(torch.full((2, 4, 4), 0.9), has_prior=torch.zeros(2, dtype=torch.bool))
    assert (_gate_gradient(evidence, torch.zeros(2, 4, 4) > 0.5, known=2) == 0).all()
    assert (_gate_gradient(evidence, torch.ones(2, 4, 4) > 0.5, known=2) < 0).all(), "good ones open it"


def test_entropy_is_pushed_up_only_below_the_floor(evidence_of):
    evidence = evidence_of(torch.full((1, 4, 4), 0.9), has_prior=torch.zeros(1, dtype=torch.bool))
    config = SelectorConfig(hidden=8, reward=PLAIN, gate=False, entropy_floor=0.3, threshold=0.9)
    for bias, pushed in ((0.0, False), (6.0, True)):
        policy = PolicyNetwork(config, 3)
        with torch.no_grad():
            policy.shortcut.bias[Action.TEACHER] += bias
        output = policy.distribution(evidence)
        action, gate = sample_group(output, config, torch.Generator().manual_seed(0))
        terms = total_reward(action, evidence, torch.zeros(0, 4, 4, dtype=torch.bool), None, config)  # nothing to earn
        loss, _ = grpo_loss(output, make_rollout(output, action, gate, terms, config), None, config)
        loss.backward()
        assert (policy.shortcut.bias.grad[Action.TEACHER].item() > 0) is pushed
