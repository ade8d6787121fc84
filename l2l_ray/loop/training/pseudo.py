"""The accepted pixels of one round, as training samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from l2l_ray.loop.inference.inputs import ExampleSet
from l2l_ray.loop.state.ledger import is_used, read_shard
from l2l_ray.loop.training.step import TrainBatch
from l2l_ray.types import PseudoLabel

if TYPE_CHECKING:
    from jaxtyping import UInt8

_TARGET_BIT = 128  # weight in the low 7 bits, target in the high one: one byte per cell


class PseudoSet:
    """Samples whose gate is on and that have an accepted object cell, for every selector alike.

    A label of background alone says that the expression refers to nothing, which is never true in these data sets.

    Args:
        unlabeled: The unlabeled set the labels belong to; None for the empty set.
        rows: Place in the unlabeled set, per sample.
        cells: Target and weight packed into one byte per cell.
        num_labeled: How many pseudo-labels there were before leaving out.
    """

    num_views = 1  # strong views of a sample that a step learns from

    def __init__(
        self, unlabeled: ExampleSet | None, rows: list[int], cells: UInt8[np.ndarray, "N G G"], num_labeled: int
    ) -> None:
        self._unlabeled = unlabeled
        self._rows = rows
        self._cells = cells
        self.num_labeled = num_labeled

    @classmethod
    def empty(cls) -> PseudoSet:
        """Return a set without samples."""
        return cls(None, [], np.zeros((0, 1, 1), np.uint8), 0)

    @classmethod
    def read(cls, files: Sequence[Path], unlabeled: ExampleSet) -> PseudoSet:
        """Read a round's committed shards."""
        sent_ids: list[int] = []
        cells, num_labeled = [np.zeros((0, unlabeled.grid, unlabeled.grid), np.uint8)], 0
        for file in files:  # packed file by file: a decoded label is three times as large
            labels = read_shard(file)
            used = [label for label in labels if is_used(label)]
            sent_ids += [label.sent_id for label in used]
            cells += [_pack(label)[None] for label in used]
            num_labeled += len(labels)
        return cls(unlabeled, unlabeled.rows_of(sent_ids), np.concatenate(cells), num_labeled)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Sequence[int]) -> TrainBatch:
        """Load samples by position in this set."""
        assert self._unlabeled is not None, "an empty set has no batches"
        cells = torch.from_numpy(self._cells[list(indices)])
        target = (cells >= _TARGET_BIT).float()
        weight = (cells % _TARGET_BIT).float() / (_TARGET_BIT - 1)
        return TrainBatch(self._unlabeled.inputs([self._rows[i] for i in indices]), target, weight)

    def prefetch(self, indices: Sequence[int]) -> None:
        """Start decoding the images of a later batch in the background."""
        assert self._unlabeled is not None, "an empty set has no batches"
        self._unlabeled.prefetch([self._rows[i] for i in indices])

    def summary(self) -> dict[str, float]:
        """Return the figures of the round's labels: samples, share used, accepted share, foreground among accepted."""
        if not self.num_labeled:
            return {}
        accepted = (self._cells % _TARGET_BIT) > 0
        foreground = accepted & (self._cells >= _TARGET_BIT)
        return {
            "labels/num": float(self.num_labeled),
            "labels/used_frac": len(self) / self.num_labeled,
            "labels/accepted_frac": float(accepted.mean()) * len(self) / self.num_labeled if len(self) else 0.0,
            "labels/foreground_frac": float(foreground.sum() / max(1, accepted.sum())),
        }


def _pack(label: PseudoLabel) -> UInt8[np.ndarray, "G G"]:
    weight = np.full(label.accepted.shape, 255, np.uint8) if label.weight is None else label.weight
    low = np.round(weight.astype(np.float32) * (_TARGET_BIT - 1) / 255).astype(np.uint8)
    return np.where(label.accepted, low, 0).astype(np.uint8) + _TARGET_BIT * label.target.astype(np.uint8)
