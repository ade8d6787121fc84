"""The processor of a checkpoint, also where its video part cannot be loaded, and how many tokens a picture becomes.

`AutoProcessor` of the families that also take videos insists on a video processor, which needs torchvision. Image and
text need neither: then the family's own processor is made without that part.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from PIL import Image
from transformers import PROCESSOR_MAPPING, AutoConfig, AutoProcessor

from l2l_ray.checkpoints import in_one_line
from l2l_ray.errors import ConfigError
from l2l_ray.prior.sent_size import MOST_PIXELS

logger = logging.getLogger(__name__)


def load_processor(source: str, options: dict[str, Any]) -> Any:
    """Return the checkpoint's processor, without its video part where that cannot be loaded.

    Args:
        source: Folder or hub id.
        options: From `checkpoints.checkpoint`.
    Raises:
        ConfigError: It cannot be loaded in either way.
    """
    try:
        processor = AutoProcessor.from_pretrained(source, **options)
        if hasattr(processor, "image_processor") and hasattr(processor, "tokenizer"):
            return processor
        reason = f"got a {type(processor).__name__} without image processor and tokenizer"
    except (ImportError, OSError, ValueError, TypeError, AttributeError) as error:
        reason = in_one_line(error)
    logger.debug("AutoProcessor cannot read %s (%s); its processor is made without a video part", source, reason)
    try:
        family = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(source, **options))]
        return _without_video(family).from_pretrained(source, **options)
    except (ImportError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ConfigError(
            f"no processor can be loaded from {source!r}: AutoProcessor: {reason}; its parts: {in_one_line(error)}. "
            "The checkpoint needs preprocessor_config.json and tokenizer files next to its weights"
        ) from error


def _without_video(family: Any) -> Any:
    """Return a family's processor class with one attribute less."""
    parts = [name for name in family.get_attributes() if name != "video_processor"]
    return type(family.__name__, (family,), {"get_attributes": classmethod(lambda _: parts)})


def processor_tokens(processor: Any) -> list[str]:
    """Return the texts that a processor itself looks for in a prompt: its picture tokens, and Florence-2's tasks."""
    tokens = [getattr(processor, name, None) for name in ("image_token", "video_token")]
    for name in ("task_prompts_without_inputs", "task_prompts_with_input"):
        tokens += getattr(processor, name, {})
    return [token for token in tokens if isinstance(token, str)]


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """How a processor cuts pictures of any size into tokens, and the sizes that pictures are brought to before.

    Args:
        side_px: Side of the square that one token stands for.
        min_tokens: A smaller picture is enlarged.
        most_px: A picture of a larger area is shrunk to it, unless it needs more for `min_tokens`; None = none is.

    Example: `PatchGrid(32, 1024).fitted(photo).size` is (1184, 896) for a photo of 640x480: 1036 tokens.
    """

    side_px: int
    min_tokens: int
    most_px: int | None = MOST_PIXELS

    @classmethod
    def of(cls, image_processor: Any, min_tokens: int, most_px: int | None) -> PatchGrid | None:
        """Return the grid of an image processor; None where it gives every picture a size of its own choice.

        Raises:
            ConfigError: There is a floor, and it gives pictures a size of its own, or lets through fewer tokens.
        """
        patch, merge = getattr(image_processor, "patch_size", None), getattr(image_processor, "merge_size", None)
        if not isinstance(patch, int) or not isinstance(merge, int):
            if not min_tokens:
                return None
            raise ConfigError(
                f"prior.min_image_tokens is {min_tokens}, but the {type(image_processor).__name__} of prior.model "
                "gives every picture a size of its own choice; set it to 0"
            )
        grid = cls(patch * merge, min_tokens, most_px)
        side_px = math.ceil(math.sqrt(min_tokens)) * grid.side_px
        num = image_processor.get_number_of_image_patches(side_px, side_px, {}) // merge**2 if min_tokens else 0
        if num < min_tokens:
            raise ConfigError(
                f"prior.min_image_tokens is {min_tokens}, but the processor of prior.model makes no more than about "
                f"{num} tokens of a picture; lower it, or raise size.longest_edge in its preprocessor_config.json"
            )
        return grid

    def fitted(self, image: Image.Image) -> Image.Image:
        """Return a picture of a size that the model is meant to see: itself, or a copy of whole tokens."""
        (width, height), least = image.size, self.min_tokens * self.side_px**2
        most = math.inf if self.most_px is None else max(least, self.most_px)
        is_small = round(width / self.side_px) * round(height / self.side_px) < self.min_tokens
        if not is_small and width * height <= most:
            return image
        scale = math.sqrt((least if is_small else most) / (width * height))
        whole = math.ceil if is_small or most == least else round  # the floor is kept, whatever the shape
        across, down = (max(1, whole(side * scale / self.side_px)) for side in (width, height))
        return image.resize((across * self.side_px, down * self.side_px), Image.Resampling.BICUBIC)
