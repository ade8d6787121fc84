"""What the large presets need, from the real architectures with random weights: no download, no GPU.

    python -m benchmarks.preset_needs [PRESET ...] [--out FILE]

Counted: the parameters of every model, the bytes that a training pass holds at its peak, and the operations of
training, labelling and asking. From these follow the memory of each GPU and the hours at `SUSTAINED_FLOPS`. Not
measured on a GPU. Where all of it shares one GPU, a run in one process asks first and trains then, so the larger of the
two decides the memory; on RefCOCO, where asking takes hours, both are there at once.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from benchmarks.architectures import random_segmenter
from benchmarks.command import add_out, read_results, run_main, write_results
from benchmarks.memory import peak_bytes
from l2l_ray.config import NEEDS, PRESETS, Needs, RunConfig
from l2l_ray.config.presets import PHOTOS, REFCOCO
from l2l_ray.segmenter.adapters import prepare_to_learn
from l2l_ray.segmenter.losses import segmentation_loss
from l2l_ray.segmenter.model import Segmenter, SegmenterOutput

RESULTS = Path(__file__).parent / "results" / "preset_needs.json"
SUSTAINED_FLOPS = 30e12  # about a fifth of what a GPU of 24 GB reaches in bfloat16
BYTES_PER_S = 500e9  # of such a GPU's memory: each token of an answer reads all weights once
CARDS_GB = (8, 12, 16, 24, 32, 48, 80)
CUDA_GB = 1.5  # context, and what the allocator cannot use
PHOTO_TOKENS, ANSWER_TOKENS = 1400, 60  # photos of about a megapixel
NUM_TEXTS = {PHOTOS: 1000, REFCOCO: 42404}  # one a photo; one for each object of its train split

# Hidden size, layers, heads, intermediate size, tied; then depth, hidden and intermediate size of the image part.
QWEN3_VL = {
    "Qwen/Qwen3-VL-4B-Instruct": (2560, 36, 32, 9728, True, 24, 1024, 4096, [5, 11, 17]),
    "Qwen/Qwen3-VL-8B-Instruct": (4096, 36, 32, 12288, False, 27, 1152, 4304, [8, 16, 24]),
}
KV_HEADS, HEAD_DIM = 8, 128
SAM_PARAMETERS = {"facebook/sam2.1-hiera-small": 46e6, "facebook/sam2.1-hiera-large": 224.4e6}  # SAM 2's own README


def main() -> None:
    """Count for each preset, print and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", metavar="PRESET", help=f"of {', '.join(NEEDS)}; default: all")
    add_out(parser, RESULTS)
    given = parser.parse_args()
    if unknown := [name for name in given.presets if name not in NEEDS]:
        parser.error(f"got {unknown[0]!r}, whose needs are not counted; choose from {', '.join(NEEDS)}")
    found = read_results(given.out)
    for name in given.presets or NEEDS:
        found[name] = needs(PRESETS[name](), NEEDS[name].work)
        print(json.dumps({name: found[name]}, indent=1), flush=True)
        write_results(given.out, {name: found[name] for name in NEEDS if name in found})


def needs(config: RunConfig, work: str) -> dict[str, Any]:
    """Return the counts of a preset and what follows from them."""
    loop, cluster, num_texts = config.loop, config.cluster, NUM_TEXTS[work]
    with tempfile.TemporaryDirectory() as folder:
        segmenter = random_segmenter(config.segmenter, Path(folder))
    num_own, num_mllm = num_parameters(segmenter), num_mllm_parameters(config.prior.model)
    num_sam = SAM_PARAMETERS.get(str(config.prior.sam_model), 0)
    prepare_to_learn(segmenter, config.segmenter)
    batch = loop.labeled_batch + loop.unlabeled_batch
    samples = min(loop.micro_batch or batch, batch // cluster.num_workers)
    one, two = (peak_bytes(lambda n=n: learn(segmenter, n), torch.device("cpu")) for n in (1, 2))
    with FlopCounterMode(display=False) as flops:
        learn(segmenter, 1)
    sample_flops = flops.get_total_flops()
    with FlopCounterMode(display=False) as flops:
        predict(segmenter, 1)
    prediction_flops = flops.get_total_flops()

    hidden, layers = QWEN3_VL[config.prior.model][:2]
    kv_bytes = 2 * layers * KV_HEADS * HEAD_DIM * 2 * (PHOTO_TOKENS + ANSWER_TOKENS)
    hidden_bytes = 12 * hidden * 2 * PHOTO_TOKENS  # what one layer holds at a time
    # SAM's weights are float32; it works after the language model has, within what that needed.
    asking_gb = (2 * num_mllm + 4 * num_sam + config.prior.batch_size * (kv_bytes + hidden_bytes)) / 1e9
    # Student: weights and AdamW's two means, its gradient is in the pass; teachers of labelling, training, folds.
    training_gb = (num_own * (12 + 4 * 4) + one + (samples - 1) * (two - one)) / 1e9
    shares = (cluster.prior_resources, cluster.labeler_resources, cluster.worker_resources)
    counts = (cluster.num_priors, cluster.num_labelers, cluster.num_workers)
    gpus = [share["GPU"] * count for share, count in zip(shares, counts, strict=True)]
    num_gpus = math.ceil(round(sum(gpus), 6))
    at_once = num_gpus == 1 and work == REFCOCO
    held_gb = asking_gb + training_gb if at_once else max(asking_gb, training_gb)
    gpu_gb = next(size for size in CARDS_GB if size >= held_gb + CUDA_GB)
    seconds = {
        "asking": num_texts * asking_s(num_mllm, config.prior.batch_size) / cluster.num_priors,
        "training": num_steps(config) * batch * sample_flops / SUSTAINED_FLOPS / cluster.num_workers,
        # Each counted whole, though two share the encoders' pass; those of rivals outside the batch are left out.
        "labelling": num_texts * loop.rounds * 3 * prediction_flops / SUSTAINED_FLOPS / max(1, gpus[1]),
    }
    hours = sum(seconds.values()) / 3600
    download_gb = math.ceil((2 * num_mllm + 4 * (num_own + num_sam)) / 1e9)
    return {
        "parameters": {"language_model": num_mllm, "sam": int(num_sam), "segmenter": num_own},
        "peak_mb_of_a_training_pass": {"one_sample": round(one / 1e6), "each_further": round((two - one) / 1e6)},
        "samples_at_once": samples,
        "gflop_per_training_sample": round(sample_flops / 1e9),
        "gflop_per_prediction": round(prediction_flops / 1e9),
        "gb": {"asking": round(asking_gb, 1), "training": round(training_gb, 1)},
        "hours": {name: round(value / 3600, 2) for name, value in seconds.items()},
        "needs": asdict(Needs(num_gpus, gpu_gb, download_gb, math.ceil(hours), work)),
    }


def learn(segmenter: Segmenter, num: int) -> None:
    """Compute the gradients of some samples, in bfloat16, and leave them out again."""
    output = predict(segmenter, num)
    target = torch.rand_like(output.mask_logits) > 0.5
    segmentation_loss(output, target.float(), torch.ones_like(output.mask_logits), num, 0.5, 0.4).backward()
    segmenter.zero_grad(set_to_none=True)


def predict(segmenter: Segmenter, num: int) -> SegmenterOutput:
    """Return the masks of some samples, in bfloat16."""
    side, grid = segmenter.image_size, segmenter.grid
    images, ones, proposal = torch.rand(num, 3, side, side), torch.ones(num), torch.rand(num, grid, grid)
    with torch.autocast("cpu", torch.bfloat16):
        output: SegmenterOutput = segmenter(
            images, ["the left cup on the table"] * num, proposal, ones, ones.bool(), ["cup"] * num
        )
    return output


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
    run_main(main)
