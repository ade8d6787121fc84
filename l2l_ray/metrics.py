"""What a segmentation is worth: overall IoU, mean IoU, precision at IoU thresholds, and how sure a difference is.

All are computed from one row per sentence that holds integer pixel counts, so meters of several workers merge exactly,
in any order, and a row that was counted twice (work is at-least-once) is recognised by its `sent_id`. Pixel counts are
those of the native image size; this file does not know how they were made.

Differences from published code, which is why numbers of different papers cannot be compared blindly:
- `overall_iou` is LAVT's oIoU and LISA's cIoU; `mean_iou` is per sentence (LISA's gIoU). Every sentence counts, not one
  per ref.
- Empty-union rule: when neither the mask nor the prediction has a pixel, the IoU is 1 (as LISA and GRES; LAVT's script
  says 0).
- `precision_at[t]` counts IoU >= t, as LAVT's `test.py`.
"""

from __future__ import annotations

import math
from operator import index
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from l2l_ray.errors import DataError

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
EMPTY_UNION_IOU = 1.0
_RESAMPLES_PER_CHUNK = 500  # bounds the table of drawn images: 500 x 1,500 images x 8 bytes = 6 MB


class _Row(NamedTuple):
    image_id: int
    intersection_px: int
    union_px: int


def iou_of(intersection_px: int, union_px: int) -> float:
    """Return the intersection over union in [0, 1]; `EMPTY_UNION_IOU` when the union is empty."""
    return intersection_px / union_px if union_px else EMPTY_UNION_IOU


class IouMeter:
    """Collects one row per sentence and sums them up; picklable, mergeable in any order.

    Example: `meter.add(sent_id=7, image_id=3, intersection_px=50, union_px=80); meter.summary()["mean_iou"]` is 0.625.
    """

    def __init__(self) -> None:
        self._rows: dict[int, _Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, sent_id: int, image_id: int, intersection_px: int, union_px: int) -> None:
        """Add one sentence's result.

        Adding the very same row again changes nothing.

        Raises:
            DataError: If the counts are impossible, or the sentence already has a different row.
        """
        row = _Row(index(image_id), index(intersection_px), index(union_px))
        if not 0 <= row.intersection_px <= row.union_px:
            raise DataError(
                f"sent_id {sent_id}: intersection {intersection_px} px and union {union_px} px are impossible; "
                "expected 0 <= intersection <= union"
            )
        known = self._rows.setdefault(index(sent_id), row)
        if known != row:
            raise DataError(
                f"sent_id {sent_id} was evaluated twice with different results: {known} and {row}; "
                "evaluate one version of the model per IouMeter"
            )

    def merge(self, other: IouMeter) -> None:
        """Add all rows of another meter; exact and independent of the order of merging.

        Raises:
            DataError: If the two disagree about a sentence.
        """
        for sent_id, row in other._rows.items():
            self.add(sent_id, *row)

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict per sentence by ascending `sent_id`: sent_id, image_id, intersection_px, union_px, iou."""
        return [
            {"sent_id": sent_id, **row._asdict(), "iou": iou_of(row.intersection_px, row.union_px)}
            for sent_id, row in sorted(self._rows.items())
        ]

    def summary(self) -> dict[str, Any]:
        """Return overall_iou, mean_iou and precision_at (threshold -> share), all in [0, 1], and num (sentences).

        Raises:
            DataError: If the meter is empty.
        """
        if not self._rows:
            raise DataError("cannot sum up an IouMeter without rows; evaluate at least one sentence of the split")
        ious = [iou_of(row.intersection_px, row.union_px) for row in self._rows.values()]
        intersection_px = sum(row.intersection_px for row in self._rows.values())
        union_px = sum(row.union_px for row in self._rows.values())
        return {
            "overall_iou": iou_of(intersection_px, union_px),
            # fsum rounds once, so the mean does not depend on the order in which rows came.
            "mean_iou": math.fsum(ious) / len(ious),
            "precision_at": {t: sum(iou >= t for iou in ious) / len(ious) for t in PRECISION_THRESHOLDS},
            "num": len(ious),
        }


class BootstrapInterval(NamedTuple):
    """A difference of two mean IoUs with its percentile interval.

    Example: `BootstrapInterval(diff=0.031, low=0.012, high=0.049)`
    """

    diff: float
    low: float
    high: float


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    image_ids: ArrayLike,
    num_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> BootstrapInterval:
    """Return the mean of first - second with its bootstrap interval.

    Images are resampled, not sentences: the sentences of an image share its difficulty, and treating them as
    independent would make the interval too narrow.

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
    Source: Efron and Tibshirani 1993, percentile interval; the cluster is the image.
    """
    if not 0 < level < 1 or num_resamples < 1:
        raise ValueError(f"level must be in (0, 1) and num_resamples >= 1, got {level} and {num_resamples}")
    ious, others, ids = np.asarray(first, np.float64), np.asarray(second, np.float64), np.asarray(image_ids)
    if not ious.size or not ious.shape == others.shape == ids.shape == (ious.size,):
        raise DataError(
            f"a paired comparison needs one value per sentence of each method and its image, got shapes {ious.shape}, "
            f"{others.shape} and {ids.shape}; evaluate both methods on the same split"
        )
    images, which = np.unique(ids, return_inverse=True)
    sums = np.bincount(which, weights=ious - others, minlength=len(images))
    counts = np.bincount(which, minlength=len(images)).astype(np.float64)
    rng = np.random.Generator(np.random.Philox(seed))
    diffs = np.concatenate(
        [
            _resampled(sums, counts, min(_RESAMPLES_PER_CHUNK, num_resamples - done), rng)
            for done in range(0, num_resamples, _RESAMPLES_PER_CHUNK)
        ]
    )
    low, high = np.quantile(diffs, [(1 - level) / 2, (1 + level) / 2])
    return BootstrapInterval(math.fsum(sums) / len(ids), float(low), float(high))


def compare(first: IouMeter, second: IouMeter, num_resamples: int = 10_000, seed: int = 0) -> BootstrapInterval:
    """Return mean_iou(first) - mean_iou(second) with its 95 % interval; see `paired_bootstrap`.

    Raises:
        DataError: If the meters are empty or hold different sentences.
    """
    rows, others = first.rows(), second.rows()
    ids, other_ids = ({row["sent_id"] for row in found} for found in (rows, others))
    if ids != other_ids:
        raise DataError(
            f"a paired comparison needs the same sentences in both meters, got {len(ids)} and {len(other_ids)}, of "
            f"which {len(ids ^ other_ids)} in one only (first ids: {sorted(ids ^ other_ids)[:5]}); evaluate both on "
            "one split"
        )
    ious, other_ious = ([row["iou"] for row in found] for found in (rows, others))
    return paired_bootstrap(ious, other_ious, [row["image_id"] for row in rows], num_resamples, seed)


def _resampled(
    sums: Float64[np.ndarray, " I"], counts: Float64[np.ndarray, " I"], num: int, rng: np.random.Generator
) -> Float64[np.ndarray, " num"]:
    drawn = rng.integers(len(sums), size=(num, len(sums)))
    diffs: Float64[np.ndarray, " num"] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return diffs
