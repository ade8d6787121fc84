"""How good a selector's decisions are where the truth is known: its labels as a whole, and their cells.

A *label* is the whole target mask of a sample, on the grid: what training and export see. It is *used* when the
selector keeps the sample and some accepted cell is of the object (`loop/training/pseudo.py::is_used`). By its IoU with
the truth a used label is *right* (at least `RIGHT_IOU`), *on a wrong object* (below `WRONG_OBJECT_IOU`), or else has a
*poor outline*. A right label that is not used was *refused*. How well the selector's scores put the labels in order,
used or not, is in `ordering.py`.

*Object precision* is the share of true object among the cells that are accepted and labeled object; *object recall* is
the share of the object's cells that are accepted and labeled object. Both see a label on a wrong object. Accuracy by
*true region* does not: it says which share of a region's accepted cells is labeled right, and the cells of a wrong
object are few among the many of the background. The regions are disjoint: the *boundary* band (cells within one cell
of the object's outline), and the *inside* and the *outside* away from it.

A rule that accepts less is more precise without being better, so rules are also compared at equal numbers: each ranks
the cells that it labels object (or background) and accepts as many of them as the measured selector did. Rankings are
kept as histograms. All figures add up exactly over batches and processes, in any order.

Used by evaluation alone, but for `decision_of`, which sees no truth; no figure reaches training, labelling or a reward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import max_pool2d

from l2l_ray.data.masks import decode, encode
from l2l_ray.loop.inference.ordering import RIGHT_IOU, ordering
from l2l_ray.types import Action, Rle, Selection

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int
    from torch import Tensor

WRONG_OBJECT_IOU = 0.1  # ours: neighbours that touch overlap by a few cells
REGIONS = ("inside", "outside", "boundary")
CLASSES = ("object", "background")
NUM_BINS = 1000
OWN_DECISION = "own decision"  # the measured selector's row among the rules it is compared with

Ranking = tuple["Float[Tensor, 'B G G']", "Bool[Tensor, 'B G G']"]  # score in [0, 1], label


@dataclass(frozen=True)
class Decision:
    """What the measures read of a selector's decision on a batch.

    Example: `decision_of(selection).used`
    """

    accepted: Bool[Tensor, "B G G"]  # nothing where the gate is shut
    target: Bool[Tensor, "B G G"]
    gate: Float[Tensor, " B"]
    confidence: Float[Tensor, " B"]
    source: list[str]  # per sample, whose label it mostly is

    @property
    def used(self) -> Bool[Tensor, " B"]:
        """Whether training uses the label: some accepted cell is of the object."""
        return (self.accepted & self.target).flatten(1).any(1)


def decision_of(selection: Selection) -> Decision:
    """Read a selection: the one place that knows how it is stored."""
    accepted = (selection.action != Action.IGNORE) & (selection.gate >= 0.5)[:, None, None]
    prior = (selection.action == Action.PRIOR).flatten(1)
    claimed = (accepted & selection.target).flatten(1)
    shares = zip((claimed & prior).sum(1).tolist(), (claimed & ~prior).sum(1).tolist(), strict=True)
    source = ["mixed" if a == b else "prior" if a > b else "teacher" for a, b in shares]
    return Decision(accepted, selection.target, selection.gate, selection.confidence, source)


@dataclass(frozen=True)
class Quality:
    """Counts of cells and one row per label; add two to join two batches.

    Example: `Quality.empty() + measure_quality(selection, mask, {})`
    """

    regions: Int[np.ndarray, "3 3"]  # true region x (right among accepted, accepted, all)
    classes: Int[np.ndarray, "2 3"]  # class x (right among accepted, accepted and labeled so, truly so)
    labels: Float64[np.ndarray, "L 4"]  # label x (used: 0 or 1, IoU with the truth, confidence, gate)
    sources: dict[str, Int[np.ndarray, " 2"]]  # whose label it is -> (used, right among the used)
    wrong: dict[int, Rle]  # sent_id -> mask of a label that is used and not right, on the grid
    histograms: dict[str, Int[np.ndarray, "2 2 N"]]  # selector -> class of the label x (wrong, right) x score bin

    @classmethod
    def empty(cls) -> Quality:
        """Return the quality of no labels."""
        return cls(np.zeros((3, 3), np.int64), np.zeros((2, 3), np.int64), np.zeros((0, 4)), {}, {}, {})

    def __add__(self, other: Quality) -> Quality:
        return Quality(
            self.regions + other.regions,
            self.classes + other.classes,
            np.concatenate([self.labels, other.labels]),
            _joined(self.sources, other.sources),
            {**self.wrong, **other.wrong},
            _joined(self.histograms, other.histograms),
        )

    def summary(self) -> dict[str, Any]:
        """Return all figures as shares in [0, 1], None where there is nothing to count.

        Returns:
            `labels`: num, num_used, used_frac; of the used ones mean_iou, right_frac, poor_outline_frac,
            wrong_object_frac and mean_confidence (their own `confidence`); num_right, of all labels, and the share of
            these that is not used, right_refused_frac. `sources`: per candidate num_used, used_frac (of the used
            ones) and right_frac. `ordering`: see `ordering.py`, of all labels by gate and by confidence.
            `object_precision`, `object_recall` and `object_missed`, the rest; per true region and for "all"
            `accuracy_by_true_region` (right among accepted) and `accepted_by_true_region` (accepted among all).
        """
        regions = dict(zip((*REGIONS, "all"), np.vstack([self.regions, self.regions.sum(0)]), strict=True))
        right, accepted, true = self.classes[0]
        return {
            "labels": self._label_figures(),
            "sources": self._source_figures(),
            "ordering": ordering(self.labels[:, 1], {"gate": self.labels[:, 3], "confidence": self.labels[:, 2]}),
            "object_precision": _ratio(right, accepted),
            "object_recall": _ratio(right, true),
            "object_missed": _ratio(true - right, true),
            "accuracy_by_true_region": {name: _ratio(row[0], row[1]) for name, row in regions.items()},
            "accepted_by_true_region": {name: _ratio(row[1], row[2]) for name, row in regions.items()},
        }

    def at_equal_counts(self) -> list[dict[str, float | str | None]]:
        """Compare the ranked selectors at the numbers of object and of background cells that the measured one accepted.

        Returns:
            Rows {"rule", "label": object or background, "accepted": number of cells, "precision"}; the precision is
            None where nothing was accepted, and for a rule that labels fewer cells so.
        """
        rows: list[dict[str, float | str | None]] = []
        for index, name in enumerate(CLASSES):
            right, accepted, _ = self.classes[index].tolist()
            chosen = {"label": name, "accepted": accepted}
            rows.append({"rule": OWN_DECISION, **chosen, "precision": _ratio(right, accepted)})
            for rule, histogram in self.histograms.items():
                rows.append({"rule": rule, **chosen, "precision": _precision_at(histogram[index], accepted)})
        return rows

    def _label_figures(self) -> dict[str, float | None]:
        is_used, is_right = self.labels[:, 0] == 1, self.labels[:, 1] >= RIGHT_IOU
        ious, confidences = self.labels[is_used, 1], self.labels[is_used, 2]
        return {
            "num": len(self.labels),
            "num_used": len(ious),
            "used_frac": _ratio(len(ious), len(self.labels)),
            "mean_iou": _ratio(math.fsum(ious), len(ious)),  # fsum: the same in any order
            "right_frac": _ratio((ious >= RIGHT_IOU).sum(), len(ious)),
            "poor_outline_frac": _ratio(((ious >= WRONG_OBJECT_IOU) & (ious < RIGHT_IOU)).sum(), len(ious)),
            "wrong_object_frac": _ratio((ious < WRONG_OBJECT_IOU).sum(), len(ious)),
            "mean_confidence": _ratio(math.fsum(confidences), len(ious)),
            "num_right": int(is_right.sum()),
            "right_refused_frac": _ratio((is_right & ~is_used).sum(), is_right.sum()),
        }

    def _source_figures(self) -> dict[str, dict[str, float | None]]:
        total = sum(int(used) for used, _ in self.sources.values())
        return {
            name: {"num_used": int(used), "used_frac": _ratio(used, total), "right_frac": _ratio(right, used)}
            for name, (used, right) in self.sources.items()
        }


def measure_quality(
    selection: Selection, mask: Float[Tensor, "B G G"], rankings: dict[str, Ranking], sent_ids: Sequence[int]
) -> Quality:
    """Compare a selection, and other selectors' rankings, with the truth.

    Args:
        selection: The selection to measure; a sample whose gate is below 0.5 counts as ignored.
        mask: Truth on the grid, covered area in [0, 1]; a cell is of the object above 0.5.
        rankings: Selector name -> (score in [0, 1], label) per cell.
        sent_ids: Whose labels they are; no label is measured twice.
    """
    decision, truth = decision_of(selection), mask > 0.5
    label, accepted = decision.target, decision.accepted
    right = accepted & (label == truth)
    regions = [[_count(part & right), _count(part & accepted), _count(part)] for part in _regions(truth)]
    classes = [
        [_count(right & so), _count(accepted & so), _count(true)] for so, true in ((label, truth), (~label, ~truth))
    ]
    union = (label | truth).flatten(1).sum(1).double()
    iou = torch.where(union == 0, 1.0, (label & truth).flatten(1).sum(1) / union)
    histograms = {
        name: np.stack([_histogram(score, claim == truth, so) for so in (claim, ~claim)])
        for name, (score, claim) in rankings.items()
    }
    columns = (decision.used, iou, decision.confidence, decision.gate)
    rows = torch.stack([column.double().cpu() for column in columns], 1).numpy()
    wrong = np.flatnonzero((rows[:, 0] == 1) & (rows[:, 1] < RIGHT_IOU))
    return Quality(
        np.array(regions),
        np.array(classes),
        rows,
        _sources(decision.source, rows),
        {sent_ids[row]: encode(label[row].cpu().numpy()) for row in wrong.tolist()},
        histograms,
    )


def wrong_again(before: Mapping[int, Rle], after: Mapping[int, Rle]) -> dict[str, float | None]:
    """Return how many wrong labels of a round (`Quality.wrong`) are wrong in the next.

    Returns:
        `num` of the earlier round; `again_frac`: the share of them that is used and not right again; `same_mask_frac`:
        the share that is so with a mask that is the earlier one to an IoU of at least `RIGHT_IOU`.
    """
    pairs = [(decode(mask), decode(after[sent_id])) for sent_id, mask in before.items() if sent_id in after]
    same = sum((first & second).sum() >= RIGHT_IOU * (first | second).sum() for first, second in pairs)
    return {
        "num": len(before),
        "again_frac": _ratio(len(pairs), len(before)),
        "same_mask_frac": _ratio(same, len(before)),
    }


def _sources(names: list[str], rows: Float64[np.ndarray, "L 4"]) -> dict[str, Int[np.ndarray, " 2"]]:
    found: dict[str, Int[np.ndarray, " 2"]] = {}
    for name, (used, iou, *_) in zip(names, rows.tolist(), strict=True):
        if used:
            found = _joined(found, {name: np.array([1, iou >= RIGHT_IOU])})
    return found


def _joined(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add counts by name, names in one order."""
    return {
        name: first[name] + second[name] if name in first and name in second else {**first, **second}[name]
        for name in sorted({*first, *second})
    }


def _regions(truth: Bool[Tensor, "B G G"]) -> tuple[Tensor, Tensor, Tensor]:
    """Split the grid into inside, outside and the band between."""
    solid = truth.float()[:, None]
    dilated = max_pool2d(solid, 3, 1, 1)[:, 0] > 0
    eroded = max_pool2d(1 - solid, 3, 1, 1)[:, 0] == 0
    return eroded, ~dilated, dilated & ~eroded


def _histogram(score: Tensor, right: Tensor, cells: Tensor) -> Int[np.ndarray, "2 N"]:
    bins = (score[cells].clamp(0, 1) * (NUM_BINS - 1)).round().long()
    index = bins + NUM_BINS * right[cells].long()
    return torch.bincount(index, minlength=2 * NUM_BINS).reshape(2, NUM_BINS).cpu().numpy()


def _precision_at(histogram: Int[np.ndarray, "2 N"], num_accepted: int) -> float | None:
    """Accept bins from the best score down until `num_accepted` cells; the last bin counts in part."""
    wrong, right = (np.concatenate([[0], np.cumsum(row[::-1])]) for row in histogram)
    if num_accepted > wrong[-1] + right[-1]:
        return None
    return _ratio(float(np.interp(num_accepted, wrong + right, right)), num_accepted)


def _count(cells: Tensor) -> int:
    return int(cells.sum())


def _ratio(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None
