from __future__ import annotations

import pytest
import torch

from l2l_ray.config import RewardConfig, SelectorConfig
from tests.selector.learning import earned, seeded_selector, settled, train


def parameters(selector):
    """Return all parameters as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in selector.parameters()])


def boxes(evidence_of, truth_columns):
    """Return evidence whose every candidate is the first four of eight columns, and a truth of some columns."""
    probs = torch.full((4, 8, 8), 0.05)
    probs[:, :, :4] = 0.8
    truth = torch.zeros(4, 8, 8)
    truth[:, :, :truth_columns] = 1
    return evidence_of(probs), truth


@pytest.mark.parametrize(("gate_margin", "is_open"), [(-0.1, True), (0.1, False)])
def test_the_gate_opens_where_the_predicted_iou_exceeds_its_cost(evidence_of, gate_margin, is_open):
    evidence, truth = boxes(evidence_of, 2)  # IoU 1/2, so a label costs that and the margin
    config = SelectorConfig(name="scorer", hidden=8, lr=3e-2, cells=False, reward=RewardConfig(gate_margin=gate_margin))
    scorer = seeded_selector(config)
    train(scorer, [(evidence, truth, None)], 80)
    selection = scorer.select(evidence, range(4))
    assert (selection.used == is_open).all()
    odds = scorer.cost / (1 - scorer.cost)
    predicted = torch.sigmoid(selection.gate.logit() + torch.tensor(odds).log())
    assert predicted.tolist() == pytest.approx([0.5] * 4, abs=0.02)


@pytest.mark.parametrize(("wrong_cost", "keeps"), [(0.5, True), (4.0, False)])
def test_a_cell_is_kept_where_it_is_right_often_enough(evidence_of, wrong_cost, keeps):
    evidence, truth = boxes(evidence_of, 4)
    truth[0, :, :4] = 0  # the label is right in three samples of four, which pays up to a cost of 3
    reward = RewardConfig(gate_margin=-0.5, wrong_cost=wrong_cost)
    scorer = seeded_selector(SelectorConfig(name="scorer", cells=True, hidden=8, lr=3e-2, reward=reward))
    train(scorer, [(evidence, truth, None)], 80)
    selection = scorer.select(evidence, range(4))
    assert (selection.gate >= 0.5).all()
    assert (selection.accepted[:, :, :3] == keeps).all()
    assert selection.accepted[:, :, 6:].all(), "background far away is always right"


def test_it_learns_to_beat_accepting_everything(bandit, worlds):
    scorer = seeded_selector(SelectorConfig(name="scorer", hidden=8, lr=1e-2))
    train(scorer, worlds, 40)
    evidence, truth = bandit(150, seed=999)
    everything = earned(seeded_selector(SelectorConfig(name="accept_all")), evidence, truth)
    assert earned(settled(scorer, worlds), evidence, truth) > everything + 0.05


def test_only_labeled_images_and_no_chance_move_it(bandit, worlds):
    found = []
    for seed, with_unlabeled in ((0, True), (1, False)):
        scorer = seeded_selector(SelectorConfig(name="scorer", hidden=8))
        given = [(evidence, truth, unlabeled if with_unlabeled else None) for evidence, truth, unlabeled in worlds]
        metrics = train(scorer, given, 3, seed=seed)
        assert set(metrics) == {"loss"}
        found.append(parameters(scorer))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], parameters(seeded_selector(SelectorConfig(name="scorer", hidden=8))))


def test_a_batch_without_any_label_does_no_harm(evidence_of):
    evidence = evidence_of(torch.full((4, 8, 8), 0.2))
    scorer = seeded_selector(SelectorConfig(name="scorer", hidden=8))
    metrics = train(scorer, [(evidence, torch.zeros(4, 8, 8), None)], 2)
    assert metrics["loss"] >= 0 and parameters(scorer).isfinite().all()


def test_candidates_that_are_switched_off_are_not_learned_from(evidence_of):
    evidence, truth = boxes(evidence_of, 2)
    scorer = seeded_selector(SelectorConfig(name="scorer", hidden=8, candidates=False, cells=False))
    assert train(scorer, [(evidence, truth, None)], 2)["loss"] < 1, "cross-entropy of the guided label's IoU"
