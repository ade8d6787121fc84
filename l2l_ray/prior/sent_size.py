"""How large a picture is sent to a server, so that its model does not change the size again where that matters.

It matters where answers are in pixels: they are pixels of the picture that the model sees. Then both sides are
multiples of its grid, and the area is at least what its processor enlarges to. In other units the picture keeps its
shape to the pixel, and whatever the server does to its size changes no answer's meaning.

Source: `smart_resize` of transformers' Qwen2-VL and GLM-4V image processors, with their own least areas; Qwen3-VL's and
later ones' are in the `preprocessor_config.json` of their makers. GLM counts a picture as two frames, so that its least
area is more than enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from l2l_ray.errors import ConfigError
from l2l_ray.prior.coordinates import Coordinates
from l2l_ray.prior.prompt import FAMILIES

# Of a picture as it is sent, or shown to a model that is loaded here: grounding gains nothing above about 2,000 tokens.
MOST_PIXELS = 2048 * 28 * 28
TOKEN_PX = 32  # an image token covers at most such a square, in Qwen3-VL; in others a smaller one
_QWEN2 = 28, 56 * 56
_QWEN3 = 32, 256 * 256
_GLM = 28, 112 * 112
# Model type -> side of the square that an image token covers, px, and the least area of a picture, px.
_GRIDS = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), _QWEN2),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "qwen4_exp"), _QWEN3),
    **dict.fromkeys(("glm4v", "glm4v_moe", "glm46v", "glm5_next"), _GLM),
}


@dataclass(frozen=True, slots=True)
class SentSize:
    """The sizes at which pictures are sent to a model.

    Args:
        side_px: Both sides are multiples of it.
        least_px: Least area that the model's processor leaves as it is; 0 = any.
        floor_px: Smaller pictures are enlarged to about this area (`prior.min_image_tokens`).

    Example: `SentSize(28, 56 * 56, 0).of(40, 30)` is (84, 56).
    """

    side_px: int
    least_px: int
    floor_px: int

    @classmethod
    def for_model(cls, model_type: str, prompt: str, unit: Coordinates, min_image_tokens: int) -> SentSize:
        """Return the sizes for a model.

        Args:
            model_type: What its name speaks of (`prompt.model_type_of`).
            prompt: As `prior.prompt`: where the model type is not known, it may name a family.
            unit: Of its answers.
            min_image_tokens: As `prior.min_image_tokens`.
        Raises:
            ConfigError: There are more image tokens wanted than a picture is sent with.
        """
        most = MOST_PIXELS // TOKEN_PX**2
        if min_image_tokens > most:
            raise ConfigError(
                f"prior.min_image_tokens is {min_image_tokens}, but pictures are sent to a server (prior.url) with at "
                f"most {most} image tokens; set it to {most} or less"
            )
        named = next((family.model_types[0] for family in FAMILIES if family.name == prompt), "")
        grid = _GRIDS.get(model_type) or _GRIDS.get(named) or _QWEN2
        side, least = grid if unit.span is None else (1, 0)
        return cls(side, least, min_image_tokens * TOKEN_PX**2)

    def of(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Return the width and height at which a picture is sent, px."""
        area, side = width_px * height_px, self.side_px
        scale = math.sqrt(min(max(area, self.floor_px), MOST_PIXELS) / area)
        width, height = (max(side, round(length * scale / side) * side) for length in (width_px, height_px))
        if width * height < self.least_px:
            scale = math.sqrt(self.least_px / area)
            width, height = (math.ceil(length * scale / side) * side for length in (width_px, height_px))
        return width, height
