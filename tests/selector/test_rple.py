from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from l2l_ray.config import SelectorConfig
from l2l_ray.errors import DataError
from l2l_ray.randomness import sample_key
from l2l_ray.selector.base import make_selector
from l2l_ray.selector.rple import Rple, keyed_noise
from l2l_ray.selector.state import label_candidates
from l2l_ray.types import Action
from tests.selector.learning import STRICT, balanced_reward, seeded_selector, train

KEYS = [sample_key(0, "label", number) for number in range(64)]


def make_policy(seed: int = 0, width: int = 8, **fields) -> Rple:
    """Return a policy away from its start, so that nothing is trivially constant."""
    torch.manual_seed(seed)
    policy = Rple(SelectorConfig(hidden=8, **fields), width)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


@pytest.mark.parametrize("threshold", [0.7, 0.9])
def test_a_fresh_policy_is_the_fixed_threshold_rule(bandit, threshold):
    evidence, _ = bandit(8, seed=1)
    policy = Rple(SelectorConfig(threshold=threshold), 8)
    rule = make_selector(SelectorConfig(name="fixed_threshold", threshold=threshold), 8)
    mine, theirs = policy.select(evidence, KEYS[:8]), rule.select(evidence, KEYS[:8])
    assert torch.equal(mine.action, theirs.action)
    assert torch.equal(mine.pixel_weight, theirs.pixel_weight)


def test_prior_is_never_sampled_where_it_adds_nothing(bandit):
    evidence, _ = bandit(8, seed=2)
    evidence = replace(evidence, proposal=torch.rand(8, 16, 16), has_prior=torch.arange(8) < 4)
    differs = label_candidates(evidence).differs
    sampled = make_policy(label_temperature=5.0).select(evidence, KEYS[:8])
    assert not (sampled.action[~differs] == Action.PRIOR).any()


def test_samples_follow_the_distribution(bandit, rows_of):
    evidence, _ = bandit(1, grid=8, seed=3)
    policy = make_policy(label_temperature=1.0, gate=False)
    probs = policy.distribution(evidence).log_probs().exp()
    keys = [sample_key(1, number) for number in range(600)]
    actions = policy.select(rows_of(evidence, [0] * 600), keys).action
    share = torch.stack([(actions == member).float().mean(0) for member in Action])
    assert (share - probs[0]).abs().max() < 0.1  # five standard errors of 600 draws


def test_a_sample_does_not_depend_on_its_batch(bandit, rows_of):
    evidence, _ = bandit(6, seed=4)
    policy = make_policy(label_temperature=1.0)
    whole = policy.select(evidence, KEYS[:6])
    part = policy.select(rows_of(evidence, [5, 2]), [KEYS[5], KEYS[2]])
    assert torch.equal(whole.action[[5, 2]], part.action)
    assert torch.allclose(whole.gate[[5, 2]], part.gate, atol=1e-6)
    other = policy.select(rows_of(evidence, [5, 2]), [KEYS[7], KEYS[8]])
    assert not torch.equal(part.action, other.action)


def test_greedy_labels_ignore_the_keys(bandit):
    evidence, _ = bandit(4, seed=5)
    policy = make_policy()
    assert torch.equal(policy.select(evidence, KEYS[:4]).action, policy.select(evidence, KEYS[4:8]).action)


def test_a_shut_gate_drops_the_sample_and_stays_visible(bandit):
    evidence, _ = bandit(4, seed=6)
    policy = Rple(SelectorConfig(), 8)
    torch.nn.init.constant_(policy.gate_head.bias, -1.0)
    selection = policy.select(evidence, KEYS[:4])
    assert (selection.action == Action.IGNORE).all() and (selection.pixel_weight == 0).all()
    assert selection.gate.tolist() == pytest.approx([0.268941] * 4, abs=1e-5)
    ungated = Rple(SelectorConfig(gate=False), 8)
    torch.nn.init.constant_(ungated.gate_head.bias, -1.0)
    selection = ungated.select(evidence, KEYS[:4])
    assert (selection.gate == 1).all() and (selection.action != Action.IGNORE).any()


def test_log_prob_by_hand(evidence_of):
    policy = Rple(SelectorConfig(), 3)
    torch.nn.init.zeros_(policy.shortcut.weight)
    with torch.no_grad():
        policy.shortcut.bias.copy_(torch.tensor([0.0, torch.log(torch.tensor(3.0)).item(), -9.0]))
    selection = policy.select(evidence_of(torch.full((2, 4, 4), 0.8)), KEYS[:2])
    assert (selection.action == Action.TEACHER).all()
    assert selection.mean_log_prob.tolist() == pytest.approx([-0.287682] * 2, abs=1e-5)


def test_targets_are_the_labels_of_the_actions(bandit):
    evidence, _ = bandit(8, seed=7)
    evidence = replace(evidence, proposal=torch.rand(8, 16, 16))
    selection = make_policy(label_temperature=3.0).select(evidence, KEYS[:8])
    teacher, prior = selection.action == Action.TEACHER, selection.action == Action.PRIOR
    assert prior.any() and teacher.any()
    assert torch.equal(selection.target[teacher], (evidence.mask_probs > 0.5)[teacher])
    assert torch.equal(selection.target[prior], (evidence.proposal > 0.5)[prior])
    assert torch.equal(selection.pixel_weight > 0, teacher | prior)


def test_state_dict_round_trip(bandit):
    evidence, _ = bandit(3, seed=10)
    policy, other = make_policy(0), make_policy(1)
    assert not torch.equal(policy.select(evidence, KEYS[:3]).action, other.select(evidence, KEYS[:3]).action)
    other.load_state_dict(policy.state_dict())
    assert torch.equal(policy.select(evidence, KEYS[:3]).action, other.select(evidence, KEYS[:3]).action)


def test_ranking_follows_the_selection(bandit):
    evidence, _ = bandit(4, seed=11)
    policy = make_policy(gate=False)
    score, label = policy.ranking(evidence)
    selection = policy.select(evidence, KEYS[:4])
    accepted = selection.action != Action.IGNORE
    assert score.min() >= 0 and score.max() <= 1
    assert torch.equal(label[accepted], selection.target[accepted])
    assert score[accepted].min() > 1 / 3  # the likeliest of three actions


def test_noise_is_keyed():
    noise = keyed_noise([3, 4, 3], 5)
    assert torch.equal(noise[0], noise[2]) and not torch.equal(noise[0], noise[1])


def test_keys_must_match_the_batch(bandit):
    evidence, _ = bandit(2)
    with pytest.raises(DataError, match="one key per sample, got 1 keys for 2 samples"):
        make_policy().select(evidence, [1])


def _with(policy: Rple, **fields) -> Rple:
    changed = copy.deepcopy(policy)
    changed.config = policy.config.model_copy(update=fields)
    return changed


def test_kl_is_zero_at_the_reference_and_pulls_back(bandit):
    evidence, truth = bandit(4, seed=1)
    policy, world = seeded_selector(SelectorConfig(hidden=8)), [(evidence, truth, None)]
    # one inner epoch: the metric is taken before the first step
    first = train(_with(policy, kl=0.5, inner_epochs=1), world, 1, reference=policy)
    assert first["kl"] == pytest.approx(0.0, abs=1e-7)
    held = train(_with(policy, kl=5.0), world, 6, reference=policy)
    free = train(_with(policy, kl=1e-6), world, 6, reference=policy)
    assert 0 < held["kl"] < free["kl"]


def test_updates_are_a_function_of_the_seed(bandit):
    evidence, truth = bandit(4, seed=2)
    results = []
    for seed in (0, 0, 1):
        policy = seeded_selector(SelectorConfig(hidden=8))
        metrics = train(policy, [(evidence, truth, evidence)], 2, seed=seed)
        assert all(isinstance(value, float) for value in metrics.values())
        results.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_unlabeled_images_alone_move_the_policy_but_not_correctness(bandit):
    evidence, truth = bandit(4, seed=3)
    config = SelectorConfig(hidden=8)
    metrics = train(seeded_selector(config), [(evidence, truth, bandit(4, seed=4)[0])], 1)
    assert {"reward/correctness", "reward/agreement", "accepted_share", "entropy", "clip_fraction"} <= set(metrics)
    without = train(seeded_selector(config), [(evidence, truth, None)], 1)
    assert metrics["reward/agreement"] != without["reward/agreement"]


def test_the_policy_learns_to_beat_fixed_rules(bandit, worlds):
    config = SelectorConfig(gate=False, reward=STRICT)  # what is measured below counts all cells
    policy = seeded_selector(config)
    train(policy, worlds, 30, reference=copy.deepcopy(policy))
    evidence, truth = bandit(150, seed=999)
    earned, share = balanced_reward(policy, evidence, truth)
    fixed = {
        name: balanced_reward(make_selector(SelectorConfig(name=name), 8), evidence, truth)[0]
        for name in ("accept_all", "fixed_threshold", "pwa", "matching", "agreement")
    }
    assert earned > max(fixed.values()) + 0.1, fixed
    assert 0.05 < share < 0.98


@pytest.mark.parametrize("bias", [-4.0, 4.0])
def test_accepting_all_or_nothing_attracts_no_policy(bandit, worlds, bias):
    config = SelectorConfig(gate=False, reward=STRICT)  # what is measured below counts all cells
    policy = seeded_selector(config)
    with torch.no_grad():
        policy.shortcut.bias[Action.TEACHER] += bias
    evidence, truth = bandit(100, seed=998)
    _, start = balanced_reward(policy, evidence, truth)
    assert start in (0.0, 1.0)
    train(policy, worlds, 30)
    earned, share = balanced_reward(policy, evidence, truth)
    assert 0.05 < share < 0.98 and earned > 0.5
