"""Committed labels at the image's size."""

from __future__ import annotations

import numpy as np
import torch

from l2l_ray.data.masks import encode, mask_to_grid
from l2l_ray.loop.evaluation.committed import native_cells, native_mask


def test_cells_reach_the_image_by_the_centre_of_each_pixel() -> None:
    cells = np.array([[True, False], [False, False]])
    assert native_cells(cells, 3, 4).tolist() == [[True, True, False, False], *[[False] * 4] * 2]
    big = np.random.default_rng(0).random((8, 8)) > 0.5
    for size in ((8, 8), (16, 40), (99, 31)):
        again = mask_to_grid_of(native_cells(big, *size))
        np.testing.assert_array_equal(again, big)


def mask_to_grid_of(mask: np.ndarray) -> np.ndarray:
    return mask_to_grid(encode(mask), 8) > 0.5


def test_masks_reach_the_image_as_in_evaluation() -> None:
    logits = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    assert native_mask(logits, 2, 2).tolist() == [[True, False], [False, False]]
    assert native_mask(logits.abs(), 5, 7).all()
