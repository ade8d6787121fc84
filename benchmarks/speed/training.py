"""(a) A training step of `lavt_like`: ours, the published way of running the same network, and the machine's bound.

Both have the same weights, pairs, priors and phrases. Curves: both train for a few steps in float32 by our loss and
clipping, and their losses are compared. Times: ours as training runs it (`train_step`, bfloat16 where it is fast),
theirs as `published` says. Bound: the step's operations over the rate of a large matrix product in the precision that
ours runs in.
Two networks with their optimisers are held at once: 7 GB, and what a step needs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import peak_bytes
from benchmarks.speed import published
from benchmarks.speed.measure import matmul_flops, ratio, seconds_in_turns, summary
from benchmarks.speed.setup import Setup
from l2l_ray.device import fast_bfloat16
from l2l_ray.loop.training.step import TrainBatch, make_optimizer, train_step
from l2l_ray.segmenter.losses import segmentation_loss
from l2l_ray.segmenter.model import Segmenter

CURVE_STEPS = 3
TOLERANCE = 1e-3  # of the loss, after so few steps in float32


def measure(setup: Setup) -> dict[str, Any]:
    """Return curves, times, ratio, share of the bound and memory."""
    segmenter = setup.segmenter()
    batch = setup.rows(segmenter, setup.batch)
    curves = loss_curves(setup, segmenter, batch)
    apart = max(abs(a - b) / abs(a) for a, b in zip(curves["ours"], curves["published"], strict=True))
    ways = _ways(setup, segmenter, batch)
    spent = seconds_in_turns(ways, setup.repeats, setup.device)
    with FlopCounterMode(display=False) as counter:
        ways["ours"]()
    flops = counter.get_total_flops()
    dtype = torch.bfloat16 if fast_bfloat16(setup.device.type) else torch.float32
    rate = matmul_flops(dtype, setup.device)
    times = summary(spent)
    return {
        "batch": setup.batch,
        "image_size": segmenter.image_size,
        "seconds": times,
        "times_faster": {name: ratio(spent["published"], spent[name]) for name in ways if name != "published"},
        "curves_float32": curves,
        "largest_relative_difference": apart,
        "curves_are_equal": apart < TOLERANCE,
        "gflop_per_step": flops / 1e9,
        "matmul_gflops": rate / 1e9,
        "matmul_dtype": str(dtype).removeprefix("torch."),
        "share_of_matmul_rate": {n: flops / rate / times[n]["median_s"] for n in ways if n != "published"},
        "peak_mb": {name: peak_bytes(way, setup.device) / 1e6 for name, way in ways.items()},
    }


def loss_curves(setup: Setup, segmenter: Segmenter, batch: TrainBatch) -> dict[str, list[float]]:
    """Return the losses of a few steps in float32, the network run in both ways, by our loss."""
    loop = setup.loop.model_copy(update={"autocast": False})

    def ours(network: Segmenter, optimizer: torch.optim.Optimizer) -> float:
        return train_step(network, optimizer, batch, None, loop, 1.0)["loss"]

    def theirs(network: Segmenter, optimizer: torch.optim.Optimizer) -> float:
        output = published.output(network, batch.inputs)
        weights = (loop.dice_weight, loop.deep_weight)
        loss = segmentation_loss(output, batch.target, batch.pixel_weight, loop.labeled_batch, *weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), loop.grad_clip)
        optimizer.step()
        return float(loss.detach())

    def curve(step: Callable[[Segmenter, torch.optim.Optimizer], float]) -> list[float]:
        network = copy.deepcopy(segmenter)
        optimizer = make_optimizer(network, loop)
        return [step(network, optimizer) for _ in range(CURVE_STEPS)]

    return {"ours": curve(ours), "published": curve(theirs)}


def _ways(setup: Setup, segmenter: Segmenter, batch: TrainBatch) -> dict[str, Callable[[], Any]]:
    theirs = copy.deepcopy(segmenter)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=5e-5, weight_decay=0.01)
    mine, in_float32 = make_optimizer(segmenter, setup.loop), setup.loop.model_copy(update={"autocast": False})
    ways: dict[str, Callable[[], Any]] = {
        "published": lambda: published.step(theirs, optimizer, batch),
        "ours": lambda: train_step(segmenter, mine, batch, None, setup.loop, 1.0),
        "ours_float32": lambda: train_step(segmenter, mine, batch, None, in_float32, 1.0),
    }
    if setup.compiles:
        student = copy.deepcopy(segmenter)
        compiled = make_optimizer(student, setup.loop)
        for name in ("encode", "decode"):
            setattr(student, name, torch.compile(getattr(student, name)))
        ways["ours_compiled"] = lambda: train_step(student, compiled, batch, None, setup.loop, 1.0)
    return ways
