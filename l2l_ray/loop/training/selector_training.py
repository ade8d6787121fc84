"""A selector in training: what it learns from, batch by batch, and how its state is kept and sent.

It learns from *cross-fitted* labeled images, each seen through the fold teacher that was not trained on it: a teacher
is too sure of its own training images, and a reward measured there would teach the selector to believe everything.
Their evidence is fixed at burn-in time. A fixed subset of the unlabeled images, seen through the current teacher, feeds
the reward terms that need no truth. Nothing of val is here. The same two say what the scores of a version's labels
mean (`calibrating.py`).

Source: ours.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Sequence
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from l2l_ray.calibration import Calibration
from l2l_ray.config import RunConfig, SelectorConfig
from l2l_ray.data.images import batch_indices
from l2l_ray.loop.inference.batches import Batches
from l2l_ray.loop.inference.inputs import ExampleSet
from l2l_ray.loop.inference.networks import load_segmenter
from l2l_ray.loop.inference.teacher import gather_evidence
from l2l_ray.loop.state.checkpoint import load_weights, save_weights
from l2l_ray.loop.state.version_record import TEACHER
from l2l_ray.randomness import sample_key, seed_torch, torch_generator
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.selector.base import LabeledEvidence, UpdateBatch, make_selector
from l2l_ray.selector.registry import spec_of
from l2l_ray.types import Evidence

MAX_CROSS_FITTED = 1024  # samples whose evidence is kept in memory: 12 kB each at 64 px, 0.2 MB at 480 px


class SelectorLearner:
    """A selector with its optimiser; a rule has no parameters and is only kept."""

    def __init__(self, section: SelectorConfig, device: torch.device) -> None:
        seed_torch(0)  # the policy's start is part of the method, not of the run's seed
        self._section = section
        self._device = device
        self.selector = make_selector(section).to(device)
        parameters = list(self.selector.parameters())
        self.optimizer = torch.optim.Adam(parameters, lr=section.lr) if parameters else None
        self.num_versions = 0  # it has learned for
        self.calibration: Calibration | None = None  # of the version that was made last, on rank 0
        self.judges: tuple[SelectorLearner, ...] = ()  # two, on rank 0, see `calibrating.py`

    def fresh(self) -> SelectorLearner:
        """Return a learner of the same section that has learned nothing."""
        return SelectorLearner(self._section, self._device)

    def learn(
        self, cross_fitted: CrossFitted, unlabeled: StoredEvidence | None, version: int, seed: int
    ) -> dict[str, float]:
        """Make the updates of one version, `num_updates` of them; return the mean of each metric over them.

        Args:
            cross_fitted: Evidence and truth of the labeled images.
            unlabeled: Evidence of the unlabeled subset; None = there is none.
            version: The version that is made: 0 by the warm-up, r + 1 by round r.
            seed: The run's seed.
        """
        metrics, num = dict[str, float](), self.num_updates(version)
        for batch in self.batches(cross_fitted, unlabeled, version, num, seed):
            for name, value in self.selector.update(self.optimizer, batch).items():
                metrics[name] = metrics.get(name, 0.0) + value / num
        self.num_versions = version + 1
        return metrics

    def batches(
        self, cross_fitted: CrossFitted, unlabeled: StoredEvidence | None, version: int, num: int, seed: int
    ) -> Iterator[UpdateBatch]:
        """Yield the batches of `num` updates that make one version; the other arguments as of `learn`."""
        size = self._section.update_batch
        for number in range(num):
            yield UpdateBatch(
                labeled=cross_fitted.batch(size, seed, version, number),
                unlabeled=None if unlabeled is None else unlabeled.batch(size, seed, version, number),
                generator=torch_generator(seed * 1_000_003 + version * 10_007 + number),
            )

    def num_updates(self, version: int) -> int:
        """Return how many updates a version takes, after that before it; a rule takes none."""
        if not spec_of(self._section.name).learns or not self.selector.learns_by_batch:
            return 0
        return self._section.round_updates if version else self._section.warmup_updates

    def send(self) -> dict[str, Any]:
        """Return the selector's state for other ranks."""
        return {name: tensor.cpu() for name, tensor in self.selector.state_dict().items()}

    def receive(self, state: dict[str, Any]) -> None:
        """Take over rank 0's state."""
        self.selector.load_state_dict(state)

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Write the weights to `folder`, and into `state` what else goes on from here."""
        save_weights(self.selector, folder / "selector.safetensors")
        if self.calibration is not None:
            self.calibration.save(folder)
        state["selector_optimizer"] = self._optimizer_state()
        state["judges"] = [
            {"selector": judge.send(), "optimizer": judge._optimizer_state(), "num_versions": judge.num_versions}
            for judge in self.judges
        ]

    def load(self, folder: Path, state: dict[str, Any]) -> None:
        """Read what `save` wrote."""
        load_weights(self.selector, folder / "selector.safetensors", self._device)
        self.calibration = Calibration.load(folder)
        if self.optimizer:
            self.optimizer.load_state_dict(state["selector_optimizer"])
        self.judges = tuple(self._judge(kept) for kept in state.get("judges", []))  # none: made by an older version

    def _judge(self, kept: dict[str, Any]) -> SelectorLearner:
        judge = self.fresh()
        judge.receive(kept["selector"])
        judge.num_versions = kept["num_versions"]
        if judge.optimizer:
            judge.optimizer.load_state_dict(kept["optimizer"])
        return judge

    def _optimizer_state(self) -> dict[str, Any]:
        return self.optimizer.state_dict() if self.optimizer else {}


class StoredEvidence:
    """Evidence of many samples, kept on the CPU in half precision."""

    def __init__(self, parts: Sequence[Evidence], device: torch.device) -> None:
        self._device = device
        self._tensors = {f.name: torch.cat([_stored(getattr(p, f.name)) for p in parts]) for f in fields(Evidence)}

    def __len__(self) -> int:
        return len(self._tensors["prior_score"])

    def take(self, indices: Sequence[int]) -> Evidence:
        """Return some samples on the device, fp32."""
        rows = torch.tensor(list(indices))
        return Evidence(**{name: _fp32(t[rows]).to(self._device) for name, t in self._tensors.items()})

    def batch(self, size: int, seed: int, version: int, number: int) -> Evidence:
        """Return the samples of one update, keyed by (seed, version that is made, number)."""
        stream = f"unlabeled-reward{version - 1}"  # named after the round before the version
        return self.take(batch_indices(len(self), min(size, len(self)), seed, stream, number))

    def all(self, size: int) -> list[Evidence]:
        """Return everything, `size` samples at a time."""
        return [self.take(range(start, min(start + size, len(self)))) for start in range(0, len(self), size)]


class CrossFitted:
    """Evidence of the labeled set, each sample by the fold teacher that was not trained on its image.

    Args:
        config: The run's config.
        labeled: The labeled examples.
        folds: Rows of each fold.
        teachers: Burn-in folder of each fold's teacher.
        device: Where the networks run.
    """

    def __init__(
        self,
        config: RunConfig,
        labeled: ExampleSet,
        folds: Sequence[Sequence[int]],
        teachers: Sequence[Path],
        device: torch.device,
    ) -> None:
        parts, rows, parts_of = [], list[int](), list[int]()
        share = max(1, MAX_CROSS_FITTED // len(folds))
        reviewed = {row for row, e in enumerate(labeled.examples) if getattr(e, "is_reviewed", False)}
        for fold, folder in zip(folds, teachers, strict=True):
            chosen = _subset(labeled, list(fold), share, config.loop.seed, reviewed)
            teacher = load_segmenter(config.segmenter, folder / TEACHER, device)
            parts += _evidence(config, labeled, chosen, teacher, device)
            rows += chosen
            parts_of.append(len(chosen))
        self._evidence = StoredEvidence(parts, device)
        self._masks = labeled.masks(rows)
        self._image_ids = labeled.integers("image_id")[rows]
        self._is_reviewed = np.isin(rows, list(reviewed))
        self._folds = np.repeat(np.arange(len(parts_of)), parts_of)
        self._rows = np.arange(len(rows))
        self._chunk = config.loop.eval_batch
        self._device = device

    @property
    def image_ids(self) -> list[int]:
        """The image of each sample."""
        return [int(image) for image in self._image_ids[self._rows]]

    def halves(self) -> tuple[CrossFitted, CrossFitted]:
        """Return the samples of every other fold, and the rest; no image is in both."""
        is_first = self._folds[self._rows] % 2 == 0
        return self._of(self._rows[is_first]), self._of(self._rows[~is_first])

    def for_judging(self) -> CrossFitted:
        """Return the samples that stand for unlabeled ones: without reviewed ones, where there are others."""
        rows = self._rows[~self._is_reviewed[self._rows]]
        return self._of(rows) if len(rows) else self

    def of_images(self, image_ids: Collection[int]) -> CrossFitted:
        """Return the samples of some images."""
        return self._of(self._rows[np.isin(self._image_ids[self._rows], list(image_ids))])

    def batch(self, size: int, seed: int, version: int, number: int) -> LabeledEvidence:
        """Return the samples of one update, keyed by (seed, version that is made, number)."""
        total = len(self._rows)
        drawn = batch_indices(total, min(size, total), seed, f"reward{version - 1}", number)
        return self._take(self._rows[drawn])

    def parts(self) -> list[LabeledEvidence]:
        """Return everything, in parts."""
        starts = range(0, len(self._rows), self._chunk)
        return [self._take(self._rows[start : start + self._chunk]) for start in starts]

    def _of(self, rows: Int64[np.ndarray, " N"]) -> CrossFitted:
        part = copy(self)
        part._rows = rows
        return part

    def _take(self, rows: Int64[np.ndarray, " N"]) -> LabeledEvidence:
        return LabeledEvidence(self._evidence.take(rows.tolist()), self._masks[rows.tolist()].to(self._device))


def unlabeled_evidence(
    config: RunConfig, examples: ExampleSet, teacher: Segmenter, device: torch.device
) -> StoredEvidence | None:
    """Return the evidence of the fixed unlabeled subset by the current teacher; None when the subset is empty."""
    rows = unlabeled_rows(config, examples)
    if not rows:
        return None
    return StoredEvidence(_evidence(config, examples, rows, teacher, device), device)


def unlabeled_rows(config: RunConfig, examples: ExampleSet) -> list[int]:
    """Return the rows of the fixed unlabeled subset."""
    return _subset(examples, range(len(examples)), config.selector.max_unlabeled, config.loop.seed)


def _evidence(
    config: RunConfig,
    examples: ExampleSet,
    rows: Sequence[int],
    teacher: Segmenter,
    device: torch.device,
) -> list[Evidence]:
    def seen(part: Sequence[int]) -> Evidence:
        inputs, rivals = examples.inputs(part).to(device), examples.rivals(part).to(device)
        return gather_evidence(teacher, inputs, rivals, config.loop.autocast)

    return list(Batches(config.loop.eval_batch).each(list(rows), seen))


def _subset(examples: ExampleSet, rows: Sequence[int], size: int, seed: int, last: Collection[int] = ()) -> list[int]:
    """Return up to `size` rows, image by image as drawn, in their order: rivals are mostly among them; `last` last."""
    image_ids, sent_ids = examples.integers("image_id"), examples.integers("sent_id")

    def place(row: int) -> tuple[bool, int, int]:
        return row in last, sample_key(seed, "reward-subset", int(image_ids[row])), int(sent_ids[row])

    return sorted(heapq.nsmallest(size, rows, key=place))


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.cpu()
    return tensor.half() if tensor.ndim == 3 else tensor


def _fp32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
