"""The one meaning of `confidence`: the estimated IoU of a mask with the truth, in [0, 1].

Here is what the teacher's own probabilities say, computed alike for every selector, for predictions and for exports. By
itself it is *not calibrated*: a teacher that is too sure of itself, or that follows a wrong prior, has a high one.
`calibration.py` reads it, or a selector's own score, by what such labels are on labeled images; where a version knows
nothing of that, as with a fixed rule, this estimate is the confidence as it is. It uses no truth.

A mask without a cell says that nothing is there. On a text without an object that is right, but no score says how
probable it is: its confidence is `NO_CELL` by definition, and it stays out of every calibration.

Source: ours; the ratio of expected intersection to expected union is also the usual soft IoU of a mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

if TYPE_CHECKING:
    from l2l_ray.calibration import Curve

NO_CELL = 0.0  # confidence of a mask without a cell; what `estimated_iou` gives it, too


def area_iou(mask: Bool[Tensor, "*B G G"], covered: Float[Tensor, "*B G G"]) -> Float[Tensor, "*B"]:
    """Return the IoU of cells of a grid with an object that covers parts of cells, by area.

    It is the IoU at the photo's size of a mask that is made of whole cells: below 1 for the best of such masks, too.
    Where neither has any area it is 1.

    Args:
        mask: Cells, as squares.
        covered: Share of each cell that the object covers, in [0, 1].
    """
    inside = mask.to(covered.dtype)
    both = (inside * covered).sum((-2, -1))
    union = inside.sum((-2, -1)) + covered.sum((-2, -1)) - both
    return torch.where(union > 0, both / union.clamp(min=torch.finfo(torch.float32).tiny), 1.0)


@torch.no_grad()
def estimated_iou(mask: Bool[Tensor, "*B H W"], mask_probs: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B"]:
    """Return the expected intersection over the expected union of a mask with the object, by the probabilities given.

    With p the probability that a cell belongs to the object, the expected intersection is the sum of p inside the mask
    and the expected union the mask's cells plus the sum of p outside. Their ratio stands for the expected ratio, which
    the probabilities of single cells do not determine. An empty mask gives 0, however sure that nothing is there.

    Args:
        mask: Any mask, not only p > 0.5; True = the object.
        mask_probs: Probability of the object per cell or pixel, in [0, 1].

    Returns:
        In [0, 1], float32.
    """
    probs, inside = mask_probs.float(), mask.float()
    union = inside.sum((-2, -1)) + (probs * (1 - inside)).sum((-2, -1))
    return (probs * inside).sum((-2, -1)) / union.clamp(min=torch.finfo(torch.float32).tiny)


def label_confidence(curve: Curve, labels: Bool[Tensor, "B G G"], scores: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the confidence of labels.

    Args:
        curve: What scores mean.
        labels: Their cells; True = the object.
        scores: That labels are put in order by, `Selector.label_scores`.
    """
    return torch.where(labels.flatten(1).any(1), torch.from_numpy(curve(scores.cpu().numpy())).to(scores), NO_CELL)


def prediction_confidence(curve: Curve | None, logits: Float[Tensor, "G G"], has_pixel: bool) -> float:
    """Return the confidence of a model's mask; `NO_CELL` where nothing of it is left at the image's own size.

    Args:
        curve: What the model's estimates mean; None = nobody knows, and they are taken as they are.
        logits: On the grid, where those estimates were looked at, too.
        has_pixel: Whether the mask has a pixel at the image's own size: one cell's may be lost between pixels.
    """
    if not has_pixel:
        return NO_CELL
    probs = logits.float().sigmoid()
    estimate = float(estimated_iou(probs > 0.5, probs))
    return estimate if curve is None else float(curve(estimate))
