"""The burn-in: supervised steps that every selector of a job branches from, made once and shared.

    <cache>/burn_in/<key>/base    trained on all labeled rows
    <cache>/burn_in/<key>/fold0   ... without the images of that fold: the teacher its reward images are seen through

It depends on data, segmenter and optimiser settings but on no selector, so all selectors of a job, all jobs under one
root and all trials of a sweep branch from the same files. The key is a hash of everything it does depend on.

Source: ours.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from l2l_ray import __version__
from l2l_ray.config import RunConfig
from l2l_ray.data.splits import folds
from l2l_ray.loop.inference.inputs import ExampleSet
from l2l_ray.loop.state.checkpoint import read_position, save_weights
from l2l_ray.loop.state.position import Stage
from l2l_ray.loop.training.student import Networks, StudentSteps
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.types import LabeledExample

if TYPE_CHECKING:
    from l2l_ray.loop.host import Host


class BurnIn:
    """The shared burn-in of one config and labeled table.

    Example: `BurnIn(config, runtime, labeled, steps).train(with_folds=True)`
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
        """Train each part that no run has trained yet; the fold teachers only where a selector will learn."""
        everything = list(range(len(self._labeled)))
        self._part(Stage(None, 0), self.base, everything, self._config.loop.burn_in_steps)
        if with_folds:
            for number, (folder, fold) in enumerate(zip(self.fold_folders, self.folds, strict=True), 1):
                rows = [i for i in everything if i not in set(fold)]
                self._part(Stage(None, number), folder, rows, self._config.loop.fold_steps)

    def _part(self, stage: Stage, folder: Path, rows: Sequence[int], steps: int) -> None:
        """Train one network on some labeled rows, unless it lies there already."""
        if self._host.broadcast((folder / "version.json").exists()):
            return
        checkpoint_steps = self._config.loop.checkpoint_steps
        networks = Networks.fresh(self._config, self._host, self._host.device)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        partial = folder.with_name(f".{folder.name}.partial")
        writes = self._host.rank == 0
        if writes:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        for step in range(self._resume(networks, partial, temporary), steps):
            terms = self._steps.take(networks, "burn_in", step, step, rows)
            self._host.progress(stage, step + 1, steps, terms)
            if step + 1 == max(1, steps // 2) and writes:
                save_weights(networks.teacher, temporary / "previous.safetensors")
            if checkpoint_steps and (step + 1) % checkpoint_steps == 0 and writes:
                self._keep(networks, partial, step + 1, temporary)
        if writes:
            networks.save(temporary, _position(0))
            _rename_unless_there(temporary, folder)
            shutil.rmtree(partial, ignore_errors=True)
        self._host.barrier()

    def _keep(self, networks: Networks, folder: Path, step: int, so_far: Path) -> None:
        """Keep the state of a long burn-in; processes of other jobs may be at the same one."""
        temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(so_far, temporary)
        networks.save(temporary, _position(step))
        replaced = folder.with_name(f"{folder.name}.{os.getpid()}.old")
        with suppress(FileNotFoundError):  # there is none yet, or another process took it
            os.replace(folder, replaced)
        _rename_unless_there(temporary, folder)
        shutil.rmtree(replaced, ignore_errors=True)

    def _resume(self, networks: Networks, folder: Path, so_far: Path) -> int:
        """Return the step to continue a long burn-in from."""
        if not self._host.broadcast((folder / "version.json").exists()):
            return 0
        if self._host.rank == 0 and (folder / "previous.safetensors").exists():
            shutil.copyfile(folder / "previous.safetensors", so_far / "previous.safetensors")
        networks.load(folder, self._host.device)
        return int(read_position(folder)["step"])


def labeled_folds(config: RunConfig, labeled: ExampleSet) -> list[list[int]]:
    """Return the rows of the labeled table by fold; all rows of an image are in one fold."""
    image_ids = list(dict.fromkeys(example.image_id for example in labeled.examples))
    num = min(config.selector.num_folds, len(image_ids))
    members = [set(part) for part in folds(image_ids, num, config.data.split_seed)]
    return [[i for i, e in enumerate(labeled.examples) if e.image_id in part] for part in members]


def burn_in_key(config: RunConfig, labeled: ExampleSet) -> str:
    """Hash everything the burn-in depends on: labeled rows and masks, their priors, starting weights, optimiser."""
    rows = [
        [e.sent_id, e.expression, labeled.priors[e.sent_id].key, e.mask_rle["counts"]]
        for e in labeled.examples
        if isinstance(e, LabeledExample)
    ]
    fields = {"seed", "rounds", "burn_in_steps", "fold_steps", "round_steps", "labeled_batch", "lr",
              "encoder_lr_scale", "weight_decay", "grad_clip", "ema_decay", "autocast"}  # fmt: skip
    content = [
        __version__, rows, config.segmenter.model_dump(), _start_digest(config), config.data.split_seed,
        config.prior.model_dump(include={"proposal", "sam_model", "box_softness"}),
        config.selector.num_folds, config.loop.model_dump(include=fields), config.augment.model_dump(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _start_digest(config: RunConfig) -> str:
    """Hash the weights a student starts from, pretrained parts included."""
    torch.manual_seed(config.loop.seed)
    digest = hashlib.sha256()
    for name, tensor in Segmenter(config.segmenter).state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _position(step: int) -> dict[str, object]:
    """Return where a burn-in stands: it belongs to no method."""
    return {"method": "", "version": 0, "step": step}


def _rename_unless_there(temporary: Path, final: Path) -> None:
    """Another run may have made the same burn-in meanwhile; both are equal, the first stays."""
    try:
        os.replace(temporary, final)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
