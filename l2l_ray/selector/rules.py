"""The fixed rules RPLE is compared with. Same interface, same evidence, one config field apart.

    supervised        believes nothing: training uses the labeled images alone
    accept_all        the teacher's label everywhere, weight 1
    fixed_threshold   the teacher's label where max(p, 1-p) >= threshold (FixMatch .95, DAM-Net .7)
    pwa               the teacher's label everywhere, weight 1.3 - N(p; 0.5, variance 0.1) (SemiRES PWA)
    matching          the prior's binarised proposal as the whole label where it overlaps the teacher's mask, else PWA
                      (SemiRES IOM; without SAM the proposal is the only candidate mask)
    agreement         guided and unguided masks match as a whole, and the cell's labels match too; foreground only
                      where the prior allows it

A rule has no parameters and draws no random numbers; `keys` are accepted because the interface has them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from l2l_ray.config import SelectorConfig
from l2l_ray.selector.base import Ranking, Selector, check_keys, make_selection
from l2l_ray.selector.state import label_candidates
from l2l_ray.types import Action, Evidence, Selection

PWA_OFFSET, PWA_MEAN, PWA_VARIANCE = 1.3, 0.5, 0.1


class Rule(Selector):
    """Base of the fixed rules: a subclass says how much each cell is believed."""

    needs_full_evidence = False

    def __init__(self, config: SelectorConfig, feature_width: int) -> None:
        """Keep the selector section; a rule has no parameters."""
        super().__init__()
        self.config = config

    @abstractmethod
    def decide(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Return (action [B,G,G], weight [B,G,G] in [0, 1], gate [B], 1 = the sample is used)."""

    @torch.no_grad()
    def select(self, evidence: Evidence, keys: Sequence[int]) -> Selection:
        """Label a batch; deterministic. A sample with gate 0 has IGNORE everywhere."""
        check_keys(evidence, keys)
        action, weight, gate = self.decide(evidence)
        action = torch.where(gate[:, None, None] > 0, action, Action.IGNORE)
        weight = weight * (action != Action.IGNORE)
        return make_selection(evidence, action, weight, gate)

    def ranking(self, evidence: Evidence) -> Ranking:
        """Rank by the guided prediction's certainty, the order of every threshold."""
        return certainty(evidence.mask_probs), evidence.mask_probs > 0.5


class Supervised(Rule):
    """Believes nothing: training uses the labeled images alone."""

    def decide(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Ignore every cell, gate shut."""
        weight = torch.zeros_like(evidence.mask_probs, dtype=torch.float32)
        return weight.long(), weight, weight[:, 0, 0]


class AcceptAll(Rule):
    """Plain self-training."""

    def decide(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Take the teacher's label everywhere."""
        return _teacher_where(torch.ones_like(evidence.mask_probs, dtype=torch.bool))

    def ranking(self, evidence: Evidence) -> Ranking:
        """Rank all cells alike: at any coverage its precision is that of a random choice."""
        return torch.zeros_like(evidence.mask_probs), evidence.mask_probs > 0.5


class FixedThreshold(Rule):
    """FixMatch. Source: Sohn et al. 2020; 0.95 there, 0.7 in DAM-Net."""

    def decide(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Take the teacher's label where it is sure enough."""
        return _teacher_where(threshold_accepts(evidence.mask_probs, self.config.threshold))


class PixelWeightAdjustment(Rule):
    """SemiRES PWA: no threshold, undecided cells weigh little. Source: Yang et al. 2024."""

    def decide(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Take the teacher's label everywhere, weighted by its distance from 0.5."""
        action, _, gate = _teacher_where(torch.ones_like(evidence.mask_probs, dtype=torch.bool))
        return action, pwa_weight(evidence.mask_probs), gate


class Matching(Rule):
    """SemiRES IOM with the prior's proposal as the candidate mask; candidates there are SAM's.

    Source: Yang et al. 2024.
    """

    def decide(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Take the prior's whole mask where its IoU with the teacher's mask exceeds `match_iou`, else PWA."""
        candidates = label_candidates(evidence)
        union = (candidates.teacher | candidates.prior).sum((1, 2)).clamp(min=1)
        iou = (candidates.teacher & candidates.prior).sum((1, 2)) / union
        matched = ((iou > self.config.match_iou) & evidence.has_prior)[:, None, None]
        action = torch.where(matched, Action.PRIOR, Action.TEACHER).expand_as(evidence.mask_probs)
        weight = torch.where(matched, 1.0, pwa_weight(evidence.mask_probs))
        return action, weight, torch.ones_like(weight[:, 0, 0])

    def ranking(self, evidence: Evidence) -> Ranking:
        """Rank matched samples first, then by the pixel weight."""
        action, weight, _ = self.decide(evidence)
        label = torch.where(action == Action.PRIOR, evidence.proposal > 0.5, evidence.mask_probs > 0.5)
        return weight, label


class Agreement(Rule):
    """Prior and teacher must agree; ours.

    Guidance makes the guided mask follow the prior, so prior and teacher are compared through the *unguided* mask. A
    sample is used if it has a prior and IoU(guided mask, unguided mask) >= `match_iou`. In it, a cell is accepted if
    guided and unguided labels are equal and the label is background, or foreground inside the binarised proposal. (A
    box contains background, so a background label never contradicts it.)
    """

    needs_full_evidence = True

    def decide(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Take the teacher's label where the independent evidence says the same."""
        guided, unguided = evidence.mask_probs > 0.5, evidence.mask_probs_unguided > 0.5
        iou = (guided & unguided).sum((1, 2)) / (guided | unguided).sum((1, 2)).clamp(min=1)
        action, weight, _ = _teacher_where((guided == unguided) & (~guided | (evidence.proposal > 0.5)))
        return action, weight, ((iou >= self.config.match_iou) & evidence.has_prior).float()

    def ranking(self, evidence: Evidence) -> Ranking:
        """Rank accepted cells first, each part by the less certain of the guided and the unguided prediction."""
        action, _, gate = self.decide(evidence)
        accepted = ((action != Action.IGNORE) & (gate[:, None, None] > 0)).float()
        doubtful = torch.minimum(certainty(evidence.mask_probs), certainty(evidence.mask_probs_unguided))
        return 0.5 * (accepted + doubtful), evidence.mask_probs > 0.5


def certainty(mask_probs: Float[Tensor, "*B G G"]) -> Float[Tensor, "*B G G"]:
    """Return max(p, 1-p), in [0.5, 1]."""
    return torch.maximum(mask_probs, 1 - mask_probs)


def threshold_accepts(mask_probs: Float[Tensor, "*B G G"], threshold: float) -> Bool[Tensor, "*B G G"]:
    """Return True where max(p, 1-p) >= threshold."""
    return certainty(mask_probs) >= threshold


def pwa_weight(mask_probs: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """Return 1.3 - N(p; 0.5, variance 0.1), clipped to [0, 1]: 0.04 at p = 0.5, 0.94 at 0 and 1. Source: SemiRES."""
    distance = (mask_probs.float() - PWA_MEAN).square()
    density = torch.exp(-distance / (2 * PWA_VARIANCE)) / math.sqrt(2 * math.pi * PWA_VARIANCE)
    return (PWA_OFFSET - density).clamp(0, 1)


def _teacher_where(accepted: Bool[Tensor, "B G G"]) -> tuple[Tensor, Tensor, Tensor]:
    action = torch.where(accepted, Action.TEACHER, Action.IGNORE)
    weight = accepted.float()
    return action, weight, torch.ones_like(weight[:, 0, 0])
