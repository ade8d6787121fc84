from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from l2l_ray.config import RewardConfig, SelectorConfig
from l2l_ray.selector.base import LabeledEvidence
from l2l_ray.selector.candidates import RELATIONS, candidates_of
from l2l_ray.selector.learned import best_threshold, matching_shift
from l2l_ray.selector.network import IMPOSSIBLE, START_SHARPNESS, decision_probs, prepare
from l2l_ray.selector.rules import mean_object_probs
from l2l_ray.types import Candidate
from tests.selector.learning import seeded_selector

NAMES = ("l2l", "scorer")
T, F = True, False


def make_selector_away_from_start(seed: int = 0, **fields):
    """Return a policy whose candidates and cells differ; its gate is half open in the synthetic world."""
    selector = seeded_selector(SelectorConfig(hidden=8, **{"cells": True, **fields}), seed)
    with torch.no_grad():
        selector.linear.bias.fill_(-1.0 * START_SHARPNESS)
        for parameter in selector.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        is_guided = RELATIONS.index("is_guided")
        selector.linear.weight[0, is_guided : is_guided + len(Candidate)].copy_(torch.linspace(0, 1, len(Candidate)))
    return selector


@pytest.mark.parametrize("name", NAMES)
def test_it_starts_as_the_confidence_gate_of_the_median_guided_label(evidence_of, name):
    probs = torch.full((9, 4, 4), 0.1)
    for row in range(9):
        probs[row, 1:3, 1:3] = 0.6 + 0.04 * row + torch.tensor([[-0.05, 0.01], [0.02, 0.0]])
    evidence = evidence_of(probs)  # the predictions say the same, so their mean is the guided one
    fresh = seeded_selector(SelectorConfig(name=name))
    fresh.observe(prepare(evidence), torch.full((9, len(Candidate)), 0.5))
    rule = seeded_selector(SelectorConfig(name="confidence_gate"))
    rule.threshold.copy_(mean_object_probs(evidence).median())
    mine, theirs = fresh.select(evidence, range(9)), rule.select(evidence, range(9))
    assert mine.gate[4].item() == pytest.approx(0.5, abs=1e-5) and int(theirs.used.sum()) == 5
    others = torch.arange(9) != 4
    assert torch.equal(mine.used[others], theirs.used[others])
    assert torch.equal(mine.source, theirs.source) and torch.equal(mine.target, theirs.target)
    assert torch.equal(mine.accepted[others], theirs.accepted[others])


def test_what_a_label_costs_follows_the_average_guided_label(bandit):
    inputs = prepare(bandit(2, seed=1)[0])
    selector = seeded_selector(SelectorConfig(reward=RewardConfig(gate_margin=0.1)))

    def observe(*guided):
        found = torch.rand(2, len(Candidate))  # what the other candidates are worth says nothing
        found[:, Candidate.GUIDED] = torch.tensor(guided)
        return selector.observe(inputs, found)

    assert observe(0.2, 0.4) == pytest.approx(0.3 + 0.1)
    assert observe(0.5, 0.7) == pytest.approx(0.3 + 0.1 * 0.3 + 0.1)
    bias = selector.linear.bias.item()
    for _ in range(60):
        cost = observe(1.0, 1.0)
    assert cost == pytest.approx(0.98) and selector.linear.bias.item() == bias


def test_labels_that_are_none_do_not_move_the_start(evidence_of):
    probs = torch.full((8, 4, 4), 0.1)
    probs[6:, 1:3, 1:3] = 0.9
    selector = seeded_selector(SelectorConfig())
    selector.observe(prepare(evidence_of(probs)), torch.zeros(8, len(Candidate)))
    gate = selector.select(evidence_of(probs), range(8)).gate
    assert (gate[:6] == 0).all() and gate[6:].tolist() == pytest.approx([0.5, 0.5], abs=1e-5)
    none = seeded_selector(SelectorConfig())
    none.observe(prepare(evidence_of(probs[:6])), torch.zeros(6, len(Candidate)))
    assert none.linear.bias.item() == 0 and not none.has_started
    none.observe(prepare(evidence_of(probs)), torch.zeros(8, len(Candidate)))
    assert torch.equal(none.linear.bias, selector.linear.bias)


def test_the_best_candidate_is_taken_where_its_gate_is_open(bandit):
    evidence, _ = bandit(40, seed=1, sure=3.0)
    selector = make_selector_away_from_start()
    inputs = prepare(evidence)
    scores = selector.scores(inputs)
    selection = selector.select(evidence, range(40))
    assert torch.equal(selection.source.long(), scores.argmax(1)) and len(selection.source.unique()) > 1
    assert torch.allclose(selection.gate, torch.sigmoid(scores.amax(1)))
    open_ = scores.amax(1) >= 0
    assert 0 < int(open_.sum()) < 40
    assert torch.equal(selection.accepted, (selector.keep_logits(inputs, selection.target) > 0) & open_[:, None, None])
    # what was decided, as likely as the policy says: leaving out is one of the choices
    expected = decision_probs(scores).log()
    expected = torch.where(open_, expected.gather(1, scores.argmax(1)[:, None] + 1)[:, 0], expected[:, 0])
    assert torch.allclose(selection.mean_log_prob, expected, atol=1e-5)


def test_the_shift_of_the_version_moves_the_gate_and_nothing_else(bandit):
    evidence, _ = bandit(20, seed=2)
    selector = make_selector_away_from_start(cells=False)
    before = selector.select(evidence, range(20))
    selector.gate_shift.fill_(-1.5)
    after = selector.select(evidence, range(20))
    assert torch.equal(before.target, after.target)
    assert torch.allclose(after.gate.logit(), before.gate.logit() - 1.5, atol=1e-4)
    assert after.used.sum() < before.used.sum()


def test_without_its_gate_every_label_is_used(bandit, evidence_of):
    evidence, _ = bandit(20, seed=3)
    assert not make_selector_away_from_start(gate=True).select(evidence, range(20)).used.all()
    assert (make_selector_away_from_start(gate=False).select(evidence, range(20)).gate == 1).all()
    empty = evidence_of(torch.full((2, 4, 4), 0.3))
    assert (make_selector_away_from_start(gate=False).select(empty, range(2)).gate == 0).all()


def test_without_other_candidates_the_guided_label_is_taken_or_none(bandit, evidence_of):
    evidence, _ = bandit(40, seed=1, sure=3.0)
    alone = make_selector_away_from_start(candidates=False).select(evidence, range(40))
    every = make_selector_away_from_start().select(evidence, range(40))
    assert (alone.source == Candidate.GUIDED).all() and len(every.source.unique()) > 1
    assert 0 < int(alone.used.sum()) < 40
    same = every.source == Candidate.GUIDED
    assert same.any() and torch.equal(alone.gate[same], every.gate[same])
    only_unguided = evidence_of(torch.full((2, 4, 4), 0.3), unguided=torch.full((2, 4, 4), 0.9))
    for gate in (True, False):
        selection = make_selector_away_from_start(candidates=False, gate=gate).select(only_unguided, range(2))
        assert (selection.gate == 0).all() and not selection.used.any()


def test_without_cells_labels_are_whole(bandit):
    evidence, _ = bandit(20, seed=4)
    part, whole = (make_selector_away_from_start(cells=cells).select(evidence, range(20)) for cells in (True, False))
    assert torch.equal(whole.accepted, (whole.gate >= 0.5)[:, None, None].expand(20, 16, 16))
    assert torch.equal(part.target, whole.target) and part.accepted.sum() < whole.accepted.sum()


def test_labels_ignore_keys_and_batches(bandit, rows_of):
    evidence, _ = bandit(6, seed=5)
    selector = make_selector_away_from_start()
    whole, part = selector.select(evidence, range(6)), selector.select(rows_of(evidence, [5, 2]), [70, 71])
    assert torch.equal(whole.source[[5, 2]], part.source)
    assert torch.equal(whole.accepted[[5, 2]], part.accepted)
    assert torch.allclose(whole.gate[[5, 2]], part.gate, atol=1e-6)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (0.5, 0.7),  # .4 - .2 + .3: taking the wrong one along pays for what follows
        (0.75, 0.9),
        (0.1, 0.6),
        (0.95, 0.901),  # nothing pays: just above all of them
    ],
)
def test_the_best_threshold_by_hand(cost, expected):
    scores, values = torch.tensor([0.6, 0.9, 0.7, 0.8]), torch.tensor([0.2, 0.9, 0.8, 0.3])
    assert best_threshold(scores, values, cost).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rate", "opened"),
    [(0.0, 0), (0.2, 1), (0.5, 2), (0.6, 3), (1.0, 5)],  # 2.5 rounds to 2
)
def test_the_shift_opens_as_many_as_asked(rate, opened):
    scores = torch.tensor([-3.0, 2.0, 0.5, -1.0, 7.0])
    shifted = scores + matching_shift(rate, scores)
    assert int((shifted >= 0).sum()) == opened
    assert torch.equal(shifted.argsort(), scores.argsort())


def test_the_shift_by_hand():
    scores = torch.tensor([4.0, 1.0, -2.0, 3.0])
    assert matching_shift(0.5, scores).item() == -3
    assert matching_shift(1.0, scores).item() == 2
    assert matching_shift(0.0, scores).item() == pytest.approx(-4.001)


def test_equal_scores_are_used_together():
    scores, values = torch.tensor([2.0, 1.0, 1.0, 0.0]), torch.tensor([0.1, 0.9, 0.0, 0.2])
    assert best_threshold(scores, values, 0.3).item() == 1  # -0.2 + 0.6 - 0.3 = 0.1
    assert best_threshold(scores, values, 0.45).item() > 2, "-0.35 + 0.45 = 0.1, but -0.45 comes with it"


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.3, 0.7], [0.1, 0.2, 0.4, 0.7], [0.1, 0.2, 0.3 + 1e-6, 0.7]])
def test_where_no_cut_beats_using_all_labels_all_are_used_whatever_rounding_does(values):
    ious = torch.tensor(values)
    assert best_threshold(torch.tensor([4.0, 3.0, 2.0, 1.0]), ious, ious.mean()).item() == 1
    assert best_threshold(torch.tensor([4.0, 3.0, 2.0, 1.0]), ious, ious.mean() + 0.05).item() > 4


def test_the_threshold_lies_among_labels():
    scores, values = torch.tensor([2.0, 1.0, IMPOSSIBLE]), torch.tensor([0.9, 0.8, 0.0])
    assert best_threshold(scores, values, -0.1).item() == 1, "using everything pays, but the last is no label"
    assert best_threshold(scores[2:], values[2:], -0.1).item() > 1e3, "without any label the gate stays shut"


def test_where_there_is_no_label_none_is_opened():
    scores = torch.tensor([1.0, IMPOSSIBLE, 3.0, IMPOSSIBLE])
    assert matching_shift(0.75, scores).item() == -1


@pytest.mark.parametrize("name", [*NAMES, "confidence_gate"])
def test_unlabeled_texts_without_any_object_cell_leave_the_gate_as_it_is(bandit, evidence_of, name):
    evidence, truth = bandit(60, seed=3)
    nothing = evidence_of(torch.full((4, 8, 8), 0.2))
    rules = [seeded_selector(SelectorConfig(name=name, hidden=8)) for _ in range(2)]
    for rule, unlabeled in zip(rules, ([], [nothing]), strict=True):
        rule.settle([LabeledEvidence(evidence, truth)], unlabeled)
    assert len({round(gate, 4) for gate in rules[0].select(evidence, range(60)).gate.tolist()}) > 10
    assert torch.equal(*(rule.select(evidence, range(60)).gate for rule in rules))


@pytest.mark.parametrize("name", NAMES)
def test_the_gate_opens_alike_on_labeled_and_unlabeled_images(bandit, name):
    known, truth = bandit(40, seed=6, prior_right=0.5)
    known = replace(known, mask_probs=0.5 + 0.97 * (known.mask_probs - 0.5))
    surer = [bandit(30, seed=seed, prior_right=0.95, unguided_right=0.95)[0] for seed in (7, 8)]
    selector = seeded_selector(SelectorConfig(name=name, cells=False))
    selector.average.fill_(0.5)
    metrics = selector.settle([LabeledEvidence(known, truth)], surer)
    rate = metrics["open_rate_labeled"]
    assert 0.1 < rate < 0.9 and metrics["open_rate_unshifted"] > rate + 0.1
    used = torch.cat([selector.select(part, range(30)).used for part in surer])
    assert used.float().mean().item() == pytest.approx(rate, abs=1 / 60)
    again = selector.settle([LabeledEvidence(known, truth)], surer)
    assert again == metrics, "settling does not build on the shift of the version before"


SURE = (0.95, 0.9, 0.85, 0.8)


def sure_of(evidence_of, probs):
    """Return evidence of which all predictions are sure of the left column to a degree."""
    maps = torch.full((len(probs), 2, 2), 0.1)
    maps[:, :, 0] = torch.tensor(probs)[:, None]
    return evidence_of(maps)


def half_right():
    """Return the truth of `SURE`: the labels' IoU is 1, 1/2, 1 and 0, on average .625."""
    truth = torch.zeros(4, 2, 2)
    truth[:3, :, 0] = 1
    truth[1, 0, 0] = 0
    return truth


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("margin", "count"),
    [
        (0.0, 3),  # gains .375, -.125, .375, -.625: the half right one is taken along
        (0.225, 1),  # .15, -.35, .15, -.85: the second gain does not make up for the loss before it
        (-0.5, 3),
        (0.5, 0),  # none can pay
    ],
)
def test_the_gate_opens_as_far_as_it_pays_on_labeled_images(evidence_of, name, margin, count):
    evidence = sure_of(evidence_of, SURE)
    selector = seeded_selector(SelectorConfig(name=name, reward=RewardConfig(gate_margin=margin)))
    assert selector.settle([LabeledEvidence(evidence, half_right())], []) == {"open_rate_labeled": count / 4}
    selection = selector.select(evidence, range(4))
    assert selection.used.tolist() == [row < count for row in range(4)]
    if count:
        assert selection.gate[count - 1].item() == 0.5, "the last one that pays is just in"
        assert selector.gate_shift.item() == pytest.approx(-START_SHARPNESS * SURE[count - 1], abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_settling_by_hand_in_parts_with_unlabeled_images(evidence_of, name):
    selector, truth = seeded_selector(SelectorConfig(name=name)), half_right()
    rows = (slice(0, 1), slice(1, 4))
    parts = [LabeledEvidence(sure_of(evidence_of, SURE[part]), truth[part]) for part in rows]
    alike = [sure_of(evidence_of, [0.99, 0.7]), sure_of(evidence_of, [0.98, 0.97])]
    assert selector.settle(parts, alike) == {"open_rate_labeled": 0.75, "open_rate_unshifted": 0.75}
    surer = [sure_of(evidence_of, [0.99, 0.87]), sure_of(evidence_of, [0.98, 0.97])]
    assert selector.settle(parts, surer) == {"open_rate_labeled": 0.75, "open_rate_unshifted": 1.0}
    assert selector.gate_shift.item() == pytest.approx(-START_SHARPNESS * 0.97, abs=1e-4)  # three of four, again
    assert [selector.select(part, range(2)).used.tolist() for part in surer] == [[T, F], [T, T]]


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_round_trip(bandit, name):
    evidence, truth = bandit(20, seed=10)
    selector, other = (make_selector_away_from_start(seed, name=name) for seed in (0, 1))
    selector.settle([LabeledEvidence(evidence, truth)], [bandit(20, seed=11)[0]])
    assert selector.gate_shift.item() != 0
    selector.average.fill_(0.4)
    assert not torch.equal(selector.select(evidence, range(20)).gate, other.select(evidence, range(20)).gate)
    other.load_state_dict(selector.state_dict())
    mine, theirs = selector.select(evidence, range(20)), other.select(evidence, range(20))
    assert other.cost == selector.cost == pytest.approx(0.4)
    assert torch.equal(mine.gate, theirs.gate) and torch.equal(mine.accepted, theirs.accepted)


def test_a_sample_without_any_mask_is_left_out(evidence_of):
    evidence = evidence_of(torch.full((2, 4, 4), 0.4))
    assert not candidates_of(evidence).possible.any()
    selection = make_selector_away_from_start().select(evidence, range(2))
    assert (selection.gate == 0).all() and selection.mean_log_prob.tolist() == [0, 0]
