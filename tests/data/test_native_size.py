"""Predictions at the native size: hand-computed upsampling and IoU, and agreement with upsampling every pixel."""

import numpy as np
import pytest
import torch

from l2l_ray.data.masks import decode, encode
from l2l_ray.data.native_size import batch_native_iou, grid_logits_to_native
from l2l_ray.errors import DataError
from l2l_ray.types import Rle
from tests.data.blobs import blobs


def test_upsampling_aligns_areas_not_corners() -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    native = grid_logits_to_native(logits, 3, 8)
    assert native.shape == (3, 8)
    expected = [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]
    torch.testing.assert_close(native, torch.tensor([expected] * 3))
    assert grid_logits_to_native(torch.zeros(5, 4, 4), 6, 7).shape == (5, 6, 7)


def test_native_iou_by_hand() -> None:
    truth = np.zeros((4, 8), dtype=bool)
    truth[:, 2:5] = True
    left = torch.tensor([[1.0, -1.0], [1.0, -1.0]])  # columns 0 to 3
    nothing, everything = -torch.ones(2, 2), torch.ones(2, 2)
    rles = [encode(truth)] * 3 + [encode(np.zeros((5, 3), dtype=bool))]
    sizes = [(4, 8)] * 3 + [(5, 3)]
    intersections, unions = batch_native_iou(torch.stack([left, nothing, everything, nothing]), rles, sizes)
    assert intersections.tolist() == [8, 0, 12, 0]
    assert unions.tolist() == [20, 12, 32, 0]


@pytest.mark.parametrize("seed", range(12))
def test_native_iou_is_that_of_upsampling_everything(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grid, height, width = ((6, 30, 41), (24, 7, 50), (1, 5, 4), (16, 16, 16))[seed % 4]
    logits = torch.randn(9, grid, grid, generator=generator)
    if seed % 3 == 1:
        logits = logits.round()  # many pixels are exactly 0
    if seed % 3 == 2:
        logits[:, grid // 2 :] -= 5
        logits[0, 0, 0], logits[1, 0, 0], logits[2, 0, 0] = float("inf"), float("-inf"), float("nan")
    rles = [encode(blobs(i, height, width)) for i in range(9)]
    found = batch_native_iou(logits, rles)
    for i, rle in enumerate(rles):
        predicted, truth = (grid_logits_to_native(logits[i], height, width) > 0).numpy(), decode(rle)
        assert (found[0][i], found[1][i]) == ((predicted & truth).sum(), (predicted | truth).sum()), i


def test_cells_that_no_pixel_lies_between_count_for_nothing() -> None:
    truth = np.zeros((5, 3), dtype=bool)
    truth[1:3, 1:] = True
    for row, column in np.ndindex(16, 16):
        logits = torch.full((1, 16, 16), -5.0)
        logits[0, row, column] = 5.0
        predicted = (grid_logits_to_native(logits[0], 5, 3) > 0).numpy()
        intersections, unions = batch_native_iou(logits, [encode(truth)])
        assert (intersections[0], unions[0]) == ((predicted & truth).sum(), (predicted | truth).sum())


def test_zero_logit_is_background() -> None:
    intersections, unions = batch_native_iou(torch.zeros(1, 2, 2), [encode(np.ones((4, 4), dtype=bool))])
    assert (intersections.tolist(), unions.tolist()) == ([0], [16])


def test_native_iou_of_mixed_sizes_equals_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(25, 6, 6, generator=generator)
    rles = [encode(blobs(seed, 30 + seed % 3, 40)) for seed in range(25)]
    together = batch_native_iou(logits, rles)
    for i, rle in enumerate(rles):
        predicted = (grid_logits_to_native(logits[i], *rle["size"]) > 0).numpy()
        assert together[0][i] == (predicted & decode(rle)).sum()
        assert together[1][i] == (predicted | decode(rle)).sum()


def test_native_iou_checks_its_input() -> None:
    rle: Rle = encode(np.ones((4, 4), dtype=bool))
    with pytest.raises(DataError, match="got 2 predictions, 1 masks"):
        batch_native_iou(torch.zeros(2, 2, 2), [rle])
    with pytest.raises(DataError, match=r"\[\(4, 4\)\], images of \[\(4, 5\)\]"):
        batch_native_iou(torch.zeros(1, 2, 2), [rle], [(4, 5)])
    assert [counts.tolist() for counts in batch_native_iou(torch.zeros(0, 2, 2), [])] == [[], []]
