"""How well a score puts labels in order, right ones first: area under the ROC curve, and risk by coverage.

*AUC* is the probability that a right label (IoU with the truth of at least `RIGHT_IOU`) has a higher score than one
that is not right, both drawn at random; labels of equal score count half. It is 0.5 for a score that says nothing.

*Risk by coverage*: take the labels from the highest score down; the risk at a coverage is 1 - mean IoU of those taken
so far. Its *area* is the mean over all coverages 1/L, 2/L, ... 1. The area depends on how good the labels are, so it
cannot be compared between sets of labels; hence beside it what the same labels give in the best order (by their true
IoU) and in a random one (the risk of all), and the *excess* over the best, also as a share: 0 = best, 1 = random.

A score that is the same for all labels (the gate of a fixed rule) puts nothing in order and has no figures. Labels of
equal score count with their mean, which is what any order among them gives on average. All figures are exactly the
same in whatever order the labels come.

Source: AUC by ranks as in Mann and Whitney 1947; risk-coverage curve El-Yaniv and Wiener 2010; area and excess area
Geifman et al. 2019. Risk by IoU instead of by errors, and the share, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

RIGHT_IOU = 0.5  # the field's usual threshold, as in P@0.5
NUM_STEPS = 20  # coverages at which a curve is kept: 5 %, 10 %, ... 100 %


def ordering(ious: Float64[np.ndarray, " L"], scores: Mapping[str, Float64[np.ndarray, " L"]]) -> dict[str, Any]:
    """Return how well scores order the same labels.

    Args:
        ious: IoU with the truth, per label.
        scores: Name of a score -> its values.
    Returns:
        `coverage` (shares of the labels), `best` {area, risk at those coverages}, `random` {area, which is the risk at
        each}, and per score {auc, area, excess, relative_excess, risk}; None where there is nothing to say.
    """
    best, any_order = _curve(ious, ious), {"area": 1 - math.fsum(ious) / len(ious) if len(ious) else None}
    found: dict[str, Any] = {"coverage": [step / NUM_STEPS for step in range(1, NUM_STEPS + 1)]}
    found |= {"best": best, "random": any_order}
    return found | {name: _figures(score, ious, best["area"], any_order["area"]) for name, score in scores.items()}


def auc(scores: Float64[np.ndarray, " L"], right: Bool[np.ndarray, " L"]) -> float | None:
    """Return the AUC; None where all scores are equal, all labels are right, or none is."""
    values, place = np.unique(scores, return_inverse=True)
    rights, wrongs = (np.bincount(place[rows], minlength=len(values)) for rows in (right, ~right))
    pairs = int(rights.sum()) * int(wrongs.sum())
    if len(values) < 2 or not pairs:
        return None
    halves = int((rights * (2 * (np.cumsum(wrongs) - wrongs) + wrongs)).sum())  # half pairs in the right order
    return halves / (2 * pairs)


def risks(scores: Float64[np.ndarray, " L"], ious: Float64[np.ndarray, " L"]) -> Float64[np.ndarray, " L"]:
    """Return 1 - mean IoU of the k labels of highest score, for k = 1 ... L."""
    order = np.lexsort((ious, -scores))  # by score, then by IoU: sums come out the same however labels came
    _, first, num = np.unique(-scores[order], return_index=True, return_counts=True)
    risk = 1 - ious[order]
    expected = np.repeat(np.add.reduceat(risk, first) / num, num) if len(risk) else risk
    found: Float64[np.ndarray, " L"] = np.cumsum(expected) / np.arange(1, len(risk) + 1)
    return found


def _curve(scores: Float64[np.ndarray, " L"], ious: Float64[np.ndarray, " L"]) -> dict[str, Any]:
    found, num = risks(scores, ious), len(ious)
    if not num:
        return {"area": None, "risk": None}
    kept = [-(-step * num // NUM_STEPS) - 1 for step in range(1, NUM_STEPS + 1)]  # rounded up to a whole label
    return {"area": float(found.mean()), "risk": found[kept].tolist()}


def _figures(
    scores: Float64[np.ndarray, " L"], ious: Float64[np.ndarray, " L"], best: float | None, any_order: float | None
) -> dict[str, Any]:
    if best is None or any_order is None or scores.min() == scores.max():
        return dict.fromkeys(("auc", "area", "excess", "relative_excess", "risk"))
    curve = _curve(scores, ious)
    excess = curve["area"] - best
    return {
        "auc": auc(scores, ious >= RIGHT_IOU),
        "area": curve["area"],
        "excess": excess,
        "relative_excess": excess / (any_order - best) if any_order > best else None,
        "risk": curve["risk"],
    }
