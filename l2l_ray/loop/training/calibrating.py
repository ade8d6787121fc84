"""What the scores of a version mean: its labels of labeled images, by teachers and selectors that never saw these.

The teachers are those of the folds. A selector learns from all labeled images, so its own scores of them are too good;
hence the folds are cut in two halves, and each is labeled by a judge: a selector that learned as long, but from the
other half alone. Its scores need not mean what the version's do: only their ranks within the half count. Judges go on
from version to version beside the selector they stand for. Masks that began as labels judge nothing where there are
others: people look at the doubtful ones, so they do not stand for the rest. Labels without a cell are not among those
that are ranked, here and wherever ranks are read: on a text without an object an empty label is right, and as the least
sure of all it would raise what the least sure masks are said to be worth.

Source: ours; cross-fitting as for the teachers (`selector_training.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from l2l_ray.calibration import Calibration, Checked, calibrate, ranks_of
from l2l_ray.confidence import area_iou, estimated_iou
from l2l_ray.loop.training.selector_training import CrossFitted, SelectorLearner, StoredEvidence
from l2l_ray.selector.base import Selector
from l2l_ray.types import Evidence

Kind = Literal["labels", "predictions"]  # of a selector, and of its teacher with the prior
KINDS: tuple[Kind, ...] = get_args(Kind)


@torch.no_grad()
def calibration_of(
    learner: SelectorLearner,
    cross_fitted: CrossFitted,
    unlabeled: StoredEvidence | None,
    version: int,
    seed: int,
    chunk: int,
) -> Calibration | None:
    """Return what the scores of a version mean; the learner's judges learn on the way.

    None where they can mean nothing: no label of labeled images, or none of unlabeled ones, has a cell.

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
    guesses = _guesses(learner.selector, parts)
    if not all(len(checked[kind]) and guesses[kind].scores for kind in KINDS):
        return None
    labels, predictions = (calibrate(checked[kind], guesses[kind].scores) for kind in KINDS)
    return Calibration(labels, predictions, checked["labels"])


def _checked(
    learner: SelectorLearner, cross_fitted: CrossFitted, unlabeled: StoredEvidence | None, version: int, seed: int
) -> dict[Kind, Checked]:
    found = {kind: (list[int](), list[float](), list[float]()) for kind in KINDS}
    learner.judges = learner.judges or (learner.fresh(), learner.fresh())
    halves, others = cross_fitted.for_judging().halves(), reversed(cross_fitted.halves())
    for judge, half, other in zip(learner.judges, halves, others, strict=True):
        with torch.enable_grad():
            for made in range(judge.num_versions, version + 1):
                judge.learn(other, unlabeled, made, seed)
        parts, ids = half.parts(), half.image_ids
        if not parts:
            continue
        truth = torch.cat([part.mask for part in parts])
        for kind, guesses in _guesses(judge.selector, [part.evidence for part in parts]).items():
            image_ids, ranks, ious = found[kind]
            image_ids += [ids[row] for row in guesses.rows]
            ranks += ranks_of(guesses.scores).tolist()
            ious += area_iou(guesses.masks, truth[guesses.rows]).tolist()
    return {kind: Checked(*columns) for kind, columns in found.items()}


class _Guesses(NamedTuple):
    """The masks of some samples that have a cell, and what they are put in order by."""

    rows: list[int]  # whose masks they are
    masks: Bool[Tensor, "N G G"]
    scores: list[float]


def _guesses(selector: Selector, parts: Sequence[Evidence]) -> dict[Kind, _Guesses]:
    """Return a selector's labels, and the teacher's predictions."""
    selections = [selector.select(part, [0] * len(part.mask_probs)) for part in parts]
    guided = [part.mask_probs > 0.5 for part in parts]
    estimates = [estimated_iou(mask, part.mask_probs) for mask, part in zip(guided, parts, strict=True)]
    return {
        "labels": _with_a_cell([one.target for one in selections], [selector.label_scores(one) for one in selections]),
        "predictions": _with_a_cell(guided, estimates),
    }


def _with_a_cell(masks: Sequence[Tensor], scores: Sequence[Tensor]) -> _Guesses:
    every = torch.cat(list(masks))
    rows = every.flatten(1).any(1).nonzero()[:, 0]
    return _Guesses(rows.tolist(), every[rows], torch.cat(list(scores))[rows].tolist())
