"""What the scores of a version mean: its labels of labeled images, by teachers and selectors that never saw these.

The teachers are those of the folds. A selector learns from all labeled images, so its own scores of them are too good;
hence the folds are cut in two halves, and each is labeled by a judge: a selector that learned as long, but from the
other half alone. Its scores need not mean what the version's do: only their ranks within the half count. Judges go on
from version to version beside the selector they stand for. Masks that began as labels judge nothing where there are
others: people look at the doubtful ones, so they do not stand for the rest.

Source: ours; cross-fitting as for the teachers (`selector_training.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from l2l_ray.calibration import Calibration, Checked, calibrate, ranks_of
from l2l_ray.confidence import area_iou, estimated_iou
from l2l_ray.loop.training.selector_training import CrossFitted, SelectorLearner, StoredEvidence
from l2l_ray.selector.base import Selector
from l2l_ray.types import Evidence

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

Kind = Literal["labels", "predictions"]  # of a selector, and of its teacher with the prior


@torch.no_grad()
def calibration_of(
    learner: SelectorLearner,
    cross_fitted: CrossFitted,
    unlabeled: StoredEvidence | None,
    version: int,
    seed: int,
    chunk: int,
) -> Calibration:
    """Return what the scores of a version mean; the learner's judges learn on the way.

    Args:
        learner: With the version's selector, settled.
        cross_fitted: Evidence and truth of the labeled images, of two folds at least.
        unlabeled: Evidence of the unlabeled subset by the version's teacher; None = there is none, and the labeled
            images stand for it.
        version: Which version.
        seed: The run's seed.
        chunk: Samples at a time.
    """
    checked = _checked(learner, cross_fitted, unlabeled, version, seed)
    parts = [part.evidence for part in cross_fitted.parts()] if unlabeled is None else unlabeled.all(chunk)
    guesses = [_guesses(learner.selector, part) for part in parts]
    scores = {kind: [score for guess in guesses for score in guess[kind][1].tolist()] for kind in checked}
    labels, predictions = (calibrate(checked[kind], scores[kind]) for kind in ("labels", "predictions"))
    return Calibration(labels, predictions, checked["labels"])


def _checked(
    learner: SelectorLearner, cross_fitted: CrossFitted, unlabeled: StoredEvidence | None, version: int, seed: int
) -> dict[Kind, Checked]:
    image_ids = list[int]()
    ranks: dict[Kind, list[float]] = {"labels": [], "predictions": []}
    ious: dict[Kind, list[float]] = {"labels": [], "predictions": []}
    learner.judges = learner.judges or (learner.fresh(), learner.fresh())
    halves, others = cross_fitted.for_judging().halves(), reversed(cross_fitted.halves())
    for judge, half, other in zip(learner.judges, halves, others, strict=True):
        with torch.enable_grad():
            for made in range(judge.num_versions, version + 1):
                judge.learn(other, unlabeled, made, judge.num_updates(made), seed)
        parts = half.parts()
        guesses = [_guesses(judge.selector, part.evidence) for part in parts]
        image_ids += half.image_ids
        for kind in ranks:
            ranks[kind] += ranks_of([score for guess in guesses for score in guess[kind][1].tolist()]).tolist()
            for guess, part in zip(guesses, parts, strict=True):
                ious[kind] += area_iou(guess[kind][0], part.mask).tolist()
    return {kind: Checked(image_ids, ranks[kind], ious[kind]) for kind in ranks}


def _guesses(selector: Selector, evidence: Evidence) -> dict[Kind, tuple[Bool[Tensor, "B G G"], Float[Tensor, " B"]]]:
    """Return the masks and scores of a selector's labels, and of the teacher's predictions."""
    selection = selector.select(evidence, [0] * len(evidence.mask_probs))
    guided = evidence.mask_probs > 0.5
    return {
        "labels": (selection.target, selector.label_scores(selection)),
        "predictions": (guided, estimated_iou(guided, evidence.mask_probs)),
    }
