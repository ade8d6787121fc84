"""A reference that sees hidden truth: it accepts exactly the cells that the teacher labels right.

It is no selector of the package and no job can ask for it. It is no ceiling: a student may learn more from other cells,
and what it drops says where the teacher errs. Every shard it writes carries version -1000 as its stamp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from l2l_ray.data.masks import mask_to_grid
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.state.prepare import open_dataset
from l2l_ray.types import PseudoLabel

STAMP = -1000


class HiddenTruth:
    """Truth of unlabeled items, on the grid; exists in benchmarks only."""

    def __init__(self, labeler: OracleEngine) -> None:
        config = labeler.config
        dataset = open_dataset(config)
        found, _ = dataset.labeled_examples("train", max_words=config.data.max_words)
        self._masks = {example.sent_id: example.mask_rle for example in found}

    def mask(self, sent_id: int, grid: int):  # type: ignore[no-untyped-def]
        """Return the truth as bool [grid, grid]."""
        return mask_to_grid(self._masks[sent_id], grid) > 0.5


class OracleEngine(InferenceEngine):
    """Accepts every cell that the teacher labels right, and no other."""

    _truth: HiddenTruth | None = None

    def _label(self, method: str, round_index: int, version: int, part: list[int]) -> Iterator[PseudoLabel]:
        self._truth = self._truth or HiddenTruth(self)
        for label in super()._label(method, round_index, version, part):
            right = label.target == self._truth.mask(label.sent_id, label.grid)
            yield replace(label, from_teacher=right, from_prior=right & False, version=STAMP)
