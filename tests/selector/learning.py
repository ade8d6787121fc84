"""How tests of selectors that learn train one, and what they measure of it."""

from __future__ import annotations

import torch

from l2l_ray.selector.base import LabeledEvidence, UpdateBatch, make_selector
from l2l_ray.selector.reward import truth_ious


def train(selector, worlds, updates, seed=0):
    """Run updates over (evidence, truth, evidence without truth) triples; return the metrics of the last one."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(selector.parameters(), lr=selector.config.lr)
    for number in range(updates):
        evidence, truth, unlabeled = worlds[number % len(worlds)]
        batch = UpdateBatch(LabeledEvidence(evidence, truth), unlabeled, generator)
        metrics = selector.update(optimizer, batch)
    return metrics


def seeded_selector(config, seed=0):
    """Return a fresh selector, the same for the same seed."""
    torch.manual_seed(seed)
    return make_selector(config)


def settled(selector, worlds):
    """Return a selector after `settle` on all worlds, as each version is."""
    known = [LabeledEvidence(evidence, truth) for evidence, truth, _ in worlds]
    selector.settle(known, [unlabeled for _, _, unlabeled in worlds if unlabeled is not None])
    return selector


def earned(selector, evidence, truth):
    """Return what a selector's labels earn per unseen sample: how much better they are than the average guided one."""
    selection = selector.select(evidence, list(range(len(truth))))
    masks = torch.stack([selection.target, evidence.mask_probs > 0.5], dim=1)
    found, guided = truth_ious(masks, truth > 0.5).unbind(1)
    return (selection.used * (found - guided.mean())).mean().item()
