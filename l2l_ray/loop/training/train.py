"""Training, one rank: a shared burn-in, then for each selector its rounds. The same code under every `Host`.

    burn-in      supervised steps on the labeled set; also one teacher per fold, trained without that fold's images
    version 0    the burn-in teacher with a selector warmed up on reward images
    round r      wait for the round's labels; student steps on labeled + accepted pixels; the teacher follows;
                 the selector is updated; teacher and selector are published together as version r + 1

Reward images are the labeled images, each seen through the fold teacher that was never trained on it: a teacher is
over-confident on its own training images, and a reward measured there would teach the selector to believe everything.
Their views are fixed at burn-in time. The val split is not opened here.
"""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2l_ray.config import RunConfig, selector_for
from l2l_ray.data.images import ImageStore
from l2l_ray.errors import ConfigError
from l2l_ray.loop.inference.inputs import ExampleSet
from l2l_ray.loop.state.checkpoint import read_position
from l2l_ray.loop.state.plan import LABELS_NOTHING
from l2l_ray.loop.state.position import Position, Stage
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.training.burn_in import BurnIn
from l2l_ray.loop.training.learner import TRAINED_SELECTORS, SelectorLearner
from l2l_ray.loop.training.pseudo import PseudoSet
from l2l_ray.loop.training.rewards import CrossFitted, labeled_gradient, unlabeled_evidence
from l2l_ray.loop.training.student import Networks, StudentSteps
from l2l_ray.prior.proposal import Proposer
from l2l_ray.segmenter.model import output_shape

if TYPE_CHECKING:
    from l2l_ray.loop.host import Host


def train(config: RunConfig, run_path: Path, host: Host) -> None:
    """Train every selector of the job on this rank, continuing from its resume point.

    Args:
        config: The run's config.
        run_path: Its folder; tables are there.
        host: The host of this rank.
    """
    trainer = Trainer(config, RunFolder(run_path, config), host)
    trainer.train_burn_in()
    resume = host.resume_point()
    position = read_position(resume) if resume else None
    methods = list(RunFolder(run_path, config).methods)
    if position is not None:
        methods = methods[methods.index(position["method"]) :]
    for method in methods:
        continued = resume if position is not None and position["method"] == method else None
        trainer.run_rounds(method, continued)


class Trainer:
    """One rank of the train group."""

    def __init__(self, config: RunConfig, run: RunFolder, host: Host) -> None:
        smallest = min(config.loop.labeled_batch, config.loop.unlabeled_batch)
        if smallest < host.world_size:
            raise ConfigError(
                f"every train worker needs a sample of each batch, got {host.world_size} workers and a global batch "
                f"of {smallest}; raise loop.labeled_batch and loop.unlabeled_batch, or lower cluster.num_workers"
            )
        self._config = config
        self._run = run
        self._host = host
        self._images = ImageStore(config.segmenter.image_size, config.data.image_cache_mb)
        self._proposer = Proposer(config.prior)
        self._tables: dict[str, ExampleSet] = {}
        self._labeled = self._table("labeled")
        self._rows = range(len(self._labeled))
        self._steps = StudentSteps(config, host, self._labeled)
        self.burn_in = BurnIn(config, host, self._labeled, self._steps)

    def train_burn_in(self) -> None:
        """Train the parts of the shared burn-in that are not there yet."""
        self.burn_in.train(with_folds=any(method in TRAINED_SELECTORS for method in self._run.methods))

    def run_rounds(self, method: str, continued: Path | None) -> None:
        """Run the rounds of one selector from the burn-in, or from where it stopped."""
        loop, device = self._config.loop, self._host.device
        networks = Networks.fresh(self._config, self._host, device)
        section = selector_for(self._config.selector, method)
        learner = SelectorLearner(method, section, networks.student.feature_width, device)
        state = networks.load(continued or self.burn_in.base, device)
        position: dict[str, Any] = {"method": method, "version": 0, "step": 0}
        learns = method in TRAINED_SELECTORS
        rewards = self._reward_images() if learns and self._host.rank == 0 else None
        if continued is None:
            warmup = self._update_selector(learner, rewards, networks, -1, section.warmup_updates) if learns else {}
            self._publish(networks, learner, position, warmup)
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
                metrics |= self._update_selector(learner, rewards, networks, round_index, section.round_updates)
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
            terms = self._steps.take(networks, f"round{round_index}", step, done, self._rows, pseudo)
            for name, value in terms.items():
                means[name] = means.get(name, 0.0) + value / loop.round_steps
            self._host.progress(Stage(method, round_index), step + 1, loop.round_steps, terms)
            if loop.checkpoint_steps and (step + 1) % loop.checkpoint_steps == 0 and step + 1 < loop.round_steps:
                here = {**position, "step": step + 1, "means": dict(means)}
                write = partial(networks.save, position=here, learner=learner)
                self._host.publish(Position(method, round_index, step + 1), write, terms)
        return means

    def _publish(
        self, networks: Networks, learner: SelectorLearner, position: dict[str, Any], metrics: dict[str, float]
    ) -> None:
        """Publish teacher and selector as one version; version 0 takes along the teacher half-way to it."""

        def write(folder: Path) -> None:
            if position["version"] == 0:
                shutil.copyfile(self.burn_in.base / "previous.safetensors", folder / "previous.safetensors")
            networks.save(folder, position, learner)

        self._host.publish(Position(position["method"], position["version"]), write, metrics)

    def _pseudo_labels(self, method: str, round_index: int) -> PseudoSet:
        if method in LABELS_NOTHING:
            return PseudoSet.empty()
        files = self._host.labels(method, round_index)
        return PseudoSet.read(files, self._table("unlabeled"))

    def _reward_images(self) -> CrossFitted:
        burn_in = self.burn_in
        return CrossFitted(self._config, self._labeled, burn_in.folds, burn_in.fold_folders, self._host.device)

    def _update_selector(
        self, learner: SelectorLearner, rewards: CrossFitted | None, networks: Networks, round_index: int, updates: int
    ) -> dict[str, float]:
        """Update on rank 0, which holds `rewards`, and share the result: the ranks must not drift apart."""
        metrics: dict[str, float] = {}
        if rewards is not None:
            config, device, teacher = self._config, self._host.device, networks.teacher
            previous = self.burn_in.base / "previous.safetensors"
            if round_index >= 0:
                previous = self._run.version_dir(learner.method, round_index) / "teacher.safetensors"
            evidence = unlabeled_evidence(config, self._table("unlabeled"), teacher, previous, device)
            gradient = labeled_gradient(config, self._labeled, teacher, device)
            metrics = learner.update(rewards, evidence, gradient, updates, config.loop.seed, round_index)
        learner.receive(self._host.broadcast(learner.send()))
        return self._host.broadcast(metrics)

    def _table(self, name: str) -> ExampleSet:
        """Return a table, read once; its priors do not change after they are complete."""
        if name not in self._tables:
            priors, known = self._host.priors(name), self._host.priors("labeled")
            path, grid = self._run.examples_path(name), output_shape(self._config.segmenter).grid
            self._tables[name] = ExampleSet.read(path, priors, known, self._images, self._proposer, grid)
        return self._tables[name]


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
