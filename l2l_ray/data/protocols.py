"""The two protocols under which papers count pixels, each with its name: no figure goes without one.

`native`: the logits are brought to the image's own size and compared with the mask as it was annotated; CRIS and LISA
also compare there. This is what runs report.

`lavt480`: image and truth are squashed to 480 x 480, the truth by Pillow's nearest neighbour, and compared there; an
empty union is worth IoU 0. This is LAVT's `test.py`, and with it most tables of the RefCOCO family. Small objects lose
or win pixels by the squash, and wide images count as much as square ones, so overall IoU differs even for equal masks.

Both judge every sentence, and P@t counts IoU >= t.

Not covered: LAVT's validation while training, which draws one sentence per ref.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from l2l_ray.data.masks import decode, mask_area_px
from l2l_ray.data.native_size import batch_native_iou, grid_logits_to_native
from l2l_ray.errors import ConfigError
from l2l_ray.types import Rle

LAVT_SIDE_PX = 480
_CHUNK = 8  # masks upsampled at once


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of a batch, one number per sentence.

    Example: `PixelCounts(intersection=[50], union=[80], predicted=[60], target=[70])`, as arrays.
    """

    intersection: Int64[np.ndarray, " B"]
    union: Int64[np.ndarray, " B"]
    predicted: Int64[np.ndarray, " B"]
    target: Int64[np.ndarray, " B"]


@dataclass(frozen=True)
class Protocol:
    """How pixels are counted and what an empty union is worth.

    Example: `protocol_named("native").counts(logits, rles).intersection`
    """

    name: str
    description: str  # goes with every table
    empty_union_iou: float
    counts: Callable[[Float[Tensor, "B G G"], Sequence[Rle]], PixelCounts]


def native_counts(mask_logits: Float[Tensor, "B G G"], rles: Sequence[Rle]) -> PixelCounts:
    """Count at the masks' own size; the prediction is where the upsampled logit is above 0.

    Args:
        mask_logits: Predictions on the grid.
        rles: The true masks.
    Raises:
        DataError: If the lengths differ.
    """
    intersection, union = batch_native_iou(mask_logits, rles)
    target = np.array([mask_area_px(rle) for rle in rles], dtype=np.int64)
    return PixelCounts(intersection, union, union - target + intersection, target)


@torch.no_grad()
def lavt480_counts(mask_logits: Float[Tensor, "B G G"], rles: Sequence[Rle]) -> PixelCounts:
    """Count on 480 x 480 pixels; the truth is squashed there by nearest neighbour.

    Args:
        mask_logits: Predictions on the grid; they are upsampled straight to 480 x 480, bilinear.
        rles: The true masks at native size.
    Source: yz93/LAVT-RIS, `test.py` and `transforms.py` (read for the protocol). Departure: LAVT's own decoder
        upsamples with `align_corners=True`, which is part of the model; ours does not.
    """
    truth_of = {(*rle["size"], rle["counts"]): rle for rle in rles}
    squashed = {key: _squash(rle) for key, rle in truth_of.items()}
    counts = np.zeros((4, len(rles)), dtype=np.int64)
    for start in range(0, len(rles), _CHUNK):
        part = rles[start : start + _CHUNK]
        predicted = (
            grid_logits_to_native(mask_logits[start : start + _CHUNK].float(), LAVT_SIDE_PX, LAVT_SIDE_PX) > 0
        ).cpu()
        for row, (mask, rle) in enumerate(zip(predicted.numpy(), part, strict=True), start):
            truth = squashed[(*rle["size"], rle["counts"])]
            both, num_predicted, num_target = (np.count_nonzero(m) for m in (mask & truth, mask, truth))
            counts[:, row] = both, num_predicted + num_target - both, num_predicted, num_target
    return PixelCounts(*counts)


NATIVE = Protocol(
    "native", "native image size, every sentence, IoU 1 where prediction and truth are both empty", 1.0, native_counts
)
LAVT480 = Protocol(
    "lavt480",
    "480 x 480 as LAVT, truth squashed by nearest neighbour, every sentence, IoU 0 where prediction and truth are both "
    "empty",
    0.0,
    lavt480_counts,
)
PROTOCOLS = {protocol.name: protocol for protocol in (NATIVE, LAVT480)}


def protocol_named(name: str) -> Protocol:
    """Return a protocol by its name.

    Raises:
        ConfigError: There is no such protocol.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"there is no evaluation protocol {name!r}; use one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def _squash(rle: Rle) -> np.ndarray:
    # Pillow itself, not an index formula: where a pixel's centre falls on a border its rounding decides.
    small = Image.fromarray(decode(rle).astype(np.uint8)).resize((LAVT_SIDE_PX, LAVT_SIDE_PX), Image.Resampling.NEAREST)
    return np.asarray(small, dtype=bool)
