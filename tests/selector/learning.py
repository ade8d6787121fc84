"""How tests of selectors that learn train one, and what they measure of it."""

from __future__ import annotations

import torch

from l2l_ray.config import RewardConfig
from l2l_ray.selector.base import LabeledEvidence, UpdateBatch, make_selector
from l2l_ray.selector.reward import class_balance, correctness
from l2l_ray.selector.state import label_candidates
from l2l_ray.types import Action

STRICT = RewardConfig(wrong_cost=2.0)  # a world where one wrong cell undoes two right ones


def train(selector, worlds, updates, seed=0, reference=None):
    """Run updates over (evidence, truth, evidence without truth) triples; return the metrics of the last one."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(selector.parameters(), lr=selector.config.lr)
    for number in range(updates):
        evidence, truth, unlabeled = worlds[number % len(worlds)]
        gradient = torch.randn(evidence.features.shape[1] + 1, generator=generator)
        batch = UpdateBatch(LabeledEvidence(evidence, truth), unlabeled, gradient, generator)
        metrics = selector.update(optimizer, batch, reference)
    return metrics


def seeded_selector(config, seed=0):
    torch.manual_seed(seed)
    return make_selector(config, 8)


def balanced_reward(selector, evidence, truth):
    """Return the class-balanced earning per cell on unseen samples, and the accepted share."""
    selection = selector.select(evidence, list(range(len(truth))))
    mask, accepted = truth > 0.5, selection.action != Action.IGNORE
    weight = class_balance(mask | label_candidates(evidence).claimed)
    earned = correctness(selection.target, mask, STRICT.wrong_cost) * weight * accepted
    return earned.mean().item(), accepted.float().mean().item()
