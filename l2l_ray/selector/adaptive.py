"""Rules whose thresholds are set once per version, from evidence: they have no weights, but they look at the data.

confidence_gate      the teacher's whole label where its mean object probability is high enough; how high is set on
                     the labeled images, where it pays most
adaptive_threshold   the teacher's label where max(p, 1-p) is at least its mean over cells of the same class
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from l2l_ray.config import SelectorConfig
from l2l_ray.selector.base import Decision, LabeledEvidence
from l2l_ray.selector.candidates import candidates_of
from l2l_ray.selector.learned import best_threshold, matching_shift
from l2l_ray.selector.network import IMPOSSIBLE
from l2l_ray.selector.reward import truth_ious
from l2l_ray.selector.rules import Rule, certainty, mean_object_probs
from l2l_ray.types import Candidate, Evidence


class AdaptiveRule(Rule):
    """A rule that is settled and never updated."""

    learns_by_batch = False


class ConfidenceGate(AdaptiveRule):
    """The strongest simple gate: is the teacher sure of its object on average?"""

    gate_is_graded = True
    threshold: Tensor

    def __init__(self, config: SelectorConfig) -> None:
        """Start with the threshold of the config."""
        super().__init__(config)
        self.register_buffer("threshold", torch.tensor(config.threshold))

    def decide(self, evidence: Evidence, keys: Sequence[int]) -> Decision:
        """Take the guided label where its mean object probability reaches the threshold; gate 0.5 = just there."""
        # in this order a score that equals the threshold gives exactly 0.5: the threshold is the score of a sample
        return Decision((0.5 + (_sureness(evidence) - self.threshold)).clamp(0, 1))

    @torch.no_grad()
    def settle(self, labeled: Sequence[LabeledEvidence], unlabeled: Sequence[Evidence]) -> dict[str, float]:
        """Set the threshold that pays most on labeled images, moved so that the share used stays on unlabeled ones."""
        known = torch.cat([_sureness(part.evidence) for part in labeled])
        found = [truth_ious(candidates_of(part.evidence).masks, part.mask > 0.5) for part in labeled]
        ious = torch.cat(found)[:, Candidate.GUIDED]
        self.threshold.copy_(best_threshold(known, ious, ious.mean() + self.config.reward.gate_margin))
        metrics = super().settle(labeled, unlabeled)
        if unlabeled:
            others = torch.cat([_sureness(part) for part in unlabeled])
            metrics["open_rate_unshifted"] = (others >= self.threshold).float().mean().item()
            if (others > IMPOSSIBLE).any():  # else they say nothing of how sure a label is
                self.threshold.copy_(-matching_shift(metrics["open_rate_labeled"], others))
        return {**metrics, "threshold": self.threshold.item()}


def _sureness(evidence: Evidence) -> Float[Tensor, " B"]:
    """Return the mean object probability of each sample, -1e4 where it has no object cell."""
    probs = mean_object_probs(evidence)
    return probs.masked_fill(probs == 0, IMPOSSIBLE)


class AdaptiveThreshold(AdaptiveRule):
    """Thresholds that follow the teacher, one for cells called object and one for the rest.

    In the manner of FreeMatch (Wang et al. 2023): its running mean of the certainty is taken over the unlabeled subset,
    per class; its scaling by how often a class is predicted is left out, as objects are few by nature here.
    """

    thresholds: Tensor

    def __init__(self, config: SelectorConfig) -> None:
        """Start with the threshold of the config for both classes."""
        super().__init__(config)
        self.register_buffer("thresholds", torch.full((2,), config.threshold))

    def decide(self, evidence: Evidence, keys: Sequence[int]) -> Decision:
        """Take the teacher's label where it is as sure as on average of its class."""
        probs = evidence.mask_probs
        weight = (certainty(probs) >= self.thresholds[(probs > 0.5).long()]).float()
        return Decision(torch.ones(len(probs), device=probs.device), weight)

    @torch.no_grad()
    def settle(self, labeled: Sequence[LabeledEvidence], unlabeled: Sequence[Evidence]) -> dict[str, float]:
        """Set both thresholds to the mean certainty of their class over the unlabeled subset."""
        parts = list(unlabeled) or [part.evidence for part in labeled]
        for index in (0, 1):
            sums = [_certainty_sum(part, bool(index)) for part in parts]
            cells = sum(count for _, count in sums)
            if cells:
                self.thresholds[index] = sum(total for total, _ in sums) / cells
        named = {f"threshold_{name}": self.thresholds[i].item() for i, name in enumerate(("background", "object"))}
        return {**super().settle(labeled, unlabeled), **named}


def _certainty_sum(evidence: Evidence, is_object: bool) -> tuple[float, int]:
    cells = (evidence.mask_probs > 0.5) == is_object
    return float(certainty(evidence.mask_probs)[cells].sum()), int(cells.sum())
