"""The supervised control: RPLE's own network, trained to predict the IoU of each candidate and which cells are right.

It sees the same images, evidence and start, and decides alike, so the difference to RPLE is how they learn. If RPLE
does not beat it, reinforcement learning proves nothing. Source: after SemiReward (Li et al. 2024), which scores
pseudo-labels by a network trained on labeled data.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional

from l2l_ray.selector.base import UpdateBatch, take_step
from l2l_ray.selector.learned import LearnedSelector
from l2l_ray.selector.network import decision_probs, prepare
from l2l_ray.selector.reward import class_balance, truth_ious

STEPS = 1  # per batch; with 3 it overfits a hundred labeled sentences and ranks worse (docs/experiments.md)


class Scorer(LearnedSelector):
    """The policy network, supervised: its score is above 0 where it predicts an IoU above the cost."""

    def update(self, optimizer: torch.optim.Optimizer | None, batch: UpdateBatch) -> dict[str, float]:
        """Take `STEPS` steps of cross-entropy on the labeled images; everything else is left alone."""
        rewards = self.config.reward
        inputs, truth = prepare(batch.labeled.evidence), batch.labeled.mask > 0.5
        found = truth_ious(inputs.candidates.masks, truth)
        cost = self.observe(inputs, found)
        with torch.no_grad():
            scores, possible = self.scores(inputs), self.possible(inputs)
            label = inputs.candidates.taken(scores.argmax(1))
            used = 1 - decision_probs(scores)[:, 0]
        right = (label == truth).float()
        # the odds above which a decision pays, as the rewards weigh them: the scores are zero there
        use, keep = math.log(cost / (1 - cost)), math.log(rewards.wrong_cost)
        for _ in range(STEPS):
            per_label = functional.binary_cross_entropy_with_logits(
                self.scores(inputs) + use, found, weight=possible.float(), reduction="sum"
            )
            loss = per_label / possible.sum().clamp(min=1)  # a batch may hold no possible label at all
            if self.config.cells:
                logits = self.keep_logits(inputs, label) + keep
                per_cell = functional.binary_cross_entropy_with_logits(logits, right, reduction="none")
                loss = loss + (per_cell * class_balance(label | truth) * used[:, None, None]).mean()
            take_step(self, optimizer, loss)
        return {"loss": loss.item()}
