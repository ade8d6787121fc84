"""Scaled dot-product attention, in the form that trains fastest where it runs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def attend(
    query: Float[Tensor, "B h N d"],
    key: Float[Tensor, "B h M d"],
    value: Float[Tensor, "B h M d"],
    mask: Bool[Tensor, "B 1 1 M"] | None = None,
) -> Float[Tensor, "B h N d"]:
    """Return scaled dot-product attention; mask is True where a key may be looked at, at least once per sample.

    Written out on the CPU: there the backward of torch's fused kernel takes several times as long in bfloat16 (torch
    2.13). Scores stay in the type of the products that made them; torch's softmax computes in float32 inside.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -math.inf)
    attended: Tensor = scores.softmax(-1) @ value
    return attended
