"""How good a segmentation is: overall IoU, mean IoU, precision at IoU thresholds, and how sure each figure is.

All are computed from one row per sentence that holds integer pixel counts, so meters of several workers merge exactly,
in any order, and a row that was counted twice (work is at-least-once) is recognised by its `sent_id`. At which image
size the pixels were counted is the protocol's business (`data.protocols`); this file does not know.

Differences from published code, which is why numbers of different papers cannot be compared blindly:
- `overall_iou` is LAVT's oIoU and LISA's cIoU; `mean_iou` is per sentence (LISA's gIoU). Every sentence counts, not one
  per ref.
- Empty-union rule: when neither the mask nor the prediction has a pixel, the IoU is 1 (as LISA and GRES; LAVT's script
  says 0: `IouMeter(empty_union_iou=0.0)`).
- `precision_at[t]` counts IoU >= t, as LAVT's `test.py`.
- No-target sentences (gRefCOCO): "predicted empty" means that the mask has no pixel. ReLA asks a second head of its
  network instead, and older baselines call masks below 50 px empty; that is `min_predicted_px=50`, never the default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, NamedTuple

from l2l_ray.errors import DataError
from l2l_ray.intervals import BootstrapInterval, difference_intervals, ratio_intervals

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
EMPTY_UNION_IOU = 1.0
INTERVAL_RESAMPLES = 2_000  # 10,000 moves the ends of a 95 % interval by less than a tenth of its width

_Ratios = dict[str, tuple[Sequence[float], Sequence[int]]]


class _Row(NamedTuple):
    image_id: int
    intersection_px: int
    union_px: int
    predicted_px: int | None  # None in runs that did not count it; the truth has union - predicted + intersection

    @property
    def target_px(self) -> int:
        return self.union_px - (self.predicted_px or 0) + self.intersection_px


def iou_of(intersection_px: int, union_px: int, empty_union_iou: float = EMPTY_UNION_IOU) -> float:
    """Return the intersection over union in [0, 1]; `empty_union_iou` when the union is empty."""
    return intersection_px / union_px if union_px else empty_union_iou


class IouMeter:
    """Collects one row per sentence and sums them up; picklable, mergeable in any order.

    Args:
        empty_union_iou: IoU of a sentence whose truth and prediction are both empty.

    Example: `meter.add(sent_id=7, image_id=3, intersection_px=50, union_px=80); meter.summary()["mean_iou"]` is 0.625.
    """

    def __init__(self, empty_union_iou: float = EMPTY_UNION_IOU) -> None:
        self._empty_union_iou = empty_union_iou
        self._rows: dict[int, _Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self, sent_id: int, image_id: int, intersection_px: int, union_px: int, predicted_px: int | None = None
    ) -> None:
        """Add one sentence's result.

        Adding the very same row again changes nothing. `predicted_px`, the size of the prediction, is needed for the
        no-target figures alone.

        Raises:
            DataError: If the counts are impossible, or the sentence already has a different row.
        """
        predicted = None if predicted_px is None else index(predicted_px)
        row = _Row(index(image_id), index(intersection_px), index(union_px), predicted)
        if not 0 <= row.intersection_px <= (row.union_px if predicted is None else predicted) <= row.union_px:
            shown = "" if predicted is None else f", prediction {predicted} px"
            raise DataError(
                f"sent_id {sent_id}: intersection {intersection_px} px and union {union_px} px{shown} are impossible; "
                "expected 0 <= intersection <= prediction <= union"
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
            DataError: If the two disagree about a sentence, or about what an empty union is worth.
        """
        if self._empty_union_iou != other._empty_union_iou:
            raise DataError(
                f"cannot merge meters that count an empty union as {self._empty_union_iou} and "
                f"{other._empty_union_iou}; evaluate both under one protocol"
            )
        for sent_id, row in other._rows.items():
            self.add(sent_id, *row)

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict per sentence by ascending `sent_id`: sent_id, image_id, intersection_px, union_px, iou.

        Also `predicted_px` where it is known.
        """
        rows = []
        for sent_id, row in sorted(self._rows.items()):
            counts = {name: count for name, count in row._asdict().items() if count is not None}
            iou = iou_of(row.intersection_px, row.union_px, self._empty_union_iou)
            rows.append({"sent_id": sent_id, **counts, "iou": iou})
        return rows

    def summary(self) -> dict[str, Any]:
        """Return overall_iou, mean_iou and precision_at (threshold -> share), all in [0, 1], and num (sentences).

        Raises:
            DataError: If the meter is empty.
        """
        return {**_nested(self._values(self._ratios())), "num": len(self)}

    def intervals(self, num_resamples: int = INTERVAL_RESAMPLES, seed: int = 0) -> dict[str, Any]:
        """Return the 95 % interval {"low", "high"} of every figure of `summary`, images resampled.

        Both ends are None where no draw has a figure, or where there are fewer than `intervals.MIN_IMAGES` images.

        Raises:
            DataError: If the meter is empty.
        """
        return self._intervals(self._ratios(), num_resamples, seed)

    def no_target_summary(self, min_predicted_px: int = 0) -> dict[str, Any]:
        """Return the figures of sets in which an expression may refer to nothing, and the rules they follow.

        `gres_giou` is the mean IoU per sentence, an empty prediction being right (IoU 1) where nothing is referred to
        and wrong (IoU 0) elsewhere; `gres_ciou` is the sum of intersections over the sum of unions, to which a right
        empty prediction adds nothing. `n_acc` is the share of no-target sentences predicted empty, `t_acc` that of the
        others predicted non-empty, `gres_precision_at` looks at the others alone; None where there are none.

        Args:
            min_predicted_px: A prediction of fewer pixels counts as empty; 0 = no such rule.
        Raises:
            DataError: If the meter is empty, or a row does not say how large the prediction is.
        Source: Liu et al. 2023 (GRES) and the evaluator of henghuiding/ReLA (MIT).
        """
        ratios = self._no_target_ratios(min_predicted_px)
        num_no_target = sum(ratios["n_acc"][1])
        return {
            **_nested(self._values(ratios)),
            "num_no_target": num_no_target,
            "num_target": len(self) - num_no_target,
            "empty_union_rule": f"IoU {EMPTY_UNION_IOU:g}, union 0",
            "small_prediction_rule": f"below {min_predicted_px} px = empty" if min_predicted_px else "none",
        }

    def no_target_intervals(
        self, min_predicted_px: int = 0, num_resamples: int = INTERVAL_RESAMPLES, seed: int = 0
    ) -> dict[str, Any]:
        """Return the 95 % interval {"low", "high"} of every figure of `no_target_summary`, images resampled."""
        return self._intervals(self._no_target_ratios(min_predicted_px), num_resamples, seed)

    def has_no_target(self) -> bool:
        """Whether some sentence is known to refer to nothing."""
        return any(row.predicted_px is not None and not row.target_px for row in self._rows.values())

    def _ratios(self) -> _Ratios:
        """Return every figure as the numerators and denominators of its sentences."""
        rows = self._all()
        ious = [iou_of(row.intersection_px, row.union_px, self._empty_union_iou) for row in rows]
        ones = [1] * len(rows)
        return {
            "overall_iou": ([row.intersection_px for row in rows], [row.union_px for row in rows]),
            "mean_iou": (ious, ones),
            **{f"precision_at.{t}": ([int(iou >= t) for iou in ious], ones) for t in PRECISION_THRESHOLDS},
        }

    def _no_target_ratios(self, min_predicted_px: int) -> _Ratios:
        rows = self._all()
        if any(row.predicted_px is None for row in rows):
            raise DataError("no-target figures need predicted_px in every row; evaluate this version again")
        rows = [_without_small_prediction(row, min_predicted_px) for row in rows]
        ious = [iou_of(row.intersection_px, row.union_px) for row in rows]
        empty, found = [int(not row.target_px) for row in rows], [int(row.target_px > 0) for row in rows]
        right = [int(bool(row.predicted_px) == bool(row.target_px)) for row in rows]
        return {
            "gres_giou": (ious, [1] * len(rows)),
            "gres_ciou": ([row.intersection_px for row in rows], [row.union_px for row in rows]),
            "n_acc": ([r * e for r, e in zip(right, empty, strict=True)], empty),
            "t_acc": ([r * f for r, f in zip(right, found, strict=True)], found),
            **{
                f"gres_precision_at.{t}": ([(iou >= t) * f for iou, f in zip(ious, found, strict=True)], found)
                for t in PRECISION_THRESHOLDS
            },
        }

    def _values(self, ratios: _Ratios) -> dict[str, float | None]:
        # fsum rounds once, so a figure does not depend on the order in which rows came.
        values: dict[str, float | None] = {
            name: math.fsum(above) / sum(below) if any(below) else None for name, (above, below) in ratios.items()
        }
        empty = {"overall_iou": self._empty_union_iou, "gres_ciou": EMPTY_UNION_IOU}
        return {name: empty.get(name) if value is None else value for name, value in values.items()}

    def _intervals(self, ratios: _Ratios, num_resamples: int, seed: int) -> dict[str, Any]:
        ids = [row.image_id for row in self._all()]
        found = ratio_intervals(list(ratios.values()), ids, num_resamples, seed)
        return _nested({name: {"low": low, "high": high} for name, (low, high) in zip(ratios, found, strict=True)})

    def _all(self) -> list[_Row]:
        """Return the rows by ascending `sent_id`."""
        if not self._rows:
            raise DataError("cannot sum up an IouMeter without rows; evaluate at least one sentence of the split")
        return [row for _, row in sorted(self._rows.items())]


def compare_figures(
    first: IouMeter, second: IouMeter, num_resamples: int = 10_000, seed: int = 0
) -> dict[str, BootstrapInterval]:
    """Return first minus second of each figure of `IouMeter.summary` but num, with its 95 % interval.

    Keys are flat, as "precision_at.0.5". All figures share the draws.

    Raises:
        DataError: If the meters are empty or hold different sentences.
    """
    rows = _paired_rows(first, second)
    sums, other_sums = first._ratios(), second._ratios()
    values, other_values = first._values(sums), second._values(other_sums)
    ids = [row["image_id"] for row in rows]
    ends = difference_intervals(list(sums.values()), list(other_sums.values()), ids, num_resamples, seed)
    found = {}
    for name, (low, high) in zip(sums, ends, strict=True):
        value, other = values[name], other_values[name]
        assert value is not None and other is not None, "every figure of `summary` has a value for no pixels"
        found[name] = BootstrapInterval(value - other, low, high)
    return found


def _paired_rows(first: IouMeter, second: IouMeter) -> list[dict[str, Any]]:
    """Return the rows of the first of two meters, which must hold the same sentences."""
    rows, others = first.rows(), second.rows()
    ids, other_ids = ({row["sent_id"] for row in found} for found in (rows, others))
    if ids != other_ids:
        raise DataError(
            f"a paired comparison needs the same sentences in both meters, got {len(ids)} and {len(other_ids)}, of "
            f"which {len(ids ^ other_ids)} in one only (first ids: {sorted(ids ^ other_ids)[:5]}); evaluate both on "
            "one split"
        )
    return rows


def _without_small_prediction(row: _Row, min_predicted_px: int) -> _Row:
    if (row.predicted_px or 0) >= min_predicted_px:
        return row
    return row._replace(intersection_px=0, union_px=row.target_px, predicted_px=0)


def _nested(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"precision_at.0.5": x} as {"precision_at": {0.5: x}}."""
    nested: dict[str, Any] = {}
    for name, value in figures.items():
        head, _, threshold = name.partition(".")
        if threshold:
            nested.setdefault(head, {})[float(threshold)] = value
        else:
            nested[head] = value
    return nested
