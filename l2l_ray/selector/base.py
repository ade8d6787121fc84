"""What all selectors share: their interface, and how a decision becomes a `Selection`.

A selector is a torch module, also where it has no parameters, so that checkpoints and versions look alike for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2l_ray.confidence import estimated_iou
from l2l_ray.config import SelectorConfig
from l2l_ray.device import clip_gradient
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.selector.candidates import candidates_of
from l2l_ray.selector.registry import spec_of
from l2l_ray.types import Candidate, Evidence, Selection

GRAD_CLIP = 1.0  # norm of all gradients together; ours


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

    Example: `next(learner.batches(cross_fitted, None, version=0, num=60, seed=0))`
    """

    labeled: LabeledEvidence
    unlabeled: Evidence | None  # of images without truth
    generator: torch.Generator  # all randomness of the update: the same seed on every worker gives the same update


@dataclass(frozen=True)
class Decision:
    """What a selector decides for B samples.

    Example: `Decision(gate=sure.float())` takes the whole guided label where `sure` is True.
    """

    gate: Float[Tensor, " B"]  # probability (or 0/1) that the sample is used; it is from 0.5 on
    weight: Float[Tensor, "B G G"] | None = None  # of each cell of the label, in [0, 1]; None = 1 everywhere
    source: Int[Tensor, " B"] | None = None  # the `Candidate` that is taken; None = the guided one
    mean_log_prob: Float[Tensor, " B"] | None = None  # None = 0, for deterministic rules


class Selector(nn.Module, ABC):
    """Decides, per sample and per grid cell, which pseudo-labels are trained on."""

    config: SelectorConfig
    needs_full_evidence = True  # False: reads the guided prediction and the proposal alone
    gate_is_graded = False  # True: the surer a label, the higher its gate; False: a gate of 0 or 1, or none at all
    learns_by_batch = True  # False: `update` is never called, also where it is registered with learns=True

    @abstractmethod
    def decide(self, evidence: Evidence, keys: Sequence[int]) -> Decision:
        """Decide on a batch.

        Args:
            evidence: Evidence for B samples.
            keys: B integers, one per sample and the only source of randomness; a sample's outcome does not depend on
                the rest of the batch.
        """

    @torch.no_grad()
    def select(self, evidence: Evidence, keys: Sequence[int]) -> Selection:
        """Label a batch: what `decide` says, as labels; arguments as there.

        Raises:
            DataError: The number of keys is not the batch size.
        """
        if len(keys) != len(evidence.mask_probs):
            raise DataError(
                f"a selector needs one key per sample, got {len(keys)} keys for {len(evidence.mask_probs)} samples; "
                "make them with l2l_ray.randomness.sample_key"
            )
        return make_selection(evidence, self.decide(evidence, keys))

    def label_scores(self, selection: Selection) -> Float[Tensor, " B"]:
        """Return what this selector's labels are put in order by, in [0, 1], the surest highest.

        Args:
            selection: Of `select`, its confidence as it came from there.
        """
        return selection.gate if self.gate_is_graded else selection.confidence

    def update(self, optimizer: torch.optim.Optimizer | None, batch: UpdateBatch) -> dict[str, float]:
        """Learn from one batch, in place; for selectors registered with `learns=True` that learn batch by batch.

        Every learning selector gets the same batches in the same order and may leave parts of them unused.

        Args:
            optimizer: Over `self.parameters()`; None where there are none.
            batch: What to learn from.

        Returns:
            Metrics by name, of this batch.
        """
        raise NotImplementedError(f"{type(self).__name__} is registered with learns=True, but has no `update`")

    def settle(self, labeled: Sequence[LabeledEvidence], unlabeled: Sequence[Evidence]) -> dict[str, float]:
        """Set what is set once per version, after its updates, from all evidence there is; nothing by default.

        Args:
            labeled: All cross-fitted labeled images, in parts.
            unlabeled: The unlabeled subset, in parts; empty where there is none.

        Returns:
            Metrics by name: `open_rate_labeled`, the share of the labeled images whose label would be used.
        """
        used = [self.select(part.evidence, [0] * len(part.mask)).used for part in labeled]
        return {"open_rate_labeled": torch.cat(used).float().mean().item()}


def take_step(module: nn.Module, optimizer: torch.optim.Optimizer | None, loss: Tensor) -> None:
    """Take one optimiser step down the loss, the gradient's norm cut at `GRAD_CLIP`.

    Raises:
        ConfigError: The gradient is no number any more; nothing has been changed by it.
    """
    assert optimizer is not None, f"{type(module).__name__} has parameters, so it has an optimiser"
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    clip_gradient(module, GRAD_CLIP, "selector.lr", optimizer.param_groups[0]["lr"])
    optimizer.step()


def make_selection(evidence: Evidence, decision: Decision) -> Selection:
    """Turn a decision into labels; the confidence follows from the label and the guided prediction.

    Raises:
        ConfigError: A gate or weight is no number in [0, 1].
    """
    for name, values in (("gate", decision.gate), ("weight", decision.weight)):
        if values is not None and not ((values >= 0) & (values <= 1)).all():  # also where one is no number
            worst = values[~((values >= 0) & (values <= 1))][0].item()
            raise ConfigError(f"selector.name: the selector gave a {name} of {worst:g}, expected numbers in [0, 1]")
    gate = decision.gate.float()
    source = decision.source
    if source is None:
        source = torch.full_like(gate, Candidate.GUIDED, dtype=torch.int8)
    target = candidates_of(evidence).taken(source)
    weight = torch.ones_like(evidence.mask_probs, dtype=torch.float32) if decision.weight is None else decision.weight
    weight = weight * (gate >= 0.5)[:, None, None]
    mean_log_prob = torch.zeros_like(gate) if decision.mean_log_prob is None else decision.mean_log_prob
    confidence = estimated_iou(target, evidence.mask_probs)
    return Selection(source.to(torch.int8), target, weight, gate, confidence, mean_log_prob)


def make_selector(section: SelectorConfig) -> Selector:
    """Return the selector that `section.name` asks for."""
    make = spec_of(section.name).make
    if isinstance(make, str):
        file, _, name = make.partition(":")
        make = getattr(import_module(f"l2l_ray.selector.{file}"), name)
    selector: Selector = make(section)
    return selector
