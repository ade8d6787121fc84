"""Prior -> soft proposal q on the decoder's grid: it guides the segmenter, and the selector may take labels from it.

Three sources (`PriorConfig.proposal`):
- `box`: a smooth box, the product of four logistic edges. No extra model.
- `polygon`: the prior's polygons (Florence-2), rasterised with anti-aliasing; a prior without polygons uses its boxes.
- `sam`: SAM or SAM 2 prompted by the boxes and points (`prior/sam.py`).

Several candidates of one prior are alternatives for the same referent. They are mixed by the *maximum* over
candidates of `score / best score x candidate`. So one candidate is never scaled down (how far the prior is to be
believed travels apart, as `ProposalBatch.score`), a second-best candidate shows at its relative plausibility, and
repeating a candidate changes nothing; a noisy-or would grow with every repeated sample of the same reply.

No prior gives the uniform proposal 0.5 and `has_prior` False.
Source: all ours; the L2L paper says only that the MLLM's output is a prior for the segmenter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from l2l_ray.config import PriorConfig
from l2l_ray.device import pick_device, pick_dtype
from l2l_ray.errors import ConfigError
from l2l_ray.types import BoxFrac, PointFrac, Prior

if TYPE_CHECKING:
    from l2l_ray.prior.sam import SamProposer

NO_PRIOR_PROB = 0.5
_SUPERSAMPLE = 8  # polygon samples per cell and axis: coverage in steps of 1/64
_NO_BOX: BoxFrac = (0.0, 0.0, 1.0, 1.0)  # padding; its weight is 0


@dataclass(frozen=True)
class ProposalBatch:
    """Soft proposals of a batch, with the candidates they are mixed from.

    Example: `Proposer(PriorConfig()).proposals([prior, None], grid=16)`: has_prior is [True, False].
    """

    proposal: Float[Tensor, "B G G"]  # in [0, 1]; 0.5 everywhere where has_prior is False
    score: Float[Tensor, " B"]  # the prior's own score in [0, 1]; 0 where has_prior is False
    has_prior: Bool[Tensor, " B"]
    candidates: Float[Tensor, "B K G G"]  # each alternative by itself; K = most candidates in the batch, at least 1
    candidate_weight: Float[Tensor, "B K"]  # score relative to the best candidate's, in [0, 1]; 0 = padding

    def to(self, device: torch.device | str) -> ProposalBatch:
        """Return the same batch on `device`."""
        return ProposalBatch(
            self.proposal.to(device),
            self.score.to(device),
            self.has_prior.to(device),
            self.candidates.to(device),
            self.candidate_weight.to(device),
        )


class Proposer:
    """Turns priors into proposals by the way the config names.

    Args:
        config: The prior section; `proposal`, `box_softness`, `sam_model`, `device` are read.
        sam: A loaded SAM, to share one between proposers; None loads `config.sam_model` when it is needed.
    Raises:
        ConfigError: `proposal='sam'` without `sam_model`.
    """

    def __init__(self, config: PriorConfig, sam: SamProposer | None = None) -> None:
        self.config = config
        self._sam = sam
        if config.proposal == "sam" and sam is None:
            self._sam = _load_sam(config)

    def proposals(
        self, priors: Sequence[Prior | None], grid: int, images: Sequence[Image.Image] | None = None
    ) -> ProposalBatch:
        """Return the proposals of `priors`, on the CPU.

        Args:
            priors: One per sample; None or a prior without boxes and polygons means no prior.
            grid: Cells per side of the result.
            images: The RGB images of the samples, any size; needed by `sam` alone.
        Raises:
            ConfigError: `proposal='sam'` and `images` is missing or of another length.
        """
        if self.config.proposal == "sam":
            return self._sam_proposals(priors, grid, images)
        if self.config.proposal == "polygon":
            return self._polygon_proposals(priors, grid)
        return _box_batch(priors, grid, self.config.box_softness)

    def _polygon_proposals(self, priors: Sequence[Prior | None], grid: int) -> ProposalBatch:
        boxes = _box_batch(priors, grid, self.config.box_softness)
        drawn = [p is not None and bool(p.polygons_xy_frac) for p in priors]
        masks = [polygon_proposal(p.polygons_xy_frac, grid) for p in priors if p is not None and p.polygons_xy_frac]
        if not masks:
            return boxes
        rows = torch.tensor(drawn)
        candidates, weight = boxes.candidates.clone(), boxes.candidate_weight.clone()
        candidates[rows], weight[rows] = 0.0, 0.0  # the polygons are one candidate: the union of the parts
        candidates[rows, 0], weight[rows, 0] = torch.stack(masks), 1.0
        return _batch(priors, candidates, weight)

    def _sam_proposals(
        self, priors: Sequence[Prior | None], grid: int, images: Sequence[Image.Image] | None
    ) -> ProposalBatch:
        if images is None or len(images) != len(priors):
            got = "no images" if images is None else f"{len(images)} images"
            raise ConfigError(
                f"prior.proposal='sam' needs one image per prior, got {got} for {len(priors)} priors; "
                "pass `images`, or set prior.proposal to 'box'"
            )
        assert self._sam is not None
        boxes = _box_batch(priors, grid, self.config.box_softness)
        candidates, weight = boxes.candidates.clone(), boxes.candidate_weight.clone()
        for row, (prior, image) in enumerate(zip(priors, images, strict=True)):
            if prior is not None and (prior.boxes_xyxy_frac or prior.points_xy_frac):
                masks = self._sam.masks(prior, image, grid)
                candidates[row, : len(masks)] = masks
                if not prior.boxes_xyxy_frac:
                    weight[row, 0] = 1.0
        return _batch(priors, candidates, weight)


def smooth_boxes(boxes_xyxy_frac: Float[Tensor, "*S 4"], grid: int, softness: float) -> Float[Tensor, "*S G G"]:
    """Return each box as a product of logistic edges, sampled at the cell centres; values in (0, 1).

    An edge is 0.5 on the box's border, and its tangent there rises from 0 to 1 over `softness` times the side. A side
    shorter than a cell counts as one cell long, so that the smallest referent still marks the cell it lies in.
    """
    centers = (torch.arange(grid, device=boxes_xyxy_frac.device) + 0.5) / grid
    middle = (boxes_xyxy_frac[..., :2] + boxes_xyxy_frac[..., 2:]) / 2
    side = (boxes_xyxy_frac[..., 2:] - boxes_xyxy_frac[..., :2]).clamp_min(1 / grid)
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


def _box_batch(priors: Sequence[Prior | None], grid: int, softness: float) -> ProposalBatch:
    """Proposals from boxes; a prior with polygons alone gets an empty candidate for the caller to fill."""
    most = max((len(p.boxes_xyxy_frac) for p in priors if p is not None), default=1) or 1
    boxes, scores = [], []
    for prior in priors:
        num = 0 if prior is None else len(prior.boxes_xyxy_frac)
        boxes.append([*(prior.boxes_xyxy_frac if prior else ()), *[_NO_BOX] * (most - num)])
        scores.append([*(prior.box_scores if prior else ()), *[-1.0] * (most - num)])  # -1 marks padding
    candidates = smooth_boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, most, 4), grid, softness)
    padded_scores = torch.tensor(scores, dtype=torch.float32).view(-1, most)
    return _batch(priors, candidates, _relative(padded_scores, padded_scores >= 0))


def _batch(
    priors: Sequence[Prior | None], candidates: Float[Tensor, "B K G G"], weight: Float[Tensor, "B K"]
) -> ProposalBatch:
    has_prior = (weight > 0).any(dim=1)
    score = torch.tensor([0.0 if prior is None else prior.score for prior in priors], dtype=torch.float32)
    proposal = torch.where(has_prior[:, None, None], mix(candidates, weight), NO_PRIOR_PROB)
    return ProposalBatch(proposal, score * has_prior, has_prior, candidates, weight)


def _relative(scores: Float[Tensor, "B K"], valid: Bool[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Scores over the best valid score of the row; 1 for every candidate where all scores are 0; 0 where not valid."""
    scores = torch.where(valid, scores, 0.0)
    best = scores.amax(dim=1, keepdim=True)
    return torch.where(best > 0, scores / best.clamp_min(torch.finfo(scores.dtype).tiny), 1.0) * valid


def _load_sam(config: PriorConfig) -> SamProposer:
    from l2l_ray.prior.sam import SamProposer  # transformers is heavy, and only this way needs it here

    if config.sam_model is None:
        raise ConfigError("prior.proposal='sam' needs prior.sam_model, got None; name a folder or hub id of SAM (2)")
    device = pick_device(config.device)
    return SamProposer.load(config.sam_model, str(device), pick_dtype(config.dtype, device))
