"""What a selector sees: bounded evidence maps and one summary vector per sample, made from `Evidence` alone.

The channels fall in three groups. *Certainty* of the guided prediction (its entropy, distance to its own boundary,
local entropy) says how sure the teacher is; a teacher that follows a wrong prior is sure as well. *Independent
evidence* compares the guided label with predictions made without the prior (unguided, mirrored) and the prior with the
unguided prediction. *Stability* is disagreement among the predictions of one version and between two versions. Nothing
here knows a mask, a box of the truth, or a statistic of val, and nothing depends on the other samples of the batch.

Probabilities are shown as 2p-1. All values lie in [-1, 1] and are float32, whatever precision the teacher ran in.
Source: ours.
Shape legend: B samples, C = len(STATE_CHANNELS), S = len(SUMMARY_CHANNELS), G x G grid cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor

from l2l_ray.types import Evidence

STATE_CHANNELS: tuple[str, ...] = (
    "guided",
    "guided_entropy",
    "unguided",
    "prior_shift",  # |guided - unguided|: what the prior changed
    "prediction_variance",
    "proposal",
    "scored_proposal",
    "has_prior",
    "prior_unguided_gap",
    "unguided_support",  # unguided evidence for the guided label, signed
    "prior_support",  # the prior's evidence for the guided label, signed
    "prior_unguided_iou",
    "guided_unguided_iou",
    "boundary_distance",
    "instability",  # |guided - guided by the version before|
    "flip_gap",
    "local_entropy",
)
SUMMARY_CHANNELS: tuple[str, ...] = (
    "prior_unguided_iou",
    "guided_unguided_iou",
    "guided_prior_iou",
    "unguided_flipped_iou",
    "guided_perturbed_iou",
    "guided_previous_iou",
    "guided_side",  # sides, not areas: an object covers 5-10 % of an image, its side 25-30 %
    "unguided_side",
    "prior_side",
    "mean_entropy",
    "unguided_peak",
    "unguided_inside",  # mean unguided probability inside the guided mask
    "prior_score",
    "has_prior",
)
_EPS = 1e-6


@dataclass(frozen=True)
class State:
    """Evidence for one batch; channel order is `STATE_CHANNELS` and `SUMMARY_CHANNELS`."""

    maps: Float[Tensor, "B C G G"]
    summary: Float[Tensor, "B S"]


def binary_entropy(probs: Tensor) -> Tensor:
    """Return the entropy of Bernoulli probabilities in bits, so in [0, 1]; 0 and 1 give 0. Any shape."""
    return -(torch.xlogy(probs, probs) + torch.xlogy(1 - probs, 1 - probs)) / math.log(2)


def soft_iou(first: Float[Tensor, "*B G G"], second: Float[Tensor, "*B G G"]) -> Float[Tensor, "*B"]:
    """Return sum(min) / sum(max) of two soft masks, in [0, 1]; two empty masks give 1."""
    intersection = torch.minimum(first, second).sum((-2, -1))
    return (intersection + _EPS) / (torch.maximum(first, second).sum((-2, -1)) + _EPS)


def boundary_distance(mask: Bool[Tensor, "B G G"]) -> Float[Tensor, "B G G"]:
    """Return the signed chessboard distance to the mask's edge: positive inside, 1 = a quarter of the grid or more.

    Mask and complement are dilated one cell at a time, so the cost is G/4 small poolings and no transfer to the host.
    The image border is no edge. A full mask is 1 everywhere, an empty one -1.
    """
    reach = max(1, mask.shape[-1] // 4)
    grown = torch.stack((mask, ~mask), dim=1).float()
    uncovered = torch.zeros_like(grown)
    for _ in range(reach):
        uncovered += 1 - grown  # [:, 0] counts steps until the mask arrives, [:, 1] until the complement does
        grown = functional.max_pool2d(grown, kernel_size=3, stride=1, padding=1)
    return (uncovered[:, 1] - uncovered[:, 0]) / reach


@dataclass(frozen=True)
class Candidates:
    """The two labels a selector may choose between, as bool masks.

    `differs` is True where there is a prior and its label is not the teacher's. Only there is PRIOR an action of its
    own: elsewhere it would be a second name for TEACHER, which splits the probability of one label over two actions.
    """

    teacher: Bool[Tensor, "B G G"]
    prior: Bool[Tensor, "B G G"]
    differs: Bool[Tensor, "B G G"]

    @property
    def claimed(self) -> Bool[Tensor, "B G G"]:
        """True where the teacher or an existing prior says foreground."""
        return self.teacher | self.differs

    def first(self, num: int) -> Candidates:
        """Return the first samples."""
        return Candidates(self.teacher[:num], self.prior[:num], self.differs[:num])


def label_candidates(evidence: Evidence) -> Candidates:
    """Return both labels: guided probability > 0.5 and proposal > 0.5."""
    teacher, prior = evidence.mask_probs > 0.5, evidence.proposal > 0.5
    return Candidates(teacher, prior, (teacher != prior) & evidence.has_prior[:, None, None])


@torch.no_grad()
def normalize_features(features: Float[Tensor, "B F G G"]) -> Float[Tensor, "B F G G"]:
    """Return decoder features with mean 0 and variance 1 over the channels of each cell (LayerNorm without a scale)."""
    centered = features.float() - features.float().mean(1, keepdim=True)
    return centered * torch.rsqrt(centered.square().mean(1, keepdim=True) + 1e-5)


@torch.no_grad()
def build_state(evidence: Evidence) -> State:
    """Return the evidence for one batch; detached float32 on the device of the predictions."""
    maps, summary = _pixel_maps(evidence), _summary(evidence)
    return State(
        torch.stack([maps[name] for name in STATE_CHANNELS], dim=1),
        torch.stack([summary[name] for name in SUMMARY_CHANNELS], dim=1),
    )


def _pixel_maps(evidence: Evidence) -> dict[str, Tensor]:
    guided, unguided, flipped = (
        probs.float() for probs in (evidence.mask_probs, evidence.mask_probs_unguided, evidence.mask_probs_flipped)
    )
    perturbed, previous, proposal = (
        probs.float() for probs in (evidence.mask_probs_perturbed, evidence.mask_probs_previous, evidence.proposal)
    )
    has_prior = evidence.has_prior.float()[:, None, None].expand_as(guided)
    signed_prior = (2 * proposal - 1) * has_prior
    label_sign = torch.where(guided > 0.5, 1.0, -1.0)
    entropy = binary_entropy(guided)
    return {
        "guided": 2 * guided - 1,
        "guided_entropy": entropy,
        "unguided": 2 * unguided - 1,
        "prior_shift": (guided - unguided).abs(),
        "prediction_variance": _prediction_variance(guided, unguided, flipped, perturbed),
        "proposal": signed_prior,
        "scored_proposal": signed_prior * evidence.prior_score.float()[:, None, None],
        "has_prior": has_prior,
        "prior_unguided_gap": (proposal - unguided).abs() * has_prior,
        "unguided_support": label_sign * (2 * unguided - 1),
        "prior_support": label_sign * signed_prior,
        "prior_unguided_iou": soft_iou(proposal, unguided)[:, None, None] * has_prior,
        "guided_unguided_iou": soft_iou(guided, unguided)[:, None, None].expand_as(guided),
        "boundary_distance": boundary_distance(guided > 0.5),
        "instability": (guided - previous).abs(),
        "flip_gap": (unguided - flipped).abs(),
        "local_entropy": functional.avg_pool2d(entropy[:, None], 5, 1, 2, count_include_pad=False)[:, 0],
    }


def _prediction_variance(*probs: Float[Tensor, "B G G"]) -> Float[Tensor, "B G G"]:
    """Return 4 x variance over the predictions: the largest variance of values in [0, 1] is 1/4."""
    mean = sum(probs[1:], probs[0]) / len(probs)
    squares = [(prob - mean).square() for prob in probs]
    return 4 * sum(squares[1:], squares[0]) / len(probs)


def _summary(evidence: Evidence) -> dict[str, Tensor]:
    guided, unguided, proposal = (
        probs.float() for probs in (evidence.mask_probs, evidence.mask_probs_unguided, evidence.proposal)
    )
    has_prior = evidence.has_prior.float()
    inside = (guided > 0.5).float()
    return {
        "prior_unguided_iou": soft_iou(proposal, unguided) * has_prior,
        "guided_unguided_iou": soft_iou(guided, unguided),
        "guided_prior_iou": soft_iou(guided, proposal) * has_prior,
        "unguided_flipped_iou": soft_iou(unguided, evidence.mask_probs_flipped.float()),
        "guided_perturbed_iou": soft_iou(guided, evidence.mask_probs_perturbed.float()),
        "guided_previous_iou": soft_iou(guided, evidence.mask_probs_previous.float()),
        "guided_side": guided.mean((1, 2)).sqrt(),
        "unguided_side": unguided.mean((1, 2)).sqrt(),
        "prior_side": proposal.mean((1, 2)).sqrt() * has_prior,
        "mean_entropy": binary_entropy(guided).mean((1, 2)),
        "unguided_peak": unguided.amax((1, 2)),
        "unguided_inside": (unguided * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1),
        "prior_score": evidence.prior_score.float() * has_prior,
        "has_prior": has_prior,
    }
