"""Committed labels at the image's size."""

from __future__ import annotations

import torch

from l2l_ray.loop.evaluation.committed import native_mask


def test_masks_reach_the_image_as_in_evaluation() -> None:
    logits = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    assert native_mask(logits, 2, 2).tolist() == [[True, False], [False, False]]
    assert native_mask(logits.abs(), 5, 7).all()
