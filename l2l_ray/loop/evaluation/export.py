"""What a run leaves for other programs: the pseudo-labels it committed, and its chosen version's masks of a split.

How labels are read, and brought to the image's size, is in `committed.py`.

By default only labels that training used are exported (gate on, some object cell accepted). Whatever is left out is
named with the reason: in `export.json` item by item, in words in `Exported.line`. Masks of truth are not read here:
nothing in this file can tell whether a label is right.

What a person decided on the review page goes before any choice by figures: what they did not accept is not written,
neither the label nor a prediction for its text. An accepted label stays, and its provenance says who accepted it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from l2l_ray.calibration import Calibration, Curve, chances, ranks_of
from l2l_ray.confidence import NO_CELL, prediction_confidence
from l2l_ray.data.masks import encode, mask_area_px
from l2l_ray.data.native_size import grid_logits_to_native
from l2l_ray.datatools.export import require_place, write_export
from l2l_ray.datatools.record import ExportedMask
from l2l_ray.datatools.review import decisions_by_text
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.guarantee import SUPPOSES, Guarantee, Promise, require_guarantee
from l2l_ray.loop.evaluation.committed import (
    about_method,
    has_pixel,
    last_round,
    pseudo_mask,
    require_no_hidden_truth,
)
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.state.candidates import EVAL_SPLITS
from l2l_ray.loop.state.example_files import ExampleTable, read_examples
from l2l_ray.loop.state.ledger import Ledger, is_used, read_shard
from l2l_ray.loop.state.plan import VAL
from l2l_ray.loop.state.prepare import read_facts, unused_texts
from l2l_ray.loop.state.run_folder import RunFolder, open_run
from l2l_ray.loop.state.version_record import weights_sha256
from l2l_ray.report.next_steps import bring_home
from l2l_ray.report.record import read_glance
from l2l_ray.selector.registry import spec_of
from l2l_ray.types import Example, LabeledExample, PseudoLabel
from l2l_ray.wording import counted

logger = logging.getLogger(__name__)

TRAIN_SETS = ("labeled", "unlabeled")
UNUSED = "not used in training (see --all)"
UNSURE = "below --min-confidence"
UNPROMISED = "less sure than what the guarantee is about"
NO_MASK = "of which the label is empty"
DECIDED = "decided in a review"
GONE = "whose photo cannot be read any more"
_REMEDY = {
    UNUSED: "--all exports these too",
    UNSURE: "lower --min-confidence",
    UNPROMISED: "ask for a lower IoU or share",
    NO_MASK: "choose another round, or train longer",
    GONE: "restore the photos",
    DECIDED: "`l2l data import review` brings what was decided into a data set",
}
CHANCE_IOUS = (0.5, 0.8)  # every exported label says how probable it is that it has these
OTHER_TEXT = "whose object another text was used for (see loop.expressions_per_ref)"


@dataclass(frozen=True)
class LeftOut:
    """One item that is not in an export, and why.

    Example: `LeftOut(example, "not used in training (see --all)")`
    """

    example: Example
    reason: str
    decision: str = ""  # what the label is by a review, where that is the reason


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Example: `Exported(Path("out"), 3712, (LeftOut(example, "below --min-confidence"),))`
    """

    path: Path
    num: int
    left_out: tuple[LeftOut, ...]
    note: str = ""
    of: str = ""  # what the masks are of

    @property
    def line(self) -> str:
        """What was written and what was left out, in words."""
        return f"{self.path}: {counted(self.num, 'mask')}{self.of}; left out: {_in_words(self.left_out)}{self.note}"


def export_pseudo_labels(
    run_dir: Path,
    kind: str,
    out: Path,
    round_index: int | None = None,
    method: str | None = None,
    min_confidence: float = 0.0,
    keep_unused: bool = False,
    force: bool = False,
    guarantee: str | None = None,
) -> Exported:
    """Write the committed pseudo-labels of one round, without those that a person decided about and did not accept.

    Args:
        run_dir: A run, finished or not.
        kind: Format, a key of `datatools.export.FORMATS`.
        out: The folder to make.
        round_index: Which round; None = the last one with labels.
        method: Which selector of the run; None = the main one.
        min_confidence: Leave out labels whose confidence (`confidence.py`) is lower, in [0, 1].
        keep_unused: Also those that training did not use.
        force: Replace an export that is there.
        guarantee: A promise, see `guarantee.Promise`: all labels that keep it, used in training or not, and no others.
            It is about all that confidence chose, also those that are not written because of a review.
    Raises:
        ConfigError: There is no run in this folder, or the guarantee cannot be given.
        DataError: No such method or round, no labels or none to export, nothing can be written, or the labels were made
            with hidden truth.
        LedgerError: A committed shard cannot be read.
    """
    require_place(kind, out, force)
    promise = None if guarantee is None else Promise.parse(guarantee)
    if promise is not None and (min_confidence or keep_unused):
        raise ConfigError("a guarantee says which labels are exported; leave min_confidence and keep_unused out")
    _require_confidence(min_confidence)
    found = last_round(run_dir, method, round_index)
    run, labels = found.run, list(found.labels())
    calibration = Calibration.load(run.version_dir(found.method, labels[0].version))
    promised = None if promise is None else _promised(run, found.method, promise, calibration)
    confidences = np.array([label.confidence for label in labels], np.float64)
    example_of = {example.sent_id: example for example in read_examples(run.examples_path("unlabeled"))}
    has_cell = np.array([label.target.any() for label in labels])  # others are not ranked, see `calibrating.py`
    is_left = np.array([has_pixel(example_of[label.sent_id], label) for label in labels])
    is_promised = has_cell.copy()
    if promised is not None:
        is_promised[has_cell] = promised.kept(confidences[has_cell])
    is_promised &= is_left
    review = _Review(run)
    ranks, curves = np.full(len(labels), np.nan), dict[float, Curve]()
    ranks[has_cell] = ranks_of(confidences[has_cell])
    ranks[~is_left] = np.nan
    if calibration is not None:
        curves = {iou: chances(calibration.checked, iou) for iou in CHANCE_IOUS}

    def why_not(label: PseudoLabel, row: int) -> str:
        """Return why a label is left out; "" where it is not."""
        if promised is not None:
            return "" if is_promised[row] else UNPROMISED if is_left[row] else NO_MASK
        if not (keep_unused or is_used(label)):
            return UNUSED
        if not (keep_unused or is_left[row]):
            return NO_MASK
        return UNSURE if (label.confidence if is_left[row] else NO_CELL) < min_confidence else ""

    masks, left_out, chosen = [], [], list[Example]()
    for row, label in enumerate(labels):
        example = example_of[label.sent_id]
        if not (reason := why_not(label, row)):
            chosen.append(example)
        if decision := review.against(example):
            left_out.append(LeftOut(example, DECIDED, decision))
        elif reason:
            left_out.append(LeftOut(example, reason))
        else:
            chance_of = {iou: float(curve(ranks[row])) for iou, curve in curves.items() if np.isfinite(ranks[row])}
            masks.append(review.marked(pseudo_mask(example, label, found.about, chance_of)))
    about, note = {**found.about, "min_confidence": min_confidence}, _elsewhere(run)
    if promised is not None:
        num_decided = len(chosen) - len(masks)
        about["guarantee"] = {**_told(promised), "num_chosen": len(chosen), "num_decided": num_decided}
        note += promised.promise.by_chance(len({example.image_id for example in chosen}))
        if num_decided:
            note += (
                f"; the guarantee is about all {counted(len(chosen), 'label')} that it chose, {num_decided} of them "
                f"{DECIDED} and not written"
            )
    return _written(run, masks, left_out, kind, out, about, force, note)


def export_predictions(
    run_dir: Path,
    kind: str,
    out: Path,
    split: str,
    min_confidence: float = 0.0,
    force: bool = False,
    device: str = "auto",
) -> Exported:
    """Write the masks that the run's chosen version predicts on a set of the run (val, testA, unlabeled, ...).

    Their confidence is that of `l2l predict`. A text of which a person decided about the label, and did not accept it,
    gets none.

    Raises:
        ConfigError: There is no run in this folder.
        CheckpointError: It has chosen no version yet, or its weights cannot be read.
        DataError: No such split, an image is gone, nothing can be written, or training saw hidden truth.
    """
    require_place(kind, out, force)
    _require_confidence(min_confidence)
    run = open_run(run_dir)
    method, version = run.chosen_version()
    first = next(iter(Ledger(run.ledger_path).entries(method, 0)), None)
    labels = read_shard(run.path / first.path) if first else []
    require_no_hidden_truth(run, any(label.sees_truth for label in labels))
    if not (run.examples_path(split).exists() and run.priors_path(split).exists()):
        sets = sorted(path.stem for path in run.examples_path("val").parent.glob("*.parquet"))
        raise DataError(f"{run.path} has no split {split!r} to predict on; it has {', '.join(sets)}")
    about = {**about_method(run, method), "source": "prediction", "split": split, "model_version": version}
    masks, left_out, review = [], [], _Review(run)
    for mask in _predictions(run, method, version, split, about, device):
        if isinstance(mask, LeftOut):
            left_out.append(mask)
        elif decision := review.against(mask.example):
            left_out.append(LeftOut(mask.example, DECIDED, decision))
        elif mask.confidence < min_confidence:
            left_out.append(LeftOut(mask.example, UNSURE))
        else:
            masks.append(review.marked(mask))
    about |= {"min_confidence": min_confidence, "run_dir": str(run.path.absolute())}
    about["weights_sha256"] = weights_sha256(run.version_dir(method, version))
    return _written(run, masks, left_out, kind, out, about, force)


class _Review:
    """What people decided about a run's labels, as an export asks for it."""

    def __init__(self, run: RunFolder) -> None:
        self._actions = decisions_by_text(run.path)

    def against(self, example: Example) -> str:
        """Return what a label is by a decision that keeps its text out of an export; "" = none does."""
        found = self._actions.get(example.sent_id)
        return "" if found is None or found.action == "accept" else found.state

    def marked(self, mask: ExportedMask) -> ExportedMask:
        """Return a mask, with who accepted it if it is the very one: that of another round is another one."""
        found = self._actions.get(mask.example.sent_id)
        if found is None or found.rle != mask.rle:
            return mask
        return replace(mask, provenance={**mask.provenance, "accepted_by": found.reviewer, "accepted_at": found.at})


def _require_confidence(min_confidence: float) -> None:
    if not 0 <= min_confidence <= 1:
        raise ConfigError(f"min_confidence must be in [0, 1], got {min_confidence}; use 0 to keep every mask")


def _promised(run: RunFolder, method: str, promise: Promise, calibration: Calibration | None) -> Guarantee:
    """Return the guarantee that a version can give.

    Raises:
        ConfigError: It cannot be given, or nothing is known of the version's labels.
    """
    if calibration is None:
        remedy = (
            "run it again, and where that does not help train for longer or label more: no label had a cell"
            if spec_of(method).learns
            else _learning_remedy(run)
        )
        raise ConfigError(
            f"no guarantee can be given of the labels of {method!r} in {run.path}: none on labeled images were "
            f"checked, which runs of this version of the code do for selectors that learn; {remedy}"
        )
    return require_guarantee(promise, calibration.checked)


def _learning_remedy(run: RunFolder) -> str:
    learning = [name for name in run.methods if spec_of(name).learns]
    return f"choose --method {learning[-1]}" if learning else "run again with one that learns: --selector.name l2l"


def _told(guarantee: Guarantee) -> dict[str, Any]:
    return {**asdict(guarantee), "text": str(guarantee.promise), "supposes": SUPPOSES}


def _predictions(
    run: RunFolder, method: str, version: int, split: str, about: dict[str, Any], device: str
) -> Iterator[ExportedMask | LeftOut]:
    engine = InferenceEngine(run.config, run.path, device)
    examples, priors = read_examples(run.examples_path(split)), engine.priors(split)
    held_out = split == VAL and read_facts(run).val_source == "labeled"  # train items, by the data set
    split_of_items = "train" if split in TRAIN_SETS or held_out else split
    size, curve = run.config.loop.eval_batch, engine.curve(method, version)
    for start in range(0, len(examples), size):
        part = list(range(start, min(start + size, len(examples))))
        found = engine.each_readable(partial(engine.mask_logits, method, version, split), part)
        for index, logits in zip(part, found, strict=True):
            example = examples[index]
            if isinstance(logits, DataError):
                logger.warning("%s", logits)
                yield LeftOut(example.without_truth(), GONE)
                continue
            mask = grid_logits_to_native(logits, example.height_px, example.width_px) > 0
            yield ExportedMask(
                example.without_truth(),  # rows of an evaluation split have some
                encode(mask.numpy()),
                None,
                prediction_confidence(curve, logits, bool(mask.any())),
                None,
                {**about, "prior_key": priors[example.sent_id].key},
                split_of_items,
                example.category if isinstance(example, LabeledExample) else "",
            )


def _in_words(left_out: Sequence[LeftOut]) -> str:
    counts = Counter(item.reason for item in left_out)
    decided = Counter(item.decision for item in left_out if item.decision)
    more = {DECIDED: f" ({', '.join(f'{count} {decision}' for decision, count in decided.items())})"}
    return ", ".join(f"{count} {reason}{more.get(reason, '')}" for reason, count in counts.items()) or "nothing"


def _elsewhere(run: RunFolder) -> str:
    """Say which items have no pseudo-label because they have a mask of their own."""
    sets = ("labeled", *EVAL_SPLITS)
    sizes = [(name, len(ExampleTable(path))) for name in sets if (path := run.examples_path(name)).exists()]
    listed = ", ".join(f"{size} {name}" for name, size in sizes if size)
    return f"; not among them, as they have masks of their own: {listed} (--split predicts these)" if listed else ""


def _written(
    run: RunFolder,
    masks: list[ExportedMask],
    left_out: list[LeftOut],
    kind: str,
    out: Path,
    about: dict[str, Any],
    force: bool,
    note: str = "",
) -> Exported:
    if not masks:
        remedies = [_REMEDY[reason] for reason in dict.fromkeys(item.reason for item in left_out)]
        raise DataError(
            f"there is no mask to export to {out}; left out: {_in_words(left_out)}; "
            f"{' or '.join(remedies) or 'choose another --split'}"
        )
    if about.get("split") in (None, "unlabeled"):
        try:
            left_out = left_out + [LeftOut(example, OTHER_TEXT) for example in unused_texts(run.config, run)]
        except DataError as error:
            note += f"; further texts of the same objects cannot be counted: {error}"
    if any(item.decision for item in left_out):
        note += f"; what was decided is brought home by `{bring_home(read_glance(run.path)).command}`"
    if kind == "yolo":
        drawn = {mask.example.image_path for mask in masks if mask_area_px(mask.rle)}
        if empty := {mask.example.image_path for mask in masks} - drawn:
            note += f"; {counted(len(empty), 'photo')} without a mask pixel have no label file"
    items = [
        {"sent_id": e.sent_id, "image": e.image_path, "expression": e.expression, "reason": item.reason}
        | ({"decision": item.decision} if item.decision else {})
        for item in left_out
        for e in [item.example]
    ]
    path = write_export(masks, kind, out, {**about, "num_left_out": len(items), "left_out": items}, force)
    of = f" of round {about['round']}" if "round" in about else f" of {about['split']}"
    done = Exported(path, len(masks), tuple(left_out), note, of)
    logger.info("exported as %s: %s", kind, done.line)
    return done
