"""A selector in training: what it learns from, batch by batch, and how its state is kept and sent.

It learns from *cross-fitted* labeled images, each seen through the fold teacher that was not trained on it: a teacher
is too sure of its own training images, and a reward measured there would teach the selector to believe everything.
Their evidence is fixed at burn-in time. A fixed subset of the unlabeled images, seen through the current teacher, feeds
the reward terms that need no truth. Nothing of val is here. The same two say what the scores of a version's labels
mean (`calibration.py`).

Source: ours.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from l2l_ray.calibration import Calibration, Checked, Curve, calibrate
from l2l_ray.confidence import estimated_iou
from l2l_ray.config import RunConfig, SelectorConfig
from l2l_ray.data.images import batch_indices
from l2l_ray.loop.inference.batches import Batches
from l2l_ray.loop.inference.inputs import ExampleSet
from l2l_ray.loop.inference.networks import load_segmenter
from l2l_ray.loop.inference.teacher import gather_evidence
from l2l_ray.loop.state.checkpoint import load_weights, save_weights
from l2l_ray.randomness import sample_key, seed_torch, torch_generator
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.selector.base import LabeledEvidence, Selector, UpdateBatch, make_selector
from l2l_ray.selector.reward import truth_ious
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
        self.calibration: Calibration | None = None  # of the version that was made last, on rank 0

    def batches(
        self,
        cross_fitted: CrossFitted,
        unlabeled: StoredEvidence | None,
        version: int,
        num: int,
        seed: int,
    ) -> Iterator[UpdateBatch]:
        """Yield the batches of the updates that make one version.

        Args:
            cross_fitted: Evidence and truth of the labeled images.
            unlabeled: Evidence of the unlabeled subset; None = there is none.
            version: The version that is made: 0 by the warm-up, r + 1 by round r.
            num: How many.
            seed: The run's seed.
        """
        size = self._section.update_batch
        for number in range(num):
            yield UpdateBatch(
                labeled=cross_fitted.batch(size, seed, version, number),
                unlabeled=None if unlabeled is None else unlabeled.batch(size, seed, version, number),
                generator=torch_generator(seed * 1_000_003 + version * 10_007 + number),
            )

    def send(self) -> dict[str, Any]:
        """Return the selector's state for other ranks."""
        return {name: tensor.cpu() for name, tensor in self.selector.state_dict().items()}

    def receive(self, state: dict[str, Any]) -> None:
        """Take over rank 0's state."""
        self.selector.load_state_dict(state)

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Write the weights to `folder` and the optimiser into `state`."""
        save_weights(self.selector, folder / "selector.safetensors")
        if self.calibration is not None:
            self.calibration.save(folder)
        state["selector_optimizer"] = self.optimizer.state_dict() if self.optimizer else {}

    def load(self, folder: Path, state: dict[str, Any]) -> None:
        """Read what `save` wrote."""
        load_weights(self.selector, folder / "selector.safetensors", self._device)
        self.calibration = Calibration.load(folder)
        if self.optimizer:
            self.optimizer.load_state_dict(state["selector_optimizer"])


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

    def places(self, size: int) -> list[range]:
        """Return the places of all samples, `size` at a time."""
        return [range(start, min(start + size, len(self))) for start in range(0, len(self), size)]

    def all(self, size: int) -> list[Evidence]:
        """Return everything, `size` samples at a time."""
        return [self.take(part) for part in self.places(size)]


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
        parts, rows = [], list[int]()
        share = max(1, MAX_CROSS_FITTED // len(folds))
        for fold, folder in zip(folds, teachers, strict=True):
            chosen = _subset(labeled, list(fold), share, config.loop.seed)
            teacher = load_segmenter(config.segmenter, folder / "teacher.safetensors", device)
            parts += _evidence(config, labeled, chosen, teacher, device)
            rows += chosen
        self._evidence = StoredEvidence(parts, device)
        self._masks = labeled.masks(rows)
        self.image_ids = tuple(int(labeled.integers("image_id")[row]) for row in rows)
        self._chunk = config.loop.eval_batch
        self._device = device

    def batch(self, size: int, seed: int, version: int, number: int) -> LabeledEvidence:
        """Return the samples of one update, keyed by (seed, version that is made, number)."""
        total = len(self._masks)
        drawn = batch_indices(total, min(size, total), seed, f"reward{version - 1}", number)
        return self._take(drawn)

    def parts(self) -> list[LabeledEvidence]:
        """Return everything, in parts."""
        return [self._take(rows) for rows in self._evidence.places(self._chunk)]

    def _take(self, rows: Sequence[int]) -> LabeledEvidence:
        return LabeledEvidence(self._evidence.take(rows), self._masks[list(rows)].to(self._device))


@torch.no_grad()
def calibration_of(selector: Selector, cross_fitted: CrossFitted, unlabeled: Sequence[Evidence]) -> Calibration:
    """Return what the scores of a version mean, by its selector's labels of the labeled images.

    Args:
        selector: The version's, settled.
        cross_fitted: Evidence and truth of the labeled images.
        unlabeled: Those of the unlabeled subset by the version's teacher, in parts; empty where there is none.
    """
    known = [(_guesses(selector, part.evidence), part.mask > 0.5) for part in cross_fitted.parts()]
    others = [_guesses(selector, part) for part in unlabeled]
    curves, checked = dict[str, Curve](), dict[str, Checked]()
    for kind in ("labels", "predictions"):
        found = [(g[kind][1], truth_ious(g[kind][0][:, None], truth)[:, 0]) for g, truth in known]
        scores, ious = (tuple(torch.cat(column).tolist()) for column in zip(*found, strict=True))
        checked[kind] = Checked(cross_fitted.image_ids, scores, ious)
        curves[kind] = calibrate(checked[kind], [score for g in others for score in g[kind][1].tolist()])
    labels = checked["labels"]
    calibrated = calibrate(labels, [])(labels.estimates)  # by their own scores: those of unlabeled images are others
    return Calibration(**curves, checked=replace(labels, estimates=tuple(calibrated.tolist())))


def _guesses(selector: Selector, evidence: Evidence) -> dict[str, tuple[Bool[Tensor, "B G G"], Float[Tensor, " B"]]]:
    """Return the masks and scores of a selector's labels, and of the teacher's predictions."""
    selection = selector.select(evidence, [0] * len(evidence.mask_probs))
    guided = evidence.mask_probs > 0.5
    return {
        "labels": (selection.target, selector.label_scores(selection)),
        "predictions": (guided, estimated_iou(guided, evidence.mask_probs)),
    }


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


def _subset(examples: ExampleSet, rows: Sequence[int], size: int, seed: int) -> list[int]:
    """Return up to `size` rows, image by image as drawn, in their order: rivals are mostly among them."""
    image_ids, sent_ids = examples.integers("image_id"), examples.integers("sent_id")

    def place(row: int) -> tuple[int, int]:
        return sample_key(seed, "reward-subset", int(image_ids[row])), int(sent_ids[row])

    return sorted(heapq.nsmallest(size, rows, key=place))


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.cpu()
    return tensor.half() if tensor.ndim == 3 else tensor


def _fp32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
