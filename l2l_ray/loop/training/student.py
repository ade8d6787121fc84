"""The student in training, one rank: its networks and the steps they take.

Source: ours.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from l2l_ray.config import RunConfig
from l2l_ray.data.images import batch_indices
from l2l_ray.errors import CheckpointError
from l2l_ray.loop.host import Host
from l2l_ray.loop.inference.inputs import ExampleSet
from l2l_ray.loop.inference.teacher import update_teacher
from l2l_ray.loop.state.checkpoint import load_train_state, load_weights, save_train_state, save_weights
from l2l_ray.loop.state.position import Position
from l2l_ray.loop.state.version_record import TEACHER, write_position
from l2l_ray.loop.state.visibility import seen
from l2l_ray.loop.training.compiled import Compiled
from l2l_ray.loop.training.online import OnlineSet
from l2l_ray.loop.training.pieces import Pieces
from l2l_ray.loop.training.pseudo import PseudoSet
from l2l_ray.loop.training.selector_training import SelectorLearner
from l2l_ray.loop.training.step import (
    TrainBatch,
    augment,
    drop_priors,
    joined,
    learning_rate_factor,
    make_optimizer,
    train_step,
)
from l2l_ray.randomness import seed_torch
from l2l_ray.segmenter.adapters import prepare_to_learn
from l2l_ray.segmenter.model import Segmenter


@dataclass
class Networks:
    """A student, its DDP wrapper, its teacher and optimiser.

    Example: `Networks.fresh(config, host)`
    """

    student: Segmenter
    wrapped: torch.nn.Module
    teacher: Segmenter  # plain: without adapters, whatever the student has
    optimizer: torch.optim.AdamW
    compiled: Compiled | None = None

    @classmethod
    def fresh(cls, config: RunConfig, host: Host) -> Networks:
        """Build a student from pretrained parts; new parts are drawn from the run's seed.

        Raises:
            ConfigError: It cannot learn as the segmenter's section says.
        """
        seed_torch(config.loop.seed)
        student = Segmenter(config.segmenter).to(host.device)
        teacher = copy.deepcopy(student).requires_grad_(False)
        prepare_to_learn(student, config.segmenter)
        wrapped = host.prepare_model(student)
        compiled = Compiled(student) if config.loop.compile else None
        return cls(student, wrapped, teacher, make_optimizer(student, config.loop), compiled)

    def load(self, folder: Path) -> dict[str, Any]:
        """Continue from what `save` wrote, perhaps on another node; return its training state, with a selector's own.

        Raises:
            LedgerError: It is not seen here (`seen`).
            CheckpointError: A file is damaged or does not fit.
        """
        seen(folder / "student.safetensors")
        device = next(self.student.parameters()).device
        load_weights(self.student, folder / "student.safetensors", device)
        load_weights(self.teacher, folder / TEACHER, device)
        state = load_train_state(folder / "train_state.pt")
        for group in state["optimizer"]["param_groups"]:
            group["fused"] = self.optimizer.defaults["fused"]  # this device's own, not that of the one which saved it
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:  # its parameters are other ones, as where another version froze fewer
            raise CheckpointError(
                f"{folder / 'train_state.pt'} is of other learned weights than this run has: {error}; go on with the "
                "version that wrote it (env.json of the run names it), or start another run"
            ) from error
        return state

    def save(self, folder: Path, position: Position, learner: SelectorLearner | None = None) -> None:
        """Write weights, optimiser states and, last, the position: all that training needs to continue."""
        save_weights(self.student, folder / "student.safetensors")
        save_weights(self.teacher, folder / TEACHER)
        state: dict[str, Any] = {"optimizer": self.optimizer.state_dict()}
        if learner is not None:
            learner.save(folder, state)
        save_train_state(folder / "train_state.pt", state)
        write_position(folder, position)


class StudentSteps:
    """Draws this rank's share of every batch and takes the steps; the next batch is read meanwhile.

    Draws are keyed by (seed, stream, step), so neither the number of workers nor a restart changes a batch.
    """

    def __init__(self, config: RunConfig, host: Host, labeled: ExampleSet) -> None:
        self._loop = config.loop
        self._augment = config.augment
        self._segmenter = config.segmenter
        self._host = host
        self._labeled = labeled
        self._share = slice(host.rank, None, host.world_size)
        self._total_steps = config.loop.burn_in_steps + config.loop.rounds * config.loop.round_steps
        self._pieces = Pieces(config.loop.micro_batch)

    def take(
        self,
        networks: Networks,
        stream: str,
        step: int,
        done: int,
        rows: Sequence[int],
        pseudo: PseudoSet | OnlineSet | None = None,
    ) -> dict[str, float]:
        """Take one step and let the teacher follow.

        Args:
            networks: What learns.
            stream: Names the sequence of draws: `burn_in`, `round2`.
            step: The step's place in the stream.
            done: Steps taken before it, burn-in included; sets the learning rate and the teacher's decay.
            rows: The labeled rows to draw from.
            pseudo: The round's pseudo-labels, or what makes those of the step.
        Returns:
            The loss terms of the step, estimates of the global batch's means by this rank's samples.
        """
        loop, labeled, batch, num_views = self._loop, self._labeled, None, 1
        here = self._drawn(len(rows), loop.labeled_batch, f"{stream}-labeled", step)
        chosen = [rows[i] for i in here]
        truth = self._ready(self._labeled_batch(chosen), f"{stream}-labeled", step, loop.labeled_batch, done, rows)
        if pseudo is not None and len(pseudo):
            name, size, num_views = f"{stream}-unlabeled", loop.unlabeled_batch, pseudo.num_views
            seen = pseudo.batch(self._drawn(len(pseudo), size, name, step))
            views = [name, *(f"{name}-view{number}" for number in range(2, num_views + 1))]
            batch = joined([self._ready(seen, view, step, size, done, rows) for view in views])
            pseudo.prefetch(self._drawn(len(pseudo), size, name, step + 1))
        labeled.prefetch([rows[i] for i in self._drawn(len(rows), loop.labeled_batch, f"{stream}-labeled", step + 1)])
        factor = learning_rate_factor(done, self._total_steps, loop)
        learning, world_size = (networks.wrapped, networks.optimizer), self._host.world_size
        once = partial(train_step, *learning, truth, batch, loop, factor, world_size, num_views, self._pieces)
        terms = once() if networks.compiled is None else networks.compiled.run(once, several_ranks=world_size > 1)
        update_teacher(networks.teacher, networks.student, done, loop.ema_decay)
        return terms

    def _drawn(self, count: int, batch: int, stream: str, step: int) -> list[int]:
        """Return this rank's share of the positions drawn from `count` for a global batch."""
        return batch_indices(count, batch, self._loop.seed, stream, step)[self._share]

    def _labeled_batch(self, rows: Sequence[int]) -> TrainBatch:
        labeled = self._labeled
        return TrainBatch(labeled.inputs(rows), labeled.masks(rows), torch.ones(len(rows), labeled.grid, labeled.grid))

    def _ready(
        self, batch: TrainBatch, stream: str, step: int, size: int, done: int, rows: Sequence[int]
    ) -> TrainBatch:
        """Move a batch to the device as the student shall see it.

        Args:
            batch: This rank's share.
            stream: Names the sequence of draws.
            step: The step's place in the stream.
            size: Of the global batch.
            done: Steps taken before this one.
            rows: The labeled rows whose objects may be pasted: a fold's teacher must not see its own fold there either.
        """
        positions, device, seed = range(size)[self._share], self._host.device, self._loop.seed
        batch = drop_priors(batch, self._segmenter, seed, stream, step, positions, done)
        donors = None
        if self._augment.paste_prob:
            drawn = self._drawn(len(rows), size, f"{stream}-donors", step)
            donors = self._labeled_batch([rows[i] for i in drawn]).to(device)
        return augment(batch.to(device), self._augment, seed, stream, step, positions, donors)
