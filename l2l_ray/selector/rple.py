"""RPLE, the reinforced selector: it labels with its policy network and learns from what its labels earn.

`Rple.update` is the method at a glance: explore (sample decisions from the policy), reward (`reward.py`), update (a
policy gradient, `objective.py`, where its choices and sources are).
"""

from __future__ import annotations

from dataclasses import fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from l2l_ray.config import SelectorConfig
from l2l_ray.selector import objective, reward
from l2l_ray.selector.base import UpdateBatch, take_step
from l2l_ray.selector.candidates import Candidates
from l2l_ray.selector.learned import LearnedSelector
from l2l_ray.selector.network import PolicyInput, decision_probs, prepare
from l2l_ray.types import Evidence


class Rple(LearnedSelector):
    """The policy network, reinforced."""

    def __init__(self, config: SelectorConfig) -> None:
        """Build the network; no term that needs no truth counts before the first labeled batch."""
        super().__init__(config)
        self.terms = reward.TermWeights()

    def update(self, optimizer: torch.optim.Optimizer | None, batch: UpdateBatch) -> dict[str, float]:
        """Run one update; `batch.unlabeled` feeds the reward that needs no truth."""
        config, generator = self.config, batch.generator
        known = prepare(batch.labeled.evidence)
        truth = batch.labeled.mask > 0.5
        values = self._values(known, truth)
        inputs = known
        if batch.unlabeled is not None and config.reward.unlabeled > 0:
            inputs, values = self._with_unlabeled(known, values, batch.unlabeled)

        # explore: which label
        scores = self.scores(inputs)
        probs = decision_probs(scores)
        choice = objective.sample_group(probs.detach(), config.group_size, generator)

        # reward
        earned = values.expand(len(choice), -1, -1).gather(2, choice[..., None])[..., 0]
        advantage = objective.group_advantage(earned)

        # update
        loss, count, of_cells = objective.policy_loss(probs, choice, advantage), len(truth), dict[str, Tensor]()
        if config.cells:
            label, used = known.candidates.taken(scores[:count].argmax(1)), 1 - probs.detach()[:count, 0]
            cell_loss, of_cells = self._cells(known, label, truth, used, generator)
            loss = loss + cell_loss
        take_step(self, optimizer, loss)
        metrics = {
            "loss": loss.detach(),
            "entropy": objective.entropy(probs.detach()).mean(),
            "reward/label": earned[:, :count].mean(),
            "reward/unlabeled": earned[:, count:].mean() if earned.shape[1] > count else torch.zeros(()),
            **of_cells,
            **{f"term/{name}": weight for name, weight in zip(reward.TERMS, self.terms.weights, strict=False)},
        }
        return {name: value.item() for name, value in metrics.items()}

    def _cells(
        self,
        known: PolicyInput,
        label: Bool[Tensor, "B G G"],
        truth: Bool[Tensor, "B G G"],
        used: Float[Tensor, " B"],
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Explore which cells of the labels to keep; return the loss, and metrics by name."""
        keep_probs = _two(self.keep_logits(known, label))
        kept = objective.sample_group(keep_probs.detach(), self.config.group_size, generator)
        earned = kept * reward.cell_values(label, truth, self.config.reward.wrong_cost) * used[:, None, None]
        loss = objective.policy_loss(keep_probs, kept, objective.group_advantage(earned))
        return loss, {"reward/cells": earned.mean(), "kept_share": kept.float().mean()}

    def _values(self, known: PolicyInput, truth: Tensor) -> Float[Tensor, "B C"]:
        """Return what each decision on the labeled images is worth, and learn what the other terms say about it."""
        found = reward.truth_ious(known.candidates.masks, truth)
        self.terms.observe(reward.unlabeled_terms(known.candidates), found, self.possible(known))
        return reward.decision_values(found, self.observe(known, found))

    def _with_unlabeled(
        self, known: PolicyInput, values: Float[Tensor, "B C"], unlabeled: Evidence
    ) -> tuple[PolicyInput, Float[Tensor, "N C"]]:
        """Add unlabeled images, whose values are judged by the terms that need no truth."""
        others = prepare(unlabeled)
        judged = self.terms.value(reward.unlabeled_terms(others.candidates))
        weighted = reward.decision_values(judged, self.cost) * self.config.reward.unlabeled
        joined = PolicyInput(
            _joined(known.candidates, others.candidates),
            torch.cat([known.relations, others.relations]),
            torch.cat([known.has_prior, others.has_prior]),
        )
        return joined, torch.cat([values, weighted])


def _two(logits: Float[Tensor, "*N"]) -> Float[Tensor, "*N 2"]:
    """Return the probabilities of no and yes."""
    yes = torch.sigmoid(logits)
    return torch.stack([1 - yes, yes], dim=-1).clamp(min=1e-6)


def _joined(first: Candidates, second: Candidates) -> Candidates:
    return Candidates(*(torch.cat([getattr(part, field.name) for part in (first, second)]) for field in fields(first)))
