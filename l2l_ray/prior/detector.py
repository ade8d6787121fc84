"""Detectors that take text (Grounding DINO, OWLv2) as priors and controls: a box with a score instead of a reply.

The expression is the only thing asked for, and the box with the highest score is the answer: they rank boxes by
category more than by relation, so `left cup` finds a cup. The answer is written as the reply of a model that answers in
pixels, with the logarithm of the score as its log-probability; from there on everything is as with an MLLM.

Source: the families' processors in transformers; the choice of the single best box is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from l2l_ray.checkpoints import checkpoint, load_whole
from l2l_ray.config import PriorConfig
from l2l_ray.device import pick_device, pick_dtype
from l2l_ray.errors import ConfigError
from l2l_ray.plain_text import PlainText
from l2l_ray.prior.identity import identity_of, source_of
from l2l_ray.prior.prompt import PromptFormat
from l2l_ray.prior.reply import MllmIdentity, Reply

_EXPECTED = "a detector that takes text (AutoModelForZeroShotObjectDetection)"


class DetectorPrior:
    """A loaded detector. Use `DetectorPrior.load`.

    Example: `DetectorPrior.load(config).ask([image], ["left red circle"])[0].texts[0]`
    """

    def __init__(self, model: Any, processor: Any, identity: MllmIdentity) -> None:
        self.model, self.processor = model, processor
        self.prompt: PromptFormat = identity.prompt
        self.fingerprint: str = identity.fingerprint
        self._plain_text = PlainText(processor.tokenizer)
        text = getattr(model.config, "text_config", model.config)
        self._max_tokens: int = getattr(model.config, "max_text_len", text.max_position_embeddings)

    @classmethod
    def load(cls, config: PriorConfig) -> DetectorPrior:
        """Load a checkpoint onto its device.

        Raises:
            ConfigError: There is no such checkpoint, it is no such detector, or more than its one answer is wanted.
        """
        if config.num_samples > 1:
            raise ConfigError(
                f"prior.num_samples is {config.num_samples}, but prior.model {config.model!r} is a detector, whose "
                "answer is not drawn; set it to 1"
            )
        if config.min_image_tokens:
            raise ConfigError(
                f"prior.min_image_tokens is {config.min_image_tokens}, but prior.model {config.model!r} is a detector, "
                "which resizes photos in its own way; set it to 0"
            )
        source = source_of(config)
        device = pick_device(config.device)
        dtype = getattr(torch, pick_dtype(config.dtype, device))
        with checkpoint("prior.model", source, _EXPECTED) as options:
            model = load_whole(AutoModelForZeroShotObjectDetection, source, dtype=dtype, **options)
            processor = AutoProcessor.from_pretrained(source, **options)
            processor.image_processor(Image.new("RGB", (32, 32)))  # some lack a library only when they are called
            return cls(model.eval().to(device), processor, identity_of(config, source, model.config))

    def ask(self, images: Sequence[Image.Image], expressions: Sequence[str]) -> list[Reply]:
        """Return the best box of each picture for its expression, as the reply of a model that answers in pixels.

        Args:
            images: RGB images of any size.
            expressions: One per image, any text; what is longer than the detector reads is cut.
        """
        replies: dict[int, Reply] = {}
        sizes = [image.size for image in images]
        for size in dict.fromkeys(sizes):  # images of one size at a time: padding would change the answers
            rows = [row for row, other in enumerate(sizes) if other == size]
            answered = self._ask([images[row] for row in rows], [expressions[row] for row in rows])
            replies.update(zip(rows, answered, strict=True))
        return [replies[row] for row in range(len(images))]

    def _ask(self, images: Sequence[Image.Image], expressions: Sequence[str]) -> list[Reply]:
        pictures = [image.convert("RGB") for image in images]
        asked = [self.prompt.question(self._plain_text(text).lower()) for text in expressions]
        inputs = self.processor(
            images=pictures,
            text=asked,
            padding="max_length" if "owl" in self.prompt.name else True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        moved = {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        with torch.inference_mode():
            outputs = self.model(**moved)
        sizes = [(picture.height, picture.width) for picture in pictures]
        found = self.processor.post_process_grounded_object_detection(outputs, threshold=0.0, target_sizes=sizes)
        return [
            self._reply(boxes, picture, text) for boxes, picture, text in zip(found, pictures, expressions, strict=True)
        ]

    def _reply(self, found: dict[str, Any], picture: Image.Image, expression: str) -> Reply:
        if not len(found["scores"]):
            return Reply(("[]",), (0.0,), *picture.size)
        best = int(found["scores"].argmax())
        limits = (picture.width, picture.height) * 2
        corners = zip(found["boxes"][best].tolist(), limits, strict=True)
        box = [round(min(max(value, 0.0), limit), 2) for value, limit in corners]
        label = expression.replace('"', "'").replace("\\", " ")
        said = self.prompt.answer((box[0], box[1], box[2], box[3]), " ".join(label.split()))
        return Reply((said,), (math.log(max(float(found["scores"][best]), 1e-9)),), *picture.size)
