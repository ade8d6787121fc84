"""What is asked of which family, and that a perfect answer survives the way back."""

from __future__ import annotations

import pytest

from l2l_ray.errors import ConfigError
from l2l_ray.prior.parse import parse_reply
from l2l_ray.prior.prompt import FLORENCE_BOX, FLORENCE_POLYGON, QWEN_ABSOLUTE, QWEN_RELATIVE, prompt_for


@pytest.mark.parametrize(
    ("model_type", "forced", "proposal", "expected"),
    [
        ("qwen3_vl", "auto", "box", QWEN_RELATIVE),
        ("qwen3_vl_moe", "auto", "sam", QWEN_RELATIVE),
        ("qwen2_vl", "auto", "box", QWEN_RELATIVE),
        ("qwen2_5_vl", "qwen", "box", QWEN_ABSOLUTE),
        ("florence2", "auto", "box", FLORENCE_BOX),
        ("florence2", "auto", "polygon", FLORENCE_POLYGON),
        ("something_new", "qwen", "box", QWEN_RELATIVE),
        ("something_new", "florence2", "box", FLORENCE_BOX),
    ],
)
def test_each_family_has_its_format(model_type: str, forced: str, proposal: str, expected: object) -> None:
    assert prompt_for(model_type, forced, proposal) is expected


def test_an_unknown_family_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'llava'.*qwen3_vl.*prior\.prompt"):
        prompt_for("llava")


@pytest.mark.parametrize(
    ("model_type", "forced", "proposal", "message"),
    [
        (
            "qwen3_vl",
            "florence2",
            "box",
            r"prior\.prompt is 'florence2', but .*'qwen3_vl'.*'qwen'; set prior\.prompt to 'auto'",
        ),
        ("florence2", "qwen", "box", r"prior\.prompt is 'qwen', but .*'florence2'"),
        ("qwen3_vl", "auto", "polygon", r"prior\.proposal is 'polygon', but .* boxes; set prior\.proposal to 'box'"),
        ("something_new", "qwen", "polygon", r"prior\.proposal is 'polygon', but .*'something_new'"),
    ],
)
def test_what_a_family_cannot_answer_is_refused(model_type: str, forced: str, proposal: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prompt_for(model_type, forced, proposal)


def test_the_question_quotes_the_expression_once() -> None:
    question = QWEN_RELATIVE.question('the  "big"\n{star}')
    assert question == "Locate \"the 'big' {star}\". Report bbox_2d and label in JSON format."


def test_a_chat_holds_an_image_and_the_question() -> None:
    (turn,) = QWEN_RELATIVE.messages("left man")
    assert turn["role"] == "user"
    assert [part["type"] for part in turn["content"]] == ["image", "text"]
    assert turn["content"][1]["text"] == QWEN_RELATIVE.question("left man")


@pytest.mark.parametrize(
    ("fmt", "coordinates", "expected"),
    [
        (QWEN_RELATIVE, (100, 200, 500, 1000), (0.1, 0.2, 0.5, 1.0)),
        (QWEN_ABSOLUTE, (64, 12, 128, 24), (0.5, 0.25, 1.0, 0.5)),
        (FLORENCE_BOX, (0, 249, 499, 999), (0.0005, 0.2495, 0.4995, 0.9995)),
    ],
)
def test_a_perfect_answer_parses_back(fmt, coordinates, expected) -> None:
    parsed = parse_reply(fmt.answer(coordinates, "red circle"), fmt, 128, 48)
    assert parsed.boxes_xyxy_frac == (pytest.approx(expected),)
    assert parsed.phrase == "red circle"
