"""Weak and strong augmentation of a batch, as tensor operations whose randomness comes from one integer key per sample.

What becomes of a sample depends on its own key only: the same image and key give the same bits alone, in any batch and
in any order. For this every operation is elementwise or moves pixels; reductions over the image, whose rounding depends
on how a batch is cut into threads, are avoided (contrast turns around mid-grey, not around the image's mean).

- Weak: the image as it is, mirrored, or cropped around its referent, together with its maps and words.
- Strong: brightness, contrast, saturation, a small hue turn and grayscale, folded into one affine map of the colours,
  then a Gaussian blur. Hue and grayscale are weaker than in UniMatch, because expressions name colours: an image whose
  red car is grey no longer shows what its expression says. No geometry, so a strongly augmented image keeps its grid.
- Paste, a CutMix of objects: a *labeled* object covers a part of another image, where it is background. What is pasted
  is known in words, so the words of both say whether the expression still means one thing. Of what is around the object
  nothing is known, so nothing of it is pasted.
- What is allowed is up to the words (`data.words`): nothing is mirrored, cropped or pasted into against them, nor where
  no referent is known.

Source: weak and strong augmentation as in FixMatch and UniMatch; CutMix is Yun et al. 2019; the word swap is in
DAM-Net; refusals are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from l2l_ray.config import StrongConfig
from l2l_ray.data.words import survives_crop, survives_paste, swap_left_right
from l2l_ray.randomness import keyed_uniform

_GRAY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
_YIQ = np.array([_GRAY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])  # NTSC 1953


def strong_augment(
    images: Float[Tensor, "B 3 S S"], keys: Sequence[int], strength: StrongConfig
) -> Float[Tensor, "B 3 S S"]:
    """Return strongly changed images in [0, 1], aligned pixel by pixel with the input.

    Args:
        images: RGB in [0, 1], on any device.
        keys: One per image, from `sample_key`.
        strength: How often and how far.
    """
    draws = keyed_uniform(keys, 8, "strong_view")
    colored = _affine_colors(images, *_color_maps(draws, strength))
    low, high = strength.blur_min_sigma_frac, strength.blur_max_sigma_frac
    sigma_px = (low + (high - low) * draws[:, 6]) * images.shape[-1]
    rows = np.flatnonzero(draws[:, 7] < strength.blur_prob)
    if len(rows):
        index = torch.from_numpy(rows).to(images.device)
        radius_px = min(math.ceil(3 * high * images.shape[-1]), images.shape[-1] - 1)
        colored[index] = _blur(colored[index], sigma_px[rows], radius_px)
    return colored


def weak_flip(
    images: Float[Tensor, "B 3 S S"], expressions: Sequence[str], keys: Sequence[int], prob: float = 0.5
) -> tuple[Float[Tensor, "B 3 S S"], list[str], Bool[Tensor, " B"]]:
    """Return (images, expressions, flipped): each sample mirrored with a probability, where its expression allows it.

    Mirror grid maps of the same samples with `flip_where(maps, flipped)`, and back with the same call.

    Args:
        images: RGB, on any device.
        expressions: One per image.
        keys: One per image, from `sample_key`.
        prob: Probability of mirroring; 1 mirrors every sample that can be.
    """
    swapped = [swap_left_right(expression) for expression in expressions]
    wanted = keyed_uniform(keys, 1, "weak_flip")[:, 0] < prob
    choices = [text if want else None for text, want in zip(swapped, wanted, strict=True)]
    flipped = torch.tensor([choice is not None for choice in choices], dtype=torch.bool, device=images.device)
    texts = [old if new is None else new for old, new in zip(expressions, choices, strict=True)]
    return flip_where(images, flipped), texts, flipped


def flip_where(maps: Float[Tensor, "B *dims W"], flipped: Bool[Tensor, " B"]) -> Float[Tensor, "B *dims W"]:
    """Return the maps mirrored left to right where `flipped` is True; its own inverse. Any dtype."""
    return torch.where(flipped.view(-1, *[1] * (maps.ndim - 1)), maps.flip(-1), maps)


def weak_crop(
    images: Float[Tensor, "B 3 S S"],
    maps: Sequence[Float[Tensor, "B G G"]],
    keep: Bool[Tensor, "B G G"],
    expressions: Sequence[str],
    keys: Sequence[int],
    prob: float,
    min_side_frac: float = 0.6,
) -> tuple[Float[Tensor, "B 3 S S"], list[Float[Tensor, "B G G"]], Bool[Tensor, " B"]]:
    """Return (images, maps, cropped): with a probability a square window of whole cells, scaled back to the full size.

    A window holds every kept cell; a sample without any, or whose expression does not survive a crop, stays as it is.
    Images and maps are resampled bilinearly, so a mask's edges soften by about a cell. Each map is resampled by itself:
    where some cells of a target have no weight, give the product with it, and divide afterwards.

    Args:
        images: RGB, on any device.
        maps: Maps of the same samples: target, pixel weights, proposal.
        keep: Cells that stay inside: the referent, and the prior's proposal.
        expressions: One per image; they are not changed.
        keys: One per image, from `sample_key`.
        prob: Probability of cropping.
        min_side_frac: Shortest side of a window, as a share of the image's.
    """
    grid = keep.shape[-1]
    draws = keyed_uniform(keys, 4, "weak_crop")
    boxes = cell_boxes(keep)
    cropped = torch.zeros(len(keys), dtype=torch.bool)
    theta = torch.eye(2, 3).repeat(len(keys), 1, 1)
    for row, (wanted, size, *place) in enumerate(draws.tolist()):
        (top, left, bottom, right) = boxes[row]
        if wanted >= prob or bottom <= top or not survives_crop(expressions[row]):
            continue
        shortest = max(math.ceil(min_side_frac * grid), bottom - top, right - left)
        side = shortest + int(size * (grid - shortest + 1))
        window = []
        for share, start, end in ((place[0], left, right), (place[1], top, bottom)):
            first, last = max(0, end - side), min(start, grid - side)
            window.append(first + int(share * (last - first + 1)))
        cropped[row] = True
        # Sampling positions in [-1, 1]: scale, and the window's middle.
        theta[row, 0, 0] = theta[row, 1, 1] = side / grid
        theta[row, :, 2] = torch.tensor([(2 * start + side) / grid - 1 for start in window])
    index = cropped.nonzero().flatten().to(images.device)
    if not len(index):
        return images, list(maps), cropped.to(images.device)
    images, maps = images.clone(), [values.clone() for values in maps]
    windows = theta.to(images.device)[index]
    images[index] = _resampled(images[index], windows)
    for values in maps:
        values[index] = _resampled(values[index, None], windows)[:, 0]
    return images, maps, cropped.to(images.device)


def paste(
    images: Float[Tensor, "B 3 S S"],
    keep: Bool[Tensor, "B G G"],
    expressions: Sequence[str],
    donors: Float[Tensor, "B 3 S S"],
    donor_masks: Bool[Tensor, "B G G"],
    donor_expressions: Sequence[str],
    keys: Sequence[int],
    prob: float,
) -> tuple[Float[Tensor, "B 3 S S"], Bool[Tensor, "B G G"]]:
    """Return (images, pasted): with a probability a donor's object, at its place, in another image.

    Where `pasted` is True the image shows the donor's object, which is background for the image's expression; a pixel
    belongs to the cell that its centre is in. Refused where the box around it would come within a cell of a kept one,
    where nothing is kept, and against the words.

    Args:
        images: RGB, on any device.
        keep: Cells that must not be covered: the referent, and the prior's proposal.
        expressions: One per image.
        donors: One image per image.
        donor_masks: Their objects: true masks, as coverage above one half.
        donor_expressions: What they are.
        keys: One per image, from `sample_key`.
        prob: Probability of pasting.
    """
    wanted = keyed_uniform(keys, 1, "paste")[:, 0] < prob
    pasted = torch.zeros(keep.shape, dtype=torch.bool)
    pairs = zip(cell_boxes(keep), cell_boxes(donor_masks), strict=True)
    for row, (own, other) in enumerate(pairs):
        apart = other[0] > own[2] or other[1] > own[3] or other[2] < own[0] or other[3] < own[1]
        known = own[2] > own[0] and other[2] > other[0]
        if wanted[row] and known and apart and survives_paste(expressions[row], donor_expressions[row]):
            pasted[row] = donor_masks[row].cpu()
    pasted = pasted.to(images.device)
    side = images.shape[-1]
    cells = (2 * torch.arange(side, device=images.device) + 1) * keep.shape[-1] // (2 * side)  # of pixel centres
    return torch.where(pasted[:, cells][:, :, cells][:, None], donors, images), pasted


def cell_boxes(cells: Bool[Tensor, "B G G"]) -> list[tuple[int, int, int, int]]:
    """Return the smallest (top, left, bottom, right) around each sample's True cells, ends exclusive; 0s if none."""
    rows, columns = cells.any(dim=2).cpu().numpy(), cells.any(dim=1).cpu().numpy()
    boxes = []
    for down, across in zip(rows, columns, strict=True):
        y, x = np.flatnonzero(down), np.flatnonzero(across)
        boxes.append((int(y[0]), int(x[0]), int(y[-1]) + 1, int(x[-1]) + 1) if len(y) else (0, 0, 0, 0))
    return boxes


def _resampled(values: Float[Tensor, "B C S S"], windows: Float[Tensor, "B 2 3"]) -> Float[Tensor, "B C S S"]:
    places = F.affine_grid(windows.to(values.dtype), list(values.shape), align_corners=False)
    return F.grid_sample(values, places, mode="bilinear", padding_mode="border", align_corners=False)


def _color_maps(
    draws: Float64[np.ndarray, "B 8"], strength: StrongConfig
) -> tuple[Float64[np.ndarray, "B 3 3"], Float64[np.ndarray, " B"]]:
    """Return matrix and offset per sample of the map color -> matrix @ color + offset."""
    spread = np.array([strength.brightness, strength.contrast, strength.saturation])
    jittered = draws[:, 0, None] < strength.jitter_prob
    factors = np.where(jittered, 1 + spread * (2 * draws[:, 1:4] - 1), 1.0)
    brightness, contrast, saturation = factors.T
    saturation = np.where(draws[:, 5] < strength.gray_prob, 0.0, saturation)
    hue = np.where(jittered[:, 0], 2 * math.pi * strength.hue_turns * (2 * draws[:, 4] - 1), 0.0)
    turn = np.zeros((len(draws), 3, 3))
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(hue)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(hue), np.sin(hue)
    # Saturation mixes with grey: s * color + (1 - s) * luma, and a hue turn leaves the luma alone.
    mix = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * np.outer(np.ones(3), _GRAY)
    matrices = (brightness * contrast)[:, None, None] * (mix @ (np.linalg.inv(_YIQ) @ turn @ _YIQ))
    return matrices, 0.5 * (1 - contrast)


def _affine_colors(
    images: Float[Tensor, "B 3 S S"], matrices: Float64[np.ndarray, "B 3 3"], offsets: Float64[np.ndarray, " B"]
) -> Float[Tensor, "B 3 S S"]:
    matrix = torch.from_numpy(matrices).to(images)[..., None, None]
    offset = torch.from_numpy(offsets).to(images)[:, None, None, None]
    # Written out, because a matrix product may round differently for another batch size.
    red, green, blue = (matrix[:, :, source] * images[:, None, source] for source in range(3))
    return (red + green + blue + offset).clamp(0, 1)


def _blur(
    images: Float[Tensor, "B 3 S S"], sigma_px: Float64[np.ndarray, " B"], radius_px: int
) -> Float[Tensor, "B 3 S S"]:
    """Blur each image with its own Gaussian; borders are mirrored."""
    taps = np.exp(-0.5 * (np.arange(-radius_px, radius_px + 1) / sigma_px[:, None]) ** 2)
    weights = torch.from_numpy(taps / taps.sum(axis=1, keepdims=True)).to(images)[:, :, None, None, None]
    side = images.shape[-1]
    for pad, dim in (((0, 0, radius_px, radius_px), 2), ((radius_px, radius_px, 0, 0), 3)):
        padded = F.pad(images, pad, mode="reflect")
        images = weights[:, 0] * padded.narrow(dim, 0, side)
        for tap in range(1, 2 * radius_px + 1):
            images = images + weights[:, tap] * padded.narrow(dim, tap, side)
    return images
