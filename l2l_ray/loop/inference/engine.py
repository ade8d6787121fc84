"""What labels and evaluates: a shard is labeled, and a slice of a split evaluated, with a version that is named.

It holds example sets and the last few versions it was told to use; it never looks for "the latest". The unlabeled
set it labels from has no truth. Evaluation slices have truth, and only figures leave this file from there.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from l2l_ray.calibration import Calibration, Curve
from l2l_ray.confidence import label_confidence
from l2l_ray.config import RunConfig, selector_for
from l2l_ray.data.masks import mask_area_px
from l2l_ray.data.protocols import NATIVE, Protocol
from l2l_ray.device import pick_device
from l2l_ray.errors import DataError
from l2l_ray.loop.inference.batches import Batches
from l2l_ray.loop.inference.inputs import ExampleSet, ExampleSets, Inputs
from l2l_ray.loop.inference.networks import autocast, load_segmenter
from l2l_ray.loop.inference.quality import Quality, measure_quality
from l2l_ray.loop.inference.teacher import gather_evidence, guided_evidence, predict
from l2l_ray.loop.state.checkpoint import load_weights
from l2l_ray.loop.state.ledger import FIRST, Attempt, LedgerEntry, shard_path, write_shard
from l2l_ray.loop.state.plan import VAL
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.version_record import TEACHER
from l2l_ray.randomness import sample_key
from l2l_ray.segmenter.model import Segmenter, output_grid
from l2l_ray.selector.base import Selector, make_selector
from l2l_ray.selector.registry import PRIOR_ONLY, makes_labels
from l2l_ray.types import Candidate, Evidence, Example, LabeledExample, Prior, PseudoLabel, Selection

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

T = TypeVar("T")
QUALITY_SENTENCES = 256  # the first of val, on which selectors are measured: three predictions each instead of one
_KEPT_VERSIONS = 3  # a version, the one before it, and one of another method


@dataclass(frozen=True)
class PanelData:
    """What the report draws of one batch of samples.

    Example: `next(engine.evidence_and_selection("l2l", 3, "val", [4, 9]))`
    """

    inputs: Inputs
    final: Float[Tensor, "B G G"]  # mask logits with the prior
    evidence: Evidence
    selection: Selection


@dataclass(frozen=True)
class EvalPart:
    """Figures of one slice of a split: pixel counts under the named protocol, and what figures are broken down by.

    Example: `EvalPart([{"sent_id": 7, "image_id": 3, "intersection": 90, "union": 120}], None)`; further columns are
    predicted_px, target_px (0 = empty), area_frac (target by native area), num_words, category and protocol.
    """

    rows: list[dict[str, Any]]
    quality: Quality | None  # of the version's selector; val only


class InferenceEngine:
    """Labels and evaluates; one per process.

    Args:
        config: The run's config.
        run_path: Its folder, with examples, priors and versions.
        device: `auto` = cuda when there is one.
    """

    def __init__(self, config: RunConfig, run_path: Path, device: str = "auto") -> None:
        self.config = config
        self._run = RunFolder(run_path, config)
        self.device = pick_device(device)
        self._grid = output_grid(config.segmenter)
        self._sets = ExampleSets(config, self._run, self._run.priors_path)
        self._batches = Batches(config.loop.eval_batch)
        self._models: OrderedDict[Path, Segmenter] = OrderedDict()
        self._selectors: OrderedDict[Path, tuple[Selector, Calibration | None]] = OrderedDict()

    def label(self, method: str, round_index: int, shard: int, version: int, attempt: Attempt = FIRST) -> LedgerEntry:
        """Label one shard and write its file; the caller commits the entry.

        Args:
            method: The selector's name.
            round_index: Round to label for.
            shard: Which part of the unlabeled set.
            version: Teacher and selector to label with.
            attempt: Which try it is.
        Raises:
            LedgerError: The file could not be written.
            CheckpointError: The version is missing or does not fit.
            DataError: An image broke since it was checked.
        """
        started = time.monotonic()
        size = self.config.loop.shard_size
        examples = self._sets["unlabeled"]
        indices = list(range(shard * size, min((shard + 1) * size, len(examples))))
        made = self._batches.each(indices, lambda part: list(self.pseudo_labels(method, round_index, version, part)))
        labels = [label for part in made for label in part]
        relative = shard_path(method, round_index, shard, attempt)
        digest = write_shard(self._run.path / relative, labels)
        accepted = [label.accepted.mean() for label in labels]
        return LedgerEntry(
            method=method,
            round=round_index,
            shard=shard,
            path=relative,
            sha256=digest,
            version=version,
            num=len(labels),
            num_gated_on=sum(label.gate >= 0.5 for label in labels),
            accepted_frac=float(np.mean(accepted)),
            seconds=time.monotonic() - started,
        )

    def evaluate(
        self, method: str, version: int, split: str, start: int, stop: int, protocol: Protocol = NATIVE
    ) -> EvalPart:
        """Evaluate sentences [start, stop) of a split: the teacher's masks by `protocol`, and on val its selector."""
        examples = self._sets[split]

        def measured(part: list[int]) -> tuple[list[dict[str, Any]], Quality | None]:
            inputs = examples.inputs(part).to(self.device)
            rows = _counts(protocol, self._logits(method, version, inputs), [examples[i] for i in part])
            asked = [i for i in part if split == VAL and makes_labels(method) and i < QUALITY_SENTENCES]
            quality = self._quality(method, version, examples, asked, inputs[: len(asked)]) if asked else None
            return rows, quality

        rows: list[dict[str, Any]] = []
        quality: Quality | None = None
        for some_rows, found in self._batches.each(list(range(start, stop)), measured):
            rows += some_rows
            if found is not None:
                quality = found if quality is None else quality + found
        return EvalPart(rows, quality)

    def mask_logits(self, method: str, version: int, name: str, indices: list[int]) -> Float[Tensor, "B G G"]:
        """Return a version's mask logits for some rows of an example set."""

        def predicted(part: list[int]) -> Float[Tensor, "B G G"]:
            return self._logits(method, version, self._sets[name].inputs(part).to(self.device)).float().cpu()

        return torch.cat(list(self._batches.each(indices, predicted)))

    def each_readable(self, compute: Callable[[list[int]], Tensor], indices: list[int]) -> list[Tensor | DataError]:
        """Return a row's part of what `compute` gives for rows; for one whose photo is gone or broken, the error."""
        try:
            return list(compute(indices)) if indices else []
        except DataError as error:
            if len(indices) == 1:
                return [error]
        middle = len(indices) // 2
        return [*self.each_readable(compute, indices[:middle]), *self.each_readable(compute, indices[middle:])]

    def image_features(self, method: str, version: int, name: str, indices: list[int]) -> Float[Tensor, "B C"]:
        """Return what a version's image encoder makes of the pictures of some rows: the mean of its coarsest level."""
        model = self._model(method, version)

        def seen(part: list[int]) -> Float[Tensor, "B C"]:
            images = self._sets[name].inputs(part).images.to(self.device)
            with torch.inference_mode(), autocast(self.device, self.config.loop.autocast):
                coarsest: Tensor = model.backbone(images)[-1]
            return coarsest.mean((2, 3)).float().cpu()

        return torch.cat(list(self._batches.each(indices, seen)))

    def evidence_and_selection(self, method: str, version: int, split: str, indices: list[int]) -> Iterator[PanelData]:
        """Yield everything the report shows of a few samples of an evaluation split, batch by batch."""
        examples = self._sets[split]

        def seen(part: list[int]) -> PanelData:
            inputs = examples.inputs(part).to(self.device)
            evidence, selection = self._select(method, version, examples, part, inputs, round_index=version)
            return PanelData(inputs, self._logits(method, version, inputs), evidence, selection)

        return self._batches.each(indices, seen)

    def priors(self, name: str) -> Mapping[int, Prior]:
        """Return sent_id -> prior of one example set."""
        return self._sets[name].priors

    def pseudo_labels(self, method: str, round_index: int, version: int, part: list[int]) -> Iterator[PseudoLabel]:
        """Yield the labels that a version's selector gives one batch of unlabeled examples.

        `benchmarks/compare/oracles.py` has engines that label by hidden truth.
        """
        examples = self._sets["unlabeled"]
        inputs = examples.inputs(part).to(self.device)
        _, selection = self._select(method, version, examples, part, inputs, round_index)
        target, weight = (tensor.cpu().numpy() for tensor in (selection.target, selection.pixel_weight))
        for row, index in enumerate(part):
            example = examples[index]
            yield PseudoLabel(
                sent_id=example.sent_id,
                grid=self._grid,
                source=Candidate(int(selection.source[row])),
                target=target[row],
                accepted=weight[row] > 0,
                weight=weight_map(weight[row]),
                gate=float(selection.gate[row]),
                confidence=float(selection.confidence[row]),
                seed=self._key(round_index, example),
                mean_log_prob=float(selection.mean_log_prob[row]),
                version=version,
                prior_key=examples.priors[example.sent_id].key,
            )

    def _select(
        self, method: str, version: int, examples: ExampleSet, part: list[int], inputs: Inputs, round_index: int
    ) -> tuple[Evidence, Selection]:
        selector, calibration = self._selector(method, version)
        evidence = self._evidence(method, version, examples, part, inputs, selector.needs_full_evidence)
        keys = [self._key(round_index, examples[i]) for i in part]
        with torch.inference_mode():
            selection = selector.select(evidence, keys)
        if calibration is not None:
            scores = selector.label_scores(selection)
            selection = replace(selection, confidence=label_confidence(calibration.labels, selection.target, scores))
        return evidence, selection

    def _evidence(
        self, method: str, version: int, examples: ExampleSet, part: list[int], inputs: Inputs, is_full: bool
    ) -> Evidence:
        """Return what a version's teacher sees of a batch; not `is_full` is the guided prediction alone."""
        teacher, use_autocast = self._model(method, version), self.config.loop.autocast
        if not is_full:
            return guided_evidence(teacher, inputs, use_autocast)
        return gather_evidence(teacher, inputs, examples.rivals(part).to(self.device), use_autocast)

    def _key(self, round_index: int, example: Example) -> int:
        return sample_key(self.config.loop.seed, "label", round_index, example.sent_id)

    def _logits(self, method: str, version: int, inputs: Inputs) -> Float[Tensor, "B G G"]:
        if method == PRIOR_ONLY:
            return torch.where(inputs.has_prior[:, None, None], torch.logit(inputs.proposal, eps=1e-6), -1.0)
        return predict(self._model(method, version), inputs, self.config.loop.autocast)

    def _quality(self, method: str, version: int, examples: ExampleSet, part: list[int], inputs: Inputs) -> Quality:
        """Measure the labels that the version's selector would give."""
        _, selection = self._select(method, version, examples, part, inputs, round_index=version)
        return measure_quality(selection, examples.masks(part).to(self.device), [examples[i].sent_id for i in part])

    def _model(self, method: str, version: int) -> Segmenter:
        """Return a version's teacher."""
        return self._segmenter(self._run.version_dir(method, version) / TEACHER)

    def _segmenter(self, weights: Path) -> Segmenter:
        return _kept(self._models, weights, lambda: load_segmenter(self.config.segmenter, weights, self.device))

    def curve(self, method: str, version: int) -> Curve | None:
        """Return what the estimates of a version's predicted masks mean; None where it is not known."""
        calibration = None if method == PRIOR_ONLY else self._selector(method, version)[1]
        return None if calibration is None else calibration.predictions

    def _selector(self, method: str, version: int) -> tuple[Selector, Calibration | None]:
        folder = self._run.version_dir(method, version)
        path = folder / "selector.safetensors"

        def loaded() -> tuple[Selector, Calibration | None]:
            selector = make_selector(selector_for(self.config.selector, method))
            load_weights(selector, path)
            return selector.to(self.device).eval(), Calibration.load(folder)

        return _kept(self._selectors, path, loaded)


def _kept(cache: OrderedDict[Path, T], path: Path, load: Callable[[], T]) -> T:
    """Return what was loaded from a path; the last few that were asked for are kept."""
    if path not in cache:
        cache[path] = load()
        while len(cache) > _KEPT_VERSIONS:
            cache.popitem(last=False)
    cache.move_to_end(path)
    return cache[path]


def _counts(protocol: Protocol, logits: Float[Tensor, "B G G"], rows: list[Example]) -> list[dict[str, Any]]:
    labeled = [row for row in rows if isinstance(row, LabeledExample)]
    counts = protocol.counts(logits.cpu(), [row.mask_rle for row in labeled])
    return [
        {
            "sent_id": row.sent_id,
            "image_id": row.image_id,
            "intersection": int(counts.intersection[i]),
            "union": int(counts.union[i]),
            "predicted_px": int(counts.predicted[i]),
            "target_px": int(counts.target[i]),
            "area_frac": mask_area_px(row.mask_rle) / (row.width_px * row.height_px),
            "num_words": len(row.expression.split()),
            "category": row.category,
            "protocol": protocol.name,
        }
        for i, row in enumerate(labeled)
    ]


def weight_map(weight: np.ndarray) -> np.ndarray | None:
    """Return the weights as uint8, or None when every accepted cell has weight 1."""
    if np.all((weight == 0) | (weight == 1)):
        return None
    return np.asarray(np.round(weight * 255), np.uint8)
