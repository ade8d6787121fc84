"""How right the committed pseudo-labels are, against masks that training never saw. Evaluation only.

This file, and nothing else in the package, looks up masks of unlabeled items; it runs after training has ended and its
figures go to the report alone. Where those masks are not on disk the figures are absent.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from l2l_ray.config import RunConfig
from l2l_ray.data.masks import mask_to_grid
from l2l_ray.errors import DataError
from l2l_ray.loop.inference.quality import Quality, measure_quality, wrong_again
from l2l_ray.loop.state.candidates import open_dataset
from l2l_ray.loop.state.example_files import read_examples
from l2l_ray.loop.state.ledger import Ledger, read_shard
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.types import LabeledExample, PseudoLabel, Selection

logger = logging.getLogger(__name__)


def pseudo_label_quality(config: RunConfig, run: RunFolder) -> dict[str, list[dict[str, Any]]] | None:
    """Return, per method, the figures of each round's pseudo-labels; None where no truth is on disk.

    They are made from the run's folder and its data set alone, so they can be made again at any time. A run needs
    nothing else of the data set by then, so one that cannot be read any more is named and does not end the run.

    Returns:
        `Quality.summary` of each round; from the second round on with `wrong_before`: see `wrong_again`.
    """
    unlabeled = read_examples(run.examples_path("unlabeled"))
    image_ids = list(dict.fromkeys(example.image_id for example in unlabeled))
    per_ref, max_words = config.loop.expressions_per_ref, config.data.max_words
    try:
        found, _ = open_dataset(config).labeled_examples(image_ids, per_ref, max_words=max_words)
    except DataError as error:
        logger.warning("the pseudo-labels of %s are not compared with hidden truth: %s", run.path, error)
        return None
    wanted = {example.sent_id for example in unlabeled}  # labeled items may lie on the same images
    truth = {example.sent_id: example for example in found if example.sent_id in wanted}
    if not truth:
        return None
    return {method: _rounds(config, run, method, truth) for method in run.methods}


def _rounds(config: RunConfig, run: RunFolder, method: str, truth: dict[int, LabeledExample]) -> list[dict[str, Any]]:
    ledger = Ledger(run.ledger_path)
    figures: list[dict[str, Any]] = []
    before: Quality | None = None
    for round_index in range(config.loop.rounds):
        if entries := ledger.entries(method, round_index):
            quality = _round_quality((read_shard(run.path / entry.path) for entry in entries), truth)
            figures.append(quality.summary())
            if before is not None:
                figures[-1]["wrong_before"] = wrong_again(before.wrong, quality.wrong)
            before = quality
    return figures


def _round_quality(shards: Iterable[Sequence[PseudoLabel]], truth: dict[int, LabeledExample]) -> Quality:
    total = Quality.empty()
    for labels in shards:
        if part := [label for label in labels if label.sent_id in truth]:
            masks = np.stack([mask_to_grid(truth[label.sent_id].mask_rle, label.grid) for label in part])
            sent_ids = [label.sent_id for label in part]
            total += measure_quality(selection_of(part), torch.from_numpy(masks), sent_ids)
    return total


def selection_of(labels: Sequence[PseudoLabel]) -> Selection:
    """Return stored pseudo-labels as the selection they came from (weights: 1 where accepted)."""
    return Selection(
        source=torch.tensor([label.source for label in labels], dtype=torch.int8),
        target=torch.from_numpy(np.stack([label.target for label in labels])),
        pixel_weight=torch.from_numpy(np.stack([label.accepted for label in labels]).astype(np.float32)),
        gate=torch.tensor([label.gate for label in labels]),
        confidence=torch.tensor([label.confidence for label in labels]),
        mean_log_prob=torch.tensor([label.mean_log_prob for label in labels]),
    )
