"""How each MLLM family is asked for a box, and which coordinates it answers in.

A `PromptFormat` is all that `mllm` and `parse` need to know about a family: the text of the question, whether it goes
through a chat template, and the unit of the coordinates in the answer.

- Qwen2-VL and Qwen3-VL answer JSON `[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}]` in thousandths of the image.
- Qwen2.5-VL answers the same JSON in pixels of the resized image that the model saw.
- Florence-2 has no chat template: a task token before the expression, and `<loc_0>`..`<loc_999>` in the answer.

Source: the grounding formats of the families' model cards and cookbooks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from l2l_ray.errors import ConfigError

AnswerStyle = Literal["qwen", "florence2"]

QWEN_TEMPLATE = 'Locate "{expression}". Report bbox_2d and label in JSON format.'
FLORENCE_BOX_TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
FLORENCE_POLYGON_TASK = "<REFERRING_EXPRESSION_SEGMENTATION>"


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """One family's way of being asked and of answering.

    Args:
        name: Short name, part of the prior's fingerprint.
        style: Which grammar the answer follows.
        template: Question; `{expression}` is replaced.
        coordinate_max: Largest coordinate; None = pixels of the image as the model saw it.
        uses_chat: Whether the question goes through the checkpoint's chat template.
    """

    name: str
    style: AnswerStyle
    template: str
    coordinate_max: float | None
    uses_chat: bool

    def question(self, expression: str) -> str:
        """Return the text of the question. Double quotes inside the expression become single ones."""
        cleaned = " ".join(expression.replace('"', "'").split())
        return self.template.replace("{expression}", cleaned)

    def messages(self, expression: str) -> list[dict[str, Any]]:
        """Return one user turn, an image and the question, for `apply_chat_template`."""
        content = [{"type": "image"}, {"type": "text", "text": self.question(expression)}]
        return [{"role": "user", "content": content}]

    def answer(self, box_xyxy: tuple[int, int, int, int], label: str) -> str:
        """Return the reply a perfect model gives, coordinates in the family's unit: what pretraining teaches."""
        if self.style == "florence2":
            return label + "".join(f"<loc_{value}>" for value in box_xyxy)
        return f'[{{"bbox_2d": [{", ".join(map(str, box_xyxy))}], "label": "{label}"}}]'


QWEN_RELATIVE = PromptFormat("qwen-relative", "qwen", QWEN_TEMPLATE, 1000.0, uses_chat=True)
QWEN_ABSOLUTE = PromptFormat("qwen-absolute", "qwen", QWEN_TEMPLATE, None, uses_chat=True)
FLORENCE_BOX = PromptFormat("florence2-box", "florence2", FLORENCE_BOX_TASK + "{expression}", 999.0, uses_chat=False)
FLORENCE_POLYGON = PromptFormat(
    "florence2-polygon", "florence2", FLORENCE_POLYGON_TASK + "{expression}", 999.0, uses_chat=False
)

_BY_MODEL_TYPE = {
    "qwen3_vl": QWEN_RELATIVE,
    "qwen3_vl_moe": QWEN_RELATIVE,
    "qwen2_vl": QWEN_RELATIVE,
    "qwen2_5_vl": QWEN_ABSOLUTE,
    "florence2": FLORENCE_BOX,
}


def prompt_for(model_type: str, prompt: str = "auto", proposal: str = "box") -> PromptFormat:
    """Return the format for a checkpoint.

    Args:
        model_type: `model_type` of the checkpoint's config.
        prompt: `auto`, or a family's name to force its format on an unknown model type.
        proposal: `polygon` asks Florence-2 for polygons instead of boxes.

    Raises:
        ConfigError: The model type is unknown and no format is forced, a format is forced on a family that answers in
            another, or polygons are wanted of a family that answers with boxes.
    """
    known = _BY_MODEL_TYPE.get(model_type)
    if known is not None and prompt not in ("auto", known.style):
        raise ConfigError(
            f"prior.prompt is {prompt!r}, but model type {model_type!r} answers in the format of {known.style!r}; set "
            "prior.prompt to 'auto'"
        )
    style = known.style if known is not None else prompt
    if style == "florence2":
        return FLORENCE_POLYGON if proposal == "polygon" else FLORENCE_BOX
    if style == "qwen":
        if proposal == "polygon":
            raise ConfigError(
                f"prior.proposal is 'polygon', but model type {model_type!r} answers with boxes; set prior.proposal to "
                "'box' or 'sam', or prior.model to a Florence-2"
            )
        return known or QWEN_RELATIVE
    raise ConfigError(
        f"no grounding format is known for model type {model_type!r}; known: {', '.join(_BY_MODEL_TYPE)}. "
        "Set prior.prompt to 'qwen' (0..1000 coordinates) or 'florence2' if the checkpoint answers in one of them"
    )


def prompt_of_name(name: str, prompt: str = "auto", proposal: str = "box") -> PromptFormat:
    """Return the format for a model that only its name is known of, as of one behind a server.

    Args:
        name: E.g. `Qwen/Qwen2.5-VL-7B-Instruct`; the longest known model type in it counts.
        prompt: As in `prompt_for`.
        proposal: As in `prompt_for`.
    Raises:
        ConfigError: As `prompt_for`.
    """
    plain = _letters(name)
    types = [model_type for model_type in _BY_MODEL_TYPE if _letters(model_type) in plain]
    return prompt_for(max(types, key=len, default=name), prompt, proposal)


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
