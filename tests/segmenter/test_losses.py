"""Losses by hand: empty, full, one pixel, all removed; then the invariants that training relies on."""

import math

import pytest
import torch

from l2l_ray.segmenter import losses
from l2l_ray.segmenter.decoder import SegmenterOutput
from l2l_ray.segmenter.losses import bce_loss, dice_loss, pool_target, segmentation_loss

LOG2 = math.log(2)
WEIGHTS = (0.5, 0.4)  # of Dice, and of the coarser levels


def output_of(mask_logits, *level_logits):
    return SegmenterOutput(mask_logits, level_logits)


def grid(*rows):
    return torch.tensor([rows], dtype=torch.float32)


ZERO, ONE = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
CORNER = grid([1, 0], [0, 0])


@pytest.mark.parametrize(
    ("logits", "target", "weight", "expected"),
    [
        (ZERO, ZERO, ONE, LOG2),  # undecided about an empty mask
        (ZERO, ONE, ONE, LOG2),  # ... and about a full one
        (ZERO, CORNER, CORNER, LOG2 / 4),  # one believed pixel of four
        (ZERO, ONE, ONE * 0.5, LOG2 / 2),
        (ZERO, ONE, ZERO, 0.0),  # all removed
        (ONE * 2, ONE * 0.25, ONE, math.log1p(math.exp(2)) - 0.25 * 2),  # soft target: softplus(x) - t x
        (ONE * 200, ONE, ONE, 0.0),
        (ONE * 200, ZERO, ONE, 200.0),  # saturated and wrong: large, not inf
    ],
)
def test_bce_by_hand(logits, target, weight, expected):
    assert bce_loss(logits, target, weight, 1).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("logits", "target", "weight", "expected"),
    [
        (ZERO, ZERO, ONE, 1 - 1 / (4 * 0.25 + 1)),
        (ZERO, ONE, ONE, 1 - (2 * 2 + 1) / (1 + 4 + 1)),
        (ONE * 200, ONE, ONE, 0.0),
        (-ONE * 200, ZERO, ONE, 0.0),  # right about an empty mask
        (-ONE * 200, ONE, ONE, 1 - 1 / 5),
        (CORNER * 400 - 200, CORNER, ONE, 0.0),
        (ONE * 200, CORNER, CORNER, 0.0),  # wrong only where nothing counts
        (ZERO, CORNER, CORNER, (1 - (2 * 0.5 + 1) / (0.25 + 1 + 1)) / 4),  # scaled by the mean weight, 1/4
        (ZERO, ONE * 0.5, ONE, 0.0),  # a soft target is met exactly by p = t
        (ZERO, ONE, ZERO, 0.0),
    ],
)
def test_dice_by_hand(logits, target, weight, expected):
    assert dice_loss(logits, target, weight, 1).item() == pytest.approx(expected, abs=1e-6)


def test_pooling_averages_only_believed_cells():
    target = grid([1, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1])
    weight = grid([1, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0.5], [0, 0, 0, 0.5])
    pooled, pooled_weight = pool_target(target, weight, 2)
    assert torch.allclose(pooled_weight, grid([0.25, 1], [0, 0.5]))
    assert torch.allclose(pooled, grid([1, 1], [0, 0.25]))


def test_pooling_to_a_size_that_does_not_divide_keeps_a_constant():
    pooled, weight = pool_target(torch.full((1, 5, 5), 0.3), torch.full((1, 5, 5), 0.7), 3)
    assert torch.allclose(pooled, torch.full((1, 3, 3), 0.3)) and torch.allclose(weight, torch.full((1, 3, 3), 0.7))


def test_deep_supervision_by_hand():
    output = output_of(torch.zeros(1, 4, 4), torch.full((1, 1, 1), 2.0), torch.zeros(1, 2, 2))
    target, weight = torch.ones(1, 4, 4), torch.ones(1, 4, 4)
    coarse = [math.log1p(math.exp(-2)), LOG2]
    loss = segmentation_loss(output, target, weight, 1, dice_weight=0, deep_weight=0.4)
    assert loss.item() == pytest.approx(LOG2 + 0.4 * sum(coarse) / 2, abs=1e-6)
    assert segmentation_loss(output, target, weight, 1, 0, 0).item() == pytest.approx(LOG2, abs=1e-6)


def random_case(num=4):
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(num, size, size, generator=generator, requires_grad=True) for size in (2, 4, 8)]
    target = torch.rand(num, 8, 8, generator=generator)
    weight = (torch.rand(num, 8, 8, generator=generator) > 0.5).float()
    return output_of(logits[2], logits[0], logits[1]), target, weight


def take(output, index):
    return output_of(output.mask_logits[index], *(level[index] for level in output.level_logits))


def test_parts_of_a_batch_add_up_to_the_batch():
    output, target, weight = random_case()
    whole = segmentation_loss(output, target, weight, 4, *WEIGHTS)
    parts = [segmentation_loss(take(output, i), target[i], weight[i], 4, *WEIGHTS) for i in (slice(0, 1), slice(1, 4))]
    assert torch.allclose(whole, sum(parts))


def test_removed_pixels_are_never_read():
    output, target, weight = random_case()
    garbage = torch.where(weight > 0, target, torch.nan)
    first = segmentation_loss(output, target, weight, 4, *WEIGHTS)
    second = segmentation_loss(output, garbage, weight, 4, *WEIGHTS)
    assert torch.equal(first, second)
    (gradient,) = torch.autograd.grad(second, output.mask_logits)
    assert gradient.isfinite().all() and (gradient[weight == 0] == 0).all() and (gradient[weight > 0] != 0).all()


def test_a_sample_without_any_believed_pixel_changes_nothing():
    output, target, weight = random_case()
    weight[2] = 0
    rest = [0, 1, 3]
    loss = segmentation_loss(output, target, weight, 3, *WEIGHTS)
    assert torch.allclose(loss, segmentation_loss(take(output, rest), target[rest], weight[rest], 3, *WEIGHTS))
    loss.backward()
    for logits in (output.mask_logits, *output.level_logits):
        assert (logits.grad[2] == 0).all() and logits.grad.isfinite().all()
    everything_removed = segmentation_loss(take(output, rest), target[rest], torch.zeros(3, 8, 8), 3, *WEIGHTS)
    assert everything_removed.item() == 0


def test_bfloat16_logits_are_computed_in_float32():
    output, target, weight = random_case()
    low = output_of(output.mask_logits.bfloat16(), *(level.bfloat16() for level in output.level_logits))
    with torch.autocast("cpu", torch.bfloat16):
        loss = segmentation_loss(low, target.bfloat16(), weight.bfloat16(), 4, *WEIGHTS)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(segmentation_loss(output, target, weight, 4, *WEIGHTS).item(), rel=1e-2)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"got \(1, 2, 2\), \(1, 2, 2\), \(2, 2, 2\).*mask_to_grid"):
        losses._check_shapes(ZERO, ZERO, torch.zeros(2, 2, 2))  # why: in the losses the tests' shape hook is faster
