"""One optimiser step: global denominators, keyed draws, and pixels that do not count."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from l2l_ray.config import AugmentConfig, LoopConfig, SegmenterConfig
from l2l_ray.data.words import swap_left_right
from l2l_ray.errors import ConfigError
from l2l_ray.loop.inference.inputs import Inputs
from l2l_ray.loop.training.step import (
    TrainBatch,
    augment,
    drop_priors,
    joined,
    learning_rate_factor,
    make_optimizer,
    train_step,
)
from l2l_ray.segmenter.model import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = LoopConfig(labeled_batch=4, unlabeled_batch=4, unlabeled_weight=0.7, grad_clip=1e9, autocast=False)
AUGMENT = AugmentConfig()
WORDS = ["left red circle", "big blue star", "the ring on the right", "square"]


@pytest.fixture
def student(segmenter: Segmenter) -> Segmenter:
    return copy.deepcopy(segmenter).requires_grad_(True)


@pytest.fixture
def batch_of(segmenter: Segmenter, inputs_of: Callable[..., Inputs]) -> Callable[[int], TrainBatch]:
    def make(seed: int) -> TrainBatch:
        inputs = inputs_of(WORDS, segmenter.grid, seed)
        generator = torch.Generator().manual_seed(seed)
        target = (torch.rand(inputs.proposal.shape, generator=generator) > 0.7).float()
        return TrainBatch(inputs, target, torch.rand(inputs.proposal.shape, generator=generator))

    return make


def _rows(batch: TrainBatch, rows: list[int]) -> TrainBatch:
    inputs = Inputs(
        images=batch.inputs.images[rows],
        expressions=[batch.inputs.expressions[row] for row in rows],
        phrases=[batch.inputs.phrases[row] for row in rows],
        proposal=batch.inputs.proposal[rows],
        prior_score=batch.inputs.prior_score[rows],
        has_prior=batch.inputs.has_prior[rows],
    )
    return TrainBatch(inputs, batch.target[rows], batch.pixel_weight[rows])


def _gradients(
    student: Segmenter, labeled: TrainBatch, unlabeled: TrainBatch | None, world_size: int = 1, num_views: int = 1
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Take a step of length 0; return the gradients it would have gone by, and its terms."""
    student = copy.deepcopy(student)
    optimizer = make_optimizer(student, CONFIG)
    terms = train_step(student, optimizer, labeled, unlabeled, CONFIG, 0.0, world_size, num_views)
    return {name: p.grad for name, p in student.named_parameters() if p.grad is not None}, terms


def test_two_ranks_average_to_the_gradient_of_one(student: Segmenter, batch_of: Callable[[int], TrainBatch]) -> None:
    labeled, unlabeled = batch_of(1), batch_of(2)
    whole, terms = _gradients(student, labeled, unlabeled)
    shares = [_gradients(student, _rows(labeled, rows), _rows(unlabeled, rows), 2) for rows in ([0, 2], [1, 3])]
    assert len(whole) > 50 and max(g.abs().max() for g in whole.values()) > 1e-3
    for name, gradient in whole.items():
        average = (shares[0][0][name] + shares[1][0][name]) / 2
        torch.testing.assert_close(average, gradient, atol=1e-5, rtol=1e-3, msg=name)
    for name, value in terms.items():
        assert (shares[0][1][name] + shares[1][1][name]) / 2 == pytest.approx(value, abs=1e-5)


def test_the_loss_is_labeled_plus_weighted_unlabeled(student: Segmenter, batch_of: Callable[[int], TrainBatch]) -> None:
    _, both = _gradients(student, batch_of(1), batch_of(2))
    assert both["loss"] == pytest.approx(both["loss_labeled"] + 0.7 * both["loss_unlabeled"], rel=1e-6)
    _, alone = _gradients(student, batch_of(1), None)
    assert alone["loss_unlabeled"] == 0.0
    assert alone["loss"] == alone["loss_labeled"] == pytest.approx(both["loss_labeled"], rel=1e-5)


def test_the_loss_of_several_views_is_their_mean(student: Segmenter, batch_of: Callable[[int], TrainBatch]) -> None:
    labeled, views = batch_of(1), [batch_of(2), batch_of(3)]
    alone = [_gradients(student, labeled, view)[1]["loss_unlabeled"] for view in views]
    _, both = _gradients(student, labeled, joined(views), num_views=2)
    assert abs(alone[0] - alone[1]) > 1e-3
    assert both["loss_unlabeled"] == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_pixels_of_weight_zero_are_not_read(student: Segmenter, batch_of: Callable[[int], TrainBatch]) -> None:
    labeled, unlabeled = batch_of(1), batch_of(2)
    removed = torch.zeros_like(unlabeled.pixel_weight, dtype=torch.bool)
    removed[:, ::2] = True
    removed[3] = True
    unlabeled = replace(unlabeled, pixel_weight=unlabeled.pixel_weight.masked_fill(removed, 0.0))
    other = replace(unlabeled, target=torch.where(removed, 1 - unlabeled.target, unlabeled.target))
    first, second = (_gradients(student, labeled, batch)[0] for batch in (unlabeled, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_step_that_diverged_is_refused_and_moves_nothing(
    student: Segmenter, batch_of: Callable[[int], TrainBatch]
) -> None:
    batch, optimizer = batch_of(1), make_optimizer(student, CONFIG)
    broken = replace(batch, target=torch.full_like(batch.target, math.inf))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(ConfigError, match=r"the gradient of a step is (nan|inf), expected a number; lower loop\.lr"):
        train_step(student, optimizer, broken, None, CONFIG, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_a_batch_of_weight_zero_teaches_nothing(student: Segmenter, batch_of: Callable[[int], TrainBatch]) -> None:
    labeled, unlabeled = batch_of(1), batch_of(2)
    nothing = replace(unlabeled, pixel_weight=torch.zeros_like(unlabeled.pixel_weight))
    with_it, terms = _gradients(student, labeled, nothing)
    without, _ = _gradients(student, labeled, None)
    assert terms["loss_unlabeled"] == 0.0
    for name, gradient in without.items():
        torch.testing.assert_close(with_it[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_gradients_are_clipped_and_every_group_has_its_rate(
    student: Segmenter, batch_of: Callable[[int], TrainBatch]
) -> None:
    config = CONFIG.model_copy(update={"grad_clip": 0.01, "lr": 2e-3, "encoder_lr_scale": 0.5})
    optimizer = make_optimizer(student, config)
    before = copy.deepcopy(student.state_dict())
    train_step(student, optimizer, batch_of(1), None, config, 0.25)
    norm = torch.stack([p.grad.norm() for p in student.parameters() if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.25e-3, 0.5e-3])
    assert sorted({group["base_lr"] for group in optimizer.param_groups}) == pytest.approx([1e-3, 2e-3])
    moved = [name for name, value in student.state_dict().items() if not torch.equal(value, before[name])]
    assert "decoder.last_layer.weight" in moved


def test_the_fused_optimiser_of_large_networks_takes_the_same_step(
    student: Segmenter, batch_of: Callable[[int], TrainBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = []
    for first_large in (10**9, 0):
        monkeypatch.setattr("l2l_ray.loop.training.step.FUSED_FROM", first_large)
        copied = copy.deepcopy(student)
        optimizer = make_optimizer(copied, CONFIG)
        train_step(copied, optimizer, batch_of(1), None, CONFIG, 0.5)
        stepped.append((optimizer.defaults["fused"], copied.state_dict()))
    assert [is_fused for is_fused, _ in stepped] == [None, True]
    for name, value in stepped[0][1].items():
        torch.testing.assert_close(stepped[1][1][name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_steps_lower_the_loss(student: Segmenter, batch_of: Callable[[int], TrainBatch]) -> None:
    config = CONFIG.model_copy(update={"lr": 3e-3, "grad_clip": 1.0})
    optimizer, batch = make_optimizer(student, config), batch_of(1)
    batch = replace(batch, target=(batch.inputs.proposal > 0.6).float())
    losses = [train_step(student, optimizer, batch, None, config, 1.0)["loss"] for _ in range(6)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("step", "total", "expected"),
    [
        (0, 100, 1 / 20),
        (9, 100, 0.5 * 0.91**0.9),
        (19, 100, 0.81**0.9),
        (50, 100, 0.5**0.9),
        (99, 100, 0.01**0.9),
        (200, 100, 0.01**0.9),  # past the end: still a positive rate
        (0, 1, 1 / 20),
    ],
)
def test_learning_rate_by_hand(step: int, total: int, expected: float) -> None:
    assert learning_rate_factor(step, total, LoopConfig()) == pytest.approx(expected)


def test_learning_rate_without_warm_up_and_without_decay() -> None:
    flat = LoopConfig(lr_warmup_steps=1, lr_decay_power=0)
    assert [learning_rate_factor(step, 10, flat) for step in (0, 5, 9)] == [1, 1, 1]
    assert learning_rate_factor(1, 10, LoopConfig(lr_warmup_steps=4, lr_decay_power=1)) == pytest.approx(0.5 * 0.9)


def _many(num: int) -> TrainBatch:
    inputs = Inputs(
        torch.rand(num, 3, 4, 4), ["cat"] * num, ["a cat"] * num, torch.rand(num, 2, 2), torch.ones(num),
        torch.ones(num, dtype=torch.bool),
    )  # fmt: skip
    return TrainBatch(inputs, torch.zeros(num, 2, 2), torch.ones(num, 2, 2))


def _dropped(at: int, ramp_steps: int = 100, num: int = 2000, step: int = 0, seed: int = 0) -> list[bool]:
    config = SegmenterConfig(prior_dropout=0.5, prior_dropout_ramp_steps=ramp_steps)
    result = drop_priors(_many(num), config, seed, "round0", step, range(num), at)
    hidden = [not has for has in result.inputs.has_prior.tolist()]
    assert [phrase == "" for phrase in result.inputs.phrases] == hidden
    return hidden


@pytest.mark.parametrize(
    ("at", "ramp_steps", "rate"), [(0, 100, 0.0), (50, 100, 0.25), (100, 100, 0.5), (900, 100, 0.5), (0, 0, 0.5)]
)
def test_prior_dropout_ramps_up(at: int, ramp_steps: int, rate: float) -> None:
    hidden = _dropped(at, ramp_steps)
    assert sum(hidden) / len(hidden) == pytest.approx(rate, abs=0.04)


def test_prior_dropout_is_keyed_by_stream_step_and_position() -> None:
    hidden = _dropped(100)
    assert _dropped(100) == hidden
    assert _dropped(100, step=1) != hidden and _dropped(100, seed=1) != hidden
    config = SegmenterConfig(prior_dropout=0.5, prior_dropout_ramp_steps=100)
    other_rank = drop_priors(_many(1000), config, 0, "round0", 0, range(1, 2000, 2), 100)
    assert [not has for has in other_rank.inputs.has_prior.tolist()] == hidden[1::2]
    # What was dropped early in the ramp stays dropped at a higher rate.
    assert all(late for early, late in zip(_dropped(50), hidden, strict=True) if early)


def test_a_sample_without_prior_stays_without() -> None:
    batch = _many(4)
    batch = replace(batch, inputs=replace(batch.inputs, has_prior=torch.tensor([True, False, True, False])))
    result = drop_priors(batch, SegmenterConfig(), 0, "s", 0, range(4), 0)
    assert result.inputs.has_prior.tolist() == [True, False, True, False]


def _for_views(num: int) -> TrainBatch:
    generator = torch.Generator().manual_seed(0)
    inputs = Inputs(
        images=torch.rand((num, 3, 16, 16), generator=generator),
        expressions=["left cat", "cat on the right"] * (num // 2),
        phrases=["cat on the left", "left-handed cat"] * (num // 2),
        proposal=torch.rand((num, 8, 8), generator=generator),
        prior_score=torch.ones(num),
        has_prior=torch.ones(num, dtype=torch.bool),
    )
    target, weight = (torch.rand((num, 8, 8), generator=generator) for _ in range(2))
    return TrainBatch(inputs, target, weight)


def test_maps_are_mirrored_along_with_the_words() -> None:
    batch = _for_views(12)
    seen = augment(batch, AUGMENT, 0, "round0", 3, range(12))
    flipped = [new != old for new, old in zip(seen.inputs.expressions, batch.inputs.expressions, strict=True)]
    assert any(flipped) and not all(flipped)
    for row, was_flipped in enumerate(flipped):
        expected = swap_left_right(batch.inputs.expressions[row]) if was_flipped else batch.inputs.expressions[row]
        assert seen.inputs.expressions[row] == expected
        for new, old in (
            (seen.target, batch.target),
            (seen.pixel_weight, batch.pixel_weight),
            (seen.inputs.proposal, batch.inputs.proposal),
        ):
            assert torch.equal(new[row], old[row].flip(-1) if was_flipped else old[row])
        phrase = batch.inputs.phrases[row]
        mirrored = "cat on the right" if phrase == "cat on the left" else ""  # unsafe phrases are left out
        assert seen.inputs.phrases[row] == (mirrored if was_flipped else phrase)


def test_the_image_is_mirrored_too() -> None:
    batch = _for_views(12)
    half = torch.zeros_like(batch.inputs.images)
    half[..., :8] = 1.0  # bright on the left, whatever the colors become
    batch = replace(batch, inputs=replace(batch.inputs, images=half))
    seen = augment(batch, AUGMENT, 0, "round0", 3, range(12))
    brighter_left = seen.inputs.images[..., :8].mean((1, 2, 3)) > seen.inputs.images[..., 8:].mean((1, 2, 3))
    flipped = [new != old for new, old in zip(seen.inputs.expressions, batch.inputs.expressions, strict=True)]
    assert brighter_left.tolist() == [not was_flipped for was_flipped in flipped]


def test_views_are_keyed_by_position_in_the_global_batch() -> None:
    batch = _for_views(12)
    whole = augment(batch, AUGMENT, 0, "round0", 3, range(12))
    rows = list(range(1, 12, 2))
    share = augment(_rows(batch, rows), AUGMENT, 0, "round0", 3, rows)
    assert torch.equal(share.inputs.images, whole.inputs.images[rows])
    assert torch.equal(share.target, whole.target[rows])
    assert not torch.equal(augment(batch, AUGMENT, 0, "round0", 4, range(12)).inputs.images, whole.inputs.images)
    assert not torch.equal(augment(batch, AUGMENT, 0, "round1", 3, range(12)).inputs.images, whole.inputs.images)


def _blocks(num: int, expression: str, top: int, left: int) -> TrainBatch:
    """Return samples whose object is a block of 2 x 2 cells, fully known, under a matching proposal."""
    cells = torch.zeros(num, 8, 8)
    cells[:, top : top + 2, left : left + 2] = 1.0
    inputs = Inputs(
        images=cells.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].repeat(1, 3, 1, 1),
        expressions=[expression] * num,
        phrases=[expression] * num,
        proposal=cells * 0.9,
        prior_score=torch.ones(num),
        has_prior=torch.ones(num, dtype=torch.bool),
    )
    return TrainBatch(inputs, cells, torch.full_like(cells, 0.5))


def test_a_crop_moves_target_weight_proposal_and_image_together() -> None:
    batch = _blocks(20, "cup", 1, 5)
    seen = augment(batch, AugmentConfig(flip_prob=0.0, crop_prob=1.0), 0, "round0", 0, range(20))
    assert (seen.target.flatten(1).sum(1) >= 4 - 1e-4).all() and (seen.target != batch.target).any()
    torch.testing.assert_close(seen.inputs.proposal, 0.9 * seen.target)
    torch.testing.assert_close(seen.pixel_weight, batch.pixel_weight)
    uncropped = augment(batch, AugmentConfig(flip_prob=0.0), 0, "round0", 0, range(20))
    assert not torch.equal(seen.inputs.images, uncropped.inputs.images)


def test_a_crop_never_reads_the_target_of_removed_cells() -> None:
    """By hand: linear interpolation between the columns of weight, and of weight times target; all rows are alike."""
    weight = np.array([1.0, 0.5, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    target = np.array([0.2, 0.4, 0.5, 0.1, 0.0, 0.5, 0.3, 0.2])  # 0.5: the removed ones
    batch = _blocks(40, "cup", 6, 6)
    ramp = torch.arange(8.0).expand(40, 8, 8) / 8  # tells each window's side; it is not kept, for there is no prior
    inputs = replace(batch.inputs, proposal=ramp.clone(), has_prior=torch.zeros(40, dtype=torch.bool))
    targets = torch.from_numpy(target).float().expand(40, 8, 8).clone()
    targets[:, 7, 7] = 1.0  # the object: every window ends there, in rows that are not looked at
    batch = TrainBatch(inputs, targets, torch.from_numpy(weight).float().expand(40, 8, 8).clone())
    seen = augment(batch, AugmentConfig(flip_prob=0.0, crop_prob=1.0), 0, "round0", 0, range(40))
    sides = set()
    for row in range(40):
        columns = 8 * seen.inputs.proposal[row, 0]
        side = round(8 * (columns[4] - columns[3]).item())
        places = (8 - side + (np.arange(8) + 0.5) * side / 8 - 0.5).clip(0, 7)
        total, weighted = (np.interp(places, range(8), values) for values in (weight, weight * target))
        np.testing.assert_allclose(seen.pixel_weight[row, 0], total, atol=1e-5)
        known = total > 1e-3
        np.testing.assert_allclose(seen.target[row, 0][known], weighted[known] / total[known], atol=1e-4)
        sides.add(side)
    assert sides == {5, 6, 7, 8}


def test_a_proposal_beside_the_target_is_kept_in_the_crop_and_free_of_pastes() -> None:
    batch = _blocks(20, "cup", 1, 5)
    proposal = torch.zeros(20, 8, 8)
    proposal[:, 6:, :2] = 0.9  # of the other corner
    batch = replace(batch, inputs=replace(batch.inputs, proposal=proposal))
    seen = augment(batch, AugmentConfig(flip_prob=0.0, crop_prob=1.0), 0, "round0", 0, range(20))
    assert (seen.inputs.proposal.flatten(1).sum(1) >= 4 * 0.9 - 1e-3).all()
    pasting = AugmentConfig(flip_prob=0.0, paste_prob=1.0)
    over = _blocks(20, "dog", 6, 0)
    assert torch.equal(augment(batch, pasting, 0, "round0", 0, range(20), over).target, batch.target)
    hidden = replace(batch, inputs=replace(batch.inputs, has_prior=torch.zeros(20, dtype=torch.bool)))
    assert (augment(hidden, pasting, 0, "round0", 0, range(20), over).pixel_weight[:, 6:, :2] == 1).all()


def test_what_is_pasted_is_background_and_known() -> None:
    batch, donors = _blocks(6, "cup", 1, 1), _blocks(6, "dog", 5, 5)
    seen = augment(batch, AugmentConfig(flip_prob=0.0, paste_prob=1.0), 0, "round0", 0, range(6), donors)
    pasted = torch.zeros(8, 8, dtype=torch.bool)
    pasted[5:7, 5:7] = True
    assert torch.equal(seen.target, batch.target)
    assert (seen.pixel_weight[:, pasted] == 1).all() and (seen.pixel_weight[:, ~pasted] == 0.5).all()


def test_words_are_said_differently_as_often_as_asked() -> None:
    batch = _blocks(200, "kid", 1, 1)
    seen = augment(batch, AugmentConfig(reword_prob=0.5), 0, "round0", 0, range(200))
    texts = set(seen.inputs.expressions)
    assert texts == {"kid", "child", "the kid", "the child"}
    same = seen.inputs.expressions.count("kid")
    assert 0.5 < same / 200 < 0.75, "half are left alone, and a quarter of the others comes out the same"
    assert seen.inputs.phrases == batch.inputs.phrases, "what the MLLM said is not reworded"
