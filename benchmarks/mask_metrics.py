"""What scoring 10,000 sentences at the native image size costs: one by one with numpy, and `batch_native_iou`.

Both sides get the same logits on the grid and the same true masks as COCO run lengths, and give the intersection and
the union of every sentence in pixels. `numpy` is the usual loop: upsample, decode the truth to an array, count where
both and where either hold. Sentences of one object follow each other, 2 or 3 of them, as in RefCOCO. The sides take
turns, 500 sentences at a time, so a busy machine is equally busy for both; CPU seconds do not count the waiting.

Usage: python -m benchmarks.mask_metrics [--sentences 10000] [--out benchmarks/results/mask-metrics.json]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from benchmarks.command import add_out, at_least_one, run_main, write_results
from l2l_ray.data.masks import annotation_rle, grid_masks
from l2l_ray.data.native_size import batch_native_iou
from l2l_ray.randomness import numpy_generator, torch_generator

GRID, CHUNK = 120, 500
SIZES = ((480, 640), (640, 480), (427, 640), (375, 500))  # height, width


def objects(num: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return true masks of star-shaped polygons, each repeated for the 2 or 3 sentences of its object."""
    rles: list[dict[str, Any]] = []
    while len(rles) < num:
        height, width = SIZES[rng.integers(len(SIZES))]
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(10, 60)))
        radii = rng.uniform(20, 150) * rng.uniform(0.8, 1.2, len(angles))
        x = rng.uniform(0, width) + radii * np.cos(angles)
        y = rng.uniform(0, height) + radii * np.sin(angles)
        polygon = np.stack([x.clip(0, width), y.clip(0, height)], axis=1).round(2).ravel().tolist()
        rles += [annotation_rle([polygon], height, width)] * int(rng.integers(2, 4))
    return rles[:num]


def predictions(rles: list[dict[str, Any]], generator: torch.Generator) -> torch.Tensor:
    """Return logits on the grid: the truth, blurred, shifted by up to 3 cells, with noise."""
    cells = torch.from_numpy(grid_masks(rles, GRID))[:, None]
    noise = F.interpolate(torch.randn(len(rles), 1, 12, 12, generator=generator), size=(GRID, GRID), mode="bilinear")
    blurred = F.avg_pool2d(cells, 5, stride=1, padding=2).roll(int(torch.randint(-3, 4, (), generator=generator)), -1)
    return (8 * blurred - 4 + noise)[:, 0]


def one_by_one(logits: torch.Tensor, rles: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return intersections and unions by the usual loop."""
    counts = []
    for grid, rle in zip(logits, rles, strict=True):
        native = F.interpolate(grid[None, None], size=rle["size"], mode="bilinear", align_corners=False)
        predicted = (native[0, 0] > 0).numpy()
        truth = coco_mask.decode({"size": rle["size"], "counts": rle["counts"].encode()})
        counts.append((np.logical_and(predicted, truth).sum(), np.logical_or(predicted, truth).sum()))
    found = np.array(counts)
    return found[:, 0], found[:, 1]


def main() -> None:
    """Score with both, compare, write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=at_least_one, default=10_000)
    add_out(parser, Path(__file__).parent / "results" / "mask-metrics.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rles = objects(args.sentences, numpy_generator(0))
    generator = torch_generator(0)
    seconds, cpu_seconds = {"numpy": 0.0, "ours": 0.0}, {"numpy": 0.0, "ours": 0.0}
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"numpy": [], "ours": []}
    for start in range(0, len(rles), CHUNK):
        part = rles[start : start + CHUNK]
        logits = predictions(part, generator)
        for side, score in (("numpy", one_by_one), ("ours", batch_native_iou)):
            started, started_cpu = time.perf_counter(), time.process_time()
            found[side].append(score(logits, part))
            seconds[side] += time.perf_counter() - started
            cpu_seconds[side] += time.process_time() - started_cpu
    ious, overall = {}, {}
    for side, chunks in found.items():
        common, either = (np.concatenate(column) for column in zip(*chunks, strict=True))
        ious[side] = np.where(either > 0, common / np.maximum(either, 1), 1.0)
        overall[side] = float(common.sum() / either.sum())
    result = {
        "num_sentences": len(rles),
        "grid": GRID,
        "seconds": {side: round(value, 3) for side, value in seconds.items()},
        "cpu_seconds": {side: round(value, 3) for side, value in cpu_seconds.items()},
        "times_faster": round(seconds["numpy"] / seconds["ours"], 2),
        "times_faster_cpu": round(cpu_seconds["numpy"] / cpu_seconds["ours"], 2),
        "mean_iou": {side: round(float(values.mean()), 8) for side, values in ious.items()},
        "overall_iou": {side: round(value, 8) for side, value in overall.items()},
        "largest_difference_of_an_iou": float(np.abs(ious["numpy"] - ious["ours"]).max()),
    }
    write_results(args.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    run_main(main)
