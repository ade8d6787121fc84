from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from l2l_ray.config import SelectorConfig
from l2l_ray.selector.network import (
    IMPOSSIBLE,
    START_KEEP,
    START_OTHER,
    START_RIVAL,
    START_SHARPNESS,
    PolicyNetwork,
    decision_probs,
    prepare,
)
from l2l_ray.types import Candidate


def make_network(seed: int = 0, **fields) -> PolicyNetwork:
    """Return a network away from its start, so that nothing is trivially constant."""
    torch.manual_seed(seed)
    network = PolicyNetwork(SelectorConfig(hidden=8, **fields))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def test_a_fresh_network_asks_how_sure_the_guided_prediction_is_and_what_rivals_claim(bandit):
    rivals = torch.rand(8, len(Candidate))
    evidence = bandit(8, seed=1)[0]
    evidence = replace(evidence, proposal=torch.rand(8, 16, 16), has_prior=torch.arange(8) < 4, rival_iou=rivals)
    inputs = prepare(evidence)
    found = inputs.candidates
    cells = found.masks.flatten(2).float()
    sure = torch.einsum("bkg,bg->bk", cells, evidence.mask_probs.flatten(1)) / cells.sum(2).clamp(min=1)
    expected = START_SHARPNESS * sure + START_RIVAL * rivals  # the other predictions are not asked
    expected[:, 1:] += START_OTHER
    scores = PolicyNetwork(SelectorConfig()).scores(inputs)
    assert found.possible[:, Candidate.PRIOR].any()
    assert torch.allclose(scores[found.possible], expected[found.possible], atol=1e-4)


def test_without_rivals_no_claim_is_seen(bandit):
    evidence = bandit(4, seed=1)[0]
    claimed = replace(evidence, rival_iou=torch.ones(4, len(Candidate)))
    network = make_network(rivals=False)
    assert torch.equal(network.scores(prepare(claimed)), network.scores(prepare(evidence)))
    assert not torch.equal(make_network().scores(prepare(claimed)), make_network().scores(prepare(evidence)))


def test_a_fresh_network_keeps_what_the_predictions_say(evidence_of):
    probs = torch.tensor([[[1.0, 0.0], [0.75, 0.5]]])
    inputs = prepare(evidence_of(probs, proposal=1 - probs))
    network = PolicyNetwork(SelectorConfig())
    keep = network.keep_logits(inputs, inputs.candidates.masks[:, Candidate.GUIDED])
    assert keep.flatten().tolist() == pytest.approx([START_KEEP, START_KEEP, START_KEEP / 2, 0], abs=1e-5)
    wrong = network.keep_logits(inputs, ~inputs.candidates.masks[:, Candidate.GUIDED])
    assert torch.allclose(wrong, -keep, atol=1e-5)


def test_what_is_not_possible_is_never_taken(evidence_of):
    probs = torch.full((2, 4, 4), 0.9)
    probs[1] = 0.2  # no object at all
    inputs = prepare(evidence_of(probs))
    scores = make_network().scores(inputs)
    assert (scores[0, 1:] == IMPOSSIBLE).all() and scores[0, 0] > IMPOSSIBLE and (scores[1] == IMPOSSIBLE).all()
    probs = decision_probs(scores)
    assert (probs[0, 2:] <= 1e-6).all() and probs[1].tolist() == pytest.approx([1, *[1e-6] * 4])


def test_without_candidates_only_the_guided_label_can_be_taken(bandit):
    inputs = prepare(bandit(8, seed=3)[0])
    every, guided = make_network().scores(inputs), make_network(candidates=False).scores(inputs)
    assert torch.equal(every[:, Candidate.GUIDED], guided[:, Candidate.GUIDED])
    assert (guided[:, 1:] == IMPOSSIBLE).all() and (every[:, 1:] > IMPOSSIBLE).any()


def test_decision_probs_by_hand():
    scores = torch.tensor([[0.0, math.log(3), *[IMPOSSIBLE] * 2]])
    # softmax 1/4, 3/4; sigmoid 1/2, 3/4
    expected = [1 - 1 / 8 - 9 / 16, 1 / 8, 9 / 16, *[1e-6] * 2]
    assert decision_probs(scores)[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_single_label_is_a_gate():
    scores = torch.tensor([[10.0, *[IMPOSSIBLE] * 3]], requires_grad=True)
    left_out = decision_probs(scores)[0, 0]
    assert left_out.item() == pytest.approx(1 / (1 + math.exp(10)), rel=1e-5)  # 1 - sigmoid(10) has lost three digits
    left_out.log().backward()
    assert scores.grad[0].tolist() == pytest.approx([-1 / (1 + math.exp(-10)), *[0] * 3])


def test_the_floor_of_a_probability_has_no_gradient_and_what_lies_above_has():
    scores = torch.tensor([[20.0, 0.0, *[IMPOSSIBLE] * 2]], requires_grad=True)
    probs = decision_probs(scores)
    assert probs[0, 0].item() == pytest.approx(1e-6) and probs.log().isfinite().all()
    gradient = torch.autograd.grad(probs.log()[0, 0], scores, retain_graph=True)[0]
    assert (gradient == 0).all()
    scores = torch.tensor([[12.0, 0.0, *[IMPOSSIBLE] * 2]], requires_grad=True)
    assert torch.autograd.grad(decision_probs(scores).log()[0, 0], scores)[0][0, 0] < 0


@pytest.mark.parametrize("grid", [7, 33])
def test_any_grid(bandit, grid):
    inputs = prepare(bandit(2, grid=grid, seed=8)[0])
    network = make_network()
    assert network.scores(inputs).shape == (2, len(Candidate))
    assert network.keep_logits(inputs, inputs.candidates.masks[:, 0]).shape == (2, grid, grid)


def test_autocast_changes_nothing(bandit):
    evidence, _ = bandit(4, grid=32, seed=9)
    network, plain = make_network(), prepare(evidence)
    label = plain.candidates.masks[:, 0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = prepare(evidence)
        scores, keep = network.scores(inside), network.keep_logits(inside, label)
    assert torch.equal(inside.relations, plain.relations)
    assert torch.equal(scores, network.scores(plain)) and torch.equal(keep, network.keep_logits(plain, label))
