"""Targets by hand, losses at their minimum, and slips of the pen."""

import numpy as np
import pytest
import torch
from torch import nn

from l2l_ray.embedded.encoder_losses import (
    CELL_CHANNELS,
    Batch,
    box_coverage,
    cell_owner,
    dense_loss,
    make_batch,
    match_loss,
    region_loss,
    with_typos,
)
from l2l_ray.embedded.pool import Pool


def test_coverage_by_hand():
    coverage = box_coverage(torch.tensor([[0.25, 0.0, 0.625, 0.5]]), 4)
    expected = torch.zeros(1, 4, 4)
    expected[0, :2, 1] = 1.0
    expected[0, :2, 2] = 0.5
    torch.testing.assert_close(coverage, expected)


def test_coverage_sums_to_the_area_at_any_grid():
    boxes = torch.tensor([[0.13, 0.2, 0.71, 0.9], [0.0, 0.0, 1.0, 1.0], [0.4, 0.4, 0.4, 0.4]])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for grid in (3, 8, 32):
        torch.testing.assert_close(box_coverage(boxes, grid).mean((1, 2)), areas)


def test_of_two_boxes_over_a_cell_the_smaller_owns_it():
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]]])
    owner, coverage = cell_owner(boxes, 2)
    assert owner.tolist() == [[[1, 0], [0, 0]]]
    assert coverage.tolist() == [[[1.0, 1.0], [1.0, 1.0]]]


def batch_of_one():
    attributes = torch.full((1, 9, 4), -1)
    attributes[0, 0] = torch.tensor([2, 3, 1, 0])
    boxes = torch.zeros(1, 9, 4)
    boxes[0, 0] = torch.tensor([0.25, 0.25, 0.75, 0.75])
    zero = torch.zeros(1, dtype=torch.long)
    return Batch(torch.rand(1, 3, 64, 64), attributes, boxes, ["the star"], zero, zero)


def test_dense_loss_falls_to_what_a_right_head_leaves():
    torch.manual_seed(0)
    batch, head, feat = batch_of_one(), nn.Conv2d(64, CELL_CHANNELS, 1), torch.randn(1, 64, 8, 8)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    first = dense_loss(head, feat, batch)[0].item()
    for _ in range(80):
        loss, accuracy = dense_loss(head, feat, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first
    assert accuracy.tolist() == [1.0, 1.0, 1.0, 1.0]


def test_match_and_region_losses_prefer_the_referent():
    box = torch.tensor([[0.25, 0.25, 0.5, 0.5]])
    right = (box_coverage(box, 8) - 0.5) * 12
    wrong = right.flip(1)
    for loss in (match_loss, region_loss):
        assert loss(right, box).item() < 1.2
        assert loss(wrong, box).item() > loss(right, box).item() + 1
    assert region_loss(right, box).item() < 0.1


def test_gradients_are_finite_for_a_box_smaller_than_a_cell():
    logits = torch.zeros(1, 8, 8, requires_grad=True)
    (match_loss(logits, torch.tensor([[0.5, 0.5, 0.51, 0.51]])) + region_loss(logits, torch.zeros(1, 4))).backward()
    assert torch.isfinite(logits.grad).all()


def test_a_batch_draws_expressions_of_its_own_scenes():
    pool = Pool(
        images=np.zeros((3, 64, 64, 3), np.uint8),
        attributes=np.zeros((3, 9, 4), np.int8),
        boxes_xyxy_frac=np.arange(3 * 9 * 4, dtype=np.float32).reshape(3, 9, 4),
        scene_index=np.array([0, 0, 2], np.int32),
        object_index=np.array([1, 2, 5], np.int32),
        texts=["a", "b", "c"],
    )
    batch = make_batch(pool, np.array([0, 1, 2]), 2, np.random.default_rng(0))
    assert len(batch.images) == 2  # scene 1 has no expression and is left out
    assert batch.image_index.tolist() == [0, 0, 1, 1]
    assert set(batch.texts[:2]) <= {"a", "b"}
    assert batch.texts[2:] == ["c", "c"]
    assert torch.equal(batch.referent_xyxy[3], torch.from_numpy(pool.boxes_xyxy_frac[2, 5]))


def test_typos_change_one_place_and_only_a_share():
    texts = ["left red circle"] * 400
    changed = with_typos(texts, np.random.default_rng(0), frac=0.25)
    different = [text for text in changed if text != texts[0]]
    assert 60 < len(different) < 140  # a swap of equal letters changes nothing
    assert all(abs(len(text) - len(texts[0])) <= 1 for text in different)
    assert with_typos(texts, np.random.default_rng(0), frac=0.0) == texts


@pytest.mark.parametrize("text", ["", "a", "ab"])
def test_typos_in_the_shortest_texts(text):
    assert all(len(t) <= len(text) + 1 for t in with_typos([text] * 50, np.random.default_rng(0), frac=1.0))
