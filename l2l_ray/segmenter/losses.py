"""Losses of the segmenter: weighted soft-target BCE and Dice with explicit denominators, at every decoder level.

Every loss is a *sum over samples divided by a denominator the caller gives*: the number of samples in the global batch
(all workers, all accumulation steps). Worker losses then add up to the loss of the whole batch, so neither the number
of workers nor the size of a local batch changes a gradient.

A pixel's weight is in [0, 1]; weight 0 removes the pixel: its target is never read, not even through the pooling to
coarser levels. A sample's weights also scale its Dice term by their mean, so a pseudo-label with few believed pixels
counts for little, and one with none contributes exactly 0 and never NaN. All arithmetic is float32, autocast or not.

Not here: which pixels to believe (`selector`), and the policy's objective (`selector/objective.py`).
Source: BCE + Dice as in LISA and most RES work; the weighting, pooling and denominators are ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from l2l_ray.segmenter.decoder import SegmenterOutput

DICE_SMOOTH = 1.0  # in cells: keeps an empty target defined and lets a single false cell cost little


def bce_loss(
    mask_logits: Float[Tensor, "B G G"],
    target: Float[Tensor, "B G G"],
    pixel_weight: Float[Tensor, "B G G"],
    denominator: int | float | Tensor,
) -> Float[Tensor, ""]:
    """Return the weighted binary cross-entropy: mean over the G*G cells of a sample, sum over samples / denominator.

    The mean counts removed cells too (as UniMatch counts rejected pixels): fewer believed pixels, smaller loss.

    Args:
        mask_logits: Unbounded logits.
        target: Soft target in [0, 1].
        pixel_weight: In [0, 1]; 0 removes the cell.
        denominator: Number of samples in the global batch, > 0.
    Raises:
        ValueError: If the three shapes differ.
    """
    _check_shapes(mask_logits, target, pixel_weight)
    target, weight = _clean(target, pixel_weight)
    per_cell = F.binary_cross_entropy_with_logits(mask_logits.float(), target, reduction="none")
    return (per_cell * weight).mean(dim=(-2, -1)).sum() / denominator


def dice_loss(
    mask_logits: Float[Tensor, "B G G"],
    target: Float[Tensor, "B G G"],
    pixel_weight: Float[Tensor, "B G G"],
    denominator: int | float | Tensor,
    smooth: float = DICE_SMOOTH,
) -> Float[Tensor, ""]:
    """Return the weighted soft Dice loss, each sample scaled by its mean weight, sum over samples / denominator.

    Per sample `1 - (2 Σ w p t + smooth) / (Σ w p² + Σ w t² + smooth)`. The squares make p = t the minimum for soft
    targets too. A sample whose weights are all 0 contributes 0.

    Args:
        mask_logits: Unbounded logits.
        target: Soft target in [0, 1].
        pixel_weight: In [0, 1]; 0 removes the cell.
        denominator: Number of samples in the global batch, > 0.
        smooth: In cells.
    Raises:
        ValueError: If the three shapes differ.

    Source: Milletari et al. 2016 (V-Net), squared form. Departure: weights, smoothing.
    """
    _check_shapes(mask_logits, target, pixel_weight)
    target, weight = _clean(target, pixel_weight)
    probs = mask_logits.float().sigmoid()
    overlap = (weight * probs * target).sum(dim=(-2, -1))
    size = (weight * (probs.square() + target.square())).sum(dim=(-2, -1))
    per_sample = 1.0 - (2.0 * overlap + smooth) / (size + smooth)
    return (per_sample * weight.mean(dim=(-2, -1))).sum() / denominator


def segmentation_loss(
    output: SegmenterOutput,
    target: Float[Tensor, "B G G"],
    pixel_weight: Float[Tensor, "B G G"],
    denominator: int | float | Tensor,
    dice_weight: int | float,
    deep_weight: int | float,
) -> Float[Tensor, ""]:
    """Return BCE + Dice at the finest level plus `deep_weight` times their mean over the coarser levels.

    Args:
        output: Of the segmenter.
        target: Soft target in [0, 1] on the grid; read only where `pixel_weight` > 0.
        pixel_weight: In [0, 1].
        denominator: Number of samples in the global batch, > 0; the same for labeled batches and pseudo-labeled ones
            of equal global size.
        dice_weight: Weight of Dice relative to BCE, >= 0.
        deep_weight: Weight of the coarser levels together; 0 = finest level only.
    Raises:
        ValueError: If the shapes of `mask_logits`, `target` and `pixel_weight` differ.
    """
    loss = _level_loss(output.mask_logits, target, pixel_weight, denominator, dice_weight)
    if deep_weight == 0 or not output.level_logits:
        return loss
    coarse = [
        _level_loss(logits, *pool_target(target, pixel_weight, logits.shape[-1]), denominator, dice_weight)
        for logits in output.level_logits
    ]
    return loss + deep_weight * torch.stack(coarse).mean()


def pool_target(
    target: Float[Tensor, "B G G"], pixel_weight: Float[Tensor, "B G G"], grid: int
) -> tuple[Float[Tensor, "B g g"], Float[Tensor, "B g g"]]:
    """Average target and weight to a coarser grid.

    A coarse cell's target is the *weighted* mean of its cells' targets (so removed cells stay unread) and its weight is
    their mean weight; a coarse cell without any weight gets target 0, weight 0.
    """
    target, weight = _clean(target, pixel_weight)
    if target.shape[-1] == grid:
        return target, weight
    pooled_weight = F.adaptive_avg_pool2d(weight, grid)
    pooled = F.adaptive_avg_pool2d(weight * target, grid)
    # 1e-12: below any weight that survives uint8 storage (1/255 over 64x64 cells), so only 0/0 is affected.
    return pooled / pooled_weight.clamp_min(1e-12), pooled_weight


def _level_loss(
    mask_logits: Tensor,
    target: Tensor,
    pixel_weight: Tensor,
    denominator: int | float | Tensor,
    dice_weight: int | float,
) -> Tensor:
    bce = bce_loss(mask_logits, target, pixel_weight, denominator)
    return bce + dice_weight * dice_loss(mask_logits, target, pixel_weight, denominator)


def _clean(target: Tensor, pixel_weight: Tensor) -> tuple[Tensor, Tensor]:
    weight = pixel_weight.float()
    # where(), not a product: a removed cell may hold anything, NaN included.
    return torch.where(weight > 0, target.float(), 0.0), weight


def _check_shapes(mask_logits: Tensor, target: Tensor, pixel_weight: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (mask_logits, target, pixel_weight)]
    if shapes[0] == shapes[1] == shapes[2]:
        return
    raise ValueError(
        f"mask_logits, target and pixel_weight must have one shape, got {shapes[0]}, {shapes[1]}, {shapes[2]}; "
        "bring masks to the segmenter's grid first (data/masks.py::mask_to_grid)"
    )
