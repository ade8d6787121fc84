"""What is asked of which family, and that a perfect answer survives the way back."""

from __future__ import annotations

from pathlib import Path

import pytest

from l2l_ray.errors import ConfigError
from l2l_ray.prior.parse import parse_reply
from l2l_ray.prior.prompt import (
    FAMILIES,
    FLORENCE_BOX,
    FLORENCE_POLYGON,
    GLM,
    GROUNDING_DINO,
    INTERNVL,
    MOLMO,
    OWL,
    PALIGEMMA,
    QWEN_ABSOLUTE,
    QWEN_RELATIVE,
    model_type_of,
    prompt_for,
)

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("model_type", "forced", "proposal", "expected"),
    [
        ("qwen3_vl", "auto", "box", QWEN_RELATIVE),
        ("qwen3_vl_moe", "auto", "sam", QWEN_RELATIVE),
        ("qwen2_vl", "auto", "box", QWEN_RELATIVE),
        ("qwen2_5_vl", "qwen2_5", "box", QWEN_ABSOLUTE),
        ("qwen4_exp", "auto", "box", QWEN_RELATIVE),
        ("internvl", "auto", "box", INTERNVL),
        ("glm4v_moe", "auto", "sam", GLM),
        ("paligemma", "auto", "box", PALIGEMMA),
        ("molmo2", "auto", "sam", MOLMO),
        ("mm-grounding-dino", "auto", "box", GROUNDING_DINO),
        ("owlv2", "auto", "box", OWL),
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
        ("qwen3_vl", "quen", "box", r"prior\.prompt is 'quen', but .*'qwen'; set prior\.prompt to 'auto'"),
        ("paligemma", "auto", "polygon", r"<seg> codes need a decoder.*; set prior\.proposal to 'box' or 'sam'"),
        ("molmo2", "auto", "box", r"prior\.proposal is 'box', but model type 'molmo2' answers with points"),
        ("something_new", "owl", "box", r"no grounding format is known for model type 'something_new'"),
        ("something_new", "Find {expression}.", "box", r"prior\.coordinates to the unit of its answers"),
    ],
)
def test_what_a_family_cannot_answer_is_refused(model_type: str, forced: str, proposal: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prompt_for(model_type, forced, proposal)


def test_an_unknown_family_is_asked_by_hand() -> None:
    fmt = prompt_for("something_new", "Find {expression}.", coordinates="percent")
    assert fmt.question("left man") == "Find left man." and fmt.uses_chat
    assert parse_reply("[10, 20, 50, 60]", fmt, 1, 1).boxes_xyxy_frac == ((0.1, 0.2, 0.5, 0.6),)


def test_a_known_family_takes_another_question_and_another_unit() -> None:
    fmt = prompt_for("qwen2_5_vl", "Box of {expression}?", coordinates="thousandths")
    assert (fmt.template, fmt.coordinates, fmt.style) == ("Box of {expression}?", "thousandths", "json")
    assert fmt.name != QWEN_ABSOLUTE.name


@pytest.mark.parametrize("model_type", ["florence2", "paligemma", "grounding-dino"])
def test_a_fixed_unit_cannot_be_changed(model_type: str) -> None:
    with pytest.raises(ConfigError, match=r"prior\.coordinates is 'percent', but the unit .* is fixed .*; set"):
        prompt_for(model_type, coordinates="percent")


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl"),
        ("/models/qwen2.5-vl-7b", "qwen2_5_vl"),
        ("OpenGVLab/InternVL3_5-8B-hf", "internvl"),
        ("zai-org/GLM-4.1V-9B-Thinking", "glm4v"),
        ("zai-org/GLM-4.5V-FP8", "glm4v_moe"),
        ("zai-org/GLM-4.6V", "glm46v"),
        ("my-model", "my-model"),
    ],
)
def test_a_served_name_tells_the_model_type(name: str, model_type: str) -> None:
    assert model_type_of(name) == model_type


def test_the_document_has_a_row_for_every_family() -> None:
    first_table = (ROOT / "docs" / "priors.md").read_text().partition("| `")[2].partition("\n\n")[0]
    rows = f"| `{first_table}".splitlines()
    assert len(rows) == len(FAMILIES)
    for row, family in zip(rows, FAMILIES, strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        types = ", ".join(f"`{name}`" for name in family.model_types)
        asked = f"`{family.box.template}`"
        assert cells[:4] == [f"`{family.name}`", types, asked, family.box.unit.words], row
        assert cells[4] == family.source


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
        (INTERNVL, (100, 200, 500, 1000), (0.1, 0.2, 0.5, 1.0)),
        (PALIGEMMA, (256, 0, 768, 512), (0.25, 0.0, 0.75, 0.5)),
    ],
)
def test_a_perfect_answer_parses_back(fmt, coordinates, expected) -> None:
    parsed = parse_reply(fmt.answer(coordinates, "red circle"), fmt, 128, 48)
    assert parsed.boxes_xyxy_frac == (pytest.approx(expected),)
    assert parsed.phrase == "red circle"
