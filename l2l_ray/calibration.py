"""From the score of a label to a confidence that means something: the IoU with the truth that such labels have.

A teacher that has trained on its own labels of an image is sure of them, right or wrong: over the rounds its
probabilities rise and its labels hardly get better. So a score is not read as it is, but by its *rank*, the share of
the labels that score less:

1. Labels of labeled images, by a teacher and a selector that never saw these (`loop/training/calibrating.py`), give
   pairs of rank and IoU. Isotonic regression makes of them a curve that rises from rank to IoU.
2. A label of an unlabeled image has, by its rank among the unlabeled ones, the IoU that the curve says.

It supposes that the labeled images were drawn like the unlabeled ones, and that the labels of a later teacher are about
as good as those of the burn-in's teachers, through which labeled images are seen; on RefShapes both hold within a few
points (docs/experiments.md). It does not suppose that scores mean the same in two teachers or selectors.

Source: ours; isotonic calibration Zadrozny and Elkan 2002, expected calibration error Naeini et al. 2015.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from l2l_ray.errors import HEALS, CheckpointError
from l2l_ray.intervals import MIN_IMAGES, percentiles
from l2l_ray.randomness import philox_generator

FILE = "calibration.json"  # in a version's folder
FORMAT = 1
GROUP_FRAC, MIN_GROUP = 0.02, 3  # labels next to one another whose IoU is averaged first: one alone says little; ours
NUM_KNOTS = 101  # places, 0 % to 100 %, at which scores are read by their rank
NUM_BINS = 10  # of the reliability diagram; the usual number
NUM_GROUPS = 5  # of images, for cross-validation
NUM_RESAMPLES = 1_000  # for the interval of a mean
_RISE = 1e-4  # of the curve over all ranks: labels of equal estimate keep their order

Values = float | Sequence[float] | np.ndarray  # one number, or many


@dataclass(frozen=True)
class Checked:
    """Labels of labeled images that nobody who made them had seen: their ranks, and what they are.

    Example: `Checked((3, 3, 8), (0.83, 0.17, 0.5), (0.8, 0.0, 0.9))`
    """

    image_ids: Sequence[int]
    ranks: Sequence[float]  # in (0, 1), of the label's score among the labels that were made like it; 1 = the surest
    ious: Sequence[float]  # with the truth

    def __len__(self) -> int:
        return len(self.ious)

    def rows(self, rows: Sequence[int]) -> Checked:
        """Return some rows."""
        image_ids, ranks, ious = self.image_ids, self.ranks, self.ious
        return Checked([image_ids[row] for row in rows], [ranks[row] for row in rows], [ious[row] for row in rows])


@dataclass(frozen=True)
class Curve:
    """A map from score to confidence, straight between its knots and level beyond them.

    Example: `Curve((0.0, 1.0), (0.1, 0.8))([0.5])` is `[0.45]`.
    """

    scores: Sequence[float]
    confidences: Sequence[float]

    @classmethod
    def of(cls, content: Mapping[str, Any] | None) -> Curve | None:
        """Return the curve that `asdict` made this of; None = there was none."""
        return None if content is None else cls(**content)

    def __call__(self, scores: Values) -> Float64[np.ndarray, "*N"]:
        """Return the confidences of scores, in [0, 1]."""
        return np.asarray(np.interp(np.asarray(scores, np.float64), self.scores, self.confidences))


@dataclass(frozen=True)
class Calibration:
    """What lies with a version: how its scores are read, and the labeled images that say so.

    `labels` reads the score that its selector puts labels in order by, `predictions` the teacher's own estimate of its
    guided mask (`confidence.py`). `checked` holds labels of the labeled images.
    """

    labels: Curve
    predictions: Curve
    checked: Checked

    def save(self, folder: Path) -> None:
        """Write it to a version's folder.

        Raises:
            OSError: It cannot be written.
        """
        (folder / FILE).write_text(json.dumps({"format": FORMAT, **asdict(self)}))

    @classmethod
    def load(cls, folder: Path) -> Calibration | None:
        """Read what `save` wrote; None where a version has none: fixed rules have none, nor have older runs.

        Raises:
            CheckpointError: The file is damaged, or of another version of the code.
        """
        path = folder / FILE
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text())
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
            labels, predictions = (Curve(**content[name]) for name in ("labels", "predictions"))
            return cls(labels, predictions, Checked(**content["checked"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"cannot read {path}: {error}; {HEALS}") from error


def ranks_of(scores: Values) -> Float64[np.ndarray, " N"]:
    """Return the rank of each score: the share of the others that are lower, of equal ones half.

    Raises:
        ValueError: A score is not a number.
    """
    values = np.atleast_1d(np.asarray(scores, np.float64))
    if not np.isfinite(values).all():
        raise ValueError(f"scores must be finite, got {values[~np.isfinite(values)][0]}")
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Float64[np.ndarray, " N"] = ((np.cumsum(counts) - counts / 2) / max(1, len(values)))[place]
    return ranks


def calibrate(checked: Checked, scores: Values) -> Curve:
    """Return how scores of unlabeled images are read, by checked labels of the same rank.

    Args:
        checked: Labels of labeled images.
        scores: Of labels of unlabeled images, in [0, 1].
    Raises:
        ValueError: There is no checked label, no score, or a score is not a number.
    """
    if not len(checked) or not np.size(scores):
        raise ValueError(f"a calibration needs labels and scores, got {len(checked)} and {np.size(scores)}")
    values, ranks = np.atleast_1d(np.asarray(scores, np.float64)), ranks_of(scores)
    ours, first = np.unique(values, return_index=True)
    if len(ours) > NUM_KNOTS:
        kept = np.unique(np.linspace(0, len(ours) - 1, NUM_KNOTS).round().astype(int))
        ours, first = ours[kept], first[kept]
    at = ranks[first]
    raised = by_rank(checked)(at) * (1 - _RISE) + at * _RISE
    knots = dict(zip(ours.tolist(), raised.tolist(), strict=True))
    knots.setdefault(0.0, max(0.0, float(raised[0]) - _RISE))
    knots.setdefault(1.0, min(1.0, float(raised[-1]) + _RISE))
    ends = sorted(knots)
    return Curve(ends, [knots[score] for score in ends])


def by_rank(checked: Checked) -> Curve:
    """Return the IoU that labels of a rank have, by isotonic regression on checked ones.

    Labels next to one another in rank are averaged first, `GROUP_FRAC` of all and at least `MIN_GROUP` together, and
    those of equal rank always.
    """
    from sklearn.isotonic import isotonic_regression  # here: whoever only reads a curve has no need of it

    ranks, ious = (np.asarray(column, np.float64) for column in (checked.ranks, checked.ious))
    size = max(MIN_GROUP, round(GROUP_FRAC * len(checked)))
    places = np.searchsorted(np.sort(ranks), ranks)  # how many are lower
    group_of = places * max(1, len(ranks) // size) // max(1, len(ranks))
    _, which, sizes = np.unique(group_of, return_inverse=True, return_counts=True)
    centres, means = (np.bincount(which, column) / sizes for column in (ranks, ious))
    heights = isotonic_regression(means, sample_weight=sizes, y_min=0, y_max=1)
    return Curve(centres.tolist(), heights.tolist())


def chances(checked: Checked, iou: float) -> Curve:
    """Return how probable it is, by rank, that a label has at least this IoU with the truth.

    Args:
        checked: Labels of labeled images; at least one.
        iou: In [0, 1].
    """
    return by_rank(Checked(checked.image_ids, checked.ranks, [float(value >= iou) for value in checked.ious]))


def reliability(estimates: Values, ious: Values) -> dict[str, Any]:
    """Return how far estimates are from what they estimate.

    Returns:
        `num`; `ece`, the expected calibration error: the mean over `NUM_BINS` equal bins of the estimate of |mean
        estimate - mean IoU|, each by its share of the labels; `bins`, per filled bin {estimate, iou, num}. `ece` is
        None where there is no label.
    """
    x, y = np.asarray(estimates, np.float64), np.asarray(ious, np.float64)
    which = np.minimum((x * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = []
    for number in np.unique(which):
        inside = np.flatnonzero(which == number)
        mean_x, mean_y = (math.fsum(column[inside]) / len(inside) for column in (x, y))  # the same in any order
        bins.append({"estimate": mean_x, "iou": mean_y, "num": len(inside)})
    error = math.fsum(abs(one["estimate"] - one["iou"]) * one["num"] for one in bins) / len(x) if len(x) else None
    return {"num": len(x), "ece": error, "bins": bins}


def cross_validated(checked: Checked) -> dict[str, Any] | None:
    """Return the reliability of a curve that is made without the images it is looked at on.

    None where there are fewer than two images.
    """
    image_ids = np.unique(checked.image_ids)
    if len(image_ids) < 2:
        return None
    drawn = philox_generator(0).permutation(image_ids)
    found, truth = list[float](), list[float]()
    for group in np.array_split(drawn, min(NUM_GROUPS, len(drawn))):
        is_seen = np.isin(checked.image_ids, group)
        seen, others = (checked.rows(np.flatnonzero(rows).tolist()) for rows in (is_seen, ~is_seen))
        found += by_rank(others)(seen.ranks).tolist()
        truth += seen.ious
    return reliability(found, truth)


def expected_iou(checked: Checked, ranks: Values) -> dict[str, float | None] | None:
    """Return what the mean IoU of some labels is, by labeled images alone, with its 95 % interval.

    The interval is over the draw of the labeled images (bootstrap, `NUM_RESAMPLES` draws of as many images). Each draw
    ranks its own labels anew: which images are drawn also decides what the surest tenth of them is like.

    Args:
        checked: Labels of labeled images.
        ranks: Of the labels in question, among all labels of their round.
    Returns:
        {"mean", "low", "high"}; None where there are no such labels or fewer than two labeled images. The ends are None
        where these are fewer than `MIN_IMAGES`.
    """
    at, image_ids = np.asarray(ranks, np.float64), np.unique(checked.image_ids)
    if not at.size or len(image_ids) < 2:
        return None
    bins = np.linspace(0, 1, 1001)  # a curve is read at its thousandths: of a million labels there are no more
    counts = np.histogram(at, bins)[0]
    middles = (bins[1:] + bins[:-1]) / 2
    rows_of = {image: np.flatnonzero(np.asarray(checked.image_ids) == image) for image in image_ids.tolist()}

    def mean(of: Checked) -> float:
        return float(by_rank(of)(middles) @ counts / counts.sum())

    if len(image_ids) < MIN_IMAGES:
        return {"mean": mean(checked), "low": None, "high": None}
    rng, drawn = philox_generator(0), []
    for _ in range(NUM_RESAMPLES):
        picked = rng.choice(image_ids, len(image_ids))
        some = checked.rows(np.concatenate([rows_of[image] for image in picked.tolist()]).tolist())
        drawn.append(mean(Checked(some.image_ids, ranks_of(some.ranks).tolist(), some.ious)))
    low, high = percentiles(drawn, len(image_ids), 0.95)
    return {"mean": mean(checked), "low": low, "high": high}
