"""A reference made with hidden truth: accept exactly the cells in which the teacher's label is right.

It sees hidden truth, so it is no selector of the package and no job can ask for it. It keeps what the teacher already
knows and adds nothing, so it is no ceiling either: a method that corrects labels can be ahead of it. Its labels say
that they were made with hidden truth (`PseudoLabel.sees_truth`), and exports refuse them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from l2l_ray.config import RunConfig
from l2l_ray.data.masks import mask_to_grid
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.state.candidates import open_dataset
from l2l_ray.types import PseudoLabel


class HiddenTruth:
    """Truth of unlabeled items, on the grid; exists in benchmarks only."""

    def __init__(self, config: RunConfig) -> None:
        dataset = open_dataset(config)
        found, _ = dataset.labeled_examples("train", max_words=config.data.max_words)
        self._masks = {example.sent_id: example.mask_rle for example in found}

    def mask(self, sent_id: int, grid: int) -> np.ndarray:
        """Return the truth as bool [grid, grid]."""
        truth: np.ndarray = mask_to_grid(self._masks[sent_id], grid) > 0.5
        return truth


class OracleEngine(InferenceEngine):
    """Accepts every cell that the teacher labels right, and no other."""

    def __init__(self, config: RunConfig, run_path: Path) -> None:
        super().__init__(config, run_path)
        self._truth = HiddenTruth(config)

    def pseudo_labels(self, method: str, round_index: int, version: int, part: list[int]) -> Iterator[PseudoLabel]:
        """Yield the teacher's labels, accepted where they are the truth."""
        for label in super().pseudo_labels(method, round_index, version, part):
            right = label.target == self._truth.mask(label.sent_id, label.grid)
            yield replace(label, accepted=right, sees_truth=True)
