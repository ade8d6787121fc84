"""Prior -> soft proposal q on the decoder's grid: it guides the segmenter, and the selector may take labels from it.

Three sources (`PriorConfig.proposal`):
- `box`: a smooth box, the product of four logistic edges. No extra model.
- `polygon`: the prior's polygons (Florence-2), rasterised with anti-aliasing; a prior without polygons uses its boxes.
- `sam`: the masks that SAM drew for the prior's boxes and points when the MLLM was asked (`prior/sam.py`).

Several candidates of one prior are alternatives for the same referent: boxes, masks of boxes with the scores of these,
or the masks of a single point with the IoU that SAM foretells. They are mixed by the *maximum* over candidates of
`weight x candidate`. The weight of the best candidate, the first of equals, is 1, whatever its score (how far the prior
is to be believed travels apart, as `ProposalBatch.score`); that of another one is half its score over the best score.
So the 0.5 level of the proposal, which is the prior's label, is the best candidate alone and never the union of
alternatives; the others show all the same, and repeating a candidate changes nothing, while a noisy-or would grow with
every repeated sample of the same reply. Where a sentence is about several objects, the label is one of them.

No prior gives the uniform proposal 0.5 and `has_prior` False.
Source: all ours; the L2L paper says only that the MLLM's output is a prior for the segmenter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from l2l_ray.config import PriorConfig
from l2l_ray.errors import DataError
from l2l_ray.prior.masks import mask_on_grid, read_mask
from l2l_ray.types import BoxFrac, PointFrac, Prior

NO_PRIOR_PROB = 0.5
_LESSER = 0.5  # what the relative score of all candidates but the best is multiplied by
_SUPERSAMPLE = 8  # polygon samples per cell and axis: coverage in steps of 1/64
_NO_BOX: BoxFrac = (0.0, 0.0, 1.0, 1.0)  # padding; its weight is 0


@dataclass(frozen=True)
class ProposalBatch:
    """Soft proposals of a batch.

    Example: `Proposer(PriorConfig()).proposals([prior, None], grid=16)`: has_prior is [True, False].
    """

    proposal: Float[Tensor, "B G G"]  # in [0, 1]; 0.5 everywhere where has_prior is False
    score: Float[Tensor, " B"]  # the prior's own score in [0, 1]; 0 where has_prior is False
    has_prior: Bool[Tensor, " B"]


class Proposer:
    """Turns priors into proposals by the way the config names.

    Args:
        config: The prior section; `proposal` and `box_softness` are read.
    """

    def __init__(self, config: PriorConfig) -> None:
        self.config = config

    def proposals(self, priors: Sequence[Prior | None], grid: int) -> ProposalBatch:
        """Return the proposals of `priors`, on the CPU.

        Args:
            priors: One per sample; None or a prior without boxes, polygons or masks means no prior.
            grid: Cells per side of the result.
        Raises:
            DataError: `proposal='sam'`, and a prior's masks cannot be read, or were never drawn.
        """
        if self.config.proposal == "sam":
            candidates, weight = _mask_candidates(priors, grid)
        else:
            candidates, weight = _box_candidates(priors, grid, self.config.box_softness)
        if self.config.proposal == "polygon":
            for row, prior in enumerate(priors):
                if prior is not None and prior.polygons_xy_frac:
                    weight[row] = 0.0  # the polygons are one candidate: the union of the parts
                    candidates[row, 0], weight[row, 0] = polygon_proposal(prior.polygons_xy_frac, grid), 1.0
        has_prior = (weight > 0).any(dim=1)
        score = torch.tensor([0.0 if prior is None else prior.score for prior in priors], dtype=torch.float32)
        proposal = torch.where(has_prior[:, None, None], mix(candidates, weight), NO_PRIOR_PROB)
        return ProposalBatch(proposal, score * has_prior, has_prior)


def smooth_boxes(boxes_xyxy_frac: Float[Tensor, "*S 4"], grid: int, softness: float) -> Float[Tensor, "*S G G"]:
    """Return each box as a product of logistic edges, sampled at the cell centres; values in (0, 1).

    An edge is 0.5 on the box's border, and its tangent there rises from 0 to 1 over `softness` times the side. A side
    shorter than a cell counts as one cell long, and as that cell, so that the smallest referent still marks the cell it
    lies in.
    """
    centers = (torch.arange(grid, device=boxes_xyxy_frac.device) + 0.5) / grid
    middle = (boxes_xyxy_frac[..., :2] + boxes_xyxy_frac[..., 2:]) / 2
    side = boxes_xyxy_frac[..., 2:] - boxes_xyxy_frac[..., :2]
    own_cell = ((middle * grid).floor().clamp(0, grid - 1) + 0.5) / grid
    middle, side = torch.where(side < 1 / grid, own_cell, middle), side.clamp_min(1 / grid)
    scale = 4 / (softness * side)[..., None]  # the logistic's slope at 0 is 1/4
    offset = (centers - middle[..., None]).abs()  # symmetric: |x - m| - side/2 is the signed distance past an edge
    near = torch.sigmoid((side[..., None] / 2 - offset) * scale)
    far = torch.sigmoid((side[..., None] / 2 + offset) * scale)
    edges = near * far
    return edges[..., 1, :, None] * edges[..., 0, None, :]


def polygon_proposal(polygons_xy_frac: Sequence[Sequence[PointFrac]], grid: int) -> Float[Tensor, "G G"]:
    """Return the share of each cell that the union of the polygons covers, in [0, 1].

    Polygons of fewer than three points enclose nothing and are passed over.
    """
    side = grid * _SUPERSAMPLE
    covered = np.zeros((side, side), dtype=bool)
    for polygon in polygons_xy_frac:
        if len(polygon) >= 3:
            covered |= _inside(np.asarray(polygon, dtype=np.float64) * side, side)
    samples = covered.reshape(grid, _SUPERSAMPLE, grid, _SUPERSAMPLE)
    return torch.from_numpy(samples.mean(axis=(1, 3), dtype=np.float32))


def _inside(corners_xy: np.ndarray, side: int) -> np.ndarray:
    """Whether each of side x side unit cells' centres has a non-zero winding number.

    Each edge adds +1 or -1, in the rows it crosses, from its crossing to the right; PIL's polygon is not used because
    it rounds to whole pixels and fills its border too.
    """
    centers = np.arange(side) + 0.5
    (x0, y0), (x1, y1) = corners_xy.T[..., None], np.roll(corners_xy, -1, axis=0).T[..., None]
    upward, downward = (y0 <= centers) & (centers < y1), (y1 <= centers) & (centers < y0)
    edge, row = np.nonzero(upward | downward)  # only edges with y0 != y1 get here
    along = (centers[row] - y0[edge, 0]) / (y1 - y0)[edge, 0]
    crossing = x0[edge, 0] + along * (x1 - x0)[edge, 0]
    winding = np.zeros((side, side + 1), dtype=np.int32)
    first = np.clip(np.ceil(crossing - 0.5), 0, side).astype(np.int64)
    np.add.at(winding, (row, first), np.where(upward[edge, row], 1, -1))
    inside: np.ndarray = winding.cumsum(axis=1)[:, :side] != 0
    return inside


def mix(candidates: Float[Tensor, "B K G G"], weight: Float[Tensor, "B K"]) -> Float[Tensor, "B G G"]:
    """Return the maximum of the weighted candidates; the module docstring says why not a noisy-or."""
    return (candidates * weight[..., None, None]).amax(dim=1)


# Candidates and their weights: K = most candidates of a prior in the batch, at least 1; weight 1 = the best candidate,
# others in [0, 0.5], 0 = padding.
_Candidates = tuple[Float[Tensor, "B K G G"], Float[Tensor, "B K"]]


def _box_candidates(priors: Sequence[Prior | None], grid: int, softness: float) -> _Candidates:
    """Return boxes; a prior with polygons alone gets an empty candidate for the caller to fill."""
    most = max((len(p.boxes_xyxy_frac) for p in priors if p is not None), default=1) or 1
    boxes, scores = [], []
    for prior in priors:
        num = 0 if prior is None else len(prior.boxes_xyxy_frac)
        boxes.append([*(prior.boxes_xyxy_frac if prior else ()), *[_NO_BOX] * (most - num)])
        scores.append([*(prior.box_scores if prior else ()), *[-1.0] * (most - num)])  # -1 marks padding
    candidates = smooth_boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, most, 4), grid, softness)
    padded_scores = torch.tensor(scores, dtype=torch.float32).view(-1, most)
    return candidates, _weights(padded_scores, padded_scores >= 0)


def _mask_candidates(priors: Sequence[Prior | None], grid: int) -> _Candidates:
    """Return masks; one without a pixel is no candidate."""
    most = max((len(p.masks) for p in priors if p is not None), default=1) or 1
    candidates, weight = torch.zeros(len(priors), most, grid, grid), torch.zeros(len(priors), most)
    for row, prior in enumerate(priors):
        if prior is None or not prior.says_where:
            continue
        if not prior.masks:
            raise DataError(
                f"prior.proposal is 'sam', and prior {prior.key} has no masks; expected those that SAM drew when the "
                "MLLM was asked, which earlier versions did not do: begin again, under another --name"
            )
        masks = torch.stack([mask_on_grid(read_mask(text), grid) for text in prior.masks])
        scores = torch.tensor([prior.box_scores or prior.mask_scores])
        candidates[row, : len(masks)] = masks
        weight[row, : len(masks)] = _weights(scores, masks.flatten(1).amax(1)[None] > 0)[0]
    return candidates, weight


def _weights(scores: Float[Tensor, "B K"], valid: Bool[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Return the weights of candidates, see the module docstring; 0 where not valid, best score 0 = all are equal."""
    scores = torch.where(valid, scores, 0.0)
    best = scores.amax(dim=1, keepdim=True)
    relative = torch.where(best > 0, scores / best.clamp_min(torch.finfo(scores.dtype).tiny), 1.0) * valid
    is_best = torch.arange(scores.shape[1]) == relative.argmax(dim=1, keepdim=True)
    return torch.where(is_best, relative, _LESSER * relative)
