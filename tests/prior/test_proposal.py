import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from l2l_ray.config import PriorConfig
from l2l_ray.errors import DataError
from l2l_ray.prior.masks import write_mask
from l2l_ray.prior.proposal import (
    Proposer,
    mix,
    polygon_proposal,
    smooth_boxes,
)
from l2l_ray.types import BoxFrac, Prior
from tests.proposals import box_proposal

LEFT: BoxFrac = (0.0, 0.0, 0.5, 1.0)
RIGHT: BoxFrac = (0.5, 0.0, 1.0, 1.0)
MIDDLE: BoxFrac = (0.25, 0.25, 0.75, 0.75)
SQUARE = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))


def prior(*boxes: BoxFrac, scores: tuple[float, ...] | None = None, score: float = 0.8) -> Prior:
    return Prior("key", boxes, scores or (0.8,) * len(boxes), (), "thing", score, "", "")


def test_smooth_box_by_hand() -> None:
    # Box 0.25..0.75, softness 0.5: edge width 0.25, slope 1/0.25 at the edge, so the logistic's scale is 0.0625.
    # Cell centres of grid 4: 0.125, 0.375, ... : 2 scales outside / inside the near edge, 6 / 10 from the far one.
    inside = torch.sigmoid(torch.tensor(2.0)) * torch.sigmoid(torch.tensor(6.0))
    outside = torch.sigmoid(torch.tensor(-2.0)) * torch.sigmoid(torch.tensor(10.0))
    row = torch.stack([outside, inside, inside, outside])
    torch.testing.assert_close(smooth_boxes(torch.tensor(MIDDLE), 4, 0.5), row[:, None] * row[None, :])


@pytest.mark.parametrize("softness", [0.08, 0.5])
def test_a_box_shorter_than_a_cell_marks_the_cell_it_lies_in(softness: float) -> None:
    middles = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    middles = torch.cat([middles, torch.tensor([[0.25, 0.5], [0.0, 1.0], [0.999, 0.125]])])  # on borders of cells, too
    boxes = torch.cat([middles - 0.01, middles + 0.01], dim=1)
    marked = smooth_boxes(boxes, 8, softness) > 0.5
    column, row = (middles * 8).floor().long().clamp(max=7).T
    assert marked.flatten(1).sum(1).eq(1).all() and marked[torch.arange(len(boxes)), row, column].all()


def test_x_is_the_column() -> None:
    q = box_proposal([LEFT], [1.0], 8, 0.05)
    assert (q[2:6, :3] > 0.95).all() and (q[:, 5:] < 0.01).all()


def test_a_single_box_is_not_scaled_by_its_score() -> None:
    sure, unsure = box_proposal([MIDDLE], [0.9], 16, 0.08), box_proposal([MIDDLE], [0.01], 16, 0.08)
    torch.testing.assert_close(sure, unsure)
    assert sure.max() > 0.99


def test_the_best_candidate_is_shown_whole_and_others_by_half_their_relative_score() -> None:
    q = box_proposal([LEFT, RIGHT], [0.8, 0.2], 16, 0.02)
    torch.testing.assert_close(q[8, 3], torch.tensor(1.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(q[8, 12], torch.tensor(0.125), atol=1e-3, rtol=0)
    assert torch.equal(q, box_proposal([RIGHT, LEFT, LEFT], [0.2, 0.8, 0.8], 16, 0.02))  # order, repeats: no matter
    both = [LEFT, RIGHT]
    assert torch.equal(box_proposal(both, [0.0, 0.0], 8, 0.1), box_proposal(both, [0.5, 0.5], 8, 0.1))


def test_of_boxes_that_nothing_tells_apart_the_first_is_the_label() -> None:
    q = box_proposal([RIGHT, LEFT, MIDDLE], [0.7, 0.7, 0.7], 16, 0.02)
    assert torch.equal(q > 0.5, box_proposal([RIGHT], [0.7], 16, 0.02) > 0.5)
    torch.testing.assert_close(q[8, 3], torch.tensor(0.5), atol=1e-3, rtol=0)


def test_mix_is_the_weighted_maximum() -> None:
    candidates = torch.tensor([[[[0.2]], [[0.9]]]])
    torch.testing.assert_close(mix(candidates, torch.tensor([[1.0, 0.5]])), torch.tensor([[[0.45]]]))


def test_the_smallest_box_marks_its_cell() -> None:
    q = box_proposal([(0.53, 0.53, 0.531, 0.531)], [1.0], 8, 0.08)
    assert (q.argmax() // 8, q.argmax() % 8) == (4, 4) and q.max() > 0.9


def test_flipping_the_box_flips_the_proposal() -> None:
    box = (0.1, 0.2, 0.4, 0.9)
    flipped = (0.6, 0.2, 0.9, 0.9)
    torch.testing.assert_close(box_proposal([box], [1.0], 12, 0.1).flip(1), box_proposal([flipped], [1.0], 12, 0.1))


def test_batch_with_missing_priors() -> None:
    failed = Prior.absent("k", "no box", "?")
    batch = Proposer(PriorConfig()).proposals([prior(MIDDLE), None, failed, prior(LEFT, RIGHT, scores=(0.3, 0.6))], 16)
    assert batch.has_prior.tolist() == [True, False, False, True]
    torch.testing.assert_close(batch.score, torch.tensor([0.8, 0.0, 0.0, 0.8]))
    assert (batch.proposal[1:3] == 0.5).all()
    left, middle, right = (box_proposal([box], [1.0], 16, 0.08) for box in (LEFT, MIDDLE, RIGHT))
    torch.testing.assert_close(batch.proposal[0], middle)
    torch.testing.assert_close(batch.proposal[3], torch.maximum(right, 0.25 * left))
    assert ((batch.proposal >= 0) & (batch.proposal <= 1)).all()


def test_a_batch_of_no_priors_at_all() -> None:
    batch = Proposer(PriorConfig(proposal="polygon")).proposals([None, None], 4)
    assert (batch.proposal == 0.5).all() and batch.proposal.shape == (2, 4, 4)


def test_rows_do_not_depend_on_the_batch() -> None:
    priors = [prior(MIDDLE), prior(LEFT, RIGHT), None]
    proposer = Proposer(PriorConfig())
    whole = proposer.proposals(priors, 8).proposal
    alone = torch.cat([proposer.proposals([p], 8).proposal for p in priors])
    assert torch.equal(whole, alone)


def test_fast_enough_to_be_made_again_every_step() -> None:
    priors = [prior(MIDDLE, LEFT, scores=(0.9, 0.4)) for _ in range(256)]
    proposer = Proposer(PriorConfig())
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        proposer.proposals(priors, 32)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.02  # 5 ms on an idle core


def test_polygon_coverage_by_hand() -> None:
    expected = torch.zeros(8, 8)
    expected[2:6, 2:6] = 1
    assert torch.equal(polygon_proposal([SQUARE], 8), expected)
    assert torch.equal(polygon_proposal([SQUARE[::-1]], 8), expected)  # either direction
    thin = polygon_proposal([((0.25, 0.0), (0.3125, 0.0), (0.3125, 1.0), (0.25, 1.0))], 4)  # a quarter of column 1
    assert torch.equal(thin, torch.tensor([0, 0.25, 0, 0]).expand(4, 4))
    triangle = polygon_proposal([((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))], 16)
    assert abs(float(triangle.mean()) - 0.5) < 0.01
    assert abs(float(triangle[3, 12]) - 0.5) < 0.1  # a cell cut by the diagonal is half covered


def test_polygons_are_united_and_degenerate_ones_passed_over() -> None:
    assert torch.equal(polygon_proposal([SQUARE, SQUARE, ((0.9, 0.9), (1.0, 1.0))], 8), polygon_proposal([SQUARE], 8))
    assert polygon_proposal([()], 4).sum() == 0


def test_polygon_proposals_fall_back_to_boxes() -> None:
    drawn = replace(prior(LEFT, MIDDLE), polygons_xy_frac=(SQUARE,))
    only_polygon = replace(prior(), polygons_xy_frac=(SQUARE,), score=0.4)
    batch = Proposer(PriorConfig(proposal="polygon")).proposals([drawn, prior(LEFT), only_polygon, None], 8)
    assert torch.equal(batch.proposal[0], polygon_proposal([SQUARE], 8))
    assert torch.equal(batch.proposal[2], batch.proposal[0])
    torch.testing.assert_close(batch.proposal[1], box_proposal([LEFT], [1.0], 8, 0.08))
    assert batch.has_prior.tolist() == [True, True, True, False]


def drawn(*masks: Any, boxes: int = 0, scores: tuple[float, ...] = (), points: Any = ()) -> Prior:
    """Return a prior with masks: of a box each, or of a point."""
    found = Prior("key", (MIDDLE,) * boxes, scores[:boxes], points, "thing", 0.8, "", "")
    return replace(found, masks=tuple(write_mask(mask) for mask in masks), mask_scores=scores or (0.9,) * len(masks))


def block(rows: slice, columns: slice) -> Any:
    mask = np.zeros((16, 16), dtype=bool)
    mask[rows, columns] = True
    return mask


TOP, BOTTOM, NOTHING = block(slice(0, 8), slice(None)), block(slice(8, 16), slice(None)), block(slice(0), slice(0))
POINT = ((0.5, 0.5),)
SAM = Proposer(PriorConfig(proposal="sam", sam_model="not/needed"))


def test_a_mask_is_the_proposal_and_the_box_is_not_drawn() -> None:
    batch = SAM.proposals([drawn(TOP, boxes=1, scores=(0.3,)), None, Prior.absent("k", "no box", "")], 8)
    assert torch.equal(batch.proposal[0], torch.cat([torch.ones(4, 8), torch.zeros(4, 8)]))
    assert batch.has_prior.tolist() == [True, False, False] and batch.score.tolist() == pytest.approx([0.8, 0, 0])
    assert (batch.proposal[1:] == 0.5).all()


def test_masks_of_boxes_weigh_as_their_boxes() -> None:
    batch = SAM.proposals([drawn(BOTTOM, TOP, boxes=2, scores=(0.2, 0.8)), drawn(TOP, boxes=1, scores=(0.1,))], 8)
    torch.testing.assert_close(batch.proposal[0], torch.cat([torch.ones(4, 8), torch.full((4, 8), 0.125)]))
    assert torch.equal(batch.proposal[1], torch.cat([torch.ones(4, 8), torch.zeros(4, 8)]))


def test_of_a_points_masks_the_best_is_the_label_and_the_others_show() -> None:
    whole, part = block(slice(0, 16), slice(0, 8)), block(slice(0, 8), slice(0, 8))
    batch = SAM.proposals([drawn(whole, part, TOP, scores=(0.9, 0.95, 0.1), points=POINT)], 8)
    expected = torch.zeros(8, 8)
    expected[:4], expected[:, :4], expected[:4, :4] = 0.1 / 1.9, 0.9 / 1.9, 1.0
    torch.testing.assert_close(batch.proposal[0], expected)


def test_a_mask_without_a_pixel_is_no_candidate() -> None:
    batch = SAM.proposals(
        [drawn(NOTHING, TOP, scores=(0.9, 0.8), points=POINT), drawn(NOTHING, boxes=1, scores=(1.0,))], 8
    )
    assert torch.equal(batch.proposal[0], torch.cat([torch.ones(4, 8), torch.zeros(4, 8)]))
    assert batch.has_prior.tolist() == [True, False] and (batch.proposal[1] == 0.5).all()


def test_points_are_nothing_to_the_other_proposals_and_lacking_masks_are_said() -> None:
    pointed = Prior("p", (), (), ((0.3, 0.5),), "", 0.7, "", "")
    assert not Proposer(PriorConfig()).proposals([pointed], 8).has_prior.any()
    for lacking in (pointed, prior(LEFT)):
        with pytest.raises(DataError, match=r"prior \w+ has no masks; expected .*: begin again, under another --name"):
            SAM.proposals([lacking], 8)


def test_a_box_is_drawn_whatever_masks_there_are_unless_the_proposal_is_sams() -> None:
    boxed = drawn(TOP, boxes=1, scores=(0.8,))
    without = replace(boxed, masks=(), mask_scores=())
    found = [Proposer(PriorConfig()).proposals([one], 8).proposal for one in (boxed, without)]
    assert torch.equal(*found)
