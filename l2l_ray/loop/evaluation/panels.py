"""The examples a report shows: of an evaluation split, best to worst by IoU, and labels of unlabeled photos.

Labels are the committed ones of the last round, as an export writes them: no model is asked for them, and no truth is
known of them. Those that training used are shown from the least sure upwards, because these are worth a look first; of
those that it did not use, as many as are sure of themselves as are not. The number of both is fixed, whatever the size
of the run, and photos are kept small from the moment they are opened.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2l_ray.calibration import Curve
from l2l_ray.confidence import prediction_confidence
from l2l_ray.data.masks import decode
from l2l_ray.data.native_size import grid_logits_to_native
from l2l_ray.data.pixels import BadPicture, read_rgb
from l2l_ray.errors import ConfigError
from l2l_ray.loop.inference.engine import InferenceEngine, PanelData
from l2l_ray.loop.state.example_files import ExampleTable, PriorTable, read_examples
from l2l_ray.loop.state.ledger import Ledger, is_used, read_shard
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.metrics import IouMeter
from l2l_ray.report.panels import MAX_IMAGE_PX, ExamplePanel, accepted_codes
from l2l_ray.report.record import UNLABELED
from l2l_ray.types import Candidate, Example, LabeledExample, Prior, PseudoLabel
from l2l_ray.wording import photo_name

logger = logging.getLogger(__name__)

NUM_PANELS = 16
NUM_USED, NUM_UNUSED = 20, 12  # labels shown; what one group lacks the other fills up


def example_panels(
    run: RunFolder, engine: InferenceEngine, meter: IouMeter | None, method: str, version: int, split: str
) -> list[ExamplePanel]:
    """Return examples of one version; where memory does not do for them, with a warning, those that were made.

    Args:
        run: The run.
        engine: Gathers the evidence again for the few samples shown.
        meter: Per-sentence IoU of this version on this split; None = there is no truth.
        method: Its method.
        version: Which version.
        split: An evaluation split, whose truth is shown, or "unlabeled".
    """
    iou_of = {int(row["sent_id"]): float(row["iou"]) for row in meter.rows()} if meter else {}
    rows = read_examples(run.examples_path(split))
    chosen = spread([iou_of.get(row.sent_id, 0.0) for row in rows], NUM_PANELS)
    if not chosen:
        return []
    priors, shown, dataset = engine.priors(split), list[ExamplePanel](), run.config.data.dataset
    try:
        for data in engine.evidence_and_selection(method, version, split, chosen):
            curve = engine.curve(method, version)
            for place in range(len(data.inputs)):
                example = rows[chosen[len(shown)]]
                iou = iou_of.get(example.sent_id)
                shown.append(_panel(example, dataset, priors[example.sent_id], data, place, split, iou, curve))
    except ConfigError as error:  # the run is done, and nothing else needs this much memory
        logger.warning("the report shows %d examples of %s instead of %d: %s", len(shown), split, len(chosen), error)
    return shown


def label_panels(run: RunFolder, method: str) -> list[ExamplePanel]:
    """Return labels that a method gave unlabeled photos in the last round: the doubtful of the used, then others.

    Empty where the method labels nothing. Labels that a benchmark made with hidden truth are never shown.
    """
    chosen = {label.sent_id: label for label in _doubtful(run, method)}
    if not chosen:
        return []
    priors, dataset = PriorTable(run.priors_path(UNLABELED)), run.config.data.dataset
    example_of = {row.sent_id: row for row in ExampleTable(run.examples_path(UNLABELED)) if row.sent_id in chosen}
    return [_label_panel(example_of[sent_id], dataset, priors[sent_id], label) for sent_id, label in chosen.items()]


def spread(scores: Sequence[float], num: int) -> list[int]:
    """Return positions of evenly spaced ranks, best first, the very worst last."""
    order = np.argsort(scores, kind="stable")[::-1]
    ranks = np.linspace(0, len(order) - 1, min(num, len(order))).round().astype(int)
    return [int(order[rank]) for rank in ranks]


class _Place(NamedTuple):
    """Where a committed label lies, and what it is chosen by."""

    confidence: float
    path: Path
    row: int
    used: bool


def _doubtful(run: RunFolder, method: str) -> list[PseudoLabel]:
    """Choose from all labels by their figures alone, then read again the few that were chosen."""
    places = list(_places(run, method))
    used = sorted(place for place in places if place.used)
    unused = [place for place in places if not place.used]
    num_unused = min(len(unused), max(NUM_UNUSED, NUM_USED + NUM_UNUSED - len(used)))
    doubtful = used[: NUM_USED + NUM_UNUSED - num_unused]
    others = [unused[i] for i in reversed(spread([place.confidence for place in unused], num_unused))]
    chosen = [*doubtful, *others]
    shards = {path: read_shard(path) for path in dict.fromkeys(place.path for place in chosen)}
    return [shards[place.path][place.row] for place in chosen]


def _places(run: RunFolder, method: str) -> Iterator[_Place]:
    for entry in Ledger(run.ledger_path).entries(method, run.config.loop.rounds - 1):
        path = run.path / entry.path
        for row, label in enumerate(read_shard(path)):
            if not label.sees_truth:
                yield _Place(label.confidence, path, row, is_used(label))


def _label_panel(example: Example, dataset: str, prior: Prior, label: PseudoLabel) -> ExamplePanel:
    return ExamplePanel(
        sent_id=example.sent_id,
        expression=example.expression,
        split=UNLABELED,
        iou=None,
        image=_small_image(example),
        prior_box_xyxy_frac=_box(prior),
        prior_score=prior.score,
        prior_source=prior.source,
        proposal=None,
        teacher=None,
        accepted=accepted_codes(label.source, label.target, label.accepted),
        final=label.target.astype(np.float32),
        truth=None,
        file=photo_name(example.image_path, dataset),
        confidence=label.confidence,
        used=is_used(label),
        why_unused=_why_unused(label),
    )


def _why_unused(label: PseudoLabel) -> str:
    if is_used(label):
        return ""
    if not label.target.any():
        return "no object was found"
    return "the selector turned it down" if label.gate < 0.5 else "no part of the object was accepted"


def _panel(
    example: Example | LabeledExample,
    dataset: str,
    prior: Prior,
    data: PanelData,
    row: int,
    split: str,
    iou: float | None,
    curve: Curve | None,
) -> ExamplePanel:
    def array(tensor: Any) -> np.ndarray:
        return np.asarray(tensor[row].float().cpu().numpy())

    selection = data.selection
    target, accepted = (np.asarray(t[row].cpu().numpy()) for t in (selection.target, selection.accepted))
    final = data.final[row].float().sigmoid()
    native = grid_logits_to_native(data.final[row], example.height_px, example.width_px)
    box = _box(prior)
    return ExamplePanel(
        sent_id=example.sent_id,
        expression=example.expression,
        split=split,
        iou=iou,
        image=_small_image(example),
        prior_box_xyxy_frac=box,
        prior_score=prior.score,
        prior_source=prior.source,
        proposal=None if box is None else array(data.inputs.proposal),
        teacher=array(data.evidence.mask_probs),
        accepted=accepted_codes(Candidate(int(selection.source[row])), target, accepted),
        final=np.asarray(final.cpu().numpy()),
        truth=decode(example.mask_rle).astype(np.float32) if isinstance(example, LabeledExample) else None,
        file=photo_name(example.image_path, dataset),
        confidence=prediction_confidence(curve, data.final[row], bool((native > 0).any())),
    )


def _box(prior: Prior) -> tuple[float, float, float, float] | None:
    return prior.boxes_xyxy_frac[0] if prior.boxes_xyxy_frac else None


def _small_image(example: Example) -> np.ndarray | None:
    """Return the photo as small as the report keeps it; None, with a warning, where it is gone: the run is done."""
    try:
        small = read_rgb(example.image_path)
    except BadPicture as error:
        logger.warning("the report cannot show a photo: %s", error)
        return None
    small.thumbnail((MAX_IMAGE_PX, MAX_IMAGE_PX))
    return np.asarray(small)
