"""The fixed rules RPLE is compared with. Same interface, same evidence, one config field apart.

    supervised        believes nothing: training uses the labeled images alone
    accept_all        the teacher's label everywhere, weight 1
    fixed_threshold   the teacher's label where max(p, 1-p) >= threshold (FixMatch .95, DAM-Net .7)
    pwa               the teacher's label everywhere, weight 1.3 - N(p; 0.5, variance 0.1) (SemiRES PWA)
    matching          the prior's mask as the whole label where it overlaps the teacher's, else PWA (SemiRES IOM)
    agreement         guided and unguided masks match as a whole, and the cell's labels match too; foreground only
                      where the prior allows it
    prior_label       the prior's own mask as the label, wherever there is a prior
    random_gate       the teacher's whole label for a random share `rate` of the samples

A rule has no parameters; but for `random_gate` none draws random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from l2l_ray.config import SelectorConfig
from l2l_ray.randomness import keyed_uniform
from l2l_ray.selector.base import Decision, Selector
from l2l_ray.selector.candidates import candidates_of, ious
from l2l_ray.types import Candidate, Evidence

PWA_OFFSET, PWA_MEAN, PWA_VARIANCE = 1.3, 0.5, 0.1


class Rule(Selector):
    """Base of the fixed rules: a subclass writes `decide`."""

    needs_full_evidence = False

    def __init__(self, config: SelectorConfig) -> None:
        """Keep the selector section; a rule has no parameters."""
        super().__init__()
        self.config = config


class Supervised(Rule):
    """Believes nothing: training uses the labeled images alone."""

    def decide(self, evidence: Evidence, keys: Sequence[int]) -> Decision:
        """Leave every sample out."""
        return Decision(gate=torch.zeros(len(keys), device=evidence.mask_probs.device))


class AcceptAll(Rule):
    """Plain self-training."""

    def decide(self, evidence: Evidence, keys: Sequence[int]) -> Decision:
        """Take the teacher's label everywhere."""
        return Decision(gate=_open(evidence))


class FixedThreshold(Rule):
    """FixMatch. Source: Sohn et al. 2020; 0.95 there, 0.7 in DAM-Net."""

    def decide(self, evidence: Evidence, keys: Sequence[int]) -> Decision:
        """Take the teacher's label where it is sure enough."""
        return Decision(_open(evidence), (certainty(evidence.mask_probs) >= self.config.threshold).float())


class PixelWeightAdjustment(Rule):
    """SemiRES PWA: no threshold, undecided cells weigh little. Source: Yang et al. 2024."""

    def decide(self, evidence: Evidence, keys: Sequence[int]) -> Decision:
        """Take the teacher's label everywhere, weighted by its distance from 0.5."""
        return Decision(_open(evidence), pwa_weight(evidence.mask_probs))


class Matching(Rule):
    """SemiRES IOM; its candidate masks are SAM's, ours is the prior's one: a box, or SAM's mask of it.

    Source: Yang et al. 2024.
    """

    def decide(self, evidence: Evidence, keys: Sequence[int]) -> Decision:
        """Take the prior's whole mask where its IoU with the teacher's mask exceeds `match_iou`, else PWA."""
        overlap = ious(candidates_of(evidence).masks)[:, Candidate.GUIDED, Candidate.PRIOR]
        matched = overlap > self.config.match_iou
        weight = torch.where(matched[:, None, None], 1.0, pwa_weight(evidence.mask_probs))
        return Decision(_open(evidence), weight, torch.where(matched, Candidate.PRIOR, Candidate.GUIDED))


class Agreement(Rule):
    """Prior and teacher must agree; ours.

    Guidance makes the guided mask follow the prior, so prior and teacher are compared through the *unguided* mask. A
    sample is used if it has a prior and IoU(guided mask, unguided mask) >= `match_iou`. In it, a cell is accepted if
    guided and unguided labels are equal and the label is background, or foreground inside the prior's mask. (A box
    contains background, so a background label never contradicts it.)
    """

    needs_full_evidence = True

    def decide(self, evidence: Evidence, keys: Sequence[int]) -> Decision:
        """Take the teacher's label where the independent evidence says the same."""
        candidates = candidates_of(evidence)
        guided, unguided, prior = (
            candidates.masks[:, which] for which in (Candidate.GUIDED, Candidate.UNGUIDED, Candidate.PRIOR)
        )
        overlap = ious(candidates.masks)[:, Candidate.GUIDED, Candidate.UNGUIDED]
        agreed = (guided == unguided) & (~guided | prior)
        return Decision(((overlap >= self.config.match_iou) & evidence.has_prior).float(), agreed.float())


class PriorLabel(Rule):
    """The prior's own mask: what the language model, or SAM asked by it, is worth as a labeler."""

    def decide(self, evidence: Evidence, keys: Sequence[int]) -> Decision:
        """Take the prior's mask wherever there is a prior."""
        return Decision(evidence.has_prior.float(), source=_open(evidence).long() * Candidate.PRIOR)


class RandomGate(Rule):
    """As many samples as a gate would use, drawn at random: what using fewer labels is worth by itself."""

    def decide(self, evidence: Evidence, keys: Sequence[int]) -> Decision:
        """Take the teacher's label of a share `rate` of the samples, by their keys."""
        drawn = torch.from_numpy(keyed_uniform(keys, 1, "random-gate")[:, 0]) < self.config.rate
        return Decision(drawn.float().to(evidence.mask_probs.device))


def certainty(mask_probs: Float[Tensor, "*B G G"]) -> Float[Tensor, "*B G G"]:
    """Return max(p, 1-p), in [0.5, 1]."""
    return torch.maximum(mask_probs, 1 - mask_probs)


def mean_object_probs(evidence: Evidence) -> Float[Tensor, " B"]:
    """Return the mean guided probability inside the guided mask, in [0.5, 1]; 0 where the mask is empty."""
    inside: Bool[Tensor, "B G G"] = evidence.mask_probs > 0.5
    return (evidence.mask_probs * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)


def pwa_weight(mask_probs: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """Return 1.3 - N(p; 0.5, variance 0.1), clipped to [0, 1]: 0.04 at p = 0.5, 0.94 at 0 and 1. Source: SemiRES."""
    distance = (mask_probs.float() - PWA_MEAN).square()
    density = torch.exp(-distance / (2 * PWA_VARIANCE)) / math.sqrt(2 * math.pi * PWA_VARIANCE)
    return (PWA_OFFSET - density).clamp(0, 1)


def _open(evidence: Evidence) -> Float[Tensor, " B"]:
    return torch.ones(len(evidence.mask_probs), device=evidence.mask_probs.device)
