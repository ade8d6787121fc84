"""The frozen MLLM: images and expressions in, replies with their log-probabilities out.

One code path for every size: the embedded checkpoint of 3 million parameters, the Qwen-VL families and Florence-2
are all loaded by the Auto classes and run by `generate`; what differs is in `PromptFormat`.

- A reply is a function of the question alone: greedy, or with `num_samples > 1` sampled with noise keyed by the
  question, so neither the batch nor the process that answers matters (up to rounding inside the batched matrix
  products).
- Sampling is done as arg max of (log-probability / temperature + Gumbel noise), which draws from the tempered
  distribution. So one `LogitsProcessor` chooses the token and notes its log-probability under the *unchanged*
  distribution; no logits are kept.
- The fingerprint covers everything a reply depends on, so that a changed weight file or template can never meet a
  stored answer.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, LogitsProcessor, LogitsProcessorList

from l2l_ray.checkpoints import checkpoint
from l2l_ray.config import EMBEDDED, PriorConfig, idle_in_prior
from l2l_ray.device import pick_device, pick_dtype
from l2l_ray.plain_text import PlainText
from l2l_ray.prior.processing import load_processor, processor_tokens
from l2l_ray.prior.prompt import PromptFormat, prompt_for
from l2l_ray.prior.reply import READING_VERSION, MllmIdentity, Reply, make_prior, prior_key
from l2l_ray.randomness import numpy_generator

__all__ = ["EMBEDDED_FOLDER", "MllmIdentity", "MllmPrior", "Reply", "make_prior", "prior_key"]

logger = logging.getLogger(__name__)

EMBEDDED_FOLDER = Path(__file__).parents[1] / "embedded" / "mllm"
_REASONING = "<think>"  # the end of the prompt of a checkpoint that always thinks first
_EXPECTED = "a vision-language model (AutoModelForImageTextToText) or 'embedded'"
_TOP_K = 50  # tokens that sampling can choose from
_HASHED_SUFFIXES = (".safetensors", ".bin", ".json", ".jinja", ".txt", ".model")


class MllmPrior:
    """A loaded model. Use `MllmPrior.load`.

    Example: `MllmPrior.load(PriorConfig()).ask([image], ["left red circle"])[0].texts[0]`
    """

    def __init__(self, config: PriorConfig, model: Any, processor: Any, prompt: PromptFormat, fingerprint: str) -> None:
        self.config, self.model, self.processor = config, model, processor
        self.prompt, self.fingerprint = prompt, fingerprint
        self._plain_text = PlainText(processor.tokenizer, processor_tokens(processor))
        self._accepts_types = "mm_token_type_ids" in inspect.signature(model.forward).parameters
        pad_id = processor.tokenizer.pad_token_id
        self._generation = GenerationConfig(
            do_sample=False,
            max_new_tokens=config.max_new_tokens,
            eos_token_id=model.generation_config.eos_token_id,
            decoder_start_token_id=model.generation_config.decoder_start_token_id,
            bos_token_id=model.generation_config.bos_token_id,
            pad_token_id=pad_id if pad_id is not None else model.generation_config.pad_token_id,
        )

    @classmethod
    def load(cls, config: PriorConfig) -> MllmPrior:
        """Load a checkpoint onto its device.

        Raises:
            ConfigError: There is no such checkpoint, it is no image-text-to-text model, or its format is unknown.
        """
        source = _source(config)
        device = pick_device(config.device)
        dtype = pick_dtype(config.dtype, device)
        with checkpoint("prior.model", source, _EXPECTED) as options:
            model = AutoModelForImageTextToText.from_pretrained(source, dtype=getattr(torch, dtype), **options)
            prompt = prompt_for(model.config.model_type, config.prompt, config.proposal)
            processor = load_processor(source, options)
        # Decoders continue where the text ends; encoders count positions from the left.
        processor.tokenizer.padding_side = "right" if model.config.is_encoder_decoder else "left"
        fingerprint = _fingerprint(source, model.config, config.model_copy(update={"dtype": dtype}), prompt)
        return cls(config, model.eval().to(device), processor, prompt, fingerprint)

    @classmethod
    def identify(cls, config: PriorConfig) -> MllmIdentity:
        """Return the identity that `load` would give, without loading weights.

        Raises:
            ConfigError: As of `load`.
        """
        source = _source(config)
        dtype = pick_dtype(config.dtype, pick_device(config.device))
        with checkpoint("prior.model", source, _EXPECTED) as options:
            model_config = AutoConfig.from_pretrained(source, **options)
            prompt = prompt_for(model_config.model_type, config.prompt, config.proposal)
        return MllmIdentity(
            _fingerprint(source, model_config, config.model_copy(update={"dtype": dtype}), prompt), prompt
        )

    def ask(self, images: Sequence[Image.Image], expressions: Sequence[str]) -> list[Reply]:
        """Answer a batch of questions.

        Args:
            images: RGB images of any size.
            expressions: One per image, any text; special tokens spelled in it are text.
        """
        repeats = self.config.num_samples
        seen = [self._prepare(image) for image in images for _ in range(repeats)]
        asked = [self._plain_text(expression) for expression in expressions for _ in range(repeats)]
        prompts = self._prompts(asked)
        inputs = self._inputs(seen, prompts)
        chooser = _TokenChooser(self._noise(seen, asked) if repeats > 1 else None, self.config.temperature)
        with torch.inference_mode():
            tokens = self.model.generate(
                **inputs, generation_config=self._generation, logits_processor=LogitsProcessorList([chooser])
            )
        start = 1 if self.model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        texts, log_probs = self._decode(tokens[:, start:], chooser)
        if self.prompt.uses_chat and prompts[0].rstrip().endswith(_REASONING):  # so that `parse` knows
            texts = [_REASONING + text for text in texts]
        sizes = self._seen_sizes(inputs, seen)
        return [
            Reply(tuple(texts[i : i + repeats]), tuple(log_probs[i : i + repeats]), *sizes[i])
            for i in range(0, len(texts), repeats)
        ]

    def _prepare(self, image: Image.Image) -> Image.Image:
        """Squash for the embedded model; families with a resolution policy of their own resize themselves."""
        image = image.convert("RGB")
        side = self.config.image_size
        if self.config.model != EMBEDDED or image.size == (side, side):
            return image
        return image.resize((side, side), Image.Resampling.BILINEAR)

    def _prompts(self, expressions: list[str]) -> list[str]:
        if not self.prompt.uses_chat:
            return [self.prompt.question(expression) for expression in expressions]
        return [
            self.processor.apply_chat_template(
                self.prompt.messages(expression), tokenize=False, add_generation_prompt=True
            )
            for expression in expressions
        ]

    def _inputs(self, images: list[Image.Image], prompts: list[str]) -> dict[str, Any]:
        inputs = self.processor(images=images, text=prompts, padding=True, return_tensors="pt")
        dtype = self.model.dtype
        return {
            name: value.to(self.model.device, dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if name != "mm_token_type_ids" or self._accepts_types
        }

    def _noise(self, images: list[Image.Image], expressions: list[str]) -> Float[Tensor, "R T K"]:
        """Return standard Gumbel noise: a function of model, image, expression and number of the sample."""
        rows = []
        for row, (image, expression) in enumerate(zip(images, expressions, strict=True)):
            sample = row % self.config.num_samples
            parts = (self.fingerprint.encode(), image.tobytes(), expression.encode(), str(sample).encode())
            digest = hashlib.sha256(b"\0".join(parts)).digest()
            rng = numpy_generator(int.from_bytes(digest[:8], "big"))
            rows.append(rng.gumbel(size=(self.config.max_new_tokens, _TOP_K)))
        return torch.tensor(np.stack(rows), dtype=torch.float32, device=self.model.device)

    def _decode(self, tokens: Int[Tensor, "R T"], chooser: _TokenChooser) -> tuple[list[str], list[float]]:
        """Return texts and mean log-probabilities; what comes after the end token does not count."""
        end_ids = self._generation.eos_token_id
        ends = torch.isin(tokens, torch.tensor(end_ids, device=tokens.device).reshape(-1))
        counted = (ends.cumsum(1) - ends.long()) == 0
        log_probs = torch.stack(chooser.log_probs, 1)[:, : tokens.shape[1]]
        means = (log_probs * counted).sum(1) / counted.sum(1)
        keeps_special = self.prompt.style == "florence2"  # its location tokens may be special ones
        texts = self.processor.tokenizer.batch_decode(tokens.cpu(), skip_special_tokens=not keeps_special)
        return [text.strip() for text in texts], [min(value, 0.0) for value in means.tolist()]

    def _seen_sizes(self, inputs: dict[str, Any], images: list[Image.Image]) -> list[tuple[int, int]]:
        """Return (width, height) of each image after the processor's resizing."""
        if "image_grid_thw" not in inputs:
            return [image.size for image in images]
        patch = self.model.config.vision_config.patch_size
        return [(int(w) * patch, int(h) * patch) for _, h, w in inputs["image_grid_thw"].tolist()]


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


def _source(config: PriorConfig) -> str:
    return str(EMBEDDED_FOLDER) if config.model == EMBEDDED else config.model


def _fingerprint(source: str, model_config: Any, config: PriorConfig, prompt: PromptFormat) -> str:
    """Hash weights, processor and generation files, the prompt, and the settings that change a reply.

    A hub id is pinned by the commit it was resolved to; the weights of a folder are read once. A setting without effect
    on this model counts as its default, so that changing it asks nothing again. How replies are read counts too, since
    it is the reading that is stored.
    """
    digest = hashlib.sha256()
    folder = Path(source)
    if folder.is_dir():
        for path in sorted(p for p in folder.iterdir() if p.suffix in _HASHED_SUFFIXES):
            with path.open("rb") as file:
                digest.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    else:
        digest.update(f"{source}@{getattr(model_config, '_commit_hash', None)}".encode())
    idle = {name.removeprefix("prior.") for group in idle_in_prior(config) for name in group.fields}
    asked = config.model_copy(update={name: PriorConfig.model_fields[name].default for name in idle})
    settings = asked.model_dump(include={"image_size", "max_new_tokens", "num_samples", "temperature", "dtype"})
    digest.update(json.dumps([asdict(prompt), settings, READING_VERSION], sort_keys=True).encode())
    return digest.hexdigest()
