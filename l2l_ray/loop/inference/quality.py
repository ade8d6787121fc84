"""How good a selector's decisions are where the truth is known: its labels as a whole, and their cells.

A *label* is the whole target mask of a sample, on the grid: what training and export see. It is *used* when the
selector keeps the sample and some accepted cell is of the object (`loop/state/ledger.py::is_used`). By its IoU with
the truth a used label is *right* (at least `RIGHT_IOU`), *on a wrong object* (below `WRONG_OBJECT_IOU`), or else has a
*poor outline*. A right label that is not used was *refused*. An empty label is worth 0 whatever the truth, as in the
reward: it teaches no object. How well the selector's scores put the labels in order, used or not, is in `ordering.py`.

*Object precision* is the share of true object among the cells that are accepted and labeled object; *object recall* is
the share of the object's cells that are accepted and labeled object. Both see a label on a wrong object. Accuracy by
*true region* does not: it says which share of a region's accepted cells is labeled right, and the cells of a wrong
object are few among the many of the background. The regions are disjoint: the *boundary* band (cells within one cell
of the object's outline), and the *inside* and the *outside* away from it.

All figures add up exactly over batches and processes, in any order. Used by evaluation alone; no figure reaches
training, labelling or a reward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import max_pool2d

from l2l_ray.calibration import reliability
from l2l_ray.confidence import area_iou
from l2l_ray.data.masks import decode, encode
from l2l_ray.loop.inference.ordering import RIGHT_IOU, ordering
from l2l_ray.selector.reward import truth_ious
from l2l_ray.types import Candidate, Rle, Selection

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int
    from torch import Tensor

WRONG_OBJECT_IOU = 0.1  # ours: neighbours that touch overlap by a few cells
REGIONS = ("inside", "outside", "boundary")


@dataclass(frozen=True)
class Quality:
    """Counts of cells and one row per label; add two to join two batches.

    Example: `Quality.empty() + measure_quality(selection, mask, [7, 9])`
    """

    regions: Int[np.ndarray, "3 3"]  # true region x (right among accepted, accepted, all)
    classes: Int[np.ndarray, "2 3"]  # class x (right among accepted, accepted and labeled so, truly so)
    # label x (used: 0 or 1, IoU with the truth, confidence, gate, IoU by area; nan = it has no cell)
    labels: Float64[np.ndarray, "L 5"]
    sources: dict[str, Int[np.ndarray, " 2"]]  # whose label it is -> (used, right among the used)
    wrong: dict[int, Rle]  # sent_id -> mask of a label that is used and not right, on the grid

    @classmethod
    def empty(cls) -> Quality:
        """Return the quality of no labels."""
        return cls(np.zeros((3, 3), np.int64), np.zeros((2, 3), np.int64), np.zeros((0, 5)), {}, {})

    def __add__(self, other: Quality) -> Quality:
        return Quality(
            self.regions + other.regions,
            self.classes + other.classes,
            np.concatenate([self.labels, other.labels]),
            _joined(self.sources, other.sources),
            {**self.wrong, **other.wrong},
        )

    def summary(self) -> dict[str, Any]:
        """Return all figures as shares in [0, 1], None where there is nothing to count.

        Returns:
            `labels`: num, num_used, used_frac; of the used ones mean_iou, right_frac, poor_outline_frac,
            wrong_object_frac, mean_iou_by_area (which the confidence estimates) and mean_confidence (their own
            `confidence`); num_right, of all labels, and the share of these that is not used, right_refused_frac.
            `sources`: per candidate num_used, used_frac (of the used
            ones) and right_frac. `ordering`: see `ordering.py`, of all labels by gate and by confidence.
            `reliability`: how far the confidence of all labels with a cell is from what it estimates, their IoU by
            area, see `calibration.reliability` and `confidence.area_iou`.
            `object_precision`, `object_recall` and `object_missed`, the rest; per true region and for "all"
            `accuracy_by_true_region` (right among accepted) and `accepted_by_true_region` (accepted among all).
        """
        regions = dict(zip((*REGIONS, "all"), np.vstack([self.regions, self.regions.sum(0)]), strict=True))
        right, accepted, true = self.classes[0]
        return {
            "labels": self._label_figures(),
            "sources": self._source_figures(),
            "ordering": ordering(self.labels[:, 1], {"gate": self.labels[:, 3], "confidence": self.labels[:, 2]}),
            "reliability": reliability(*self.labels[np.isfinite(self.labels[:, 4])][:, (2, 4)].T),
            "object_precision": _ratio(right, accepted),
            "object_recall": _ratio(right, true),
            "object_missed": _ratio(true - right, true),
            "accuracy_by_true_region": {name: _ratio(row[0], row[1]) for name, row in regions.items()},
            "accepted_by_true_region": {name: _ratio(row[1], row[2]) for name, row in regions.items()},
        }

    def _label_figures(self) -> dict[str, float | None]:
        is_used, is_right = self.labels[:, 0] == 1, self.labels[:, 1] >= RIGHT_IOU
        ious, confidences, by_area = self.labels[is_used][:, (1, 2, 4)].T
        return {
            "num": len(self.labels),
            "num_used": len(ious),
            "used_frac": _ratio(len(ious), len(self.labels)),
            "mean_iou": _ratio(math.fsum(ious), len(ious)),  # fsum: the same in any order
            "right_frac": _ratio((ious >= RIGHT_IOU).sum(), len(ious)),
            "poor_outline_frac": _ratio(((ious >= WRONG_OBJECT_IOU) & (ious < RIGHT_IOU)).sum(), len(ious)),
            "wrong_object_frac": _ratio((ious < WRONG_OBJECT_IOU).sum(), len(ious)),
            "mean_iou_by_area": _ratio(math.fsum(by_area), len(ious)),
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


def measure_quality(selection: Selection, mask: Float[Tensor, "B G G"], sent_ids: Sequence[int]) -> Quality:
    """Compare a selection with the truth.

    Args:
        selection: The selection to measure.
        mask: Truth on the grid, covered area in [0, 1]; a cell is of the object above 0.5.
        sent_ids: Whose labels they are; no label is measured twice.
    """
    truth, label, accepted = mask > 0.5, selection.target, selection.accepted
    right = accepted & (label == truth)
    regions = [[_count(part & right), _count(part & accepted), _count(part)] for part in _regions(truth)]
    classes = [
        [_count(right & so), _count(accepted & so), _count(true)] for so, true in ((label, truth), (~label, ~truth))
    ]
    iou = truth_ious(label[:, None], truth)[:, 0]
    by_area = torch.where(label.flatten(1).any(1), area_iou(label, mask), torch.nan)
    columns = (selection.used, iou, selection.confidence, selection.gate, by_area)
    rows = torch.stack([column.double().cpu() for column in columns], 1).numpy()
    wrong = np.flatnonzero((rows[:, 0] == 1) & (rows[:, 1] < RIGHT_IOU))
    return Quality(
        np.array(regions),
        np.array(classes),
        rows,
        _sources([Candidate(source).name.lower() for source in selection.source.tolist()], rows),
        {sent_ids[row]: encode(label[row].cpu().numpy()) for row in wrong.tolist()},
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


def _count(cells: Tensor) -> int:
    return int(cells.sum())


def _ratio(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None
