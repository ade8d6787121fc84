"""(c) Replies of the language model per second: a batch that prepares and encodes each picture once, or one by one.

Three sentences about each picture, as in RefCOCO. On a CPU the embedded model about drawn scenes. On a GPU a Qwen3-VL
of 4 billion random parameters about photos of 640x480: speed does not depend on weights, and its answers are as long as
allowed. There also the time per decoded token, against reading all weights of the decoder once, which no decoding that
holds them in memory can beat.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from PIL import Image
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from benchmarks.architectures import WORDS
from benchmarks.speed.measure import memory_bytes_per_s, ratio, seconds_in_turns, summary
from benchmarks.speed.setup import Setup
from l2l_ray.config import PriorConfig
from l2l_ray.prior.mllm import EMBEDDED_FOLDER, MllmPrior
from l2l_ray.prior.processing import load_processor
from l2l_ray.prior.prompt import QWEN_RELATIVE
from l2l_ray.prior.reply import MllmIdentity
from l2l_ray.randomness import numpy_generator, seed_torch
from l2l_ray.refshapes.scenes import render_scene

PICTURES, SENTENCES = 16, 3
SHORT, LONG = 16, 80  # tokens of an answer: the difference is decoding alone
PHOTO = (640, 480)


def measure(setup: Setup) -> dict[str, Any]:
    """Return times and rates of both ways; on a GPU also how near decoding is to its bound."""
    is_large = setup.device.type == "cuda"
    model = _large(setup) if is_large else MllmPrior.load(PriorConfig(device=str(setup.device)))
    sizes = {"size": PHOTO} if is_large else {}
    pictures = [_picture(number, **sizes) for number in range(PICTURES)]
    asked = [(pictures[row // SENTENCES], f"{WORDS[row % len(WORDS)]} {row}") for row in range(PICTURES * SENTENCES)]

    def together() -> None:
        model.ask(*map(list, zip(*asked, strict=True)))

    def one_by_one() -> None:
        for picture, sentence in asked:
            model.ask([picture], [sentence])

    spent = seconds_in_turns({"one_by_one": one_by_one, "together": together}, setup.repeats, setup.device)
    times = summary(spent)
    return {
        "model": "Qwen3-VL 4B, random" if is_large else "embedded",
        "questions": len(asked),
        "sentences_per_picture": SENTENCES,
        "seconds": times,
        "replies_per_s": {name: len(asked) / found["median_s"] for name, found in times.items()},
        "times_faster": ratio(spent["one_by_one"], spent["together"]),
        **(_against_bound(setup, model, asked) if is_large else {}),
    }


def _against_bound(setup: Setup, model: MllmPrior, asked: list[tuple[Image.Image, str]]) -> dict[str, Any]:
    """Return the time of one decoding step for the batch, and how often it holds the time to read the weights."""
    images, sentences = map(list, zip(*asked, strict=True))
    ways = {name: _limited(model, length) for name, length in (("short", SHORT), ("long", LONG))}
    spent = seconds_in_turns(
        {name: lambda way=way: way.ask(images, sentences) for name, way in ways.items()}, setup.repeats, setup.device
    )
    steps = [(long - short) / (LONG - SHORT) for short, long in zip(spent["short"], spent["long"], strict=True)]
    step_s = statistics.median(steps)
    read = sum(p.numel() * p.element_size() for p in model.model.model.language_model.parameters())
    bound_s = read / memory_bytes_per_s(setup.device)
    return {"decoding_step_s": step_s, "bound_s": bound_s, "times_the_bound": step_s / bound_s}


def _limited(model: MllmPrior, length: int) -> MllmPrior:
    config = model.config.model_copy(update={"max_new_tokens": length})
    return MllmPrior(config, model.model, model.processor, MllmIdentity.of(model))


def _large(setup: Setup) -> MllmPrior:
    """Return a Qwen3-VL of the published 4B's size, with random weights and the embedded model's words."""
    processor = load_processor(str(EMBEDDED_FOLDER), {})
    processor.tokenizer.padding_side = "left"
    ids = {f"{name}_token_id": processor.tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in _TOKENS}
    sizes = Qwen3VLConfig(text_config=_TEXT, vision_config=_VISION, tie_word_embeddings=True, **ids)
    eye = processor.image_processor
    eye.patch_size, eye.temporal_patch_size, eye.size = _VISION["patch_size"], 2, _PIXELS
    seed_torch(0)
    with torch.device(setup.device):
        model = Qwen3VLForConditionalGeneration._from_config(sizes, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = _TEXT["vocab_size"] - 1  # hardly ever drawn
    device = str(setup.device)
    config = PriorConfig(model="random", device=device, dtype="bfloat16", max_new_tokens=LONG, min_image_tokens=0)
    return MllmPrior(config, model.eval(), processor, MllmIdentity("random", QWEN_RELATIVE))


def _picture(number: int, size: tuple[int, int] | None = None) -> Image.Image:
    drawn = Image.fromarray(render_scene(numpy_generator(number), "refshapes", 128).image)
    return drawn.resize(size) if size else drawn


_TOKENS = (
    ("image", "image_pad"),
    ("video", "video_pad"),
    ("vision_start", "vision_start"),
    ("vision_end", "vision_end"),
)
_PIXELS = {"shortest_edge": 65536, "longest_edge": 16777216}  # of the published preprocessor_config.json
# Published sizes of Qwen/Qwen3-VL-4B-Instruct.
_TEXT: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
}
_VISION: dict[str, Any] = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "patch_size": 16,
    "out_hidden_size": 2560,
    "deepstack_visual_indexes": [5, 11, 17],
}
