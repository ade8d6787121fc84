"""What all selectors share: their interface, and how a decision becomes a `Selection`.

A selector is a torch module, also where it has no parameters, so that checkpoints and versions look alike for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from l2l_ray.confidence import estimated_iou
from l2l_ray.config import SelectorConfig
from l2l_ray.errors import DataError
from l2l_ray.selector.registry import spec_of
from l2l_ray.selector.state import label_candidates
from l2l_ray.types import Action, Evidence, Selection

GRAD_CLIP = 1.0  # norm of all gradients together; ours
Ranking = tuple[Float[Tensor, "B G G"], Bool[Tensor, "B G G"]]


@dataclass(frozen=True)
class LabeledEvidence:
    """Cross-fitted labeled images: evidence by a teacher that was not trained on them, and their truth.

    `mask` is grid coverage in [0, 1]; a cell covered by more than half is foreground.
    """

    evidence: Evidence
    mask: Float[Tensor, "B G G"]


@dataclass(frozen=True)
class UpdateBatch:
    """What one update of a selector learns from.

    Example: `next(learner.batches(cross_fitted, None, gradient, version=0, num=60, seed=0))`
    """

    labeled: LabeledEvidence
    unlabeled: Evidence | None  # of images without truth
    gradient: (
        Float[Tensor, " D"] | None
    )  # of the labeled loss, for the segmenter's last layer [weight, bias], bias last
    generator: torch.Generator  # all randomness of the update: the same seed on every worker gives the same update


class Selector(nn.Module, ABC):
    """Decides, per grid cell and per sample, which pseudo-labels are trained on."""

    config: SelectorConfig
    needs_full_evidence = True  # False: reads the guided prediction and the proposal alone

    @abstractmethod
    def select(self, evidence: Evidence, keys: Sequence[int]) -> Selection:
        """Label a batch.

        Args:
            evidence: Evidence for B samples.
            keys: B integers, one per sample and the only source of randomness; a sample's outcome does not depend on
                the rest of the batch.

        Raises:
            DataError: The number of keys is not the batch size.
        """

    @abstractmethod
    def ranking(self, evidence: Evidence) -> Ranking:
        """Return (score in [0, 1], label) per cell: which cells it would accept first, whatever its threshold."""

    def update(
        self, optimizer: torch.optim.Optimizer, batch: UpdateBatch, reference: Selector | None = None
    ) -> dict[str, float]:
        """Learn from one batch, in place; for selectors that are registered with `learns=True`.

        Every learning selector gets the same batches in the same order and may leave parts of them unused.

        Args:
            optimizer: Over `self.parameters()`.
            batch: What to learn from.
            reference: Frozen copy of this selector as it was before the round's updates.

        Returns:
            Metrics by name, of this batch.
        """
        raise NotImplementedError(f"{type(self).__name__} is registered with learns=True, but has no `update`")


def take_step(module: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one optimiser step down the loss, the gradient's norm cut at `GRAD_CLIP`."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), GRAD_CLIP)
    optimizer.step()


def make_selection(
    evidence: Evidence,
    action: Int[Tensor, "B G G"],
    weight: Float[Tensor, "B G G"],
    gate: Float[Tensor, " B"],
    mean_log_prob: Float[Tensor, " B"] | None = None,
) -> Selection:
    """Join a decision into a `Selection`.

    Targets follow from the actions (teacher's label where ignored), the confidence from target and guided prediction.
    """
    candidates = label_candidates(evidence)
    target = torch.where(action == Action.PRIOR, candidates.prior, candidates.teacher)
    mean_log_prob = torch.zeros_like(gate) if mean_log_prob is None else mean_log_prob
    confidence = estimated_iou(target, evidence.mask_probs)
    return Selection(action.to(torch.int8), target, weight, gate, confidence, mean_log_prob)


def check_keys(evidence: Evidence, keys: Sequence[int]) -> None:
    """Raise DataError unless there is one key per sample."""
    if len(keys) != len(evidence.mask_probs):
        raise DataError(
            f"a selector needs one key per sample, got {len(keys)} keys for {len(evidence.mask_probs)} samples; "
            "make them with l2l_ray.randomness.sample_key"
        )


def make_selector(section: SelectorConfig, feature_width: int) -> Selector:
    """Return the selector that `section.name` asks for.

    Args:
        section: The selector section.
        feature_width: Channels of `Evidence.features`; used by selectors that learn.
    """
    make = spec_of(section.name).make
    if isinstance(make, str):
        file, _, name = make.partition(":")
        make = getattr(import_module(f"l2l_ray.selector.{file}"), name)
    selector: Selector = make(section, feature_width)
    return selector
