"""How sure a figure is: over images by the bootstrap, over seeds by Student's t.

Over images: a figure is a ratio of two sums over sentences (a mean has ones below), and a difference of two means is
one too. Images are drawn, not sentences: the sentences of an image share its difficulty, and treating them as
independent would make the interval too narrow. It holds for the trained models at hand and says nothing about other
seeds. Source: Efron and Tibshirani 1993, percentile interval; the cluster is the image.

Over seeds: one value per seed (a mean difference of two methods), taken as normal. Whether a method is better is read
here: another seed draws other labeled images, batches and starting weights. Source: Student 1908; its distribution
for whole degrees of freedom by Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from l2l_ray.errors import DataError
from l2l_ray.randomness import philox_generator

_RESAMPLES_PER_CHUNK = 500  # bounds the table of drawn images: 500 x 1,500 images x 8 bytes = 6 MB

Ratio = tuple[ArrayLike, ArrayLike]


class BootstrapInterval(NamedTuple):
    """A difference of two mean IoUs with its percentile interval over images.

    Example: `BootstrapInterval(diff=0.031, low=0.012, high=0.049)`
    """

    diff: float
    low: float
    high: float


class SeedInterval(NamedTuple):
    """A mean over seeds with its t-interval.

    Example: `SeedInterval(mean=0.0036, low=0.0000, high=0.0073)`
    """

    mean: float
    low: float
    high: float


def seed_interval(values: Sequence[float], level: float = 0.95) -> SeedInterval:
    """Return the mean of one value per seed with its two-sided t-interval.

    Args:
        values: One value per seed, e.g. the mean IoU of one method minus that of another.
        level: Coverage of the interval, in (0, 1).
    Raises:
        DataError: If there are fewer than two seeds: one value has no spread.
        ValueError: If level is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}; use 0.95 for a 95 % interval")
    if len(values) < 2:
        raise DataError(f"an interval over seeds needs at least 2 seeds, got {len(values)}; run more seeds")
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = t_quantile(level, len(values) - 1) * math.sqrt(variance / len(values))
    return SeedInterval(mean, mean - half, mean + half)


def t_quantile(level: float, degrees: int) -> float:
    """Return the t that a Student variable's absolute value stays below with probability `level`.

    Args:
        level: Probability, in (0, 1).
        degrees: Degrees of freedom, at least 1.
    """
    low, high = 0.0, math.pi / 2  # of the angle arctan(t / sqrt(degrees)), in which t is bounded
    for _ in range(60):  # halves of pi / 2, down to the last bit of a float
        middle = (low + high) / 2
        low, high = (middle, high) if _t_probability(middle, degrees) < level else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _t_probability(angle: float, degrees: int) -> float:
    """Return P(|T| <= sqrt(degrees) * tan(angle)); a finite series in cos(angle) for whole degrees."""
    odd, cos = degrees % 2, math.cos(angle)
    term, total = cos if odd else 1.0, 0.0
    for k in range(1 + odd, degrees, 2):  # coefficients 1, 1/2, 1/2 * 3/4, ... (even) or 1, 2/3, 2/3 * 4/5, ... (odd)
        total += term
        term *= cos * cos * k / (k + 1)
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    image_ids: ArrayLike,
    num_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> BootstrapInterval:
    """Return the mean of first - second with its bootstrap interval.

    Args:
        first: IoU of one method per sentence, or its mean over seeds.
        second: The same of the other method, for the same sentences in the same order.
        image_ids: Image of each sentence, numbers or strings; images of different splits need different ids.
        num_resamples: Bootstrap samples.
        seed: Seed of the resampling.
        level: Coverage of the interval, in (0, 1).
    Raises:
        DataError: If the three are empty or of different lengths.
        ValueError: If level or num_resamples is out of range.
    """
    if not 0 < level < 1 or num_resamples < 1:
        raise ValueError(f"level must be in (0, 1) and num_resamples >= 1, got {level} and {num_resamples}")
    ious, others, ids = np.asarray(first, np.float64), np.asarray(second, np.float64), np.asarray(image_ids)
    if not ious.size or not ious.shape == others.shape == ids.shape == (ious.size,):
        raise DataError(
            f"a paired comparison needs one value per sentence of each method and its image, got shapes {ious.shape}, "
            f"{others.shape} and {ids.shape}; evaluate both methods on the same split"
        )
    diffs, ones = ious - others, np.ones(ious.size)
    ((low, high),) = ratio_intervals([(diffs, ones)], ids, num_resamples, seed, level)
    assert low is not None and high is not None  # ones are no empty denominator
    return BootstrapInterval(math.fsum(diffs) / ious.size, low, high)


def ratio_intervals(
    ratios: Sequence[Ratio],
    image_ids: ArrayLike,
    num_resamples: int,
    seed: int = 0,
    level: float = 0.95,
) -> list[tuple[float, float] | tuple[None, None]]:
    """Return (low, high) of each figure; all figures share the same draws.

    Draws whose denominators are all 0 have no figure and are left out; (None, None) where all are.

    Args:
        ratios: Per figure the numerator and the denominator (>= 0) of each sentence.
        image_ids: Image of each sentence, numbers or strings.
        num_resamples: Bootstrap samples.
        seed: Seed of the resampling.
        level: Coverage of the interval, in (0, 1).
    """
    images, which = np.unique(np.asarray(image_ids), return_inverse=True)
    columns = [np.asarray(part, np.float64) for k in (0, 1) for part in (ratio[k] for ratio in ratios)]
    sums_IK = np.stack([np.bincount(which, column, len(images)) for column in columns], axis=1)
    rng = philox_generator(seed)
    chunks = []
    for done in range(0, num_resamples, _RESAMPLES_PER_CHUNK):
        num = min(_RESAMPLES_PER_CHUNK, num_resamples - done)
        picks = rng.integers(len(images), size=(num, len(images))) + np.arange(num)[:, None] * len(images)
        times_NI = np.bincount(picks.ravel(), minlength=num * len(images)).reshape(num, len(images))
        # einsum, not matmul: BLAS may add up in another order on another number of threads.
        chunks.append(np.einsum("ni,ik->nk", times_NI.astype(np.float64), sums_IK))
    above_NK, below_NK = np.split(np.concatenate(chunks), 2, axis=1)
    return [
        _interval(above[below > 0] / below[below > 0], level)
        for above, below in zip(above_NK.T, below_NK.T, strict=True)
    ]


def _interval(drawn: Float64[np.ndarray, " N"], level: float) -> tuple[float, float] | tuple[None, None]:
    if not drawn.size:
        return None, None
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
