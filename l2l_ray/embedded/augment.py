"""Strong photometric augmentation for the embedded pretrainings, batched on tensors.

The tiny encoders are trained on one rendering domain and used on another with other colors, shading, clutter, noise and
occlusion. What can vary without changing the meaning of an expression is varied here: hue only a little, because colors
are named, everything else a lot. Geometry stays, because sides are named too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_Uniform = Callable[..., Tensor]  # (low, high, *shape) -> [B, *shape], drawn anew for each sample
_MAX_HUE_RAD = math.radians(14)  # neighbouring color names are 30-45 degrees apart


def photometric(images: Float[Tensor, "B 3 S S"], generator: torch.Generator) -> Float[Tensor, "B 3 S S"]:
    """Return images in [0, 1] with colors, light, clutter, noise and sharpness changed, each sample its own way.

    Args:
        images: RGB in [0, 1], float32, on the CPU.
        generator: Source of everything random.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(len(images), *shape, generator=generator) * (high - low) + low

    images = _outline(_color(images, uniform), uniform)
    images = images + _field(images, uniform, 1) * uniform(0.0, 0.16, 1, 1, 1)  # uneven background
    images = images + _field(images, uniform, 3) * uniform(0.0, 0.06, 1, 1, 1)
    images = images * (1 + _field(images, uniform, 1, cells=3) * uniform(0.0, 0.3, 1, 1, 1))  # shading
    images = _strokes(images, uniform, 3, half_width=(0.008, 0.022), half_length=(0.1, 0.5), vivid=0.12)
    images = _strokes(images, uniform, 2, half_width=(0.025, 0.06), half_length=(0.05, 0.12), vivid=0.5)  # occluders
    images = _blur(images, uniform)
    noise = torch.randn(images.shape, generator=generator) * uniform(0.0, 0.03, 1, 1, 1)
    grain = torch.randn(images[:, :1].shape, generator=generator) * uniform(0.0, 0.03, 1, 1, 1)
    return (images + noise + grain).clamp(0, 1)


def _color(images: Tensor, uniform: _Uniform) -> Tensor:
    """Turn the hue a little; change saturation, contrast, brightness and the balance of the channels."""
    hue, saturation = uniform(-_MAX_HUE_RAD, _MAX_HUE_RAD), uniform(0.6, 1.1)
    cos, sin, zero = hue.cos() * saturation, hue.sin() * saturation, torch.zeros_like(hue)
    turn = torch.stack([zero + 1, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).view(-1, 3, 3)
    matrix = torch.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ
    images = torch.einsum("bij,bjhw->bihw", matrix, images)
    images = images * uniform(0.85, 1.15, 3, 1, 1) * uniform(0.7, 1.15, 1, 1, 1)
    return 0.5 + (images - 0.5) * uniform(0.7, 1.15, 1, 1, 1) + uniform(-0.06, 0.06, 1, 1, 1)


def _field(images: Tensor, uniform: _Uniform, channels: int, cells: int = 8) -> Tensor:
    """Return smooth random fields in [-1, 1], of a different coarseness for the two halves of the batch."""
    size = images.shape[-1]
    coarse = uniform(-1.0, 1.0, channels, cells, cells)
    halves = (coarse[: len(images) // 2], coarse[len(images) // 2 :])
    fields = [
        F.interpolate(half[..., :num, :num], size=(size, size), mode="bilinear", align_corners=True)
        for half, num in zip(halves, (max(2, cells // 2), cells), strict=True)
    ]
    return torch.cat(fields)


def _outline(images: Tensor, uniform: _Uniform) -> Tensor:
    """Darken the edges of half of the images, as if objects had outlines."""
    tone = images.mean(1, keepdim=True)
    contrast = F.max_pool2d(tone, 3, 1, 1) + F.max_pool2d(-tone, 3, 1, 1)
    return images * (1 - (4 * contrast).clamp(0, 1) * uniform(-0.5, 0.5, 1, 1, 1).clamp(min=0))


def _strokes(
    images: Tensor,
    uniform: _Uniform,
    num: int,
    half_width: tuple[float, float],
    half_length: tuple[float, float],
    vivid: float,
) -> Tensor:
    """Draw up to `num` bars over the images, each with probability 1/2; sizes are fractions of the side."""
    size = images.shape[-1]
    axis = torch.arange(size, dtype=torch.float32) + 0.5
    for _ in range(num):
        angle, length = uniform(0.0, math.pi, 1, 1), uniform(*half_length, 1, 1) * size
        dx = axis[None, None, :] - uniform(0.0, 1.0, 1, 1) * size
        dy = axis[None, :, None] - uniform(0.0, 1.0, 1, 1) * size
        along, across = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
        width = uniform(*half_width, 1, 1) * size
        inside = (width - across.abs() + 0.5).clamp(0, 1) * (length - along.abs() + 0.5).clamp(0, 1)
        alpha = inside * uniform(0.0, 1.0, 1, 1).round()
        tone = (uniform(0.2, 0.8, 1, 1, 1) + uniform(-vivid, vivid, 3, 1, 1)).clamp(0, 1)
        images = images + alpha[:, None] * (tone - images)
    return images


def _blur(images: Tensor, uniform: _Uniform) -> Tensor:
    """Mix each image with its 3 x 3 binomial blur by a random share, half of them not at all."""
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    blurred = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    return images + uniform(-0.8, 0.8, 1, 1, 1).clamp(min=0) * (blurred - images)
