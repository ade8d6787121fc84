"""Masks of a prior as short texts: a PNG with one bit per pixel, in base64.

What is kept is where SAM's probability is above 0.5, at SAM's own resolution (256 or 288 px a side), of the part that
the image fills. Cells of the decoder's grid are several of its pixels, so a proposal has soft edges all the same. Kept
with 8 bits a mask would take several times as much, and say how sure SAM is of single pixels; how sure it is of the
mask is its score. A mask is about a kilobyte of text, so a million expressions are some GB.
"""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from l2l_ray.errors import HEALS, DataError

MAX_SIDE_PX = 1024  # a text that says it is larger is none of ours: it would fill the memory


def write_mask(mask: Bool[np.ndarray, "H W"]) -> str:
    """Return a mask of the whole image as text."""
    content = io.BytesIO()
    Image.fromarray(mask).save(content, "PNG", compress_level=9)
    return base64.b64encode(content.getvalue()).decode()


def read_mask(text: str) -> Bool[np.ndarray, "H W"]:
    """Return the mask that `write_mask` wrote.

    Raises:
        DataError: The text is none.
    """
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as picture:
            if picture.mode != "1" or max(picture.size) > MAX_SIDE_PX:
                raise ValueError(f"got {picture.size} pixels of kind {picture.mode}")
            return np.array(picture)
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"a prior's mask cannot be read: {error}; expected a PNG in base64; {HEALS}") from error


def mask_on_grid(mask: Bool[np.ndarray, "H W"], grid: int) -> Float[Tensor, "G G"]:
    """Return the share of each grid cell that a mask of the whole image covers, in [0, 1].

    Args:
        mask: True = the object.
        grid: Cells per side of the result.
    """
    shares = torch.from_numpy(mask).float()[None, None]
    if min(mask.shape) < grid:  # too coarse to average: interpolate up first
        shares = F.interpolate(shares, (grid, grid), mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(shares, grid)[0, 0]
