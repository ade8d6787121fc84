"""Training, one rank: a shared burn-in, then for each selector its rounds. The same code under every `Runtime`.

    burn-in      supervised steps on the labeled set; also one teacher per fold, trained without that fold's images
    version 0    the burn-in teacher with a selector warmed up on reward images
    round r      wait for the round's labels; student steps on labeled + accepted pixels; the teacher follows;
                 the selector is updated; teacher and selector are published together as version r + 1

Reward images are the labeled images, each seen through the fold teacher that was never trained on it: a teacher is
over-confident on its own training images, and a reward measured there would teach the selector to believe everything.
Their views are fixed at burn-in time. The val split is not opened here.

The burn-in depends on data, segmenter and optimiser settings but on no selector, so all selectors of a job, all jobs
under one root and all trials of a sweep branch from the same files.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from l2l_ray import __version__
from l2l_ray.config import RunConfig, SelectorConfig, selector_for
from l2l_ray.data.dataset import ImageStore, batch_indices
from l2l_ray.data.splits import folds
from l2l_ray.errors import ConfigError
from l2l_ray.loop.checkpoint import (
    load_train_state,
    load_weights,
    read_position,
    save_train_state,
    save_weights,
    write_position,
)
from l2l_ray.loop.driver_plan import LABELS_NOTHING
from l2l_ray.loop.inputs import Table
from l2l_ray.loop.pseudo import PseudoSet
from l2l_ray.loop.rewards import RewardImages, StoredViews, labeled_gradient, unlabeled_views
from l2l_ray.loop.run_folder import RunFolder
from l2l_ray.loop.step import TrainBatch, augment, drop_priors, learning_rate_factor, make_optimizer, train_step
from l2l_ray.loop.teacher import update_teacher
from l2l_ray.prior.proposal import Proposer
from l2l_ray.segmenter.model import Segmenter, output_shape
from l2l_ray.selector.objective import update_selector
from l2l_ray.selector.policy import RplePolicy
from l2l_ray.selector.rules import make_selector
from l2l_ray.types import LabeledExample

if TYPE_CHECKING:
    from l2l_ray.loop.runtime import Runtime

logger = logging.getLogger(__name__)

TRAINED_SELECTORS = ("l2l", "logistic")


@dataclass
class Networks:
    """A student, its DDP wrapper, its teacher and optimiser.

    Example: `Networks.fresh(config, runtime, device)`
    """

    student: Segmenter
    wrapped: torch.nn.Module
    teacher: Segmenter
    optimizer: torch.optim.AdamW

    @classmethod
    def fresh(cls, config: RunConfig, runtime: Runtime, device: torch.device) -> Networks:
        """Build a student from pretrained parts; new parts are drawn from the run's seed."""
        torch.manual_seed(config.loop.seed)
        student = Segmenter(config.segmenter).to(device)
        if not config.segmenter.train_backbone:  # the checkpoint's own weights; levels added to them still learn
            student.backbone.model.requires_grad_(False)
        teacher = copy.deepcopy(student).requires_grad_(False)
        return cls(student, runtime.prepare_model(student), teacher, make_optimizer(student, config.loop))

    def load(self, folder: Path, state: dict[str, Any], device: torch.device) -> None:
        """Continue from saved weights and optimiser state."""
        load_weights(self.student, folder / "student.safetensors", device)
        load_weights(self.teacher, folder / "teacher.safetensors", device)
        self.optimizer.load_state_dict(state["optimizer"])

    def save(self, folder: Path) -> None:
        """Write both networks' weights."""
        save_weights(self.student, folder / "student.safetensors")
        save_weights(self.teacher, folder / "teacher.safetensors")


def train(config: RunConfig, run_path: Path, runtime: Runtime) -> None:
    """Train every selector of the job on this rank, continuing from the runtime's resume point.

    Args:
        config: The run's config.
        run_path: Its folder; tables are there.
        runtime: The host of this rank.
    """
    trainer = Trainer(config, RunFolder(run_path, config), runtime)
    burn_in = trainer.burn_in()
    resume = runtime.resume_point()
    position = read_position(resume) if resume else None
    methods = list(RunFolder(run_path, config).methods)
    if position is not None:
        methods = methods[methods.index(position["method"]) :]
    for method in methods:
        continued = resume if position is not None and position["method"] == method else None
        trainer.run_rounds(method, burn_in, continued)


class Trainer:
    """One rank of the train group."""

    def __init__(self, config: RunConfig, run: RunFolder, runtime: Runtime) -> None:
        smallest = min(config.loop.labeled_batch, config.loop.unlabeled_batch)
        if smallest < runtime.world_size:
            raise ConfigError(
                f"every train worker needs a sample of each batch, got {runtime.world_size} workers and a global batch "
                f"of {smallest}; raise loop.labeled_batch and loop.unlabeled_batch, or lower cluster.num_workers"
            )
        self._config = config
        self._run = run
        self._runtime = runtime
        self._device = runtime.device
        self._images = ImageStore(config.segmenter.image_size, config.data.image_cache_mb)
        self._proposer = Proposer(config.prior)
        self._tables: dict[str, Table] = {}
        self._labeled = self._table("labeled")
        self._total_steps = config.loop.burn_in_steps + config.loop.rounds * config.loop.round_steps

    def burn_in(self) -> Path:
        """Return the folder of the shared burn-in, training it where no run has done so yet."""
        folder = self._config.cache_dir / "burn_in" / self._burn_in_key()
        everything = list(range(len(self._labeled)))
        self._burn_in_part(folder / "base", everything, self._config.loop.burn_in_steps)
        if any(method in TRAINED_SELECTORS for method in self._run.methods):
            for number, fold in enumerate(self._folds()):
                held_out = set(fold)
                rest = [i for i in everything if i not in held_out]
                self._burn_in_part(folder / f"fold{number}", rest, self._config.loop.fold_steps)
        return folder

    def run_rounds(self, method: str, burn_in: Path, continued: Path | None) -> None:
        """Run the rounds of one selector from the burn-in, or from where it stopped."""
        loop = self._config.loop
        networks = Networks.fresh(self._config, self._runtime, self._device)
        section = selector_for(self._config.selector, method)
        learner = SelectorLearner(method, section, networks.student.feature_width, self._device)
        folder = continued or burn_in / "base"
        state = load_train_state(folder / "train_state.pt")
        networks.load(folder, state, self._device)
        position: dict[str, Any] = {"method": method, "version": 0, "step": 0}
        learns = method in TRAINED_SELECTORS
        rewards = self._reward_images(burn_in) if learns and self._runtime.rank == 0 else None
        if continued is None:
            warmup: dict[str, float] = {}
            if learns:
                warmup = self._update_selector(learner, rewards, networks, -1, section.warmup_updates, burn_in)
            self._publish(networks, learner, position, warmup, previous=burn_in / "base" / "previous.safetensors")
        else:
            position = read_position(continued)
            learner.load(continued, state)
        for round_index in range(position["version"], loop.rounds):
            clock = Clock()
            pseudo = self._pseudo_labels(method, round_index)
            clock.lap("wait for labels")
            metrics = self._student_steps(networks, learner, pseudo, position)
            clock.lap("train")
            if learns:
                metrics |= self._update_selector(
                    learner, rewards, networks, round_index, section.round_updates, burn_in
                )
                clock.lap("update selector")
            metrics |= clock.seconds
            position = {"method": method, "version": round_index + 1, "step": 0}
            self._publish(networks, learner, position, metrics | pseudo.summary())

    def _student_steps(
        self, networks: Networks, learner: SelectorLearner, pseudo: PseudoSet, position: dict[str, Any]
    ) -> dict[str, float]:
        """Take the round's steps that are left; return the round's mean of each term, earlier steps included."""
        loop = self._config.loop
        method, round_index = position["method"], position["version"]
        means: dict[str, float] = dict(position.get("means", {}))
        for step in range(position["step"], loop.round_steps):
            done = loop.burn_in_steps + round_index * loop.round_steps + step
            terms = self._step(networks, f"round{round_index}", step, done, list(range(len(self._labeled))), pseudo)
            for name, value in terms.items():
                means[name] = means.get(name, 0.0) + value / loop.round_steps
            self._runtime.progress(f"{method} round {round_index}", step + 1, loop.round_steps, terms)
            if loop.checkpoint_steps and (step + 1) % loop.checkpoint_steps == 0 and step + 1 < loop.round_steps:
                here = {**position, "step": step + 1, "means": dict(means)}
                self._runtime.checkpoint(
                    method, round_index, step + 1, partial(self._write, networks, learner, here), terms
                )
        return means

    def _step(
        self, networks: Networks, stream: str, step: int, done: int, rows: Sequence[int], pseudo: PseudoSet | None
    ) -> dict[str, float]:
        """Take one student step and let the teacher follow."""
        loop, runtime = self._config.loop, self._runtime
        pseudo = pseudo if pseudo is not None and len(pseudo) else None
        share = slice(runtime.rank, None, runtime.world_size)
        chosen = self._labeled_rows(stream, step, rows)
        labeled = self._ready(
            TrainBatch(
                self._labeled.inputs(chosen),
                self._labeled.masks(chosen),
                torch.ones(len(chosen), self._labeled.grid, self._labeled.grid),
            ),
            f"{stream}-labeled", step, range(loop.labeled_batch)[share], done,
        )  # fmt: skip
        unlabeled = None
        if pseudo is not None:
            batch = pseudo.batch(self._pseudo_positions(stream, step, pseudo))
            positions = range(loop.unlabeled_batch)[share]
            unlabeled = self._ready(batch, f"{stream}-unlabeled", step, positions, done)
            pseudo.prefetch(self._pseudo_positions(stream, step + 1, pseudo))
        self._labeled.prefetch(self._labeled_rows(stream, step + 1, rows))
        factor = learning_rate_factor(done, self._total_steps)
        terms = train_step(networks.wrapped, networks.optimizer, labeled, unlabeled, loop, factor, runtime.world_size)
        update_teacher(networks.teacher, networks.student, done, loop.ema_decay)
        return terms

    def _labeled_rows(self, stream: str, step: int, rows: Sequence[int]) -> list[int]:
        """Return this rank's rows of a step."""
        loop = self._config.loop
        drawn = batch_indices(len(rows), loop.labeled_batch, loop.seed, f"{stream}-labeled", step)
        return [rows[i] for i in drawn[self._runtime.rank :: self._runtime.world_size]]

    def _pseudo_positions(self, stream: str, step: int, pseudo: PseudoSet) -> list[int]:
        """Return this rank's pseudo-labels of a step."""
        loop = self._config.loop
        drawn = batch_indices(len(pseudo), loop.unlabeled_batch, loop.seed, f"{stream}-unlabeled", step)
        return drawn[self._runtime.rank :: self._runtime.world_size]

    def _ready(self, batch: TrainBatch, stream: str, step: int, positions: Sequence[int], done: int) -> TrainBatch:
        seed = self._config.loop.seed
        batch = drop_priors(batch, self._config.segmenter, seed, stream, step, positions, done)
        return augment(batch.to(self._device), seed, stream, step, positions)

    def _burn_in_part(self, folder: Path, rows: Sequence[int], steps: int) -> None:
        """Train one burn-in network on some labeled rows, unless it lies there already."""
        if self._runtime.broadcast((folder / "version.json").exists()):
            return
        loop = self._config.loop
        networks = Networks.fresh(self._config, self._runtime, self._device)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        partial_state = folder.with_name(f".{folder.name}.partial")
        if self._runtime.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        first = self._resume_burn_in(networks, partial_state, temporary)
        for step in range(first, steps):
            terms = self._step(networks, "burn_in", step, step, rows, None)
            self._runtime.progress(f"burn-in {folder.name}", step + 1, steps, terms)
            if step + 1 == max(1, steps // 2) and self._runtime.rank == 0:
                save_weights(networks.teacher, temporary / "previous.safetensors")
            if loop.checkpoint_steps and (step + 1) % loop.checkpoint_steps == 0 and self._runtime.rank == 0:
                self._keep_burn_in(networks, partial_state, step + 1, temporary)
        if self._runtime.rank == 0:
            self._write(networks, None, {"method": "", "version": 0, "step": 0}, temporary)
            _rename_unless_there(temporary, folder)
            shutil.rmtree(partial_state, ignore_errors=True)
        self._runtime.barrier()

    def _keep_burn_in(self, networks: Networks, folder: Path, step: int, so_far: Path) -> None:
        """Keep the state of a long burn-in; other processes may be at the same one (see `_burn_in_key`)."""
        temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(so_far, temporary)
        self._write(networks, None, {"method": "", "version": 0, "step": step}, temporary)
        replaced = folder.with_name(f"{folder.name}.{os.getpid()}.old")
        with suppress(FileNotFoundError):  # there is none yet, or another process took it
            os.replace(folder, replaced)
        _rename_unless_there(temporary, folder)
        shutil.rmtree(replaced, ignore_errors=True)

    def _resume_burn_in(self, networks: Networks, folder: Path, so_far: Path) -> int:
        """Return the step to continue a long burn-in from."""
        if not self._runtime.broadcast((folder / "version.json").exists()):
            return 0
        if self._runtime.rank == 0 and (folder / "previous.safetensors").exists():
            shutil.copyfile(folder / "previous.safetensors", so_far / "previous.safetensors")
        networks.load(folder, load_train_state(folder / "train_state.pt"), self._device)
        return int(read_position(folder)["step"])

    def _publish(
        self,
        networks: Networks,
        learner: SelectorLearner,
        position: dict[str, Any],
        metrics: dict[str, float],
        previous: Path | None = None,
    ) -> None:
        def write(folder: Path) -> None:
            if previous is not None:
                shutil.copyfile(previous, folder / "previous.safetensors")
            self._write(networks, learner, position, folder)

        self._runtime.publish(position["method"], position["version"], write, metrics)

    def _write(
        self, networks: Networks, learner: SelectorLearner | None, position: dict[str, Any], folder: Path
    ) -> None:
        networks.save(folder)
        state: dict[str, Any] = {"optimizer": networks.optimizer.state_dict()}
        if learner is not None:
            learner.save(folder, state)
        save_train_state(folder / "train_state.pt", state)
        write_position(folder, position)

    def _pseudo_labels(self, method: str, round_index: int) -> PseudoSet:
        if method in LABELS_NOTHING:
            return PseudoSet.empty()
        files = self._runtime.labels(method, round_index)
        return PseudoSet.read(files, self._table("unlabeled"))

    def _reward_images(self, burn_in: Path) -> RewardImages:
        return RewardImages(
            self._config, self._labeled, self._folds(), [burn_in / f"fold{k}" for k in range(len(self._folds()))],
            self._device,
        )  # fmt: skip

    def _update_selector(
        self, learner: SelectorLearner, rewards: RewardImages | None, networks: Networks, round_index: int,
        updates: int, burn_in: Path,
    ) -> dict[str, float]:  # fmt: skip
        """Update on rank 0, which holds `rewards`, and share the result: the ranks must not drift apart."""
        metrics: dict[str, float] = {}
        if rewards is not None:
            previous = burn_in / "base" / "previous.safetensors"
            if round_index >= 0:
                previous = self._run.version_dir(learner.method, round_index) / "teacher.safetensors"
            views = unlabeled_views(self._config, self._table("unlabeled"), networks.teacher, previous, self._device)
            gradient = labeled_gradient(self._config, self._labeled, networks.teacher, self._device)
            metrics = learner.update(rewards, views, gradient, updates, self._config.loop.seed, round_index)
        learner.receive(self._runtime.broadcast(learner.send()))
        return self._runtime.broadcast(metrics)

    def _folds(self) -> list[list[int]]:
        """Rows of the labeled table by fold; all rows of an image are in one fold."""
        image_ids = list(dict.fromkeys(example.image_id for example in self._labeled.examples))
        num = min(self._config.selector.num_folds, len(image_ids))
        members = [set(part) for part in folds(image_ids, num, self._config.data.split_seed)]
        return [[i for i, e in enumerate(self._labeled.examples) if e.image_id in part] for part in members]

    def _table(self, name: str) -> Table:
        """Return a table, read once; its priors do not change after they are complete."""
        if name not in self._tables:
            priors, known = self._runtime.priors(name), self._runtime.priors("labeled")
            path, grid = self._run.table_path(name), output_shape(self._config.segmenter).grid
            self._tables[name] = Table.read(path, priors, known, self._images, self._proposer, grid)
        return self._tables[name]

    def _burn_in_key(self) -> str:
        """Hash everything the burn-in depends on: labeled rows and masks, their priors, starting weights, optimiser."""
        config = self._config
        rows = [
            [e.sent_id, e.expression, self._labeled.priors[e.sent_id].key, e.mask_rle["counts"]]
            for e in self._labeled.examples
            if isinstance(e, LabeledExample)
        ]
        fields = {"seed", "rounds", "burn_in_steps", "fold_steps", "round_steps", "labeled_batch", "lr",
                  "encoder_lr_scale", "weight_decay", "grad_clip", "ema_decay", "autocast"}  # fmt: skip
        content = [
            __version__, rows, config.segmenter.model_dump(), _start_digest(config), config.data.split_seed,
            config.prior.model_dump(include={"proposal", "sam_model", "box_softness"}),
            config.selector.num_folds, config.loop.model_dump(include=fields),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _start_digest(config: RunConfig) -> str:
    """Hash the weights a student starts from, pretrained parts included."""
    torch.manual_seed(config.loop.seed)
    digest = hashlib.sha256()
    for name, tensor in Segmenter(config.segmenter).state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


class Clock:
    """Wall time of a round's phases: `seconds` maps `seconds/<phase>` to seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, phase: str) -> None:
        """Book the time since the last lap on `phase`."""
        now = time.monotonic()
        self.seconds[f"seconds/{phase}"] = now - self._since
        self._since = now


class SelectorLearner:
    """A selector with its optimiser; for rules without parameters every update does nothing."""

    def __init__(self, method: str, section: SelectorConfig, feature_width: int, device: torch.device) -> None:
        torch.manual_seed(0)  # the policy's start is part of the method, not of the run's seed
        self.method = method
        self._section = section
        self._device = device
        self.selector = make_selector(section, feature_width).to(device)
        parameters = list(self.selector.parameters())
        self._optimizer = torch.optim.Adam(parameters, lr=section.lr) if parameters else None

    def update(
        self,
        rewards: RewardImages,
        views: StoredViews | None,
        gradient: torch.Tensor,
        updates: int,
        seed: int,
        round_index: int,
    ) -> dict[str, float]:
        """Run some updates against the policy as it was before them; return the mean of each metric."""
        policy = self.selector
        reference = copy.deepcopy(policy).requires_grad_(False) if isinstance(policy, RplePolicy) else None
        sums: dict[str, float] = {}
        generator = torch.Generator(device="cpu")
        for number in range(updates):
            generator.manual_seed(seed * 1_000_003 + (round_index + 1) * 10_007 + number)
            labeled = rewards.batch(self._section.update_batch, seed, round_index, number)
            unlabeled = None
            if views is not None:
                unlabeled = views.batch(self._section.update_batch, seed, round_index, number)
            terms = update_selector(
                self.selector, self._optimizer, labeled, unlabeled, gradient, self._section, generator, reference
            )
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value / updates
        return {f"policy/{name}": value for name, value in sums.items()}

    def send(self) -> dict[str, Any]:
        """Return the selector's state for other ranks."""
        return {name: tensor.cpu() for name, tensor in self.selector.state_dict().items()}

    def receive(self, state: dict[str, Any]) -> None:
        """Take over rank 0's state."""
        self.selector.load_state_dict(state)

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Write the weights to `folder` and the optimiser into `state`."""
        save_weights(self.selector, folder / "selector.safetensors")
        state["selector_optimizer"] = self._optimizer.state_dict() if self._optimizer else {}

    def load(self, folder: Path, state: dict[str, Any]) -> None:
        """Read what `save` wrote."""
        load_weights(self.selector, folder / "selector.safetensors", self._device)
        if self._optimizer:
            self._optimizer.load_state_dict(state["selector_optimizer"])


def _rename_unless_there(temporary: Path, final: Path) -> None:
    """Another run may have made the same burn-in meanwhile; both are equal, the first stays."""
    try:
        os.replace(temporary, final)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
