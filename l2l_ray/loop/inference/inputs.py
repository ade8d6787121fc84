"""From table rows to model inputs: images, words, proposals. Shared by labelling, training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from l2l_ray.data.images import ImageStore, LabeledSet
from l2l_ray.loop.state.example_files import read_examples, read_priors
from l2l_ray.prior.proposal import Proposer, perturb
from l2l_ray.randomness import sample_key
from l2l_ray.types import Example, LabeledExample, Prior

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """One batch, ready for the segmenter.

    Example: `table.inputs([0, 5, 9]).to(device)`
    """

    images: Float[Tensor, "B 3 S S"]
    expressions: list[str]
    phrases: list[str]
    proposal: Float[Tensor, "B G G"]
    prior_score: Float[Tensor, " B"]
    has_prior: Bool[Tensor, " B"]

    def __len__(self) -> int:
        return len(self.expressions)

    def to(self, device: torch.device) -> Inputs:
        """Move the tensors to `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("images", "proposal", "prior_score", "has_prior")}
        return replace(self, **moved)

    def without_prior(self, dropped: Bool[Tensor, " B"]) -> Inputs:
        """Hide the prior of the samples where `dropped` is True (prior dropout, the unguided view)."""
        keep = ~dropped
        return replace(
            self,
            phrases=[p if k else "" for p, k in zip(self.phrases, keep.tolist(), strict=True)],
            has_prior=self.has_prior & keep,
        )


def read_known_scores(labeled_priors: Path) -> list[float]:
    """Return the score of each labeled example's prior: what `ExampleSet` ranks other scores by."""
    return [prior.score for prior in read_priors(labeled_priors).values() if not prior.failure]


class ExampleSet:
    """Examples with their images and priors; truth only where the examples are labeled.

    Every MLLM has its own scale of scores (the embedded one stays within 0.45-0.63), so `prior_score` is a rank:
    the share of the labeled set's priors that are no surer. `known_scores` are those; they involve no truth.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        priors: dict[int, Prior],
        images: ImageStore,
        proposer: Proposer,
        grid: int,
        known_scores: Sequence[float],
    ) -> None:
        self._known_scores = torch.tensor(sorted(known_scores))
        self.examples = examples
        self.priors = priors
        self.grid = grid
        self._images = images
        self._proposer = proposer
        labeled = [example for example in examples if isinstance(example, LabeledExample)]
        self._truth = LabeledSet(labeled, grid) if labeled and len(labeled) == len(examples) else None

    @classmethod
    def read(
        cls, table: Path, priors: Path, labeled_priors: Path, images: ImageStore, proposer: Proposer, grid: int
    ) -> ExampleSet:
        """Read the Parquet files the driver wrote."""
        known = read_known_scores(labeled_priors)
        return cls(read_examples(table), read_priors(priors), images, proposer, grid, known)

    def __len__(self) -> int:
        return len(self.examples)

    def inputs(self, indices: Sequence[int], perturb_seed: int | None = None) -> Inputs:
        """Load a batch.

        Args:
            indices: Rows of the table.
            perturb_seed: Shift and rescale each prior box by a draw keyed by (seed, sent_id); None leaves it alone.
        Raises:
            DataError: An image vanished or broke since it was checked.
        """
        rows = [self.examples[i] for i in indices]
        priors = [self.priors.get(row.sent_id) for row in rows]
        if perturb_seed is not None:
            priors = perturb(priors, [sample_key(perturb_seed, "perturb", row.sent_id) for row in rows])
        needs_pixels = self._proposer.config.proposal == "sam"
        pictures = [Image.open(row.image_path).convert("RGB") for row in rows] if needs_pixels else None
        batch = self._proposer.proposals(priors, self.grid, pictures)
        return Inputs(
            images=self._images.get([row.image_path for row in rows]),
            expressions=[row.expression for row in rows],
            phrases=[prior.phrase if prior is not None else "" for prior in priors],
            proposal=batch.proposal,
            prior_score=self._ranks(batch.score) * batch.has_prior,
            has_prior=batch.has_prior,
        )

    def prefetch(self, indices: Sequence[int]) -> None:
        """Start decoding the images of a later batch in the background."""
        self._images.prefetch([self.examples[i].image_path for i in indices])

    def _ranks(self, scores: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        found: Tensor = torch.searchsorted(self._known_scores, scores.to(self._known_scores.dtype), right=True)
        return found / max(1, len(self._known_scores))

    def masks(self, indices: Sequence[int]) -> Float[Tensor, "B G G"]:
        """Return the truth on the grid as covered area in [0, 1]; only for tables of labeled examples."""
        assert self._truth is not None, "this table holds no truth"
        return self._truth.take(indices)[1]
