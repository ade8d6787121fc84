"""Ceilings made with hidden truth: what a selector could gain at most, and what no selection can.

    sample            the teacher's whole guided label, where its IoU with the truth is above 0.5
    best_candidate    the candidate label of the highest IoU, where that is above 0.5
    true_masks        the true mask of every unlabeled item

They are no selectors of the package, and no job can ask for them: they take the place of the selector's decision on
the unlabeled set inside an engine of their own. Their labels say that they saw the truth (`PseudoLabel.sees_truth`),
and exports refuse them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from l2l_ray.config import RunConfig
from l2l_ray.data.masks import mask_to_grid
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.inference.inputs import ExampleSet, Inputs
from l2l_ray.loop.state.candidates import open_dataset
from l2l_ray.selector.base import Decision, make_selection
from l2l_ray.selector.candidates import candidates_of
from l2l_ray.selector.reward import truth_ious
from l2l_ray.types import Candidate, Evidence, PseudoLabel, Selection

RIGHT_IOU = 0.5


class HiddenTruth:
    """Truth of unlabeled items, on the grid; exists in benchmarks only."""

    def __init__(self, config: RunConfig) -> None:
        dataset = open_dataset(config)
        found, _ = dataset.labeled_examples("train", max_words=config.data.max_words)
        self._masks = {example.sent_id: example.mask_rle for example in found}

    def masks(self, sent_ids: list[int], grid: int) -> Bool[Tensor, "B G G"]:
        """Return the truth; a cell is of the object where it covers more than half of it."""
        return self.covered(sent_ids, grid) > 0.5

    def covered(self, sent_ids: list[int], grid: int) -> Float[Tensor, "B G G"]:
        """Return which share of each cell the objects cover, in [0, 1]."""
        return torch.from_numpy(np.stack([mask_to_grid(self._masks[sent_id], grid) for sent_id in sent_ids]))


class OracleEngine(InferenceEngine):
    """Labels the unlabeled set by hidden truth; evaluates as any engine does."""

    needs_full_evidence = False

    def __init__(self, config: RunConfig, run_path: Path) -> None:
        super().__init__(config, run_path)
        self._truth = HiddenTruth(config)

    def decide(self, evidence: Evidence, truth: Bool[Tensor, "B G G"]) -> Selection:
        """Label a batch whose truth is known."""
        raise NotImplementedError

    def pseudo_labels(self, method: str, round_index: int, version: int, part: list[int]) -> Iterator[PseudoLabel]:
        """Yield the labels, each marked as made with hidden truth."""
        for label in super().pseudo_labels(method, round_index, version, part):
            yield replace(label, sees_truth=True)

    def _select(
        self, method: str, version: int, examples: ExampleSet, part: list[int], inputs: Inputs, round_index: int
    ) -> tuple[Evidence, Selection]:
        if examples is not self._sets["unlabeled"]:
            return super()._select(method, version, examples, part, inputs, round_index)
        evidence = self._evidence(method, version, examples, part, inputs, self.needs_full_evidence)
        truth = self._truth.masks([examples[i].sent_id for i in part], examples.grid)
        return evidence, self.decide(evidence, truth.to(evidence.mask_probs.device))


class SampleOracle(OracleEngine):
    """Uses exactly the right ones of the teacher's labels, whole."""

    def decide(self, evidence: Evidence, truth: Bool[Tensor, "B G G"]) -> Selection:
        """Take the guided label where it is right."""
        found = truth_ious(candidates_of(evidence).masks, truth)[:, Candidate.GUIDED]
        return make_selection(evidence, Decision((found > RIGHT_IOU).float()))


class BestCandidateOracle(OracleEngine):
    """Uses the best label that is on offer, where that is right: as far as choosing among candidates can go."""

    needs_full_evidence = True

    def decide(self, evidence: Evidence, truth: Bool[Tensor, "B G G"]) -> Selection:
        """Take the candidate of the highest IoU where it is right."""
        best = truth_ious(candidates_of(evidence).masks, truth).max(1)
        return make_selection(evidence, Decision((best.values > RIGHT_IOU).float(), source=best.indices))


class TrueMasks(OracleEngine):
    """Labels everything with the truth: what the student can become under this schedule."""

    def decide(self, evidence: Evidence, truth: Bool[Tensor, "B G G"]) -> Selection:
        """Take the truth."""
        ones = torch.ones(len(truth), device=truth.device)
        source = torch.full_like(ones, Candidate.GUIDED, dtype=torch.int8)
        weight = torch.ones_like(truth, dtype=torch.float32)
        return Selection(source, truth, weight, ones, ones, torch.zeros_like(ones))


ORACLES: dict[str, type[OracleEngine]] = {
    "sample": SampleOracle,
    "best_candidate": BestCandidateOracle,
    "true_masks": TrueMasks,
}
