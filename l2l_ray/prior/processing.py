"""The processor of a checkpoint, also where its video part cannot be loaded.

`AutoProcessor` of the Qwen-VL families insists on a video processor, which needs torchvision. Image and text need
neither, so `ImageTextPair` joins the checkpoint's own image processor and tokenizer the way the full processor
does: one placeholder per merged patch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

from l2l_ray.errors import ConfigError

logger = logging.getLogger(__name__)

IMAGE_TOKEN = "<|image_pad|>"


def load_processor(source: str, options: dict[str, Any]) -> Any:
    """Return the checkpoint's processor, or an `ImageTextPair` of its parts.

    Args:
        source: Folder or hub id.
        options: From `checkpoints.checkpoint`.
    Raises:
        ConfigError: Neither can be loaded.
    """
    try:
        processor = AutoProcessor.from_pretrained(source, **options)
        if hasattr(processor, "image_processor") and hasattr(processor, "tokenizer"):
            return processor
        reason: Exception | str = f"got a {type(processor).__name__} without image processor and tokenizer"
    except (ImportError, OSError, ValueError, TypeError, AttributeError) as error:
        reason = error
    logger.debug("AutoProcessor cannot read %s (%s); pairing image processor and tokenizer", source, reason)
    try:
        image_processor = AutoImageProcessor.from_pretrained(source, **options)
        return ImageTextPair(image_processor, AutoTokenizer.from_pretrained(source, **options))
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(
            f"no processor can be loaded from {source!r}: AutoProcessor: {reason}; its parts: {error}. "
            "The checkpoint needs preprocessor_config.json and tokenizer files next to its weights"
        ) from error


def processor_tokens(processor: Any) -> list[str]:
    """Return the texts that a processor itself looks for in a prompt: its picture tokens, and Florence-2's tasks."""
    tokens = [getattr(processor, name, None) for name in ("image_token", "video_token")]
    for name in ("task_prompts_without_inputs", "task_prompts_with_input"):
        tokens += getattr(processor, name, {})
    return [token for token in tokens if isinstance(token, str)]


class ImageTextPair:
    """Image processor and tokenizer of a Qwen-VL checkpoint, one image per text.

    Args:
        image_processor: Gives `pixel_values` and `image_grid_thw`.
        tokenizer: Knows the image placeholder and holds the chat template.
    """

    def __init__(self, image_processor: Any, tokenizer: Any) -> None:
        self.image_processor, self.tokenizer, self.image_token = image_processor, tokenizer, IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> Any:
        """Render messages with the checkpoint's own template."""
        return self.tokenizer.apply_chat_template(messages, **options)

    def __call__(
        self, images: Sequence[Image.Image], text: Sequence[str], padding: bool = True, return_tensors: str = "pt"
    ) -> dict[str, Tensor]:
        """Return the model's inputs.

        Args:
            images: RGB.
            text: Rendered chats, each with one placeholder.
            padding: Passed to the tokenizer.
            return_tensors: Passed to both parts.
        """
        pictures = self.image_processor(images=list(images), return_tensors=return_tensors)
        merged = self.image_processor.merge_size**2
        counts = pictures["image_grid_thw"].prod(-1) // merged
        expanded = [
            chat.replace(IMAGE_TOKEN, IMAGE_TOKEN * int(count), 1) for chat, count in zip(text, counts, strict=True)
        ]
        tokens = self.tokenizer(expanded, padding=padding, return_tensors=return_tensors, add_special_tokens=False)
        return {
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "mm_token_type_ids": (tokens["input_ids"] == self.image_token_id).to(torch.int32),
            "pixel_values": pictures["pixel_values"],
            "image_grid_thw": pictures["image_grid_thw"],
        }
