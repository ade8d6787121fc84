"""RPLE, the reinforced selector: it labels with its policy network and learns from what its labels earn.

`Rple.update` is the method at a glance: explore (sample label maps from the policy), reward (`reward.py`), update
(a clipped policy gradient, `objective.py`, where its choices and sources are).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TypeVar

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor

from l2l_ray.randomness import torch_generator
from l2l_ray.selector import objective, reward
from l2l_ray.selector.base import Ranking, Selector, UpdateBatch, check_keys, make_selection, take_step
from l2l_ray.selector.network import PolicyInput, PolicyNetwork, sample_actions
from l2l_ray.selector.state import label_candidates
from l2l_ray.types import Action, Evidence, Selection

_Batch = TypeVar("_Batch", Evidence, PolicyInput)


class Rple(PolicyNetwork, Selector):
    """The policy network with what a selector does: select, rank, learn."""

    @torch.no_grad()
    def select(self, evidence: Evidence, keys: Sequence[int]) -> Selection:
        """Label a batch: most likely actions at `label_temperature` 0, else samples drawn from each sample's own key.

        A sample whose gate is shut has IGNORE everywhere; `gate` keeps its probability, so a viewer can sort by doubt
        (what was drawn, 0 or 1, where labels are sampled).

        Args:
            evidence: Evidence for B samples.
            keys: B integers, one per sample; a sample's outcome does not depend on the rest of the batch.

        Raises:
            DataError: If the number of keys is not the batch size.
        """
        output = self.distribution(evidence)
        check_keys(evidence, keys)
        log_probs, gate_probs = output.log_probs(), torch.sigmoid(output.gate_logit)
        temperature = self.config.label_temperature
        if temperature == 0:
            action, gate_open = log_probs.argmax(1), gate_probs >= 0.5
        else:
            noise = keyed_noise(keys, log_probs[0, 0].numel() + 1).to(log_probs.device)
            cell_noise = noise[:, 1:].view_as(log_probs[:, 0])
            action = sample_actions(functional.softmax(output.action_logits / temperature, dim=1), cell_noise)
            gate_open = noise[:, 0] < torch.sigmoid(output.gate_logit / temperature)
            gate_probs = gate_open.float()  # what was drawn: whoever reads the label uses it from 0.5 on
        if not self.config.gate:
            gate_probs, gate_open = torch.ones_like(gate_probs), torch.ones_like(gate_open)
        chosen = log_probs.gather(1, action[:, None].long())[:, 0]
        action = torch.where(gate_open[:, None, None], action, Action.IGNORE)
        weight = (action != Action.IGNORE).float()
        return make_selection(evidence, action, weight, gate_probs, chosen.mean((1, 2)))

    @torch.no_grad()
    def ranking(self, evidence: Evidence) -> Ranking:
        """Rank by gate times the probability of the likelier label being taken."""
        output = self.distribution(evidence)
        probs = output.log_probs().exp()
        prefer_prior = probs[:, Action.PRIOR] > probs[:, Action.TEACHER]
        label = torch.where(prefer_prior, evidence.proposal > 0.5, evidence.mask_probs > 0.5)
        score = torch.maximum(probs[:, Action.PRIOR], probs[:, Action.TEACHER])
        gate = torch.sigmoid(output.gate_logit) if self.config.gate else torch.ones_like(output.gate_logit)
        return score * gate[:, None, None], label

    def update(
        self, optimizer: torch.optim.Optimizer, batch: UpdateBatch, reference: Selector | None = None
    ) -> dict[str, float]:
        """Run one update; arguments as in `Selector.update`.

        `batch.unlabeled` feeds the reward terms that need no truth, `batch.gradient` the utility term; without
        `reference` there is no KL term. Reward terms among the metrics are means per cell of the sampled maps, already
        weighted.
        """
        labeled, unlabeled, gradient = batch.labeled, batch.unlabeled, batch.gradient
        parts = [labeled.evidence] if unlabeled is None else [labeled.evidence, unlabeled]
        inputs = _join([self.prepare(part) for part in parts])
        projected = (
            None if gradient is None else torch.cat([reward.project_gradient(p.features, gradient) for p in parts])
        )
        evidence, mask = _join([_without_features(part) for part in parts]), labeled.mask > 0.5

        output = self(inputs)
        action, gate = objective.sample_group(output, self.config, batch.generator)
        terms = reward.total_reward(action, evidence, mask, projected, self.config)
        rollout = objective.make_rollout(output, action, gate, terms, self.config)

        with torch.no_grad():
            anchor = reference(inputs) if reference is not None and self.config.kl > 0 else None
        for epoch in range(self.config.inner_epochs):
            output = output if epoch == 0 else self(inputs)
            loss, metrics = objective.grpo_loss(output, rollout, anchor, self.config)
            take_step(self, optimizer, loss)
        metrics |= _reward_metrics(terms, action, evidence, mask)
        values = torch.stack(list(metrics.values())).tolist()
        return dict(zip(metrics, values, strict=True))


def keyed_noise(keys: Sequence[int], num: int) -> Float[Tensor, "B N"]:
    """Return uniform numbers in [0, 1), one row per key, on the CPU so that every device sees the same ones."""
    return torch.stack([torch.rand(num, generator=torch_generator(key)) for key in keys])


def _without_features(evidence: Evidence) -> Evidence:
    """Drop the features, by far the largest part, before batches are joined: rewards do not read them."""
    return replace(evidence, features=evidence.features[:, :0])


def _join(parts: list[_Batch]) -> _Batch:
    """Concatenate records of tensors sample by sample."""
    kind = type(parts[0])
    return kind(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(kind)})


@torch.no_grad()
def _reward_metrics(
    terms: reward.RewardTerms, action: Tensor, evidence: Evidence, mask: Bool[Tensor, "N G G"]
) -> dict[str, Tensor]:
    known = len(mask)
    candidates = label_candidates(evidence)
    accepted = (action != Action.IGNORE).float()
    claimed = candidates.claimed.float().expand_as(accepted)
    target = torch.where(action == Action.PRIOR, candidates.prior, candidates.teacher)[:, :known]
    right = (target == mask) * accepted[:, :known]
    return {
        "reward/total": terms.total.mean(),
        "reward/correctness": terms.correctness[:known].mean(),
        "reward/agreement": terms.agreement.mean(),
        "reward/consistency": terms.consistency.mean(),
        "reward/coverage": terms.coverage_penalty.mean(),
        "reward/utility": terms.utility.mean(),
        "reward/gate": terms.gate_reward.sum() / terms.used.sum().clamp(min=1),
        "accepted_share": accepted.mean(),
        "accepted_share_claimed": (accepted * claimed).sum() / claimed.sum().clamp(min=1),
        "accepted_precision": right.sum() / accepted[:, :known].sum().clamp(min=1),
        "prior_share": (action == Action.PRIOR).float().mean(),
    }
