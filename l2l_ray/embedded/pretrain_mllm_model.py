"""The embedded MLLM before any training: a Qwen3-VL configuration of 2-3 million parameters, its tokenizer and files.

Choices that let so small a model learn within an hour on one core, all inside what the Qwen3-VL classes allow:

- 128-px images, patches of 8, merged 2 x 2: 64 visual tokens.
- The chat template writes the question *before* the image. Attention is causal, so this way the image tokens see the
  expression and can each decide whether they belong to the referent. The code that asks is the same for every family:
  the order is the checkpoint's own affair.
- Byte-level BPE trained on the grammar's texts: each word, each multiple of ten up to 1000 and each fixed piece of
  the JSON answer is one token, and any other text still has an encoding.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.utils import SAFE_WEIGHTS_NAME

from l2l_ray.checkpoints import give_usual_mode
from l2l_ray.prior.prompt import QWEN_RELATIVE

IMAGE_SIZE = 128
PATCH = 8
MERGE = 2
GRID = IMAGE_SIZE // PATCH  # patches per side
NUM_VISUAL = (GRID // MERGE) ** 2
COORDINATE_STEP = 10

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_SPLIT = r'\[\{"bbox_2d": \[|\], "label": "|"\}\]|, (?=\d)|\d+| ?bbox_2d| ?[A-Za-z]+| ?[^\sA-Za-z\d]+|\s+'
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}"
    "{%- for part in message.content if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}"
    "{%- for part in message.content if part.type == 'image' -%}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def build_tokenizer(
    expressions: Iterable[str], labels: Iterable[str], vocab_size: int = 704
) -> PreTrainedTokenizerFast:
    """Train the byte-level BPE on questions and answers."""
    texts = [QWEN_RELATIVE.question(text) for text in expressions]
    numbers = range(0, 1001, COORDINATE_STEP)
    for label in labels:
        texts += [QWEN_RELATIVE.answer((n, n, n, n), label) for n in numbers]
    texts += ["user\n", "assistant\n"] * 1000
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|endoftext|>", "<|im_end|>")],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    """Return the model with random weights (seeded by the caller through torch)."""
    token_id: dict[str, Any] = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    width = 128
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 32) * 32,
            "hidden_size": width,
            "intermediate_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [8, 4, 4],
                "mrope_interleaved": True,
            },
            "pad_token_id": token_id["<|endoftext|>"],
            "eos_token_id": token_id["<|im_end|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 1,
            "out_hidden_size": width,
            "num_position_embeddings": GRID * GRID,
            "deepstack_visual_indexes": [1],
        },
        image_token_id=token_id["<|image_pad|>"],
        video_token_id=token_id["<|video_pad|>"],
        vision_start_token_id=token_id["<|vision_start|>"],
        vision_end_token_id=token_id["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = token_id["<|im_end|>"]
    model.generation_config.pad_token_id = token_id["<|endoftext|>"]
    model.generation_config.do_sample = False
    return model


def image_processor_config() -> dict[str, object]:
    """Return the content of `preprocessor_config.json`: fixed 128 x 128, values in -1..1."""
    pixels = IMAGE_SIZE * IMAGE_SIZE
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "size": {"shortest_edge": pixels, "longest_edge": pixels},
        "patch_size": PATCH,
        "temporal_patch_size": 1,
        "merge_size": MERGE,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
    }


def save_folder(folder: Path, model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write everything `MllmPrior.load` reads: config, float16 weights, tokenizer, template, image processor."""
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(image_processor_config(), indent=2) + "\n")
    give_usual_mode(folder / SAFE_WEIGHTS_NAME)
