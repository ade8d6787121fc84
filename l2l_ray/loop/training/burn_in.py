"""The burn-in: supervised steps that every selector of a job branches from, made once and shared.

    <cache>/burn_in/<key>/base    trained on all labeled rows
    <cache>/burn_in/<key>/fold0   ... without the images of that fold: the teacher through which its images are seen

It depends on data, segmenter and optimiser settings but on no selector, so all selectors of a job, all jobs under one
root and all trials of a sweep branch from the same files. The key is a hash of everything it does depend on.

Source: ours.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from l2l_ray import __version__
from l2l_ray.config import NO_RESULT, RunConfig, SelectorConfig, config_fields, field_value
from l2l_ray.data.splits import folds
from l2l_ray.errors import CheckpointError, run_remedy
from l2l_ray.files import is_whole, locked, new_folder, remove_tree, replacing_folder
from l2l_ray.loop.host import LOOK_EVERY_STEPS, Host
from l2l_ray.loop.inference.inputs import ExampleSet
from l2l_ray.loop.state.position import Position, Stage
from l2l_ray.loop.state.version_record import problems_in, read_position
from l2l_ray.loop.training.student import Networks, StudentSteps
from l2l_ray.prior.reply import is_unanswered
from l2l_ray.randomness import seed_torch
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.types import LabeledExample, Prior

logger = logging.getLogger(__name__)

# Sections and fields that the burn-in does not depend on.
NOT_IN_BURN_IN = {
    # which run, where and how fast it works
    *NO_RESULT,
    "compare",
    # the labeled rows, their masks and their priors' keys are hashed themselves; split_seed also draws the folds
    *("data.root", "data.dataset", "data.split_by", "data.labeled_frac", "data.split_file", "data.mask_rule"),
    *("data.benchmark_frac", "data.val_from_labeled"),
    *("data.num_train_refs", "data.num_eval_refs", "data.data_seed", "data.max_words"),
    *("prior.model", "prior.prompt", "prior.image_size", "prior.max_new_tokens", "prior.num_samples"),
    *("prior.temperature", "prior.dtype", "prior.coordinates", "prior.min_image_tokens", "prior.min_accuracy"),
    # of the selector, only the folds are made here
    *(f"selector.{field.path}" for field in config_fields(SelectorConfig) if field.path != "num_folds"),
    # about pseudo-labels, or when a checkpoint is written
    *("loop.lag", "loop.unlabeled_batch", "loop.unlabeled_weight", "loop.shard_size", "loop.expressions_per_ref"),
    "loop.checkpoint_steps",
}
# Fields that runs of earlier versions do not have count once they are set, so that those find their burn-in again.
ADDED = {"segmenter.train_text", "segmenter.lora_rank", "loop.backbone_lr_scale", "loop.text_lr_scale"}


class BurnIn:
    """The shared burn-in of one config and labeled set.

    Example: `BurnIn(config, host, labeled, steps).train(with_folds=True)`
    """

    def __init__(self, config: RunConfig, host: Host, labeled: ExampleSet, steps: StudentSteps) -> None:
        self._config = config
        self._host = host
        self._labeled = labeled
        self._steps = steps
        self.folds = labeled_folds(config, labeled)
        self.folder = config.cache_dir / "burn_in" / burn_in_key(config, labeled)

    @property
    def base(self) -> Path:
        """The folder of the network trained on all labeled rows."""
        return self.folder / "base"

    @property
    def fold_folders(self) -> list[Path]:
        """One folder per fold, in the order of `folds`."""
        return [self.folder / f"fold{number}" for number in range(len(self.folds))]

    def train(self, with_folds: bool) -> None:
        """Train each part that no run has trained yet; the fold teachers only where a selector will learn.

        A run that comes while another one trains the same burn-in waits for it, and says so.
        """
        if self._host.rank:
            self._train(with_folds)  # waits where it meets rank 0
            return
        lock = self._config.scratch_dir / "locks" / f"burn_in-{self.folder.name}"
        with locked(lock, waiting=lambda: self._host.waits_for("another run, which trains the same burn-in")):
            self._host.waits_for("")
            self._train(with_folds)

    def _train(self, with_folds: bool) -> None:
        everything = list(range(len(self._labeled)))
        self._part(0, self.base, everything, self._config.loop.burn_in_steps)
        if with_folds:
            for number, (folder, fold) in enumerate(zip(self.fold_folders, self.folds, strict=True), start=1):
                held_out = set(fold)
                rows = [i for i in everything if i not in held_out]
                self._part(number, folder, rows, self._config.loop.fold_steps)

    def _part(self, number: int, folder: Path, rows: Sequence[int], steps: int) -> None:
        """Train one network on some labeled rows, unless it lies there already."""
        if self._host.broadcast(self._host.rank == 0 and _is_whole(folder)):
            return
        every = self._config.loop.checkpoint_steps
        networks = Networks.fresh(self._config, self._host)
        partial = folder.with_name(f".{folder.name}.partial")
        start = self._resume(networks, partial)
        for step in range(start, steps):
            terms = self._steps.take(networks, "burn_in", step, step, rows)
            self._host.progress(Stage(None, number), step + 1, steps, terms)
            is_due = bool(every) and (step + 1) % every == 0
            leaves = (step + 1) % LOOK_EVERY_STEPS == 0 and self._host.leaves_soon()
            if (is_due or leaves) and self._host.rank == 0:
                _save(networks, replacing_folder(partial), step + 1)
        if self._host.rank == 0:
            _save(networks, new_folder(folder, durable=True), 0)
            remove_tree(partial)
        self._host.barrier()

    def _resume(self, networks: Networks, partial: Path) -> int:
        """Load a long burn-in that was cut and return the step to go on from."""
        if not self._host.broadcast(self._host.rank == 0 and _is_whole(partial)):
            return 0
        networks.load(partial)
        return read_position(partial).step


def _is_whole(folder: Path) -> bool:
    """Whether a part of a burn-in lies in a folder as it was written; one that is damaged is removed, and made anew."""
    if is_whole(folder) and (problems := problems_in(folder)):
        logger.warning(
            "the burn-in %s is damaged and is trained again: %s",
            folder,
            "; ".join(f"{name}: {problem}" for name, problem in problems.items()),
        )
        remove_tree(folder)
    return is_whole(folder)


def _save(networks: Networks, place: AbstractContextManager[Path], step: int) -> None:
    """Write all that the burn-in needs to continue from a step; 0 = it is complete.

    Raises:
        CheckpointError: The disk is full or not writable; nothing has the final name.
    """
    try:
        # Another process of another job may be at the same one, and both are equal: the first stays.
        with suppress(FileExistsError), place as folder:
            networks.save(folder, Position(None, step=step))
    except OSError as error:
        raise CheckpointError(f"cannot write the burn-in: {error}; {run_remedy(error)}") from error


def labeled_folds(config: RunConfig, labeled: ExampleSet) -> list[list[int]]:
    """Return the rows of the labeled set by fold, none where one image is all; the rows of an image are in one fold."""
    image_ids = list(dict.fromkeys(example.image_id for example in labeled.examples))
    if len(image_ids) < 2:
        return []
    num = min(config.selector.num_folds, len(image_ids))
    members = [set(part) for part in folds(image_ids, num, config.data.split_seed)]
    return [[i for i, e in enumerate(labeled.examples) if e.image_id in part] for part in members]


def burn_in_settings(config: RunConfig) -> dict[str, Any]:
    """Return every setting the burn-in depends on: all but `NOT_IN_BURN_IN`, so that a new field is never forgotten."""
    plain = RunConfig()
    return {
        field.path: value
        for field in config_fields(RunConfig)
        if not {field.path, field.path.split(".")[0]} & NOT_IN_BURN_IN
        and ((value := field_value(config, field.path)) != field_value(plain, field.path) or field.path not in ADDED)
    }


def burn_in_key(config: RunConfig, labeled: ExampleSet) -> str:
    """Hash everything the burn-in depends on: labeled rows and masks, their priors, starting weights, settings."""
    rows = [
        [e.sent_id, e.image_id, e.expression, *_prior_id(labeled.priors[e.sent_id]), e.mask_rle["counts"]]
        for e in labeled.examples
        if isinstance(e, LabeledExample)
    ]
    content = [__version__, rows, _start_digest(config), burn_in_settings(config)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _prior_id(prior: Prior) -> list[str]:
    """Return what tells a prior from all others: a question without an answer is asked again, under the same key."""
    return [prior.key, "failed"] if is_unanswered(prior.failure) else [prior.key]


def _start_digest(config: RunConfig) -> str:
    """Hash the weights a student starts from, pretrained parts included."""
    seed_torch(config.loop.seed)
    digest = hashlib.sha256()
    for name, tensor in Segmenter(config.segmenter).state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
