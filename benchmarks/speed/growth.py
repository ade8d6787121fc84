"""(f) How a training step grows with the batch and with the image, and prediction with the sentences of an image.

Seconds and the most memory held at once, beyond the weights; each row by itself, ours alone. The first column of a
table is what changes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.memory import peak_bytes
from benchmarks.speed.measure import seconds
from benchmarks.speed.setup import Setup
from l2l_ray.loop.inference.teacher import predict
from l2l_ray.loop.training.step import make_optimizer, train_step

SHARES = (0.5, 0.75, 1.0)  # of the image's side
EXPRESSIONS = (1, 2, 4, 8)


def measure(setup: Setup) -> dict[str, Any]:
    """Return one table for each of the three."""
    side = setup.section.image_size
    unit = setup.section.fusion_stride * 2
    sizes = sorted({max(unit, round(side * share / unit) * unit) for share in SHARES})
    batches = [setup.batch, 2 * setup.batch, 4 * setup.batch]
    return {
        "training_by_batch": [{"batch": n, **_training(replace(setup, batch=n), side)} for n in batches],
        "training_by_image_size": [{"image_size": size, **_training(setup, size)} for size in sizes],
        "prediction_by_expressions": [{"expressions": n, **_prediction(setup, n)} for n in EXPRESSIONS],
    }


def _training(setup: Setup, side: int) -> dict[str, float]:
    student = setup.segmenter(side)
    optimizer, batch = make_optimizer(student, setup.loop), setup.rows(student, setup.batch)
    return _figures(setup, lambda: train_step(student, optimizer, batch, None, setup.loop, 1.0))


def _prediction(setup: Setup, expressions: int) -> dict[str, float]:
    segmenter = setup.segmenter().eval()
    rows = setup.rows(segmenter, 1, expressions).inputs
    return _figures(setup, lambda: predict(segmenter, rows, True))


def _figures(setup: Setup, work: Callable[[], Any]) -> dict[str, float]:
    work()  # it warms up, and makes the optimiser's state
    held = peak_bytes(work, setup.device)
    spent = [seconds(work, setup.device) for _ in range(setup.repeats)]
    return {"median_s": statistics.median(spent), "peak_mb": held / 1e6}
