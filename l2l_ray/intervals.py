"""How sure a figure is: over images by the bootstrap, over seeds by Student's t.

Over images: a figure is a ratio of two sums over sentences (a mean has ones below), and a difference of two means is
one too. Images are drawn, not sentences: the sentences of an image share its difficulty, and treating them as
independent would make the interval too narrow. It holds for the trained models at hand and says nothing about other
seeds. Of few images the percentiles are taken further out, as Student's t is wider than the normal, and of fewer than
`MIN_IMAGES` there is no interval: so few say nothing about others. Source: Efron and Tibshirani 1993, percentile
interval; Hesterberg 2015, "expanded" percentiles; the cluster is the image.

Over seeds: one value per seed (a mean difference of two methods), taken as normal. Whether a method is better is read
here: another seed draws other labeled images, batches and starting weights. Source: Student 1908. Where one method is
compared with many, some differences look large by chance: `holm` corrects the p-values of a family (Holm 1979).

Over both: seeds and images are drawn anew together. The images are the same for all seeds, so a draw of images holds
for every seed drawn with it; images drawn for each seed apart would count one image's luck as that of many. Source: the
crossed ("pigeonhole") bootstrap of Owen 2007. Its percentiles are taken further out as if every draw were of as few
things as there are seeds or images, whichever are fewer: five seeds are few, where they decide. Where the noise of the
images decides, this is wider than need be.

Values that differ by rounding alone, by less than 1e-12 or that share of the larger, count as equal: they have no
spread, and what has none decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from l2l_ray.errors import DataError
from l2l_ray.randomness import philox_generator

MIN_IMAGES = 5
# Values that are closer are equal, near 0 as well: a mean of n shares is off by n * 1e-16 at most, and a difference of
# two by twice that. It is a share of the larger value, too, for values that are no shares.
_ROUNDING = 1e-12
# Bound the table of drawn images: 2 million numbers of 8 bytes, three of them at once.
_RESAMPLES_PER_CHUNK, _NUMBERS_PER_CHUNK = 500, 2_000_000

Ratio = tuple[ArrayLike, ArrayLike]


class BootstrapInterval(NamedTuple):
    """A figure's difference with its interval over images.

    Example: `BootstrapInterval(diff=0.031, low=0.012, high=0.049)`
    """

    diff: float
    low: float | None  # None, as `high`: there are fewer than `MIN_IMAGES` images
    high: float | None


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
    from scipy.stats import t  # here: it takes a second to load, and few commands need it

    mean, error = _mean_and_error(values)
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * error
    return SeedInterval(mean, mean - half, mean + half)


def seed_p_value(values: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the t-test that the mean over seeds is 0.

    It is 1 where all differences are 0, and None where they are equal but not 0: without a spread there is no test.

    Args:
        values: One difference per seed.
    Raises:
        DataError: If there are fewer than two seeds.
    """
    if len(values) < 2:
        raise DataError(f"a test over seeds needs at least 2 seeds, got {len(values)}; run more seeds")
    from scipy.stats import t

    mean, error = _mean_and_error(values)
    if error == 0:
        return 1.0 if _are_equal(mean, 0.0) else None
    return float(2 * t.sf(abs(mean) / error, len(values) - 1))


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error, the same in any order; 0 where the values are equal but for rounding."""
    mean = math.fsum(values) / len(values)
    if _are_equal(min(values), max(values)):
        return mean, 0.0
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of a family, corrected for its size, in the order given.

    The i-th smallest of n (from 0) is multiplied by n - i, and is at least as large as those before it, at most 1. A
    family-wise error of 5 % is kept where one calls significant what stays below 0.05. Source: Holm 1979.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def redrawn_means(
    sums: Float64[np.ndarray, "M S I"],
    counts: Int64[np.ndarray, " I"],
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Float64[np.ndarray, "N M"]:
    """Return the mean of each method in every draw of seeds and images; all methods share the draws.

    Of differences or ratios of its columns take `percentiles`, by the smaller number of seeds and images:
    `percentiles(drawn[:, 0] - drawn[:, 1], min(sums.shape[1:]), 0.95)`.

    Args:
        sums: Per method, seed and image the sum over its sentences, e.g. of their IoU.
        counts: Sentences of each image.
        num_resamples: Draws.
        seed: Seed of the resampling.
    Raises:
        DataError: If there is nothing to draw from, or the images of the two do not agree.
    """
    if not sums.size or counts.shape != sums.shape[2:]:
        raise DataError(
            f"resampling needs sums [methods, seeds, images] and one count per image, got shapes {sums.shape} and "
            f"{counts.shape}; give every method the same seeds and images"
        )
    methods, seeds, images = sums.shape
    rng = philox_generator(seed)
    chunks = []
    for num in _chunks(num_resamples, images):
        seeds_NS, images_NI = (_times_drawn(rng, num, size) for size in (seeds, images))
        per_seed_NMS = np.einsum("ni,msi->nms", images_NI, sums)
        total_NM = np.einsum("nms,ns->nm", per_seed_NMS, seeds_NS)
        chunks.append(total_NM / np.einsum("ni,i->n", images_NI, counts)[:, None] / seeds)
    return np.concatenate(chunks)


def ratio_intervals(
    ratios: Sequence[Ratio],
    image_ids: ArrayLike,
    num_resamples: int,
    seed: int = 0,
    level: float = 0.95,
) -> list[tuple[float, float] | tuple[None, None]]:
    """Return (low, high) of each figure; all figures share the same draws.

    Draws whose denominators are all 0 have no figure and are left out; (None, None) where all are, or where fewer than
    `MIN_IMAGES` images have a denominator above 0: the others say nothing of the figure.

    Args:
        ratios: Per figure the numerator and the denominator (>= 0) of each sentence.
        image_ids: Image of each sentence, numbers or strings.
        num_resamples: Bootstrap samples.
        seed: Seed of the resampling.
        level: Coverage of the interval, in (0, 1).
    """
    above_NK, below_NK, num_images = _drawn_sums(ratios, image_ids, num_resamples, seed)
    return [
        _interval(above[below > 0] / below[below > 0], num, level)
        for above, below, num in zip(above_NK.T, below_NK.T, num_images, strict=True)
    ]


def difference_intervals(
    first: Sequence[Ratio],
    second: Sequence[Ratio],
    image_ids: ArrayLike,
    num_resamples: int,
    seed: int = 0,
    level: float = 0.95,
) -> list[tuple[float, float] | tuple[None, None]]:
    """Return (low, high) of each figure of `first` minus the same of `second`, both in the same draws.

    For figures whose difference is no ratio itself, such as two overall IoUs. Draws in which one of the two has no
    figure are left out; (None, None) where all are, or where fewer than `MIN_IMAGES` images have a denominator above 0.

    Args:
        first: Per figure the numerator and the denominator (>= 0) of each sentence.
        second: The same figures of the other method, for the same sentences in the same order.
        image_ids: Image of each sentence, numbers or strings.
        num_resamples: Bootstrap samples.
        seed: Seed of the resampling.
        level: Coverage of the interval, in (0, 1).
    """
    above_NK, below_NK, num_images = _drawn_sums([*first, *second], image_ids, num_resamples, seed)
    found = []
    for one in range(len(first)):
        other = one + len(first)
        drawn = (below_NK[:, one] > 0) & (below_NK[:, other] > 0)
        one_N, other_N = (above_NK[drawn, k] / below_NK[drawn, k] for k in (one, other))
        found.append(_interval(one_N - other_N, min(num_images[one], num_images[other]), level))
    return found


def share_interval(num_yes: int, num: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share: it has a width where all agree, of whom the bootstrap draws no others.

    Source: Clopper and Pearson 1934.

    Args:
        num_yes: How many of them.
        num: Independent things, at least one.
        level: Coverage of the interval, in (0, 1).
    """
    from scipy.stats import binomtest

    found = binomtest(num_yes, num).proportion_ci(level, "exact")
    return float(found.low), float(found.high)


def verdict(low: float | None, high: float | None) -> str:
    """Return what an interval of a difference says of the first of the two: "ahead", "behind" or "undecided".

    Decided is what lies wholly on one side of 0. An interval that is absent or has no width says nothing: few images,
    or one seed, have no spread to speak of.
    """
    if low is None or high is None or low <= 0 <= high or not has_width(low, high):
        return "undecided"
    return "ahead" if low > 0 else "behind"


def has_width(low: float, high: float) -> bool:
    """Whether an interval's ends differ by more than rounding."""
    return bool(low < high) and not _are_equal(low, high)  # numpy has a bool of its own


def _are_equal(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=_ROUNDING, abs_tol=_ROUNDING)


def _drawn_sums(
    ratios: Sequence[Ratio], image_ids: ArrayLike, num_resamples: int, seed: int
) -> tuple[Float64[np.ndarray, "N K"], Float64[np.ndarray, "N K"], list[int]]:
    """Return the sums of numerators and of denominators of each figure in each draw of images.

    And, per figure, how many images have a denominator above 0.
    """
    images, which = np.unique(np.asarray(image_ids), return_inverse=True)
    columns = [np.asarray(part, np.float64) for k in (0, 1) for part in (ratio[k] for ratio in ratios)]
    sums_IK = np.stack([np.bincount(which, column, len(images)) for column in columns], axis=1)
    rng = philox_generator(seed)
    chunks = []
    for num in _chunks(num_resamples, len(images)):
        # einsum, not matmul: BLAS may add up in another order on another number of threads.
        chunks.append(np.einsum("ni,ik->nk", _times_drawn(rng, num, len(images)), sums_IK))
    above_NK, below_NK = np.split(np.concatenate(chunks), 2, axis=1)
    return above_NK, below_NK, (sums_IK[:, len(ratios) :] > 0).sum(0).tolist()


def _chunks(num_resamples: int, images: int) -> Iterator[int]:
    """Yield how many draws to make at once, until all are made."""
    size = max(1, min(_RESAMPLES_PER_CHUNK, _NUMBERS_PER_CHUNK // images))
    yield from (min(size, num_resamples - done) for done in range(0, num_resamples, size))


def _times_drawn(rng: np.random.Generator, num: int, size: int) -> Float64[np.ndarray, "N I"]:
    """Return how often each of `size` things comes in each of `num` draws of as many, with replacement."""
    picks = rng.integers(size, size=(num, size)) + np.arange(num)[:, None] * size
    return np.bincount(picks.ravel(), minlength=num * size).reshape(num, size).astype(np.float64)


def percentiles(drawn: ArrayLike, num: int, level: float) -> tuple[float, float]:
    """Return the ends of an interval, of a figure's bootstrap draws.

    Args:
        drawn: The figure in each draw; at least one.
        num: Of how many images, or seeds, each draw is, at least 2; of both, the smaller number.
        level: Coverage of the interval, in (0, 1).
    """
    from scipy.special import ndtr, stdtrit

    wider = math.sqrt(num / (num - 1)) * float(stdtrit(num - 1, (1 - level) / 2))
    low, high = np.quantile(np.asarray(drawn, np.float64), [ndtr(wider), 1 - ndtr(wider)])
    return float(low), float(high)


def _interval(
    drawn: Float64[np.ndarray, " N"], num_images: int, level: float
) -> tuple[float, float] | tuple[None, None]:
    return percentiles(drawn, num_images, level) if drawn.size and num_images >= MIN_IMAGES else (None, None)
