"""What selectors that learn share: how their network's scores become labels, and how far their gate opens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from l2l_ray.selector.base import Decision, LabeledEvidence, Selector
from l2l_ray.selector.network import PolicyNetwork, decision_probs, prepare
from l2l_ray.types import Evidence


class LearnedSelector(PolicyNetwork, Selector):
    """The policy network as a selector; a subclass says how it learns."""

    @torch.no_grad()
    def decide(self, evidence: Evidence, keys: Sequence[int]) -> Decision:
        """Take the candidate with the best score, where its gate is open, and the cells that are likelier kept.

        `gate` is the sigmoid of the score after the version's shift, so a viewer can sort by doubt. Deterministic:
        exploration is part of learning, not of labelling.
        """
        del keys
        inputs = prepare(evidence)
        scores = self.scores(inputs) + self.gate_shift
        best, source = scores.max(1)
        keep = torch.ones_like(evidence.mask_probs, dtype=torch.bool)
        if self.config.cells:
            keep = self.keep_logits(inputs, inputs.candidates.taken(source)) > 0
        gate = torch.sigmoid(best) if self.config.gate else inputs.candidates.possible.any(1).float()
        decided = torch.where(gate >= 0.5, source + 1, 0)  # 0: leaving it out
        log_probs = decision_probs(scores).log().gather(1, decided[:, None])[:, 0]
        return Decision(gate, keep.float(), source, log_probs)

    @torch.no_grad()
    def settle(self, labeled: Sequence[LabeledEvidence], unlabeled: Sequence[Evidence]) -> dict[str, float]:
        """Open the gate as far on unlabeled images as on the cross-fitted labeled ones, see `matching_shift`."""
        self.gate_shift.zero_()
        metrics = super().settle(labeled, unlabeled)
        if unlabeled:
            scores = torch.cat([self.scores(prepare(part)).amax(1) for part in unlabeled])
            metrics["open_rate_unshifted"] = (scores >= 0).float().mean().item()
            self.gate_shift.copy_(matching_shift(metrics["open_rate_labeled"], scores))
        return metrics


def matching_shift(rate: float, scores: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """Return what to add to scores of unlabeled images so that a share `rate` of them is at least 0.

    The labeled images are seen through teachers that never saw them, as they were after the burn-in; the unlabeled ones
    through a teacher that has trained on its own labels of them since, and is surer of everything. Without the shift
    the gate drifts open over the rounds. It supposes that labels do not get worse, and keeps the share that is used.
    """
    count = round(rate * len(scores))
    ordered = scores.sort(descending=True).values
    return -ordered[count - 1] if count else -ordered[0] - 1e-3
