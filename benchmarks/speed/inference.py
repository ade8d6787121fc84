"""(b) Masks for images with three sentences each: images per second, and how long one image with one sentence takes.

Ours as labelling and evaluation run it: rows of an image stand together and share its pass through the image encoder,
in bfloat16 where it is fast. The published way: each pair by itself, in float32 (see `published`). Masks are compared.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.speed import published
from benchmarks.speed.measure import ratio, seconds_in_turns, summary
from benchmarks.speed.setup import Setup
from l2l_ray.loop.inference.inputs import Inputs
from l2l_ray.loop.inference.teacher import predict

SENTENCES = 3  # RefCOCO has about as many per object, and each is asked about


def measure(setup: Setup) -> dict[str, Any]:
    """Return times, rates and how far the masks of both ways are apart."""
    segmenter = setup.segmenter().eval()
    rows = setup.rows(segmenter, setup.batch, SENTENCES).inputs
    one = setup.rows(segmenter, 1).inputs

    @torch.inference_mode()
    def by_pairs(inputs: Inputs) -> torch.Tensor:
        pairs = [inputs[row : row + 1] for row in range(len(inputs))]
        return torch.cat([published.output(segmenter, pair).mask_logits for pair in pairs])

    spent = seconds_in_turns(
        {"published": lambda: by_pairs(rows), "ours": lambda: predict(segmenter, rows, True)},
        setup.repeats,
        setup.device,
    )
    alone = seconds_in_turns(
        {"published": lambda: by_pairs(one), "ours": lambda: predict(segmenter, one, True)},
        setup.repeats,
        setup.device,
    )
    times = summary(spent)
    apart = (predict(segmenter, rows, False) - by_pairs(rows)).abs().max()
    return {
        "images": setup.batch,
        "sentences_per_image": SENTENCES,
        "image_size": segmenter.image_size,
        "seconds": times,
        "images_per_s": {name: setup.batch / found["median_s"] for name, found in times.items()},
        "times_faster": ratio(spent["published"], spent["ours"]),
        "latency": summary(alone),
        "latency_times_faster": ratio(alone["published"], alone["ours"]),
        "largest_logit_difference_float32": float(apart),
    }
