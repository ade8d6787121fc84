from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from l2l_ray.config import SelectorConfig
from l2l_ray.selector.network import PolicyNetwork, sample_actions
from l2l_ray.selector.state import label_candidates
from l2l_ray.types import Action


def make_network(seed: int = 0, width: int = 8, **fields) -> PolicyNetwork:
    """Return a network away from its start, so that nothing is trivially constant."""
    torch.manual_seed(seed)
    network = PolicyNetwork(SelectorConfig(hidden=8, **fields), width)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def test_a_fresh_policy_explores(bandit):
    evidence, _ = bandit(8, seed=1)
    probs = PolicyNetwork(SelectorConfig(), 8).distribution(evidence).log_probs().exp()
    assert probs[:, Action.TEACHER].min() > 0.1 and probs[:, Action.TEACHER].max() < 0.9


def test_prior_is_impossible_where_it_adds_nothing(bandit):
    evidence, _ = bandit(8, seed=2)
    evidence = replace(evidence, proposal=torch.rand(8, 16, 16), has_prior=torch.arange(8) < 4)
    probs = make_network().distribution(evidence).log_probs().exp()[:, Action.PRIOR]
    differs = label_candidates(evidence).differs
    assert (probs[~differs] == 0).all() and (probs[differs] > 0).all()
    assert (probs[4:] == 0).all()


def test_sampling_is_the_inverse_cdf():
    probs = torch.tensor([0.2, 0.5, 0.3]).view(1, 3, 1, 1).expand(1, 3, 1, 5)
    noise = torch.tensor([[[0.1, 0.2, 0.69, 0.7, 0.99]]])
    assert sample_actions(probs.repeat(1, 1, 5, 1), noise.repeat(1, 5, 1))[0, 0].tolist() == [0, 1, 1, 2, 2]


@pytest.mark.parametrize(("grid", "num_features"), [(7, 4), (33, 0), (16, 1)])
def test_any_grid_and_feature_count(bandit, grid, num_features):
    evidence, _ = bandit(2, grid=grid, seed=8)
    output = make_network(num_features=num_features).distribution(evidence)
    assert output.action_logits.shape == (2, 3, grid, grid)
    assert output.gate_logit.shape == (2,)


def test_autocast_changes_nothing(bandit):
    evidence, _ = bandit(2, seed=9)
    network = make_network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = network.distribution(evidence)
    assert torch.equal(inside.action_logits, network.distribution(evidence).action_logits)
