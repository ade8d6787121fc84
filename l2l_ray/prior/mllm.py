"""The frozen MLLM: images and expressions in, replies with their log-probabilities out.

One code path for every size: the embedded checkpoint of 3 million parameters, the Qwen-VL families and Florence-2
are all loaded by the Auto classes and run by `generate`; what differs is in `PromptFormat`.

- A reply is a function of the question alone: greedy; with `num_samples > 1` the others are sampled beside it, with
  noise keyed by the question. So neither the batch nor the process that answers matters (up to rounding inside the
  batched matrix products).
- A picture is prepared and encoded once for all questions of a batch about it (`once`). A reply ends where the model
  ends it, not where a box is closed: models correct themselves, and what they say last counts (`answer`).
- Sampling is done as arg max of (log-probability / temperature + Gumbel noise), which draws from the tempered
  distribution. So one `LogitsProcessor` chooses the token and notes its log-probability under the *unchanged*
  distribution; no logits are kept.
- Of a checkpoint's own generation settings only the token ids are used: with beams a question would get several rows,
  and a penalty on repetition changes coordinates, whose digits repeat.
- The fingerprint covers everything a reply depends on, so that a changed weight file or template can never meet a
  stored answer.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, GenerationConfig, LogitsProcessor, LogitsProcessorList

from l2l_ray.checkpoints import checkpoint, load_whole
from l2l_ray.config import EMBEDDED, PriorConfig
from l2l_ray.device import pick_device, pick_dtype
from l2l_ray.errors import ConfigError
from l2l_ray.plain_text import PlainText
from l2l_ray.prior.identity import EMBEDDED_FOLDER, EXPECTED, identity_of, source_of
from l2l_ray.prior.once import encode_once
from l2l_ray.prior.processing import PatchGrid, load_processor, processor_tokens
from l2l_ray.prior.reply import MllmIdentity, Reply, make_prior, prior_key
from l2l_ray.prior.sent_size import MOST_PIXELS
from l2l_ray.randomness import numpy_generator

__all__ = ["EMBEDDED_FOLDER", "MllmIdentity", "MllmPrior", "Reply", "make_prior", "prior_key"]

_REASONING = "<think>"  # the end of the prompt of a checkpoint that always thinks first
_TOP_K = 50  # tokens that sampling can choose from


class MllmPrior:
    """A loaded model. Use `MllmPrior.load`.

    Example: `MllmPrior.load(PriorConfig()).ask([image], ["left red circle"])[0].texts[0]`
    """

    def __init__(self, config: PriorConfig, model: Any, processor: Any, identity: MllmIdentity) -> None:
        self.config, self.model, self.processor = config, model, processor
        self.prompt, self.fingerprint = identity.prompt, identity.fingerprint
        self._plain_text = PlainText(processor.tokenizer, processor_tokens(processor))
        self._takes = set(inspect.signature(model.forward).parameters) - {"labels"}
        template = getattr(processor, "chat_template", None)
        if self.prompt.uses_chat and not template:
            raise ConfigError(
                f"prior.model {config.model!r} has no chat template, and its family is asked through one; expected "
                "chat_template.jinja beside its weights: name the instruct version of the model"
            )
        # Thoughts would use up the answer's tokens; a template without this switch does not know its name.
        self._template_options = {"enable_thinking": False} if "enable_thinking" in str(template) else {}
        # Answers in the photo's own pixels need the photo as it is, however large.
        most_px = None if self.prompt.unit.of_photo else MOST_PIXELS
        self._grid = (
            PatchGrid.of(processor.image_processor, config.min_image_tokens, most_px)
            if config.model != EMBEDDED
            else None
        )
        encode_once(model, processor)
        pad_id = processor.tokenizer.pad_token_id
        own = model.generation_config
        self._generation = GenerationConfig(
            do_sample=False,
            max_new_tokens=config.max_new_tokens,
            eos_token_id=own.eos_token_id,
            decoder_start_token_id=own.decoder_start_token_id,
            bos_token_id=own.bos_token_id,
            forced_bos_token_id=own.forced_bos_token_id,  # what a decoder of its own begins with, such as Florence-2's
            pad_token_id=pad_id if pad_id is not None else own.pad_token_id,
        )
        model.generation_config = self._generation  # from the model's, `generate` fills whatever is not set

    @classmethod
    def load(cls, config: PriorConfig) -> MllmPrior:
        """Load a checkpoint onto its device.

        Raises:
            ConfigError: There is no such checkpoint, it is no image-text-to-text model, or its format is unknown.
        """
        source = source_of(config)
        device = pick_device(config.device)
        dtype = pick_dtype(config.dtype, device)
        with checkpoint("prior.model", source, EXPECTED) as options:
            model = load_whole(AutoModelForImageTextToText, source, dtype=getattr(torch, dtype), **options)
            identity = identity_of(config, source, model.config)
            processor = load_processor(source, options)
        # Decoders continue where the text ends; encoders count positions from the left.
        processor.tokenizer.padding_side = "right" if model.config.is_encoder_decoder else "left"
        return cls(config, model.eval().to(device), processor, identity)

    def ask(self, images: Sequence[Image.Image], expressions: Sequence[str]) -> list[Reply]:
        """Answer a batch of questions.

        Args:
            images: RGB images of any size.
            expressions: One per image, any text; special tokens spelled in it are text.
        """
        repeats = self.config.num_samples
        prepared: dict[int, Image.Image] = {}
        for image in images:
            if id(image) not in prepared:
                prepared[id(image)] = self._prepare(image)
        seen = [prepared[id(image)] for image in images for _ in range(repeats)]
        asked = [self._plain_text(expression) for expression in expressions for _ in range(repeats)]
        prompts = self._prompts(asked)
        inputs = self._inputs(seen, prompts)
        noise = self._noise(seen, asked) if repeats > 1 else None
        chooser = _TokenChooser(noise, self.config.temperature)
        with torch.inference_mode():
            tokens = self.model.generate(
                **inputs, generation_config=self._generation, logits_processor=LogitsProcessorList([chooser])
            )
        start = 1 if self.model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        texts, log_probs, is_cut = self._decode(tokens[:, start:], chooser)
        if self.prompt.uses_chat and prompts[0].rstrip().endswith(_REASONING):  # so that `parse` knows
            texts = [_REASONING + text for text in texts]
        sizes, image_tokens = self._seen_sizes(inputs, seen), self._image_tokens(inputs)
        return [
            Reply(
                tuple(texts[i : i + repeats]),
                tuple(log_probs[i : i + repeats]),
                *sizes[i],
                num_image_tokens=image_tokens[i],
                is_cut=tuple(is_cut[i : i + repeats]),
            )
            for i in range(0, len(texts), repeats)
        ]

    def _prepare(self, image: Image.Image) -> Image.Image:
        """Squash for the embedded model, fit for those that take any size; the rest is the processor's policy."""
        image = image.convert("RGB")
        if self._grid is not None:
            return self._grid.fitted(image)
        side = self.config.image_size
        if self.config.model != EMBEDDED or image.size == (side, side):
            return image
        return image.resize((side, side), Image.Resampling.BILINEAR)

    def _prompts(self, expressions: list[str]) -> list[str]:
        if not self.prompt.uses_chat:
            return [self.prompt.question(expression) for expression in expressions]
        return [
            self.processor.apply_chat_template(
                self.prompt.messages(expression),
                tokenize=False,
                add_generation_prompt=True,
                **self._template_options,
            )
            for expression in expressions
        ]

    def _inputs(self, images: list[Image.Image], prompts: list[str]) -> dict[str, Any]:
        inputs = self.processor(images=images, text=prompts, padding=True, return_tensors="pt")
        dtype = self.model.dtype
        return {
            name: value.to(self.model.device, dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if name in self._takes
        }

    def _noise(self, images: list[Image.Image], expressions: list[str]) -> Float[Tensor, "R T K"]:
        """Return Gumbel noise, a function of model, image, expression and number of the sample; none for the first."""
        rows = []
        for row, (image, expression) in enumerate(zip(images, expressions, strict=True)):
            sample = row % self.config.num_samples
            if not sample:
                rows.append(np.zeros((self.config.max_new_tokens, _TOP_K)))
                continue
            parts = (self.fingerprint.encode(), image.tobytes(), expression.encode(), str(sample).encode())
            digest = hashlib.sha256(b"\0".join(parts)).digest()
            rng = numpy_generator(int.from_bytes(digest[:8], "big"))
            rows.append(rng.gumbel(size=(self.config.max_new_tokens, _TOP_K)))
        return torch.tensor(np.stack(rows), dtype=torch.float32, device=self.model.device)

    def _decode(self, tokens: Int[Tensor, "R T"], chooser: _TokenChooser) -> tuple[list[str], list[float], list[bool]]:
        """Return texts, mean log-probabilities and which have no end token; what comes after it does not count."""
        end_ids = self._generation.eos_token_id
        ends = torch.isin(tokens, torch.tensor(end_ids, device=tokens.device).reshape(-1))
        counted = (ends.cumsum(1) - ends.long()) == 0
        log_probs = torch.stack(chooser.log_probs, 1)[:, : tokens.shape[1]]
        means = (log_probs * counted).sum(1) / counted.sum(1)
        skips_special = not self.prompt.keeps_tokens
        texts = self.processor.tokenizer.batch_decode(tokens.cpu(), skip_special_tokens=skips_special)
        is_cut: list[bool] = (~ends.any(1)).tolist()
        return [text.strip() for text in texts], [min(value, 0.0) for value in means.tolist()], is_cut

    def _seen_sizes(self, inputs: dict[str, Any], images: list[Image.Image]) -> list[tuple[int, int]]:
        """Return (width, height) of each image after the processor's resizing."""
        if "image_grid_thw" not in inputs:
            return [image.size for image in images]
        patch = self.processor.image_processor.patch_size
        return [(int(w) * patch, int(h) * patch) for _, h, w in inputs["image_grid_thw"].tolist()]

    def _image_tokens(self, inputs: dict[str, Any]) -> list[int]:
        """Return how many tokens of each question stand for its picture."""
        ids = [getattr(self.model.config, name, None) for name in ("image_token_id", "image_token_index")]
        marks = torch.tensor([i for i in ids if isinstance(i, int)], device=inputs["input_ids"].device)
        counts: list[int] = torch.isin(inputs["input_ids"], marks).sum(1).tolist()
        return counts


class _TokenChooser(LogitsProcessor):
    """Chooses every token and notes its log-probability.

    Args:
        noise: [R, T, K] Gumbel noise for the K likeliest tokens of each step; None = greedy.
        temperature: Of the sampling.
    """

    def __init__(self, noise: Float[Tensor, "R T K"] | None, temperature: float) -> None:
        self.noise, self.temperature = noise, temperature
        self.log_probs: list[Tensor] = []

    def __call__(self, input_ids: Int[Tensor, "R L"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """Return scores whose arg max is the chosen token."""
        log_probs = torch.log_softmax(scores.float(), -1)
        if self.noise is None:
            self.log_probs.append(log_probs.amax(-1))
            return scores
        values, index = log_probs.topk(min(_TOP_K, log_probs.shape[-1]))
        noisy = values / self.temperature + self.noise[:, len(self.log_probs), : values.shape[1]]
        best = noisy.argmax(-1, keepdim=True)
        self.log_probs.append(values.gather(1, best).squeeze(1))
        return torch.full_like(log_probs, -math.inf).scatter(1, index.gather(1, best), 0.0)
