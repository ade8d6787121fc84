"""From examples to what the segmenter reads: images, words, proposals. Shared by labelling, training, evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from l2l_ray.config import RunConfig
from l2l_ray.data.images import ImageStore, LabeledSet
from l2l_ray.loop.state.example_files import ExampleTable, PriorTable, RowsById, integers
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.proposal import Proposer
from l2l_ray.segmenter.model import output_grid
from l2l_ray.types import Example, LabeledExample, Prior

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from l2l_ray.loop.state.example_files import Integers


MAX_RIVALS = 32  # other expressions of an image that are looked at; RefCOCO has 7 an image, some data sets hundreds


@dataclass(frozen=True)
class Inputs:
    """One batch, ready for the segmenter.

    Example: `examples.inputs([0, 5, 9]).to(device)`
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

    def __getitem__(self, rows: slice) -> Inputs:
        """Return some of the samples, in order."""
        return Inputs(
            self.images[rows],
            self.expressions[rows],
            self.phrases[rows],
            self.proposal[rows],
            self.prior_score[rows],
            self.has_prior[rows],
        )

    def without_prior(self, dropped: Bool[Tensor, " B"]) -> Inputs:
        """Hide the prior of the samples where `dropped` is True (prior dropout, the unguided prediction)."""
        keep = ~dropped
        return replace(
            self,
            phrases=[p if k else "" for p, k in zip(self.phrases, keep.tolist(), strict=True)],
            has_prior=self.has_prior & keep,
        )


@dataclass(frozen=True)
class Rivals:
    """Expressions of the batch's images that ask for other objects.

    Example: `examples.rivals([0, 5, 9])`
    """

    inputs: Inputs | None  # M expressions that are not in the batch themselves; None = there are none
    is_rival: Bool[Tensor, "B N"]  # of each sample: which of the batch, then of the M

    def to(self, device: torch.device) -> Rivals:
        """Move the tensors to `device`."""
        return Rivals(self.inputs.to(device) if self.inputs is not None else None, self.is_rival.to(device))


class ExampleSets:
    """The example sets of a run by name (labeled, unlabeled, val, ...), each opened when it is first asked for.

    Of a set with truth, examples and masks are kept. Of others only those in use are: see `ExampleTable`.

    Args:
        config: The run's config.
        run: Its folder.
        priors: Gives the file with a set's priors; it may wait until they are complete.
    """

    def __init__(self, config: RunConfig, run: RunFolder, priors: Callable[[str], Path]) -> None:
        self._run = run
        self._priors = priors
        self._images = ImageStore(config.segmenter.image_size, config.data.image_cache_mb)
        self._proposer = Proposer(config.prior)
        self._grid = output_grid(config.segmenter)
        self._read: dict[str, ExampleSet] = {}

    def __getitem__(self, name: str) -> ExampleSet:
        """Return a set of the run.

        Raises:
            DataError: There is no such set, or its files cannot be read.
        """
        if name not in self._read:
            priors = PriorTable(self._priors(name))
            table = ExampleTable(self._run.examples_path(name))
            examples = list(table) if table.has_truth else table
            self._read[name] = ExampleSet(
                examples, priors, self._images, self._proposer, self._grid, self._known_scores
            )
        return self._read[name]

    @cached_property
    def _known_scores(self) -> list[float]:
        return read_known_scores(self._priors("labeled"))


def read_known_scores(labeled_priors: Path) -> list[float]:
    """Return the score of each labeled example's prior: what `ExampleSet` ranks other scores by; a user's is none."""
    priors = PriorTable(labeled_priors).values()
    return [prior.score for prior in priors if prior.source == "mllm" and not prior.failure]


class Guide:
    """Puts priors beside images and words.

    Every MLLM has its own scale of scores (the embedded one stays within 0.45-0.63), so `prior_score` is a rank:
    the share of the labeled set's priors that are no surer. `known_scores` are those; they involve no truth. A user's
    box is as sure as can be: its rank is 1.

    Example: `Guide(Proposer(config.prior), 24, known_scores).inputs(images, ["left man"], [prior])`
    """

    def __init__(self, proposer: Proposer, grid: int, known_scores: Sequence[float]) -> None:
        self._proposer, self._grid = proposer, grid
        self._known_scores = torch.tensor(sorted(known_scores))

    def inputs(
        self, images: Float[Tensor, "B 3 S S"], expressions: Sequence[str], priors: Sequence[Prior | None]
    ) -> Inputs:
        """Return a batch.

        Args:
            images: In [0, 1].
            expressions: One per image.
            priors: One per image; None = there is none.
        Raises:
            DataError: A prior's masks cannot be read.
        """
        batch = self._proposer.proposals(priors, self._grid)
        by_user = torch.tensor([prior is not None and prior.source == "user" for prior in priors])
        return Inputs(
            images=images,
            expressions=list(expressions),
            phrases=[prior.phrase if prior is not None else "" for prior in priors],
            proposal=batch.proposal,
            prior_score=torch.where(by_user, 1.0, self._ranks(batch.score)) * batch.has_prior,
            has_prior=batch.has_prior,
        )

    def _ranks(self, scores: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        found: Tensor = torch.searchsorted(self._known_scores, scores.to(self._known_scores.dtype), right=True)
        return found / max(1, len(self._known_scores))


class ExampleSet:
    """Examples with their images and priors (see `Guide`); truth only where the examples are labeled."""

    def __init__(
        self,
        examples: Sequence[Example],
        priors: Mapping[int, Prior],
        images: ImageStore,
        proposer: Proposer,
        grid: int,
        known_scores: Sequence[float],
    ) -> None:
        self.examples = examples
        self.priors = priors
        self.grid = grid
        self._images = images
        self._guide = Guide(proposer, grid, known_scores)
        has_truth = len(examples) > 0 and isinstance(examples[0], LabeledExample)  # all or none have
        labeled = [example for example in examples if isinstance(example, LabeledExample)] if has_truth else []
        self._truth = LabeledSet(labeled, grid) if labeled else None

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    def integers(self, name: str) -> Integers:
        """Return an integer field of all examples, such as `image_id`."""
        return integers(self.examples, name)

    def rows_of(self, sent_ids: Sequence[int]) -> list[int]:
        """Return the positions of some examples.

        Raises:
            KeyError: One is not in the set.
        """
        by_id = RowsById(self.integers("sent_id"))
        return [by_id.row(sent_id) for sent_id in sent_ids]

    def inputs(self, indices: Sequence[int]) -> Inputs:
        """Load a batch.

        Args:
            indices: Positions in the set.
        Raises:
            DataError: An image vanished or broke since it was checked, or a prior's masks cannot be read.
        """
        rows = [self.examples[i] for i in indices]
        priors = [self.priors.get(row.sent_id) for row in rows]
        images = self._images.get([row.image_path for row in rows])
        return self._guide.inputs(images, [row.expression for row in rows], priors)

    def rivals(self, indices: Sequence[int]) -> Rivals:
        """Return the rivals of a batch: what the set's other expressions of its images are.

        Sentences of one ref are about one object, so they are no rivals. Of an image with very many expressions, the
        `MAX_RIVALS` next ones in the set are looked at.
        """
        found = {index: self._others_of_image(index) for index in indices}
        further = sorted({other for others in found.values() for other in others}.difference(indices))
        columns = [*indices, *further]
        is_rival = torch.tensor([[column in found[index] for column in columns] for index in indices])
        return Rivals(self.inputs(further) if further else None, is_rival.reshape(len(indices), len(columns)))

    def _others_of_image(self, index: int) -> set[int]:
        rows = self._by_image.rows(self.examples[index].image_id)
        place = int(np.searchsorted(rows, index))
        first = max(0, min(place - MAX_RIVALS // 2, len(rows) - MAX_RIVALS - 1))  # at either end as many as in between
        near = rows[first : first + MAX_RIVALS + 1].tolist()
        return {other for other in near if self._ref_ids[other] != self._ref_ids[index]}

    @cached_property
    def _by_image(self) -> RowsById:
        return RowsById(self.integers("image_id"))

    @cached_property
    def _ref_ids(self) -> Integers:
        return self.integers("ref_id")

    def prefetch(self, indices: Sequence[int]) -> None:
        """Start decoding the images of a later batch in the background."""
        self._images.prefetch([self.examples[i].image_path for i in indices])

    def masks(self, indices: Sequence[int]) -> Float[Tensor, "B G G"]:
        """Return the truth on the grid as covered area in [0, 1]; only for sets of labeled examples."""
        assert self._truth is not None, "this set holds no truth"
        return self._truth.take(indices)[1]
