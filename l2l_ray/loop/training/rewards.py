"""What the selector is rewarded on: labeled images through teachers that never saw them, and a fixed unlabeled subset.

Nothing of val is here. The unlabeled subset has no truth; it feeds the reward terms that need none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from l2l_ray.config import RunConfig
from l2l_ray.data.images import batch_indices
from l2l_ray.loop.inference.inputs import ExampleSet
from l2l_ray.loop.inference.networks import load_segmenter, run_segmenter
from l2l_ray.loop.inference.teacher import gather_evidence
from l2l_ray.randomness import sample_key
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.selector.objective import LabeledEvidence
from l2l_ray.types import Evidence

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

MAX_CROSS_FITTED = 1024  # views kept in memory: 0.1 MB each at the tiny size, 8 MB at 480 px
GRADIENT_SAMPLES = 64  # labeled samples behind the utility reward's gradient


class StoredEvidence:
    """Views of many samples, kept on the CPU; features in half precision."""

    def __init__(self, parts: Sequence[Evidence], device: torch.device) -> None:
        self._device = device
        self._tensors = {f.name: torch.cat([_stored(getattr(p, f.name)) for p in parts]) for f in fields(Evidence)}

    def __len__(self) -> int:
        return len(self._tensors["prior_score"])

    def take(self, indices: Sequence[int]) -> Evidence:
        """Return some samples on the device, fp32."""
        rows = torch.tensor(list(indices))
        return Evidence(**{name: _fp32(t[rows]).to(self._device) for name, t in self._tensors.items()})

    def batch(self, size: int, seed: int, round_index: int, number: int) -> Evidence:
        """Return the samples of one update, keyed by (seed, round, number)."""
        return self.take(batch_indices(len(self), min(size, len(self)), seed, f"unlabeled-reward{round_index}", number))


class CrossFitted:
    """Views of the labeled set, each sample by the fold teacher that was not trained on its image.

    Args:
        config: The run's config.
        labeled: The labeled table.
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
        parts, rows = [], []
        share = max(1, MAX_CROSS_FITTED // len(folds))
        for fold, folder in zip(folds, teachers, strict=True):
            chosen = _subset(labeled, list(fold), share, config.loop.seed)
            teacher = load_segmenter(config.segmenter, folder / "teacher.safetensors", device)
            previous = load_segmenter(config.segmenter, folder / "previous.safetensors", device)
            parts += _evidence(config, labeled, chosen, teacher, previous, device)
            rows += chosen
        self._evidence = StoredEvidence(parts, device)
        self._masks = labeled.masks(rows)
        self._device = device

    def batch(self, size: int, seed: int, round_index: int, number: int) -> LabeledEvidence:
        """Return the reward images of one update, keyed by (seed, round, number)."""
        total = len(self._masks)
        drawn = batch_indices(total, min(size, total), seed, f"reward{round_index}", number)
        return LabeledEvidence(self._evidence.take(drawn), self._masks[drawn].to(self._device))


def unlabeled_evidence(
    config: RunConfig, table: ExampleSet, teacher: Segmenter, previous: Path, device: torch.device
) -> StoredEvidence | None:
    """Return the views of the fixed unlabeled subset by the current teacher; None when the subset is empty."""
    rows = _subset(table, list(range(len(table))), config.selector.max_unlabeled, config.loop.seed)
    if not rows:
        return None
    before = load_segmenter(config.segmenter, previous, device)
    return StoredEvidence(_evidence(config, table, rows, teacher, before, device), device)


@torch.inference_mode()
def labeled_gradient(
    config: RunConfig, labeled: ExampleSet, teacher: Segmenter, device: torch.device
) -> Float[Tensor, " F+1"]:
    """Return the mean cross-entropy gradient of the teacher's last layer [w, b] on labeled samples, without backward.

    With logit w.f + b + base and cross-entropy, the gradient of one cell is (p - y) [f, 1].
    """
    rows = _subset(labeled, list(range(len(labeled))), GRADIENT_SAMPLES, config.loop.seed)
    inputs = labeled.inputs(rows).to(device)
    output = run_segmenter(teacher, inputs, config.loop.autocast)
    error = output.mask_logits.float().sigmoid() - labeled.masks(rows).to(device)
    weights = torch.einsum("bfyx,byx->f", output.features.float(), error)
    gradient: Tensor = torch.cat([weights, error.sum()[None]]) / error.numel()
    return gradient


def _evidence(
    config: RunConfig,
    table: ExampleSet,
    rows: Sequence[int],
    teacher: Segmenter,
    previous: Segmenter,
    device: torch.device,
) -> list[Evidence]:
    size = config.loop.eval_batch
    parts = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        inputs = table.inputs(part).to(device)
        perturbed = table.inputs(part, perturb_seed=config.loop.seed).to(device)
        parts.append(gather_evidence(teacher, previous, inputs, perturbed, config.loop.autocast))
    return parts


def _subset(table: ExampleSet, rows: list[int], size: int, seed: int) -> list[int]:
    """Return up to `size` rows, chosen by sent_id, in table order."""
    by_key = sorted(rows, key=lambda row: sample_key(seed, "reward-subset", table.examples[row].sent_id))
    return sorted(by_key[:size])


def _stored(tensor: Tensor) -> Tensor:
    tensor = tensor.cpu()
    return tensor.half() if tensor.ndim == 4 else tensor


def _fp32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
