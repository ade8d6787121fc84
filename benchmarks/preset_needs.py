"""What the presets for photos need, from the real architectures with random weights: no download, no GPU.

    python benchmarks/preset_needs.py

Counted: the parameters of every model, the bytes that one training sample keeps for its backward pass, and the
operations of training, labelling and asking. From these follow the memory of one GPU that does all of it and the hours
at `SUSTAINED_FLOPS`. Not measured on a GPU; the larger of the two phases (asking, training) decides the memory.
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SwinConfig,
)

from l2l_ray.config import PRESETS, Needs, RunConfig
from l2l_ray.segmenter.losses import segmentation_loss
from l2l_ray.segmenter.model import Segmenter

RESULTS = Path(__file__).parent / "results" / "preset_needs.json"
SUSTAINED_FLOPS = 30e12  # about a fifth of what a GPU of 24 GB reaches in bfloat16
BYTES_PER_S = 500e9  # of such a GPU's memory: each token of an answer reads all weights once
CARDS_GB = (8, 12, 16, 24, 32, 48, 80)
CUDA_GB = 1.5  # context, and what the allocator cannot use
NUM_PHOTOS, PHOTO_TOKENS, ANSWER_TOKENS = 1000, 1400, 60  # photos of about a megapixel

SWIN = {
    "microsoft/swin-tiny-patch4-window7-224": {"image_size": 224, "window_size": 7},
    "microsoft/swin-base-patch4-window12-384-in22k": {
        "image_size": 384,
        "window_size": 12,
        "embed_dim": 128,
        "depths": [2, 2, 18, 2],
        "num_heads": [4, 8, 16, 32],
    },
}
# Hidden size, layers, heads, intermediate size, tied; then depth, hidden and intermediate size of the image part.
QWEN3_VL = {
    "Qwen/Qwen3-VL-4B-Instruct": (2560, 36, 32, 9728, True, 24, 1024, 4096, [5, 11, 17]),
    "Qwen/Qwen3-VL-8B-Instruct": (4096, 36, 32, 12288, False, 27, 1152, 4304, [8, 16, 24]),
}
KV_HEADS, HEAD_DIM = 8, 128
SAM_PARAMETERS = {"facebook/sam2.1-hiera-small": 46e6, "facebook/sam2.1-hiera-large": 224.4e6}  # SAM 2's own README


def main() -> None:
    """Count for each preset, print and write the file."""
    found = {name: needs(PRESETS[name]()) for name in ("photos-small", "photos-full")}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def needs(config: RunConfig) -> dict[str, Any]:
    """Return the counts of a preset and what follows from them."""
    with tempfile.TemporaryDirectory() as folder:
        segmenter = make_segmenter(config, Path(folder))
    sample_bytes, sample_flops = per_sample(segmenter, config)
    num_own, num_mllm = num_parameters(segmenter), num_mllm_parameters(config.prior.model)
    num_sam = SAM_PARAMETERS[str(config.prior.sam_model)]
    hidden, layers = QWEN3_VL[config.prior.model][:2]
    kv_bytes = 2 * layers * KV_HEADS * HEAD_DIM * 2 * (PHOTO_TOKENS + ANSWER_TOKENS)
    hidden_bytes = 12 * hidden * 2 * PHOTO_TOKENS  # what one layer holds at a time
    # SAM's weights are float32; it works after the language model has, within what that needed.
    asking_gb = (2 * num_mllm + 4 * num_sam + config.prior.batch_size * (kv_bytes + hidden_bytes)) / 1e9
    # Student: weights, gradient and AdamW's two means; teachers of labelling, training and the folds: weights alone.
    batch = config.loop.labeled_batch + config.loop.unlabeled_batch
    training_gb = (num_own * (16 + 4 * 4) + batch * sample_bytes) / 1e9
    gpu_gb = next(size for size in CARDS_GB if size >= max(asking_gb, training_gb) + CUDA_GB)
    seconds = {
        "asking": NUM_PHOTOS * asking_s(num_mllm, config.prior.batch_size),
        "training": num_steps(config) * batch * sample_flops / SUSTAINED_FLOPS,
        # Five predictions of a third of a training sample each, in every round.
        "labelling": NUM_PHOTOS * config.loop.rounds * 5 * (sample_flops / 3) / SUSTAINED_FLOPS,
    }
    hours = sum(seconds.values()) / 3600
    download_gb = math.ceil((2 * num_mllm + 4 * (num_own + num_sam)) / 1e9)
    return {
        "parameters": {"language_model": num_mllm, "sam": int(num_sam), "segmenter": num_own},
        "kept_mb_per_training_sample": round(sample_bytes / 1e6),
        "gflop_per_training_sample": round(sample_flops / 1e9),
        "gb": {"asking": round(asking_gb, 1), "training": round(training_gb, 1)},
        "hours": {name: round(value / 3600, 2) for name, value in seconds.items()},
        "needs": asdict(Needs(gpu_gb, download_gb, math.ceil(hours))),
    }


def make_segmenter(config: RunConfig, folder: Path) -> Segmenter:
    """Return the preset's segmenter with random weights."""
    stages = ["stage1", "stage2", "stage3", "stage4"]
    SwinConfig(**SWIN[config.segmenter.backbone], out_features=stages).save_pretrained(folder / "backbone")
    BertConfig().save_pretrained(folder / "text")
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder / "text")
    paths = {"backbone": str(folder / "backbone"), "text": str(folder / "text"), "pretrained": False}
    return Segmenter(config.segmenter.model_copy(update=paths))


def per_sample(segmenter: Segmenter, config: RunConfig) -> tuple[int, int]:
    """Return the bytes that a training sample keeps and the operations that it costs, in bfloat16."""
    own = {parameter.untyped_storage().data_ptr() for parameter in segmenter.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    side, grid = config.segmenter.image_size, segmenter.grid
    image, one, proposal = torch.rand(1, 3, side, side), torch.ones(1), torch.rand(1, grid, grid)
    with FlopCounterMode(display=False) as flops:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            with torch.autocast("cpu", torch.bfloat16):
                output = segmenter(image, ["the left cup on the table"], proposal, one, one.bool(), ["cup"])
            segmentation_loss(output, (proposal > 0.5).float(), torch.ones_like(proposal), 1, 0.5, 0.4).backward()
    return sum(kept.values()), flops.get_total_flops()


def num_steps(config: RunConfig) -> int:
    """Return the student's steps of the whole run."""
    loop = config.loop
    return loop.burn_in_steps + config.selector.num_folds * loop.fold_steps + loop.rounds * loop.round_steps


def asking_s(num_mllm: int, batch_size: int) -> float:
    """Return the seconds of one question: its tokens are read by computing, those of the answer by reading weights."""
    return 2 * num_mllm * PHOTO_TOKENS / SUSTAINED_FLOPS + ANSWER_TOKENS * 2 * num_mllm / BYTES_PER_S / batch_size


def num_parameters(model: torch.nn.Module) -> int:
    """Count the parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def num_mllm_parameters(name: str) -> int:
    """Count the parameters of a language model, of which no memory is taken."""
    hidden, layers, heads, inner, tied, depth, image_hidden, image_inner, deepstack = QWEN3_VL[name]
    text = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": 151936}
    text |= {"intermediate_size": inner, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM}
    image = {"depth": depth, "hidden_size": image_hidden, "intermediate_size": image_inner, "out_hidden_size": hidden}
    image |= {"num_heads": 16, "deepstack_visual_indexes": deepstack}
    config = Qwen3VLConfig(text_config=text | {"tie_word_embeddings": tied}, vision_config=image)
    config.tie_word_embeddings = tied
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    if tied:
        model.tie_weights()
    return num_parameters(model)


if __name__ == "__main__":
    main()
