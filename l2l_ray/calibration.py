"""From the score of a label to a confidence that means something: the IoU with the truth that such labels have.

A teacher that has trained on its own labels of an image is sure of them, right or wrong: over the rounds its
probabilities rise and its labels hardly get better. So a score is not read as it is. It is read by its *rank*:

1. The labeled images, each seen through a teacher that was not trained on it (cross-fitting), give pairs of score and
   IoU. Isotonic regression makes of them a curve that rises from score to IoU.
2. A label of an unlabeled image has the confidence of the labeled one that stands at the same place: half of the
   unlabeled labels score less, half of the labeled ones do.

It supposes that the labeled images were drawn like the unlabeled ones, and that the labels of a later teacher are about
as good as those of the teachers that labeled images are seen through; on RefShapes both hold within a few points
(docs/experiments.md). It does not suppose that scores mean the same in two teachers.

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
from l2l_ray.randomness import philox_generator

FILE = "calibration.json"  # in a version's folder
PULL = 2.0  # labels of average IoU that each step of the curve is mixed with: a step of one label says little; ours
NUM_KNOTS = 101  # places, 0 % to 100 %, at which the scores of two sets of images are matched
NUM_BINS = 10  # of the reliability diagram; the usual number
NUM_GROUPS = 5  # of images, for cross-validation
NUM_RESAMPLES = 200  # for the interval of a mean
_RISE = 1e-4  # of the curve over all places: labels of equal estimate keep their order

Values = float | Sequence[float] | np.ndarray  # one number, or many


@dataclass(frozen=True)
class Checked:
    """Labels of labeled images by teachers that never saw these: what they were estimated to be, and what they are.

    Example: `Checked((3, 3, 8), (0.9, 0.4, 0.7), (0.8, 0.0, 0.9))`
    """

    image_ids: Sequence[int]
    estimates: Sequence[float]  # confidence of the label, or any score
    ious: Sequence[float]  # with the truth

    def __len__(self) -> int:
        return len(self.ious)

    def rows(self, rows: Sequence[int]) -> Checked:
        """Return some rows."""
        image_ids, estimates, ious = self.image_ids, self.estimates, self.ious
        return Checked([image_ids[row] for row in rows], [estimates[row] for row in rows], [ious[row] for row in rows])


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
    guided mask (`confidence.py`). `checked` holds the selector's labels of the labeled images, estimates calibrated.
    """

    labels: Curve
    predictions: Curve
    checked: Checked

    def save(self, folder: Path) -> None:
        """Write it to a version's folder.

        Raises:
            OSError: It cannot be written.
        """
        (folder / FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Calibration | None:
        """Read what `save` wrote; None where a version has none: fixed rules have none, nor have older runs.

        Raises:
            CheckpointError: The file is damaged.
        """
        path = folder / FILE
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text())
            labels, predictions = (Curve(**content[name]) for name in ("labels", "predictions"))
            return cls(labels, predictions, Checked(**content["checked"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"cannot read {path}: {error}; {HEALS}") from error


def read(curve: Curve | None, estimate: float) -> float:
    """Return the confidence that an estimate stands for: itself where nobody knows what it means."""
    return estimate if curve is None else float(curve(estimate))


def calibrate(checked: Checked, others: Values) -> Curve:
    """Return how scores of unlabeled images are read, by the labeled ones.

    Args:
        checked: Scores in [0, 1] and IoU of labels of labeled images.
        others: Scores of labels of unlabeled images; none = they are taken to be like the labeled ones.
    Raises:
        ValueError: There is no checked label.
    """
    if not len(checked):
        raise ValueError("a calibration needs at least one label whose truth is known, got none")
    places = np.linspace(0, 1, NUM_KNOTS)
    theirs = np.quantile(checked.estimates, places)
    ours = np.quantile(np.asarray(others, np.float64), places) if np.size(others) else theirs
    raised = _isotonic(checked)(theirs) * (1 - _RISE) + places * _RISE
    knots = dict(zip(ours.tolist(), raised.tolist(), strict=True))  # of equal scores, the last counts
    knots.setdefault(0.0, max(0.0, float(raised[0]) - _RISE))
    knots.setdefault(1.0, min(1.0, float(raised[-1]) + _RISE))
    scores = sorted(knots)
    return Curve(tuple(scores), tuple(knots[score] for score in scores))


def _isotonic(checked: Checked) -> Curve:
    """Return the IoU that labels of some scores have, by isotonic regression on checked ones.

    Each step of the regression is mixed with `PULL` labels of average IoU, and counts at its mean score.
    """
    from sklearn.isotonic import isotonic_regression  # here: whoever only reads a curve has no need of it

    scores, ious = np.asarray(checked.estimates, np.float64), np.asarray(checked.ious, np.float64)
    values, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(place, ious) / counts
    steps = isotonic_regression(means, sample_weight=counts)
    step = np.unique(steps, return_inverse=True)[1]
    sizes = np.bincount(step, counts)
    centres = np.bincount(step, values * counts) / sizes
    heights = (np.bincount(step, means * counts) + PULL * ious.mean()) / (sizes + PULL)
    heights = isotonic_regression(heights, sample_weight=sizes, y_min=0, y_max=1)
    return Curve(centres.tolist(), heights.tolist())


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
    """Return the reliability of a calibration that is made without the images it is looked at on.

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
        found += _isotonic(others)(seen.estimates).tolist()
        truth += seen.ious
    return reliability(found, truth)


def expected_iou(checked: Checked, confidences: Values) -> dict[str, float] | None:
    """Return what the mean IoU of some labels is, by labeled images alone, with its 95 % interval.

    The interval is over the draw of the labeled images (bootstrap, `NUM_RESAMPLES` draws of as many images).

    Args:
        checked: The labels of labeled images, calibrated.
        confidences: Of the labels in question.
    Returns:
        {"mean", "low", "high"}; None where there are no such labels, or fewer than two labeled images.
    """
    at, image_ids = np.asarray(confidences, np.float64), np.unique(checked.image_ids)
    if not at.size or len(image_ids) < 2:
        return None
    rows_of = {image: np.flatnonzero(np.asarray(checked.image_ids) == image) for image in image_ids.tolist()}
    rng, drawn = philox_generator(0), []
    for _ in range(NUM_RESAMPLES):
        picked = rng.choice(image_ids, len(image_ids))
        rows = np.concatenate([rows_of[image] for image in picked.tolist()])
        drawn.append(float(_isotonic(checked.rows(rows.tolist()))(at).mean()))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"mean": float(_isotonic(checked)(at).mean()), "low": float(low), "high": float(high)}


def chances(checked: Checked, iou: float) -> Curve:
    """Return how probable it is, by confidence, that a label has at least this IoU with the truth.

    Args:
        checked: The labels of labeled images, calibrated; at least one.
        iou: In [0, 1].
    """
    reached = [float(value >= iou) for value in checked.ious]
    return _isotonic(Checked(checked.image_ids, checked.estimates, reached))
