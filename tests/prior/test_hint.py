"""What a user's box or points make of a prior, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from l2l_ray.prior.hint import OFF_POINT, at_points, prior_of_hint
from l2l_ray.types import Hint, Prior

LEFT, RIGHT = (0.0, 0.2, 0.4, 0.6), (0.6, 0.2, 1.0, 0.6)
POLYGON = (((0.1, 0.3), (0.4, 0.3), (0.4, 0.6)),)
ANSWER = Prior("9f", (LEFT, RIGHT), (0.8, 0.4), ((0.9, 0.9),), "man", 0.7, "", "[...]")


def test_a_box_is_a_prior_as_sure_as_can_be() -> None:
    prior = prior_of_hint(Hint(LEFT, ((0.1, 0.3),)), "image", "left man")
    assert (prior.boxes_xyxy_frac, prior.box_scores, prior.points_xy_frac) == ((LEFT,), (1.0,), ((0.1, 0.3),))
    assert (prior.source, prior.score, prior.failure, prior.phrase) == ("user", 1.0, "", "")


def test_keys_differ_with_hint_image_and_expression() -> None:
    given = [(LEFT, "image", "man"), (RIGHT, "image", "man"), (LEFT, "other", "man"), (LEFT, "image", "dog")]
    keys = {prior_of_hint(Hint(box, ()), image, text).key for box, image, text in given}
    keys |= {prior_of_hint(Hint(LEFT, ((0.1, 0.3),)), "image", "man").key}
    keys |= {at_points(ANSWER, Hint(None, (point,)), "image", "man").key for point in ((0.1, 0.3), (0.2, 0.3))}
    assert len(keys | {ANSWER.key}) == 8


def test_points_rule_out_the_boxes_beside_them() -> None:
    prior = at_points(ANSWER, Hint(None, ((0.7, 0.3),)), "image", "man")
    assert (prior.boxes_xyxy_frac, prior.box_scores) == ((RIGHT,), (0.4,))
    assert prior.points_xy_frac == ((0.7, 0.3),), "the user's, in place of the answer's"
    assert (prior.source, prior.score, prior.phrase, prior.reply) == ("mllm", 0.7, "man", "[...]")


def test_boxes_that_hold_most_points_stay() -> None:
    points = ((0.7, 0.3), (0.8, 0.3), (0.1, 0.3))
    assert at_points(ANSWER, Hint(None, points), "image", "man").boxes_xyxy_frac == (RIGHT,)
    both = at_points(ANSWER, Hint(None, (points[0], points[2])), "image", "man")
    assert both.boxes_xyxy_frac == (LEFT, RIGHT)


def test_an_answer_elsewhere_is_no_prior_and_says_so() -> None:
    prior = at_points(ANSWER, Hint(None, ((0.5, 0.9),)), "image", "man")
    assert prior.failure == f"{OFF_POINT}: 2 elsewhere"
    assert not (prior.boxes_xyxy_frac or prior.points_xy_frac or prior.score)


def test_a_point_takes_the_place_of_an_answer_of_points_alone() -> None:
    prior = at_points(replace(ANSWER, boxes_xyxy_frac=(), box_scores=()), Hint(None, ((0.5, 0.9),)), "image", "man")
    assert prior.points_xy_frac == ((0.5, 0.9),) and prior.says_where
    assert (prior.failure, prior.boxes_xyxy_frac, prior.score) == ("", (), 0.7)


def test_a_failure_stays_what_it_was() -> None:
    absent = Prior.absent("9f", "not JSON", "a cat")
    assert at_points(absent, Hint(None, ((0.5, 0.5),)), "image", "man") == replace(
        absent, key=at_points(ANSWER, Hint(None, ((0.5, 0.5),)), "image", "man").key
    )


@pytest.mark.parametrize(("point", "kept"), [((0.2, 0.5), True), ((0.7, 0.3), False)])
def test_polygons_go_with_their_bounds(point: tuple[float, float], kept: bool) -> None:
    prior = at_points(replace(ANSWER, polygons_xy_frac=POLYGON), Hint(None, (point,)), "image", "man")
    assert prior.polygons_xy_frac == (POLYGON if kept else ())
    alone = replace(ANSWER, boxes_xyxy_frac=(), box_scores=(), polygons_xy_frac=POLYGON)
    assert (at_points(alone, Hint(None, (point,)), "image", "man").failure == "") == kept
