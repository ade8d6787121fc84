"""How right the committed pseudo-labels are, against masks that training never saw. Evaluation only.

This file, and nothing else in the package, looks up masks of unlabeled items; it runs after training has ended and its
figures go to the report alone. Where those masks are not on disk the figures are absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from l2l_ray.config import RunConfig
from l2l_ray.data.masks import mask_to_grid
from l2l_ray.loop.inference.ordering import RIGHT_IOU
from l2l_ray.loop.inference.quality import Quality, decision_of, mask_iou, measure_quality
from l2l_ray.loop.state.candidates import open_dataset
from l2l_ray.loop.state.example_files import read_examples
from l2l_ray.loop.state.ledger import Ledger, read_shard
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.types import Action, LabeledExample, PseudoLabel, Selection

if TYPE_CHECKING:
    from jaxtyping import Bool, UInt8
    from torch import Tensor


@dataclass
class WrongLabels:
    """The labels of one round that are used and wrong: what is looked for again among those of the next.

    Masks are kept as bits. Example: `after.compare(before)["again_frac"]`
    """

    grid: int = 0
    bits: dict[int, UInt8[np.ndarray, " K"]] = field(default_factory=dict)  # sent_id -> mask

    def add(self, labels: Sequence[PseudoLabel], truth: Bool[Tensor, "B G G"]) -> None:
        """Take in labels with their truth; no label twice."""
        decision = decision_of(selection_of(labels))
        wrong = decision.used & (mask_iou(decision.target, truth) < RIGHT_IOU)
        for row in wrong.nonzero()[:, 0].tolist():
            self.grid, self.bits[labels[row].sent_id] = labels[row].grid, np.packbits(labels[row].target)

    def compare(self, before: WrongLabels) -> dict[str, float | None]:
        """Return how many of an earlier round's are here again.

        Returns:
            `num` of the earlier round; `again_frac` of them are used and wrong again; `same_mask_frac` of them, and
            with a mask that is the earlier one to an IoU of at least `RIGHT_IOU`.
        """
        again = [sent_id for sent_id in before.bits if sent_id in self.bits]
        same = sum(bool(mask_iou(before.mask(sent_id), self.mask(sent_id)) >= RIGHT_IOU) for sent_id in again)
        num = len(before.bits)
        return {
            "num": num,
            "again_frac": len(again) / num if num else None,
            "same_mask_frac": same / num if num else None,
        }

    def mask(self, sent_id: int) -> Bool[Tensor, "1 G G"]:
        """Return the mask of one of them."""
        cells = np.unpackbits(self.bits[sent_id], count=self.grid**2).astype(bool)
        return torch.from_numpy(cells.reshape(1, self.grid, self.grid))


def pseudo_label_quality(config: RunConfig, run: RunFolder) -> dict[str, list[dict[str, Any]]] | None:
    """Return, per method, the figures of each round's pseudo-labels; None where no truth is on disk.

    They are made from the run's folder and its data set alone, so they can be made again at any time.

    Returns:
        `Quality.summary` of each round; from the second round on with `wrong_before`: see `WrongLabels.compare`.
    """
    unlabeled = read_examples(run.examples_path("unlabeled"))
    dataset = open_dataset(config)
    image_ids = list(dict.fromkeys(example.image_id for example in unlabeled))
    found, _ = dataset.labeled_examples(image_ids, config.loop.expressions_per_ref, max_words=config.data.max_words)
    wanted = {example.sent_id for example in unlabeled}  # labeled items may lie on the same images
    truth = {example.sent_id: example for example in found if example.sent_id in wanted}
    if not truth:
        return None
    return {method: _rounds(config, run, method, truth) for method in run.methods}


def _rounds(config: RunConfig, run: RunFolder, method: str, truth: dict[int, LabeledExample]) -> list[dict[str, Any]]:
    ledger = Ledger(run.ledger_path)
    figures: list[dict[str, Any]] = []
    before: WrongLabels | None = None
    for round_index in range(config.loop.rounds):
        if entries := ledger.entries(method, round_index):
            quality, wrong = _round((read_shard(run.path / entry.path) for entry in entries), truth)
            figures.append(quality.summary() | ({"wrong_before": wrong.compare(before)} if before else {}))
            before = wrong
    return figures


def _round(shards: Iterable[Sequence[PseudoLabel]], truth: dict[int, LabeledExample]) -> tuple[Quality, WrongLabels]:
    quality, wrong = Quality.empty(), WrongLabels()
    for labels in shards:
        if part := [label for label in labels if label.sent_id in truth]:
            found = np.stack([mask_to_grid(truth[label.sent_id].mask_rle, label.grid) for label in part])
            masks = torch.from_numpy(found)
            quality += measure_quality(selection_of(part), masks, {})
            wrong.add(part, masks > 0.5)
    return quality, wrong


def selection_of(labels: Sequence[PseudoLabel]) -> Selection:
    """Return stored pseudo-labels as the selection they came from (weights: 1 where accepted)."""
    action = np.stack([Action.TEACHER * label.from_teacher + Action.PRIOR * label.from_prior for label in labels])
    return Selection(
        action=torch.from_numpy(action.astype(np.int8)),
        target=torch.from_numpy(np.stack([label.target for label in labels])),
        pixel_weight=torch.from_numpy((action > 0).astype(np.float32)),
        gate=torch.tensor([label.gate for label in labels]),
        confidence=torch.tensor([label.confidence for label in labels]),
        mean_log_prob=torch.tensor([label.mean_log_prob for label in labels]),
    )
