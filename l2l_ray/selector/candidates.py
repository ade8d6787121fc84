"""The labels that one item could get, and what they say about one another.

Errors of a segmenter that reads expressions are errors of the object: most wrong labels lie on one other object, whole.
Dropping cells cannot mend that, taking another label can. So an item has up to four candidate labels (`Candidate`):
three predictions and the prior's own mask.

What tells a right one from a wrong one is how the candidates stand to one another, and to the labels of the image's
other expressions: a label that the prediction without the prior repeats, and that every prediction is sure of, is more
often right; one whose object another expression claims too is more often wrong. `relations` writes that down, one row
per candidate. It knows no mask, no box of the truth and no statistic of val, and nothing depends on which samples share
a batch.

Source: ours. Shape legend: B samples, K = len(Candidate), R = len(RELATIONS), G x G grid cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2l_ray.types import Candidate, Evidence

NAMES = tuple(candidate.name.lower() for candidate in Candidate)
# The predictions; the prior is no probability, its box is as sure of its corners as of its middle.
PREDICTIONS = tuple(candidate for candidate in Candidate if candidate != Candidate.PRIOR)
RELATIONS = (
    *(f"iou_{name}" for name in NAMES),  # of the candidate's mask with each one's
    *(f"inside_{name}" for name in NAMES),  # mean value of each one's map inside the candidate's mask
    *(f"is_{name}" for name in NAMES),
    "rival_iou",  # with what another expression of the image claims
    "entropy",  # mean over the grid of the candidate's own map, bits
    "side",  # square root of the mask's share of the grid: an object covers 5-10 %, its side 25-30 %
    "prior_score",
    "has_prior",
)


@dataclass(frozen=True)
class Candidates:
    """The candidate labels of a batch, in the order of `Candidate`.

    Example: `candidates_of(evidence)`
    """

    maps: Float[Tensor, "B K G G"]  # in [0, 1]; the prior's is 0 where there is none
    masks: Bool[Tensor, "B K G G"]  # maps > 0.5
    possible: Bool[Tensor, "B K"]  # it has an object cell, and no earlier candidate is the same mask

    def taken(self, source: Int[Tensor, " B"]) -> Bool[Tensor, "B G G"]:
        """Return one mask per sample."""
        return self.masks[torch.arange(len(source), device=source.device), source.long()]


def candidates_of(evidence: Evidence) -> Candidates:
    """Return the candidate labels of a batch.

    A candidate that is equal to an earlier one is not possible: it would be a second name for one label, which splits
    that label's probability.
    """
    prior = evidence.proposal.float() * evidence.has_prior.float()[:, None, None]
    maps = torch.stack(
        [
            evidence.mask_probs.float(),
            evidence.mask_probs_unguided.float(),
            evidence.mask_probs_flipped.float(),
            prior,
        ],
        dim=1,
    )
    masks = maps > 0.5
    same = (ious(masks) == 1).tril(-1).any(2)
    return Candidates(maps, masks, masks.flatten(2).any(2) & ~same)


def ious(masks: Bool[Tensor, "B K G G"]) -> Float[Tensor, "B K K"]:
    """Return the IoU of every pair of masks; 0 where both are empty."""
    flat = masks.flatten(2).float()
    with torch.autocast(masks.device.type, enabled=False):  # bfloat16 counts no further than 256
        shared = flat @ flat.transpose(1, 2)
    area = flat.sum(2)
    return shared / (area[:, :, None] + area[:, None, :] - shared).clamp(min=1)


@torch.no_grad()
def rival_ious(
    masks: Bool[Tensor, "B K G G"], guided: Bool[Tensor, "N G G"], is_rival: Bool[Tensor, "B N"]
) -> Float[Tensor, "B K"]:
    """Return each candidate's largest IoU with the guided label of a rival; 0 where there is none.

    A rival is another expression of the same image that asks for another object. Two of them cannot both be right about
    one object, and a segmenter that reads them one at a time does not notice. Source: ours.

    Args:
        masks: The candidate labels of B samples.
        guided: The guided label of N expressions.
        is_rival: Which of the N are rivals of which of the B.
    """
    flat, others = masks.flatten(2).float(), guided.flatten(1).float()
    with torch.autocast(masks.device.type, enabled=False):  # bfloat16 counts no further than 256
        shared = flat @ others.T
    union = flat.sum(2)[:, :, None] + others.sum(1) - shared
    overlap = (shared / union.clamp(min=1)) * is_rival[:, None, :]
    return overlap.amax(2) if overlap.shape[2] else torch.zeros(masks.shape[:2], device=masks.device)


@torch.no_grad()
def relations(evidence: Evidence, candidates: Candidates) -> Float[Tensor, "B K R"]:
    """Return what the candidates say about one another, in [-1, 1] and float32."""
    masks = candidates.masks.flatten(2).float()
    area = masks.sum(2)
    with torch.autocast(masks.device.type, enabled=False):
        inside = masks @ candidates.maps.flatten(2).transpose(1, 2) / area.clamp(min=1)[:, :, None]
    batch, count = area.shape
    has_prior = evidence.has_prior.float()
    single = torch.stack(
        [
            evidence.rival_iou.float(),
            binary_entropy(candidates.maps).mean((2, 3)),
            (area / masks.shape[2]).sqrt(),
            (evidence.prior_score.float() * has_prior)[:, None].expand(-1, count),
            has_prior[:, None].expand(-1, count),
        ],
        dim=2,
    )
    kind = torch.eye(count, device=masks.device).expand(batch, -1, -1)
    return torch.cat([ious(candidates.masks), inside, kind, single], dim=2)


def binary_entropy(probs: Tensor) -> Tensor:
    """Return the entropy of Bernoulli probabilities in bits, so in [0, 1]; 0 and 1 give 0. Any shape."""
    return -(torch.xlogy(probs, probs) + torch.xlogy(1 - probs, 1 - probs)) / math.log(2)


CELL_CHANNELS = (
    *(f"{candidate.name.lower()}_support" for candidate in Candidate),  # signed: +1 = the map says what the label says
    "object",  # +1 where the label says object, -1 elsewhere
    "edge_distance",  # from the label's edge, 1 = a quarter of the grid or more
)


@torch.no_grad()
def cell_evidence(
    candidates: Candidates, label: Bool[Tensor, "B G G"], has_prior: Bool[Tensor, " B"]
) -> Float[Tensor, "B C G G"]:
    """Return what every candidate says at each cell about a label, in [-1, 1]; channels are `CELL_CHANNELS`."""
    sign = torch.where(label, 1.0, -1.0)
    support = (2 * candidates.maps - 1) * sign[:, None]
    support[:, Candidate.PRIOR] *= has_prior.float()[:, None, None]
    return torch.cat([support, torch.stack([sign, edge_distance(label)], dim=1)], dim=1)


def edge_distance(mask: Bool[Tensor, "B G G"]) -> Float[Tensor, "B G G"]:
    """Return the chessboard distance of each cell to the mask's edge, in (0, 1]; 1 = a quarter of the grid or more.

    Mask and complement are dilated one cell at a time, so the cost is G/4 small poolings and no transfer to the host.
    The image border is no edge.
    """
    reach = max(1, mask.shape[-1] // 4)
    grown = torch.stack((mask, ~mask), dim=1).float()
    uncovered = torch.zeros_like(grown)
    for _ in range(reach):
        uncovered += 1 - grown  # [:, 0] counts steps until the mask arrives, [:, 1] until the complement does
        grown = functional.max_pool2d(grown, kernel_size=3, stride=1, padding=1)
    return uncovered.amax(1) / reach
