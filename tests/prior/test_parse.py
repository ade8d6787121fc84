"""Replies as models write them: what is read out of them, and which ones say nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2l_ray.errors import PriorParseError
from l2l_ray.prior.parse import MAX_OBJECTS, parse_reply
from l2l_ray.prior.prompt import FLORENCE_BOX, FLORENCE_POLYGON, QWEN_ABSOLUTE, QWEN_RELATIVE

BOX = (0.1, 0.2, 0.5, 0.6)
ONE = '[{"bbox_2d": [100, 200, 500, 600], "label": "red circle"}]'


@pytest.mark.parametrize(
    "reply",
    [
        ONE,
        f"```json\n{ONE}\n```",
        f"```\n{ONE}```",
        f"```json\n{ONE}",
        f"{ONE} The circle is on the left.",
        f"Here it is: {ONE}",
        f"{ONE}<|im_end|><|endoftext|>",
        ONE[1:-1],
        '[{"bbox_2d": [500, 200, 100, 600], "label": "red circle"}]',
        '[{"bbox_2d": [500, 600, 100, 200], "label": " red\\ncircle"}]',
        '[{"bbox_2d": [100.0, 2e2, 500, 600], "label": "red circle"}]',
        '[{"label": "red circle", "bbox": [100, 200, 500, 600], "score": 1}]',
        '[{"bbox_2d": [1, 2, 3], "label": "no"}, {"bbox_2d": [100, 200, 500, 600], "label": "red circle"}]',
    ],
)
def test_one_box_is_read(reply: str) -> None:
    parsed = parse_reply(reply, QWEN_RELATIVE, 0, 0)
    assert parsed.boxes_xyxy_frac == (pytest.approx(BOX),)
    assert parsed.phrase == "red circle"
    assert parsed.points_xy_frac == parsed.polygons_xy_frac == ()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("I cannot see a circle.", "not JSON"),
        ("", "not JSON"),
        ('[{"bbox_2d": [100, 200, 500, 600], "lab', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "empty"),
        ("[1, 2, 3, 4]", "not objects"),
        ('[{"label": "red circle"}]', "missing key"),
        ('[{"bbox_2d": null, "label": "red circle"}]', "missing key"),
        ('[{"bbox_2d": [100, 200, 500], "label": "x"}]', "bad coordinates"),
        ('[{"bbox_2d": ["100", 200, 500, 600]}]', "bad coordinates"),
        ('[{"bbox_2d": [true, 200, 500, 600]}]', "bad coordinates"),
        ('[{"bbox_2d": "100 200 500 600"}]', "bad coordinates"),
        ('[{"bbox_2d": [NaN, 200, 500, 600]}]', "bad coordinates"),
        ('[{"bbox_2d": [Infinity, 200, 500, 600]}]', "bad coordinates"),
        ('[{"bbox_2d": [100, 200, 100, 600]}]', "no area"),
        ('[{"bbox_2d": [1200, 200, 1500, 600]}]', "no area"),
        ('[{"bbox_2d": [-300, -200, -100, -10]}]', "no area"),
        ('[{"point_2d": [1001, 5]}]', "outside"),
    ],
)
def test_nothing_usable_is_an_error_of_a_named_kind(reply: str, kind: str) -> None:
    with pytest.raises(PriorParseError, match=f"^{kind}: got .* expected .* reply: "):
        parse_reply(reply, QWEN_RELATIVE, 100, 100)


def test_a_box_that_leaves_the_image_is_clipped() -> None:
    parsed = parse_reply('[{"bbox_2d": [-50, 200, 1010, 1000]}]', QWEN_RELATIVE, 0, 0)
    assert parsed.boxes_xyxy_frac == ((0.0, 0.2, 1.0, 1.0),)
    assert parsed.phrase == ""


def test_absolute_pixels_are_divided_by_the_size_the_model_saw() -> None:
    parsed = parse_reply('[{"bbox_2d": [28, 14, 140, 70], "point_2d": [70, 35]}]', QWEN_ABSOLUTE, 280, 140)
    assert parsed.boxes_xyxy_frac == ((0.1, 0.1, 0.5, 0.5),)
    assert parsed.points_xy_frac == ((0.25, 0.25),)


def test_points_alone_are_enough() -> None:
    parsed = parse_reply('[{"point_2d": [250, 500], "label": "hat"}, {"point_2d": [0, 1000]}]', QWEN_RELATIVE, 0, 0)
    assert parsed.boxes_xyxy_frac == ()
    assert parsed.points_xy_frac == ((0.25, 0.5), (0.0, 1.0))
    assert parsed.phrase == "hat"


def test_several_boxes_keep_their_order_up_to_a_bound() -> None:
    items = ", ".join(f'{{"bbox_2d": [{i}, 0, 500, 500]}}' for i in range(MAX_OBJECTS + 5))
    parsed = parse_reply(f"[{items}]", QWEN_RELATIVE, 0, 0)
    assert [box[0] for box in parsed.boxes_xyxy_frac] == [i / 1000 for i in range(MAX_OBJECTS)]


def test_florence_boxes_follow_their_phrase() -> None:
    reply = "</s><s>red circle<loc_100><loc_200><loc_499><loc_599><loc_0><loc_0><loc_999><loc_999></s><pad>"
    parsed = parse_reply(reply, FLORENCE_BOX, 0, 0)
    assert parsed.phrase == "red circle"
    assert parsed.boxes_xyxy_frac[0] == pytest.approx((0.1005, 0.2005, 0.4995, 0.5995))
    assert parsed.boxes_xyxy_frac[1] == pytest.approx((0.0005, 0.0005, 0.9995, 0.9995))


def test_florence_polygons_give_a_box_around_all_of_them() -> None:
    first = "<loc_99><loc_199><loc_299><loc_199><loc_199><loc_399>"
    reply = f"{first}<sep><loc_500><loc_500><loc_600><loc_500><loc_600><loc_700>"
    parsed = parse_reply(reply, FLORENCE_POLYGON, 0, 0)
    assert [len(polygon) for polygon in parsed.polygons_xy_frac] == [3, 3]
    assert parsed.polygons_xy_frac[0][2] == pytest.approx((0.1995, 0.3995))
    assert parsed.boxes_xyxy_frac == (pytest.approx((0.0995, 0.1995, 0.6005, 0.7005)),)


@pytest.mark.parametrize(
    ("reply", "fmt", "kind"),
    [
        ("red circle", FLORENCE_BOX, "no location"),
        ("x<loc_1><loc_2><loc_3>", FLORENCE_BOX, "bad coordinates"),
        ("x<loc_1><loc_2><loc_1><loc_9>", FLORENCE_BOX, "no area"),
        ("<loc_1><loc_2><loc_3><loc_4>", FLORENCE_POLYGON, "bad polygon"),
    ],
)
def test_unusable_florence_replies(reply: str, fmt, kind: str) -> None:
    with pytest.raises(PriorParseError, match=f"^{kind}: "):
        parse_reply(reply, fmt, 0, 0)


@given(
    st.text(max_size=60)
    | st.lists(st.floats(allow_nan=True), max_size=5).map(lambda v: f'[{{"bbox_2d": {v}}}]'.replace("nan", "NaN"))
)
def test_any_text_gives_boxes_inside_the_image_or_the_one_error(reply: str) -> None:
    for fmt in (QWEN_RELATIVE, QWEN_ABSOLUTE, FLORENCE_BOX, FLORENCE_POLYGON):
        try:
            parsed = parse_reply(reply, fmt, 640, 480)
        except PriorParseError:
            continue
        for x1, y1, x2, y2 in parsed.boxes_xyxy_frac:
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
