"""Replies as models write them: what is read out of them, and which ones say nothing."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2l_ray.errors import PriorParseError
from l2l_ray.prior.parse import MAX_OBJECTS, parse_reply
from l2l_ray.prior.prompt import FLORENCE_BOX, FLORENCE_POLYGON, GLM, MOLMO, PALIGEMMA, QWEN_ABSOLUTE, QWEN_RELATIVE
from l2l_ray.prior.reply import FAILURE_WORDS, MllmIdentity, Reply, failure_kind, make_prior

CASES = Path(__file__).parents[1] / "cases"

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
        "{'bbox_2d': [100, 200, 500, 600], 'label': 'red circle'}",
        '{"BBox": ["100", "200", "500", "600"], "name": "red circle"}',
        '{"bounding_box": "100, 200, 500, 600", "label": "red circle"}',
        '{"box": {"x1": 100, "y1": 200, "x2": 500, "y2": 600}, "label": "red circle"}',
        '{"label": "red circle", "x": 100, "y": 200, "width": 400, "height": 400}',
        '{"bbox_2d": [[100, 200], [500, 600]], "label": "red circle"}',
        '{"found": {"objects": [{"bbox_2d": [100, 200, 500, 600], "label": "red circle"}]}}',
        '[{"bbox_2d": [100, 200, 500, 600], "label": "red circle"}, {"bbox_2d": [1, 2, 3' + "9" * 5000,
        f"{ONE} The picture is [0, 0, 1000, 1000].",
        f'First [{{"bbox_2d": [1, 2, 30, 40], "label": "draft"}}]. No, that is wrong: {ONE}',
        f'Not yet: [{{"bbox_2d": [1, 2, 30, 40], "label": "draft"}}]</think>\n\n{ONE}',
        f"<think>a circle</think><answer>{ONE}</answer> as [1, 2, 30, 40] shows",
        f'{ONE} where "bbox_2d": the corners of the box',
        "<ref>red circle</ref><box>(100,200),(500,600)</box>",
        "red circle (100, 200) to (500, 600)",
        "[{'bbox_2d': (100, 200, 500, 600), 'label': 'red circle'}]",
        '[{"bbox_2d":\u00a0[100,\u3000200, 500, 600], "label": "red circle"}]',
        '[{"bbox_2d": [100\uff0c200\uff0c500\uff0c600], "label": "red circle"}]',
        '[{"bbox_2d": [+100, 0200, +500, 600], "label": "red circle"}]',
        "(1,2),(30,40) no, red circle (100,200),(500,600)",
        f"Final answer: no doubt, {ONE}",
        f"{ONE}\n\nFinal check: no other circle matches.",
        f"{ONE} Result: No ambiguity remains.",
        f"{ONE} Final result: nothing else is red",
        f"{ONE} in a picture of [0, 0, 10",
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
        ("the circle(100,200),(500,6", "cut off"),
        ("(1,2),(30,40) no, red circle (100,200),(", "cut off"),
        ("<ref>red circle</ref><box>[[100, 200, 500, 6", "cut off"),
        ("<|begin_of_box|>[[100, 200, 500, 600", "cut off"),
        ("It is [1, 2, 30, 40]. No, rather [100, 200", "cut off"),
        ('[{"bbox_2d": [100, 200, 5', "cut off"),
        ('[{"bbox_2d": [1, 2, 30, 40]}] no, rather [{"bbox_2d": [100, 200, ', "cut off"),
        (f"<think>It is {ONE} or", "no answer"),
        (f"<think>It is {ONE}</think> There is none.", "not JSON"),
        (f"{ONE}</think>[]", "empty"),
        (f"{ONE} Wait, that is a star. Final answer: none", "empty"),
        (f"{ONE} Wait. **Final answer:** No such object found.", "empty"),
        (f"{ONE} Answer: there is none; sorry", "empty"),
        ("[" * 100_000, "not JSON"),
        ("[]", "empty"),
        ("[1, 2, 3]", "not objects"),
        ('{"bbox_2d": [], "label": "no such object"}', "missing key"),
        ('[{"label": "red circle"}]', "missing key"),
        ('[{"bbox_2d": null, "label": "red circle"}]', "missing key"),
        ('[{"bbox_2d": [100, 200, 500], "label": "x"}]', "bad coordinates"),
        ('[{"bbox_2d": ["left", 200, 500, 600]}]', "bad coordinates"),
        ('[{"bbox_2d": [100, 200, 500, 1e999]}]', "bad coordinates"),
        ('[{"bbox_2d": [100, 200, 500, \u0663]}]', "bad coordinates"),
        ('[{"bbox_2d": "\u0661\u0662, 200, 500, 600"}]', "bad coordinates"),
        ('[{"bbox_2d": [100, 200, 500, ' + "9" * 5000 + "]}]", "bad coordinates"),
        (f"(100,200),(500,{'9' * 5000})", "bad coordinates"),
        ('[{"bbox_2d": [0.1, 0.2, 0.5, 0.6]}]', "wrong unit"),
        ('[{"bbox_2d": ["10%", "20%", "50%", "60%"]}]', "wrong unit"),
        ("[10%, 20%, 50%, 60%]", "wrong unit"),
        ('["10%", "20%", "50%", "60%"]', "wrong unit"),
        ("(10%, 20%, 50%, 60%)", "wrong unit"),
        ("[10%, 20%, 5", "cut off"),
        ('[{"bbox_2d": [0, 0, 0, 0]}]', "no area"),
        ('[{"bbox_2d": [true, 200, 500, 600]}]', "bad coordinates"),
        ('[{"bbox_2d": "100 200 500"}]', "bad coordinates"),
        ('[{"bbox_2d": [NaN, 200, 500, 600]}]', "bad coordinates"),
        ('[{"bbox_2d": [Infinity, 200, 500, 600]}]', "bad coordinates"),
        ('[{"bbox_2d": [100, 200, 100, 600]}]', "no area"),
        ('[{"bbox_2d": [1200, 200, 1500, 600]}]', "outside"),
        ('[{"bbox_2d": [-300, -200, -100, -10]}]', "outside"),
        ('[{"bbox_2d": [600, 500, 1024, 700]}]', "outside"),
        ('[{"bbox_2d": [100, 200, 500, 600]}, {"bbox_2d": [100, 200, 1500, 600]}]', "outside"),
        ('[{"point_2d": [1001, 5]}]', "outside"),
    ],
)
def test_nothing_usable_is_an_error_of_a_named_kind(reply: str, kind: str) -> None:
    with pytest.raises(PriorParseError, match=f"^{kind}: got .* expected .* reply: "):
        parse_reply(reply, QWEN_RELATIVE, 100, 100)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("The middle one is at [400, 300, 500, 420], so the left one", "cut off"),
        ('The middle one: [{"bbox_2d": [400, 300, 500, 420]}] but', "cut off"),
        ("I look for a cup. The middle one is (400, 300), (500, 420), so", "cut off"),
        ("<think>The middle one is at [400, 300, 500, 420], so", "cut off"),
        ("I look for", "cut off"),
        ('[{"label": "cup"}, {"lab', "cut off"),
        ('{"bbox_2d": {"x1": 100, "y1": 2', "cut off"),
        ("[]", "empty"),
        ('[{"bbox_2d": [0.1, 0.2, 0.5, 0.6]}] Wait', "wrong unit"),
    ],
)
def test_a_reply_that_is_known_to_be_cut_is_no_draft(reply: str, kind: str) -> None:
    with pytest.raises(PriorParseError, match=f"^{kind}: got .* expected .* reply: "):
        parse_reply(reply, QWEN_RELATIVE, 100, 100, is_cut=True)


@pytest.mark.parametrize(
    "reply",
    [
        f"{ONE} The circle is on",
        f"```json\n{ONE[:-10]}",
        f'{ONE[:-1]}, {{"bbox_2d": [100',
        f"Not [1, 2, 30, 40].</think>\n{ONE} It is",
        f"<answer>{ONE}",
        "<ref>red circle</ref><box>[[100, 200, 500, 600], [1, 2",
        "<ref>red circle</ref><box>(100,200),(500,600)</box>the old hat(50,",
    ],
)
def test_of_a_reply_that_is_cut_a_whole_box_before_the_words_is_read(reply: str) -> None:
    assert parse_reply(reply, QWEN_RELATIVE, 0, 0, is_cut=True).boxes_xyxy_frac == (pytest.approx(BOX),)


@pytest.mark.parametrize(
    ("reply", "points"),
    [
        ('<points coords="1 1 250 500 2 300 500 3 4', ((0.25, 0.5), (0.3, 0.5))),
        ('<points coords="1 1 250 500 2 300 5', ((0.25, 0.5),)),
        ('<points coords="1 1 250 500">cu', ((0.25, 0.5),)),
        ('<points x1="250" y1="500" x2="300" y2="5', ((0.25, 0.5),)),
    ],
)
def test_of_points_that_are_cut_the_whole_ones_are_read(reply: str, points: tuple[tuple[float, float], ...]) -> None:
    assert parse_reply(reply, MOLMO, 0, 0).points_xy_frac == points


@pytest.mark.parametrize("reply", ['<points coords="1 1 250 5', '<points coords="1 250 500 2 30', "<points coord"])
def test_points_of_which_none_is_whole_are_cut_off(reply: str) -> None:
    with pytest.raises(PriorParseError, match="^cut off: got .* expected .* reply: "):
        parse_reply(reply, MOLMO, 0, 0)


def test_a_small_overshoot_is_clipped() -> None:
    parsed = parse_reply('[{"bbox_2d": [-20, 200, 1010, 1000]}]', QWEN_RELATIVE, 0, 0)
    assert parsed.boxes_xyxy_frac == ((0.0, 0.2, 1.0, 1.0),)
    assert parsed.phrase == ""


@pytest.mark.parametrize("prose", ["(image size (0, 0, 1000, 1000))", "Its color is rgba(10, 20, 30, 1)."])
def test_four_numbers_in_prose_are_no_box_beside_a_list(prose: str) -> None:
    parsed = parse_reply(f"[100, 200, 500, 600] {prose}", QWEN_RELATIVE, 0, 0)
    assert parsed.boxes_xyxy_frac == (pytest.approx(BOX),)


def test_of_bare_tuples_the_last_counts() -> None:
    parsed = parse_reply("(1, 2, 30, 40) no, rather (100, 200, 500, 600)", QWEN_RELATIVE, 0, 0)
    assert parsed.boxes_xyxy_frac == (pytest.approx(BOX),)


@pytest.mark.parametrize(
    "reply",
    [
        "[10%, 20%, 50%, 60%]",
        "It is at [10 %, 20 %, 50 %, 60 %].",
        '["10%", "20%", "50%", "60%"]',
        "[[10%,20%,50%,60%]]",
        "(10%, 20%, 50%, 60%)",
        '{"bbox_2d": [10%, 20%, 50%, 60%], "label": "cup"}',
        '{"bbox_2d": ["10%", "20%", "50%", "60%"]}',
        "(10, 20, 50, 60)",
        "the cup is at (10, 20, 50, 60)",
        "[10, 20, 50, 60]",
        "{'bbox_2d': [10, 20, 50, 60], 'label': '50%, off'}",
    ],
)
def test_percentages_are_read_where_that_is_the_unit(reply: str) -> None:
    parsed = parse_reply(reply, replace(QWEN_RELATIVE, coordinates="percent"), 0, 0)
    assert parsed.boxes_xyxy_frac == (pytest.approx(BOX),)


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


@pytest.mark.parametrize("between", ["", "\n", ", ", ";\n\n- ", "\n```\n```json\n"])
def test_objects_without_words_between_them_are_one_answer(between: str) -> None:
    reply = f'{{"bbox_2d": [1, 2, 30, 40]}}{between}{{"bbox_2d": [5, 6, 70, 80], "label": "hat"}}'
    parsed = parse_reply(reply, QWEN_RELATIVE, 0, 0)
    assert parsed.boxes_xyxy_frac == ((0.001, 0.002, 0.03, 0.04), (0.005, 0.006, 0.07, 0.08))
    assert parsed.phrase == "hat"


def test_the_native_grammar_names_each_object() -> None:
    parsed = parse_reply("the cup(10,20),(30,40)the old hat(50,60),(70,80)", QWEN_ABSOLUTE, 100, 100)
    assert parsed.boxes_xyxy_frac == ((0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8))
    assert parsed.phrase == "the cup"


def test_a_phrase_can_always_be_written_to_a_file() -> None:
    parsed = parse_reply('{"label": "\\ud800 hat", "bbox_2d": [1, 2, 30, 40]}', QWEN_RELATIVE, 0, 0)
    assert parsed.phrase.encode().decode() == "? hat"


def test_florence_boxes_follow_their_phrase() -> None:
    reply = "</s><s>red circle<loc_100><loc_200><loc_499><loc_599><loc_0><loc_0><loc_999><loc_999></s><pad>"
    parsed = parse_reply(reply, FLORENCE_BOX, 0, 0)
    assert parsed.phrase == "red circle"
    assert parsed.boxes_xyxy_frac[0] == pytest.approx((0.1005, 0.2005, 0.4995, 0.5995))
    assert parsed.boxes_xyxy_frac[1] == pytest.approx((0.0005, 0.0005, 0.9995, 0.9995))


@pytest.mark.parametrize(
    "reply",
    [
        "woman<loc_100><loc_200><loc_499><loc_599>the car<loc_0><loc_0><loc_999><loc_999></s>",
        "woman <loc_100> <loc_200> <loc_499> <loc_599> the car <loc_0> <loc_0> <loc_999> <loc_999>",
        "</s><s>woman<loc_100><loc_200><loc_499><loc_599></s>, the car",
    ],
)
def test_florence_speaks_of_its_first_phrase(reply: str) -> None:
    parsed = parse_reply(reply, FLORENCE_BOX, 0, 0)
    assert parsed.boxes_xyxy_frac == (pytest.approx((0.1005, 0.2005, 0.4995, 0.5995)),)
    assert parsed.phrase == "woman"


def test_florence_polygons_are_of_the_first_phrase_too() -> None:
    first = "<loc_99><loc_199><loc_299><loc_199><loc_199><loc_399>"
    reply = f"woman<poly>{first}<sep>{first}</poly>the car<poly><loc_0><loc_0><loc_9><loc_0><loc_9><loc_9></poly>"
    parsed = parse_reply(reply, FLORENCE_POLYGON, 0, 0)
    assert len(parsed.polygons_xy_frac) == 2
    assert parsed.boxes_xyxy_frac == (pytest.approx((0.0995, 0.1995, 0.2995, 0.3995)),)


def test_blanks_between_location_tokens_change_nothing() -> None:
    parsed = parse_reply("<loc_100> <loc_200> <loc_500> <loc_600>", FLORENCE_BOX, 0, 0)
    assert parsed == parse_reply("<loc_100><loc_200><loc_500><loc_600>", FLORENCE_BOX, 0, 0)


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
        ("x<loc_1><loc_2><loc_1><loc_9>the car<loc_0><loc_0><loc_9><loc_9>", FLORENCE_BOX, "no area"),
        ("x<loc_1>the car<loc_0><loc_0><loc_9><loc_9>", FLORENCE_BOX, "no location"),
        ("x<loc_1><loc_2><loc_300><loc_1000>", FLORENCE_BOX, "bad coordinates"),
        ("x<loc_1><loc_2><loc_300><loc_\u0663>", FLORENCE_BOX, "bad coordinates"),
        (f"x<loc_1><loc_2><loc_300><loc_{'9' * 5000}>", FLORENCE_BOX, "bad coordinates"),
        (f"<loc_1><loc_2><loc_300><loc_4><loc_{'9' * 5000}>", FLORENCE_POLYGON, "bad polygon"),
        ("<loc_1><loc_2><loc_3><loc_4>", FLORENCE_POLYGON, "bad polygon"),
    ],
)
def test_unusable_florence_replies(reply: str, fmt, kind: str) -> None:
    with pytest.raises(PriorParseError, match=f"^{kind}: "):
        parse_reply(reply, fmt, 0, 0)


REPLIES = [
    *(
        json.loads(line)["reply"]
        for path in sorted(CASES.glob("0[3-8]/replies.jsonl"))
        for line in path.read_text().splitlines()
    ),
    *(fmt.answer((10, 20, 300, 400), "cup") for fmt in (QWEN_RELATIVE, FLORENCE_BOX, PALIGEMMA, MOLMO)),
    '<points x1="1.5" y1="20" x2="3" y2="4">cup</points> <|begin_of_box|>(1, 2, 3, 4)<|end_of_box|>',
]
PIECES = st.sampled_from(
    ["[", "]", "{", "}", "(", ")", "<think>", "</think>", "<answer>", '"bbox_2d": ', "box: ", "NaN", "-", "1e999"]
    + [
        "<loc_7>",
        "<loc0007>",
        ";",
        "<seg001>",
        '<points coords="',
        "<|begin_of_box|>",
        "9" * 5000,
        "%",
        "\u0663",
        "\ud800",
        "\x00",
        "'",
        '"',
        "\\ud800",
        ", ",
        "null",
        "0.5",
        "answer:",
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """Give real replies with characters cut out and pieces put in."""
    reply = "".join(draw(st.lists(st.sampled_from(REPLIES), min_size=1, max_size=2)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(reply)))
        end = draw(st.integers(start, min(len(reply), start + 20)))
        reply = reply[:start] + draw(PIECES | st.text(max_size=3)) + reply[end:]
    return reply


NUMBERS = st.lists(st.floats(allow_nan=True), max_size=5).map(lambda v: f'[{{"bbox_2d": {v}}}]'.replace("nan", "NaN"))


@settings(deadline=None)
@given(st.text(max_size=60) | st.lists(PIECES, max_size=20).map("".join) | NUMBERS | mutated())
def test_any_text_gives_boxes_inside_the_image_or_a_named_failure(reply: str) -> None:
    percent = replace(QWEN_RELATIVE, coordinates="percent")
    for fmt in (QWEN_RELATIVE, QWEN_ABSOLUTE, percent, GLM, FLORENCE_BOX, FLORENCE_POLYGON, PALIGEMMA, MOLMO):
        prior = make_prior("k", Reply((reply,), (-0.1,), 640, 480), MllmIdentity("f", fmt), 640, 480)
        assert bool(prior.failure) != bool(prior.boxes_xyxy_frac or prior.points_xy_frac)
        assert not prior.failure or failure_kind(prior.failure) in FAILURE_WORDS
        prior.phrase.encode()
        for x1, y1, x2, y2 in prior.boxes_xyxy_frac:
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1


RUNAWAYS = ["[", "[1,", '{"a":', "(1,2)", "[1%,", "(1%, 2,", '"bbox_2d": [', "<loc_1>", ONE, "9", "answer ", " "]
RUNAWAYS += ["<loc0001>", "<|begin_of_box|>(1,", '<points coords="1 ', 'x="1" y="1" ', "<|begin_of_box|>" + "((1"]


@pytest.mark.parametrize("piece", RUNAWAYS)
def test_a_runaway_reply_is_read_in_seconds(piece: str) -> None:
    for fmt in (QWEN_RELATIVE, FLORENCE_BOX, PALIGEMMA, MOLMO):
        reply = Reply((piece * (20_000 // len(piece)),), (-0.1,), 640, 480)
        started = time.perf_counter()
        make_prior("k", reply, MllmIdentity("f", fmt), 640, 480)
        assert time.perf_counter() - started < 10
