from __future__ import annotations

import pytest
import torch

from l2l_ray.config import RewardConfig, SelectorConfig
from l2l_ray.selector.base import LabeledEvidence, make_selector
from l2l_ray.selector.rules import mean_object_probs

T, F = True, False


def gate_of(**fields):
    return make_selector(SelectorConfig(name="confidence_gate", **fields))


def sure_of(evidence_of, probs):
    """Return evidence of which every sample is sure of its left column to a degree."""
    maps = torch.full((len(probs), 2, 2), 0.1)
    maps[:, :, 0] = torch.tensor(probs)[:, None]
    return evidence_of(maps)


def test_the_confidence_gate_by_hand(evidence_of):
    selection = gate_of(threshold=0.8).select(sure_of(evidence_of, [0.9, 0.8, 0.7]), range(3))
    assert selection.gate.tolist() == pytest.approx([0.6, 0.5, 0.4])
    assert selection.used.tolist() == [T, T, F]
    assert selection.target[0].tolist() == [[T, F], [T, F]] and (selection.pixel_weight[0] == 1).all()


def test_the_gate_is_set_where_it_pays_most_on_labeled_images(evidence_of):
    evidence = sure_of(evidence_of, [0.95, 0.9, 0.85, 0.8])
    truth = torch.zeros(4, 2, 2)
    truth[:3, :, 0] = 1  # right; the second one half
    truth[1, 0, 0] = 0
    parts = [LabeledEvidence(evidence, truth)]
    gate = gate_of(reward=RewardConfig(gate_margin=-0.025))  # the mean IoU is 0.625, so a label costs 0.6
    metrics = gate.settle(parts, [])
    # gains .4, .3, .7, .1 from the top
    assert metrics == {"open_rate_labeled": 0.75, "threshold": pytest.approx(0.85)}
    assert gate.select(evidence, range(4)).used.tolist() == [T, T, T, F]
    sterner = gate_of(reward=RewardConfig(gate_margin=0.5))
    assert sterner.settle(parts, [])["threshold"] == pytest.approx(0.951)  # nothing pays


def test_it_opens_as_far_on_unlabeled_images(evidence_of):
    evidence, truth = sure_of(evidence_of, [0.9, 0.8, 0.7, 0.6]), torch.zeros(4, 2, 2)
    truth[:2, :, 0] = 1
    unlabeled = [sure_of(evidence_of, [0.99, 0.97]), sure_of(evidence_of, [0.98, 0.96])]
    gate = gate_of()
    metrics = gate.settle([LabeledEvidence(evidence, truth)], unlabeled)
    assert metrics["open_rate_labeled"] == 0.5 and metrics["threshold"] == pytest.approx(0.98)
    assert metrics["open_rate_unshifted"] == 1.0  # all four are surer than the threshold on labeled images
    assert [gate.select(part, range(2)).used.tolist() for part in unlabeled] == [[T, F], [T, F]]


def test_texts_without_any_object_cell_do_not_move_the_threshold_among_labels(evidence_of):
    evidence, truth = sure_of(evidence_of, [0.9, 0.8, 0.7, 0.6]), torch.zeros(4, 2, 2)
    truth[:3, :, 0] = 1  # three of four are used
    unlabeled = sure_of(evidence_of, [0.95, 0.3, 0.85, 0.2])  # two have no label, so two are all there is to use
    gate = gate_of()
    metrics = gate.settle([LabeledEvidence(evidence, truth)], [unlabeled])
    assert metrics["open_rate_labeled"] == 0.75 and metrics["threshold"] == pytest.approx(0.85)
    assert gate.select(unlabeled, range(4)).gate.tolist() == pytest.approx([0.6, 0.0, 0.5, 0.0]), (
        "the surer, the higher"
    )


def test_selector_gate_says_nothing_to_the_confidence_gate(evidence_of):
    evidence = sure_of(evidence_of, [0.9, 0.7])
    rules = [gate_of(gate=is_on) for is_on in (True, False)]
    scores = [rule.label_scores(rule.select(evidence, range(2))).tolist() for rule in rules]
    assert scores[0] == scores[1] == rules[0].select(evidence, range(2)).gate.tolist()


@pytest.mark.parametrize("seed", range(8))
def test_the_sample_the_threshold_was_taken_from_is_used(bandit, seed):
    known, truth = bandit(60, seed=seed)
    other, _ = bandit(64, seed=seed + 100)
    gate = gate_of(reward=RewardConfig(gate_margin=-0.2))
    rate = gate.settle([LabeledEvidence(known, truth)], [])["open_rate_labeled"]
    sure = mean_object_probs(known)
    assert (gate.select(known, range(60)).used == (sure >= gate.threshold)).all() and (sure == gate.threshold).any()
    gate.settle([LabeledEvidence(known, truth)], [other])
    assert int(gate.select(other, range(64)).used.sum()) == round(rate * 64)


def test_adaptive_thresholds_by_hand(evidence_of):
    rule = make_selector(SelectorConfig(name="adaptive_threshold", threshold=0.9))
    first, second = torch.tensor([[[0.9, 0.1], [0.4, 0.3]]]), torch.tensor([[[0.7, 0.6], [0.2, 0.0]]])
    parts = [LabeledEvidence(evidence_of(first), first)]
    metrics = rule.settle(parts, [evidence_of(first), evidence_of(second)])
    objects, rest = (0.9 + 0.7 + 0.6) / 3, (0.9 + 0.6 + 0.7 + 0.8 + 1.0) / 5
    assert metrics["threshold_object"] == pytest.approx(objects)
    assert metrics["threshold_background"] == pytest.approx(rest)
    assert metrics["open_rate_labeled"] == 1
    selection = rule.select(evidence_of(torch.cat([first, second])), range(2))
    assert selection.accepted.tolist() == [[[T, T], [F, F]], [[F, F], [T, T]]]
    assert (selection.gate == 1).all()


def test_without_unlabeled_images_the_labeled_ones_say(evidence_of):
    rule = make_selector(SelectorConfig(name="adaptive_threshold", threshold=0.9))
    probs = torch.tensor([[[0.3, 0.1], [0.4, 0.2]]])  # no object: its threshold stays
    metrics = rule.settle([LabeledEvidence(evidence_of(probs), probs)], [])
    assert metrics["threshold_background"] == pytest.approx(0.75)
    assert metrics["threshold_object"] == pytest.approx(0.9) and metrics["open_rate_labeled"] == 0


@pytest.mark.parametrize("name", ["confidence_gate", "adaptive_threshold"])
def test_thresholds_are_kept_with_a_version_and_only_settled(bandit, name):
    evidence, truth = bandit(20, seed=1)
    rule = make_selector(SelectorConfig(name=name))
    assert not list(rule.parameters())
    before = {key: value.clone() for key, value in rule.state_dict().items()}
    assert not rule.learns_by_batch
    rule.settle([LabeledEvidence(evidence, truth)], [evidence])
    assert any(not torch.equal(value, before[key]) for key, value in rule.state_dict().items())
    other = make_selector(SelectorConfig(name=name))
    other.load_state_dict(rule.state_dict())
    assert torch.equal(other.select(evidence, range(20)).pixel_weight, rule.select(evidence, range(20)).pixel_weight)
