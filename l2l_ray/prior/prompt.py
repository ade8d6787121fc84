"""How each model family is asked for a box, and how its answer is read: one table, `FAMILIES`.

A `PromptFormat` is all that `mllm` and `parse` need to know: the text of the question, whether it goes through a chat
template, the grammar of the answer and the unit of its coordinates. A `Family` says which checkpoints have it, by their
`model_type`, and where that is published.

Other checkpoints are asked by hand: `prior.prompt` names the family whose format they share, or is the question itself
with `{expression}` in it; `prior.coordinates` names the unit of the answer. `l2l prior check` tells whether it fits.

Source: each family's `source`; docs/priors.md is the same table for people.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from l2l_ray.errors import ConfigError
from l2l_ray.prior.coordinates import BY_HAND, COORDINATES, Coordinates

AnswerStyle = Literal["json", "florence2", "paligemma", "molmo"]

EXPRESSION = "{expression}"
QWEN_TEMPLATE = 'Locate "{expression}". Report bbox_2d and label in JSON format.'
FLORENCE_BOX_TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
FLORENCE_POLYGON_TASK = "<REFERRING_EXPRESSION_SEGMENTATION>"


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """One way of being asked and of answering.

    Args:
        name: Short name, part of the prior's fingerprint.
        style: Which grammar the answer follows; `json` also covers bare lists and boxes in brackets.
        template: Question; `{expression}` is replaced.
        coordinates: Unit of the answer, a name of `COORDINATES`.
        uses_chat: Whether the question goes through the checkpoint's chat template.
        keeps_tokens: Whether special tokens of the answer are part of what it says.
    """

    name: str
    style: AnswerStyle
    template: str
    coordinates: str
    uses_chat: bool = True
    keeps_tokens: bool = False

    @property
    def unit(self) -> Coordinates:
        """The unit of the answer's coordinates."""
        return COORDINATES[self.coordinates]

    def question(self, expression: str) -> str:
        """Return the text of the question. Double quotes inside the expression become single ones."""
        cleaned = " ".join(expression.replace('"', "'").split())
        return self.template.replace(EXPRESSION, cleaned)

    def messages(self, expression: str) -> list[dict[str, Any]]:
        """Return one user turn, an image and the question, for `apply_chat_template`."""
        content = [{"type": "image"}, {"type": "text", "text": self.question(expression)}]
        return [{"role": "user", "content": content}]

    def answer(self, box_xyxy: tuple[float, float, float, float], label: str) -> str:
        """Return the reply a perfect model gives, coordinates in the format's unit: what pretraining teaches.

        A format of points answers with the middle of the box.
        """
        x1, y1, x2, y2 = box_xyxy
        numbers = (y1, x1, y2, x2) if self.unit.y_first else box_xyxy
        if self.style == "florence2":
            return label + "".join(f"<loc_{value}>" for value in numbers)
        if self.style == "paligemma":
            return "".join(f"<loc{value:04d}>" for value in numbers) + f" {label}"
        if self.style == "molmo":
            return f'<points coords="1 1 {(x1 + x2) / 2:.0f} {(y1 + y2) / 2:.0f}">{label}</points>'
        return f'[{{"bbox_2d": [{", ".join(map(str, numbers))}], "label": "{label}"}}]'


QWEN_RELATIVE = PromptFormat("qwen-relative", "json", QWEN_TEMPLATE, "thousandths")
QWEN_ABSOLUTE = PromptFormat("qwen-absolute", "json", QWEN_TEMPLATE, "pixels")
INTERNVL = PromptFormat(
    "internvl",
    "json",
    "Please provide the bounding box coordinate of the region this sentence describes: <ref>{expression}</ref>",
    "thousandths",
)
GLM = PromptFormat(
    "glm",
    "json",
    "Please pinpoint the bounding box [[x1,y1,x2,y2], …] in the image as per the given description. {expression}",
    "thousandths",
    keeps_tokens=True,
)
PALIGEMMA = PromptFormat("paligemma", "paligemma", "<image>detect {expression}", "bins-yx", False, True)
FLORENCE_BOX = PromptFormat("florence2-box", "florence2", FLORENCE_BOX_TASK + EXPRESSION, "bins", False, True)
FLORENCE_POLYGON = PromptFormat(
    "florence2-polygon", "florence2", FLORENCE_POLYGON_TASK + EXPRESSION, "bins", False, True
)
MOLMO = PromptFormat("molmo", "molmo", "Point to {expression}.", "thousandths")
GROUNDING_DINO = PromptFormat("grounding-dino", "json", "{expression}.", "pixels", False)
OWL = PromptFormat("owl", "json", EXPRESSION, "pixels", False)


@dataclass(frozen=True, slots=True)
class Family:
    """Checkpoints that are asked and answer alike.

    Example: `Family("internvl", ("internvl",), INTERNVL, "OpenGVLab/InternVL: ...")`

    Args:
        name: What `prior.prompt` calls it.
        model_types: `model_type` of the checkpoints' configs.
        box: How it is asked for a box, or for a point where it has no boxes.
        source: Where its makers publish this.
        polygon: How it is asked for polygons; None = it has none.
        is_detector: Whether it gives boxes with scores and writes no text.
        has_boxes: False = it answers with points.
        also_called: What names of released models have in place of a model type -> that model type.
    """

    name: str
    model_types: tuple[str, ...]
    box: PromptFormat
    source: str
    polygon: PromptFormat | None = None
    is_detector: bool = False
    has_boxes: bool = True
    also_called: tuple[tuple[str, str], ...] = ()


FAMILIES = (
    Family(
        "qwen",
        ("qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen4_exp"),
        QWEN_RELATIVE,
        "QwenLM/Qwen3-VL, cookbook 2d_grounding and issues 189, 1486; of Qwen3.5 and later, its makers in "
        "QwenLM/Qwen3.8-Flash-Next, issue 4",
    ),
    Family("qwen2_5", ("qwen2_5_vl",), QWEN_ABSOLUTE, "QwenLM/Qwen3-VL, cookbook spatial_understanding, issue 1427"),
    Family(
        "internvl",
        ("internvl",),
        INTERNVL,
        "OpenGVLab/InternVL, internvl_chat/eval/refcoco, and its documentation of grounding data; take an id ending in "
        "-hf: the others bring code of their own, which is never run",
    ),
    Family(
        "glm",
        ("glm4v", "glm4v_moe", "glm46v", "glm5_next"),
        GLM,
        "zai-org/GLM-V, README, section Grounding",
        also_called=(("GLM-4.1V", "glm4v"), ("GLM-4.5V", "glm4v_moe")),
    ),
    Family(
        "paligemma",
        ("paligemma",),
        PALIGEMMA,
        "google-research/big_vision, proj/paligemma: `detect`, and 1024 location tokens",
    ),
    Family(
        "florence2",
        ("florence2",),
        FLORENCE_BOX,
        "microsoft/Florence-2-large, model card and processor",
        polygon=FLORENCE_POLYGON,
    ),
    Family(
        "molmo", ("molmo2",), MOLMO, "allenai/Molmo2-8B, model card: points in thousandths, no boxes", has_boxes=False
    ),
    Family(
        "grounding_dino",
        ("grounding-dino", "mm-grounding-dino"),
        GROUNDING_DINO,
        "transformers, GroundingDinoProcessor: lower case, a dot at the end",
        is_detector=True,
    ),
    Family("owl", ("owlv2", "owlvit"), OWL, "transformers, Owlv2Processor", is_detector=True),
)
_ANY = Family("any", (), PromptFormat("any", "json", EXPRESSION, "thousandths"), "")  # asked by hand


def family_of(model_type: str) -> Family | None:
    """Return the family of a checkpoint; None where it is not known."""
    return next((family for family in FAMILIES if model_type in family.model_types), None)


def prompt_for(model_type: str, prompt: str = "auto", proposal: str = "box", coordinates: str = "auto") -> PromptFormat:
    """Return the format for a checkpoint.

    Args:
        model_type: `model_type` of the checkpoint's config.
        prompt: `auto`; a family's name, for a model type that is not known; or the question, with `{expression}`.
        proposal: `polygon` asks for polygons instead of boxes.
        coordinates: `auto`, or the unit that the checkpoint answers in.

    Raises:
        ConfigError: The model type is unknown and too little is said by hand, a family is named that the checkpoint is
            not of, or something is wanted that the family cannot give.
    """
    family = _named(model_type, prompt, coordinates)
    fmt = family.box
    if not family.has_boxes and proposal != "sam":
        raise ConfigError(
            f"prior.proposal is {proposal!r}, but model type {model_type!r} answers with points; set prior.proposal to "
            "'sam', which takes points, or prior.model to a model that answers with boxes"
        )
    if proposal == "polygon":
        if family.polygon is None:
            codes = ", and its <seg> codes need a decoder that is not published in transformers"
            raise ConfigError(
                f"prior.proposal is 'polygon', but model type {model_type!r} answers with boxes"
                f"{codes if family.name == 'paligemma' else ''}; set prior.proposal to 'box' or 'sam', or prior.model "
                "to a Florence-2"
            )
        fmt = family.polygon
    if EXPRESSION in prompt:
        fmt = replace(fmt, name=f"{fmt.name}-own", template=prompt)
    if coordinates not in ("auto", fmt.coordinates):
        if family.is_detector or fmt.coordinates not in BY_HAND:
            raise ConfigError(
                f"prior.coordinates is {coordinates!r}, but the unit of model type {model_type!r} is fixed "
                f"({fmt.unit.words}); set prior.coordinates to 'auto'"
            )
        fmt = replace(fmt, coordinates=coordinates)
    return fmt


def _named(model_type: str, prompt: str, coordinates: str) -> Family:
    """Return the checkpoint's family, or the one that stands in for it."""
    known = family_of(model_type)
    named = next((family for family in FAMILIES if family.name == prompt), None)
    if known is not None:
        if named is not known and prompt != "auto" and EXPRESSION not in prompt:
            raise ConfigError(
                f"prior.prompt is {prompt!r}, but model type {model_type!r} answers in the format of {known.name!r}; "
                "set prior.prompt to 'auto'"
            )
        return known
    if named is not None and not named.is_detector:
        return named
    if EXPRESSION in prompt and coordinates != "auto":
        return _ANY
    types = ", ".join(name for family in FAMILIES for name in family.model_types)
    names = ", ".join(family.name for family in FAMILIES if not family.is_detector)
    raise ConfigError(
        f"no grounding format is known for model type {model_type!r}; known: {types}. Set prior.prompt to the family "
        f"whose format it shares ({names}), or to your question with {EXPRESSION} in it and prior.coordinates to the "
        f"unit of its answers ({', '.join(BY_HAND)}); `l2l prior check` tells whether it fits"
    )


def model_type_of(name: str) -> str:
    """Return the model type that a name speaks of, as that of a model behind a server, e.g. `Qwen/Qwen2.5-VL-7B`.

    It is the longest known model type in it, or what its family is also called, whatever the signs between letters; the
    name itself where there is none.
    """
    plain = _letters(name)
    called = [(word, word) for family in FAMILIES for word in family.model_types]
    called += [pair for family in FAMILIES for pair in family.also_called]
    found = [(word, model_type) for word, model_type in called if _letters(word) in plain]
    return max(found, key=lambda pair: len(pair[0]), default=(name, name))[1]


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
