from __future__ import annotations

import pytest
import torch

from l2l_ray.config import RewardConfig, SelectorConfig
from l2l_ray.selector.base import LabeledEvidence
from l2l_ray.selector.candidates import candidates_of
from l2l_ray.selector.network import prepare
from l2l_ray.selector.reward import TERMS, TermWeights, truth_ious, unlabeled_terms
from l2l_ray.types import Candidate
from tests.selector.learning import earned, seeded_selector, settled, train

FAST = {"hidden": 8, "lr": 1e-2}


def parameters(selector):
    """Return all parameters as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in selector.parameters()])


def boxes(evidence_of, truth_columns, **given):
    """Return evidence whose every candidate is the first four of eight columns, and a truth of some columns."""
    probs = torch.full((4, 8, 8), 0.05)
    probs[:, :, :4] = 0.8
    truth = torch.zeros(4, 8, 8)
    truth[:, :, :truth_columns] = 1
    return evidence_of(probs, **given), truth


@pytest.mark.parametrize(("gate_margin", "direction"), [(-0.1, 1), (0.1, -1)])
def test_a_label_becomes_likelier_exactly_where_its_iou_exceeds_its_cost(evidence_of, gate_margin, direction):
    evidence, truth = boxes(evidence_of, 2)  # IoU 1/2, so a label costs that and the margin
    policy = seeded_selector(SelectorConfig(reward=RewardConfig(gate_margin=gate_margin), **FAST))
    metrics = train(policy, [(evidence, truth, None)], 2)
    assert ((policy.select(evidence, range(4)).gate - 0.5) * direction > 0.01).all()  # the first batch starts half open
    assert metrics["reward/label"] * direction > 0


@pytest.mark.parametrize(("wrong_cost", "direction"), [(0.2, 1), (5.0, -1)])
def test_a_cell_becomes_likelier_where_it_is_right_often_enough(evidence_of, wrong_cost, direction):
    evidence, truth = boxes(evidence_of, 4)
    truth[:2, :, :4] = 0  # right in two samples of four: pays below a cost of 1
    policy = seeded_selector(SelectorConfig(cells=True, reward=RewardConfig(wrong_cost=wrong_cost), **FAST))
    inside = torch.zeros(8, dtype=torch.bool)
    inside[:3] = True

    def keeps():
        inputs = prepare(evidence)
        return policy.keep_logits(inputs, inputs.candidates.masks[:, 0])[:, :, inside].mean().item()

    before = keeps()
    train(policy, [(evidence, truth, None)], 4)
    assert (keeps() - before) * direction > 0.01


@pytest.mark.parametrize("name", ["l2l", "scorer"])
def test_cells_of_good_labels_are_kept_where_most_labels_are_wrong(evidence_of, name):
    probs = torch.full((8, 8, 8), 0.05)
    probs[:, 2:6, 2:6] = torch.tensor([0.95, 0.95, 0.95, 0.6, 0.6, 0.6, 0.6, 0.6])[:, None, None]
    truth = (probs > 0.5).float()
    truth[3:] = truth[3:].roll(4, dims=2)  # the less sure ones lie on another object
    policy = seeded_selector(SelectorConfig(name=name, cells=True, reward=RewardConfig(wrong_cost=3.0), **FAST))
    train(policy, [(evidence_of(probs), truth, None)], 60)
    policy.settle([LabeledEvidence(evidence_of(probs), truth)], [])
    selection = policy.select(evidence_of(probs), range(8))
    assert selection.used.tolist() == [True] * 3 + [False] * 5
    assert torch.equal(selection.accepted[:3] & selection.target[:3], truth[:3] > 0.5)


def test_with_cells_off_only_labels_are_learned(bandit):
    evidence, truth = bandit(8, seed=1)
    policy = seeded_selector(SelectorConfig(cells=False, **FAST))
    start = {name: value.clone() for name, value in policy.state_dict().items()}
    train(policy, [(evidence, truth, None)], 3)
    moved = {name for name, value in policy.state_dict().items() if not torch.equal(value, start[name])}
    assert {"linear.weight", "linear.bias", "score.weight"} <= moved
    assert not any(name.startswith("cell") for name in moved)


def test_updates_are_a_function_of_the_seed(bandit):
    evidence, truth = bandit(8, seed=2)
    results = []
    for seed in (0, 0, 1):
        policy = seeded_selector(SelectorConfig(hidden=8))
        metrics = train(policy, [(evidence, truth, evidence)], 2, seed=seed)
        assert all(isinstance(value, float) for value in metrics.values())
        results.append(parameters(policy))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_unlabeled_images_are_rewarded_by_what_the_terms_say(bandit):
    evidence, truth = bandit(8, seed=3)
    other, _ = bandit(8, seed=4)
    world = [(evidence, truth, other)]
    moved = {}
    for weight in (0.0, 0.3, 0.6):
        policy = seeded_selector(SelectorConfig(reward=RewardConfig(unlabeled=weight), **FAST))
        metrics = train(policy, world, 1)
        moved[weight] = parameters(policy)
        assert (metrics["reward/unlabeled"] != 0) == (weight > 0)
        assert {f"term/{name}" for name in TERMS} <= set(metrics)
    assert not torch.equal(moved[0.0], moved[0.3]) and not torch.equal(moved[0.3], moved[0.6])
    alone = seeded_selector(SelectorConfig(reward=RewardConfig(unlabeled=0.0), **FAST))
    train(alone, [(evidence, truth, None)], 1)
    assert torch.equal(moved[0.0], parameters(alone)), "weight 0 removes the unlabeled images"


def test_a_prior_that_is_often_wrong_is_trusted_less(bandit):
    trust = {}
    for share in (0.9, 0.1):
        policy = seeded_selector(SelectorConfig(**FAST))
        worlds = [(*bandit(16, seed=seed, prior_right=share), None) for seed in range(4)]
        trust[share] = train(policy, worlds, 8)["term/agreement"]
    assert trust[0.9] > 0.1 > trust[0.1]


def test_a_batch_without_any_label_does_no_harm(evidence_of):
    evidence = evidence_of(torch.full((4, 8, 8), 0.2))
    policy = seeded_selector(SelectorConfig(**FAST))
    train(policy, [(evidence, torch.zeros(4, 8, 8), evidence)], 2)
    assert parameters(policy).isfinite().all()


def test_state_dict_round_trip(bandit, worlds):
    policy = seeded_selector(SelectorConfig(**FAST))
    train(policy, worlds, 6)
    settled(policy, worlds)
    other = seeded_selector(SelectorConfig(**FAST), seed=1)
    other.load_state_dict(policy.state_dict())
    assert other.gate_shift.item() == policy.gate_shift.item() != 0
    assert torch.equal(other.terms.weights, policy.terms.weights) and (other.terms.weights != 0).all()
    train(policy, worlds, 2, seed=5)
    train(other, worlds, 2, seed=5)
    assert torch.equal(parameters(policy), parameters(other)), "it goes on as if nothing had been"


def test_the_policy_learns_to_beat_every_rule_and_takes_another_candidate_where_that_one_is_right(bandit):
    worlds = [(*bandit(8, seed=10 + k, sure=3.0), bandit(8, seed=50 + k, sure=3.0)[0]) for k in range(10)]
    policy = seeded_selector(SelectorConfig(hidden=8, lr=3e-2))
    train(policy, worlds, 150)
    evidence, truth = bandit(150, seed=999, sure=3.0)
    names = ("accept_all", "fixed_threshold", "pwa", "matching", "agreement", "prior_label", "random_gate")
    rules = {name: seeded_selector(SelectorConfig(name=name)) for name in names}
    rules["confidence_gate"] = settled(seeded_selector(SelectorConfig(name="confidence_gate")), worlds)
    fixed = {name: earned(rule, evidence, truth) for name, rule in rules.items()}
    assert earned(policy, evidence, truth) > max(fixed.values()) + 0.02, fixed

    found = truth_ious(candidates_of(evidence).masks, truth > 0.5)
    other = (found[:, Candidate.GUIDED] < 0.5) & (found[:, Candidate.UNGUIDED] > 0.5)
    taken = policy.select(evidence, range(150)).source
    assert other.sum() > 30
    independent = (taken == Candidate.UNGUIDED) | (taken == Candidate.FLIPPED)
    assert independent[other].float().mean() > 0.8


@pytest.mark.parametrize("bias", [-4.0, 4.0])
def test_using_all_or_nothing_attracts_no_policy(bandit, worlds, bias):
    policy = seeded_selector(SelectorConfig(cells=True, hidden=8, lr=3e-2, reward=RewardConfig(wrong_cost=3.0)))
    evidence, truth = bandit(100, seed=998)
    inputs = prepare(evidence)
    policy.observe(inputs, truth_ious(inputs.candidates.masks, truth > 0.5))
    with torch.no_grad():
        policy.linear.bias.add_(bias)
    start = policy.select(evidence, range(100)).used.float().mean().item()
    assert abs(start - (bias > 0)) < 0.05
    best = max(earned(seeded_selector(SelectorConfig(name=name)), evidence, truth) for name in ("accept_all", "pwa"))
    train(policy, worlds, 50)
    share = policy.select(evidence, range(100)).used.float().mean().item()
    assert 0.1 < share < 0.9 and earned(policy, evidence, truth) > max(best, 0) + 0.02


def test_candidates_that_are_switched_off_say_nothing_of_the_other_terms(bandit):
    evidence, truth = bandit(60, seed=1)
    policy = seeded_selector(SelectorConfig(name="l2l", candidates=False, **FAST))
    inputs = prepare(evidence)
    guided = torch.zeros_like(inputs.candidates.possible)
    guided[:, Candidate.GUIDED] = inputs.candidates.possible[:, Candidate.GUIDED]
    expected = TermWeights()
    expected.observe(unlabeled_terms(inputs.candidates), truth_ious(inputs.candidates.masks, truth > 0.5), guided)
    train(policy, [(evidence, truth, None)], 1)
    assert torch.allclose(policy.terms.weights, expected.weights)
