from __future__ import annotations

import pytest
import torch

from l2l_ray.config import RewardConfig, SelectorConfig
from l2l_ray.selector.reward import (
    agreement,
    class_balance,
    consistency,
    correctness,
    coverage_credit,
    coverage_penalty,
    gate_reward,
    gradient_alignment,
    project_gradient,
    rule_earning,
    total_reward,
    utility,
)
from l2l_ray.selector.state import label_candidates
from l2l_ray.types import Action

T, F = True, False


def test_classes_weigh_the_same():
    weights = class_balance(torch.tensor([[[T, F], [F, F]]]))
    assert weights.tolist() == [[[2.0, pytest.approx(2 / 3)], [pytest.approx(2 / 3), pytest.approx(2 / 3)]]]
    assert weights.mean().item() == pytest.approx(1.0)


@pytest.mark.parametrize("value", [T, F])
def test_an_absent_class_leaves_its_weight_to_the_other(value):
    assert (class_balance(torch.full((1, 3, 3), value)) == 1).all()


def test_weight_of_a_tiny_object_is_capped():
    foreground = torch.zeros(1, 32, 32, dtype=torch.bool)
    foreground[0, 0, 0] = True
    assert class_balance(foreground).max().item() == pytest.approx(25.0)


def test_correctness_and_rule_by_hand():
    target, mask = torch.tensor([[T, T], [F, F]]), torch.tensor([[T, F], [T, F]])
    assert correctness(target, mask, 2.0).tolist() == [[1, -2], [-2, 1]]
    probs = torch.tensor([[0.95, 0.95], [0.05, 0.4]])
    assert rule_earning(probs, mask, 0.9, 2.0).tolist() == [[1, -2], [-2, 0]]


@pytest.mark.parametrize(
    ("target", "proposal", "unguided", "expected"),
    [
        (T, 1.0, 1.0, 1.0),  # both say foreground
        (F, 1.0, 1.0, -1.0),
        (F, 0.0, 0.25, 0.5),  # both say background, half sure
        (T, 0.0, 0.25, -0.5),
        (T, 1.0, 0.0, -1.0),  # they contradict each other: either label is doubtful
        (F, 1.0, 0.0, -1.0),
        (T, 0.5, 1.0, 0.0),  # an undecided prior is no evidence
    ],
)
def test_agreement_by_hand(target, proposal, unguided, expected):
    label, has_prior = torch.tensor([[[target]]]), torch.tensor([True])
    args = (label, torch.tensor([[[proposal]]]), torch.tensor([[[unguided]]]))
    assert agreement(*args, has_prior).item() == pytest.approx(expected)
    assert agreement(*args, ~has_prior).item() == 0


def test_consistency_by_hand(evidence_of):
    probs = torch.ones(1, 1, 1)
    evidence = evidence_of(probs, unguided=probs, flipped=0.5 * probs, perturbed=0 * probs)
    assert consistency(torch.tensor([[[T]]]), evidence).item() == pytest.approx(0.0)
    evidence = evidence_of(0 * probs, unguided=probs, flipped=probs, perturbed=probs)
    assert consistency(torch.tensor([[[T]]]), evidence).item() == pytest.approx(1.0)
    assert consistency(torch.tensor([[[F]]]), evidence).item() == pytest.approx(-1.0)


def test_accepting_background_alone_does_not_satisfy_coverage():
    claimed = torch.zeros(1, 10, 10, dtype=torch.bool)
    claimed[:, :, 0] = True
    background_only = ~claimed
    even = torch.zeros_like(claimed)
    even[:, :7] = True  # 70 % of both classes
    assert coverage_penalty(even, claimed, 0.7).item() == pytest.approx(0.0, abs=1e-9)
    assert coverage_penalty(background_only, claimed, 0.7).item() == pytest.approx(-(0.7**2 + 0.3**2) / 2)
    assert coverage_penalty(torch.zeros_like(claimed), claimed, 0.7).item() == pytest.approx(-(0.7**2))


@pytest.mark.parametrize("columns", [0, 1, 4, 10])
def test_coverage_credit_is_the_derivative_of_the_penalty(columns):
    claimed = torch.zeros(10, 10, dtype=torch.bool)
    claimed[:, :columns] = True
    accepted = torch.rand(10, 10, generator=torch.Generator().manual_seed(0)) < 0.5
    credit = coverage_credit(accepted, claimed, 0.7)
    assert (credit[~accepted] == 0).all()
    for in_class in (claimed, ~claimed):
        if not in_class.any():
            continue
        more, less = accepted.clone(), accepted.clone()
        more[tuple((in_class & ~accepted).nonzero()[0])] = True
        less[tuple((in_class & accepted).nonzero()[0])] = False
        # the penalty is quadratic in the share, so its central difference is its derivative
        slope = (coverage_penalty(more, claimed, 0.7) - coverage_penalty(less, claimed, 0.7)) / 2 * 100
        assert credit[in_class & accepted].tolist() == pytest.approx(
            [slope.item()] * int((in_class & accepted).sum()), abs=1e-4
        )


def test_coverage_credit_by_hand():
    claimed = torch.tensor([[T, F], [F, F]])
    accepted = torch.tensor([[T, T], [F, F]])
    credit = coverage_credit(accepted, claimed, 0.5)
    # claimed: share 1, gap .5, balance 2; rest: share 1/3, gap -1/6, balance 2/3
    assert credit.flatten().tolist() == pytest.approx([-2.0, 2 * (1 / 6) * (2 / 3), 0, 0], abs=1e-6)


def test_gradient_alignment_equals_autograd():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn((2, 5, 3, 3), generator=generator)
    gradient = torch.randn(6, generator=generator)
    target = torch.rand((2, 3, 3), generator=generator) < 0.5
    layer = torch.nn.Linear(5, 1)
    logits = layer(features.permute(0, 2, 3, 1))[..., 0]
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    expected = torch.zeros(2, 3, 3)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in losses.shape)).tolist():
        grads = torch.autograd.grad(losses[tuple(index)], list(layer.parameters()), retain_graph=True)
        expected[tuple(index)] = torch.cat([grad.flatten() for grad in grads]) @ gradient
    probs = torch.sigmoid(logits.detach())
    actual = gradient_alignment(target, probs, project_gradient(features, gradient))
    assert torch.allclose(actual, expected, atol=1e-6)


def test_utility_is_bounded_and_keeps_the_sign():
    probs, target = torch.rand(2, 4, 4), torch.rand(2, 4, 4) < 0.5
    projected = torch.randn(2, 4, 4)
    value = utility(target, probs, projected)
    assert value.abs().max() <= 1
    assert torch.equal(value.sign(), gradient_alignment(target, probs, projected).sign())
    assert (utility(target, probs, torch.zeros(2, 4, 4)) == 0).all()


def test_total_is_the_sum_of_its_terms(bandit):
    evidence, truth = bandit(6, seed=5)
    action = torch.randint(0, 3, (4, 6, 16, 16), generator=torch.Generator().manual_seed(0))
    projected = project_gradient(evidence.features, torch.randn(9))
    terms = total_reward(action, evidence, truth > 0.5, projected, SelectorConfig())
    parts = terms.correctness + terms.agreement + terms.consistency + terms.coverage + terms.utility
    assert torch.allclose(terms.total.mean(0), parts, atol=1e-4)


def test_ignoring_everything_gives_up_what_the_rule_earns(evidence_of):
    probs = torch.tensor([[[0.95, 0.05], [0.05, 0.6]]])
    mask = torch.tensor([[[T, F], [F, F]]])
    config = SelectorConfig(reward=RewardConfig(coverage=0))
    terms = total_reward(torch.zeros(1, 1, 2, 2, dtype=torch.long), evidence_of(probs), mask, None, config)
    # claimed foreground 2 of 4 cells: balance 1 everywhere; the rule skips the cell at 0.6
    assert terms.total[0, 0].tolist() == [[-1, -1], [-1, 0]]
    assert terms.gate_reward.item() == 0 and not terms.used.item()


def test_the_gates_reward_by_hand(evidence_of):
    probs = torch.tensor([[[0.9, 0.9, 0.9, 0.1]]]).repeat(4, 4, 1)  # the object: columns 0 to 2
    mask = torch.tensor([[T, T, F, F], [F, T, T, T], [F, F, F, F], [T, T, T, F]])[:, None].expand(4, 4, 4)
    action = torch.full((1, 4, 4, 4), int(Action.TEACHER))
    action[0, 3, :, 1:] = Action.IGNORE  # the last label accepts column 0 alone
    candidates = label_candidates(evidence_of(probs))
    reward, used = gate_reward(action, candidates, mask, wrong_cost=2.0)
    # IoU 2/3, 2/4, 0, 1 -> 3 IoU - 2
    assert reward.tolist() == [pytest.approx([0.0, -0.5, -2.0, 1.0])] and used.all()
    action[..., :3] = Action.IGNORE  # background alone: the second label is wrong in column 3; nobody trains on it
    reward, used = gate_reward(action, candidates, mask, wrong_cost=2.0)
    assert not used.any() and (reward == 0).all()


def test_truth_never_leaves_the_labeled_rows(bandit):
    evidence, truth = bandit(4, seed=6)
    action = torch.ones(2, 4, 16, 16, dtype=torch.long)
    terms = total_reward(action, evidence, truth[:2] > 0.5, None, SelectorConfig())
    assert (terms.correctness[2:] == 0).all()
    assert (terms.correctness[:2] != 0).any()
    other = total_reward(action, evidence, torch.zeros(2, 16, 16, dtype=torch.bool), None, SelectorConfig())
    assert torch.equal(terms.total[:, 2:], other.total[:, 2:])
    assert terms.gate_reward.shape == terms.used.shape == (2, 2)


def test_oracle_beats_accepting_all_beats_accepting_wrong(bandit):
    evidence, truth = bandit(32, seed=7)
    right = (evidence.mask_probs > 0.5) == (truth > 0.5)
    maps = [torch.where(right, Action.TEACHER, Action.IGNORE), torch.full_like(right, 1, dtype=torch.long)]
    maps.append(torch.where(right, Action.IGNORE, Action.TEACHER))
    terms = total_reward(torch.stack(maps), evidence, truth > 0.5, None, SelectorConfig())
    oracle, accept_all, wrong = terms.total.mean((1, 2, 3)).tolist()
    assert oracle > accept_all > wrong
