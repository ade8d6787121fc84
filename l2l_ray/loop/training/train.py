"""Training, one rank: a shared burn-in, then for each selector its rounds. The same code under every `Host`.

    burn-in      supervised steps on the labeled set; also one teacher per fold, trained without that fold's images
    version 0    the burn-in teacher with a selector that was trained on cross-fitted labeled images
    round r      wait for the round's labels; student steps on labeled + accepted pixels; the teacher follows;
                 the selector is updated; teacher and selector are published together as version r + 1

`MethodTraining.run_round` is one round. Val is not opened here.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from l2l_ray.config import RunConfig, selector_for
from l2l_ray.errors import ConfigError
from l2l_ray.loop.host import LOOK_EVERY_STEPS, Host
from l2l_ray.loop.inference.inputs import ExampleSets
from l2l_ray.loop.state.position import Position, Stage
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.version_record import read_position
from l2l_ray.loop.training.burn_in import BurnIn
from l2l_ray.loop.training.calibrating import calibration_of
from l2l_ray.loop.training.online import OnlineSet
from l2l_ray.loop.training.pseudo import PseudoSet
from l2l_ray.loop.training.selector_training import (
    CrossFitted,
    SelectorLearner,
    unlabeled_evidence,
)
from l2l_ray.loop.training.student import Networks, StudentSteps
from l2l_ray.selector.registry import label_of, makes_labels, spec_of, stores_labels

logger = logging.getLogger(__name__)


def train(config: RunConfig, run_path: Path, host: Host) -> None:
    """Train every selector of the job on this rank, continuing each from the host's resume point.

    Args:
        config: The run's config.
        run_path: Its folder; the example sets are there.
        host: The host of this rank.
    Raises:
        ConfigError: There are more ranks than samples in a batch.
    """
    job = Job.begin(config, RunFolder(run_path, config), host)
    job.train_burn_in()
    for method in job.run.methods:
        continued = host.resume_point(method)
        if continued is None or read_position(continued).version < config.loop.rounds:
            MethodTraining(job, method).run(continued)


@dataclass(frozen=True)
class Job:
    """What the methods of a job share on one rank.

    Example: `Job.begin(config, run, host)`
    """

    config: RunConfig
    run: RunFolder
    host: Host
    sets: ExampleSets
    steps: StudentSteps
    burn_in: BurnIn

    @classmethod
    def begin(cls, config: RunConfig, run: RunFolder, host: Host) -> Job:
        """Wait for the priors of the labeled set, and make ready to train on it.

        Raises:
            ConfigError: There are more ranks than samples in a batch.
        """
        smallest = min(config.loop.labeled_batch, config.loop.unlabeled_batch)
        if smallest < host.world_size:
            raise ConfigError(
                f"every train worker needs a sample of each batch, got {host.world_size} workers and a global batch "
                f"of {smallest}; raise loop.labeled_batch and loop.unlabeled_batch, or lower cluster.num_workers"
            )
        sets = ExampleSets(config, run, host.priors)
        labeled = sets["labeled"]
        steps = StudentSteps(config, host, labeled)
        return cls(config, run, host, sets, steps, BurnIn(config, host, labeled, steps))

    def train_burn_in(self) -> None:
        """Train the parts of the shared burn-in that are not there yet."""
        self.burn_in.train(with_folds=any(spec_of(method).learns for method in self.run.methods))

    def cross_fitted(self) -> CrossFitted:
        """Return the evidence on the labeled images, each seen through the burn-in teacher that never saw it."""
        burn_in = self.burn_in
        return CrossFitted(self.config, self.sets["labeled"], burn_in.folds, burn_in.fold_folders, self.host.device)


class MethodTraining:
    """The rounds of one selector, on one rank."""

    def __init__(self, job: Job, method: str) -> None:
        self._job = job
        self._method = method
        self._loop = job.config.loop
        self._learns = spec_of(method).learns
        self._networks = Networks.fresh(job.config, job.host)
        self._learner = SelectorLearner(selector_for(job.config.selector, method), job.host.device)

    def run(self, continued: Path | None) -> None:
        """Run all rounds from the burn-in, or those that are left from where training stopped."""
        position = self._begin() if continued is None else self._go_on(continued)
        while position.version < self._loop.rounds:
            position = self.run_round(position)

    def run_round(self, position: Position) -> Position:
        """Take one round to its end and publish what came of it, as the next version."""
        clock = Clock()
        pseudo = self._pseudo_labels(position.version)  # waits until every shard of the round is committed
        clock.lap("wait for labels")
        metrics = self._train_student(pseudo, position)  # on labeled + accepted pixels; the teacher follows each step
        clock.lap("train")
        following = Position(self._method, position.version + 1)
        if self._learns:
            metrics |= self._train_selector(following.version)
            clock.lap("update selector")
        self._publish(following, metrics | clock.seconds | pseudo.summary())
        return following

    def _begin(self) -> Position:
        """Publish version 0: the burn-in teacher and a selector that has learned from it."""
        self._networks.load(self._job.burn_in.base)
        position = Position(self._method)
        metrics = self._train_selector(0) if self._learns else {}
        self._publish(position, metrics)
        return position

    def _go_on(self, continued: Path) -> Position:
        """Load what lies in a folder below `train/`."""
        self._learner.load(continued, self._networks.load(continued))
        return read_position(continued)

    def _pseudo_labels(self, round_index: int) -> PseudoSet | OnlineSet:
        if not makes_labels(self._method):
            return PseudoSet.empty()
        if not stores_labels(self._method):
            unlabeled, teacher, selector = self._job.sets["unlabeled"], self._networks.teacher, self._learner.selector
            return OnlineSet(unlabeled, teacher, selector, self._loop, round_index)
        files = self._job.host.labels(self._method, round_index)
        pseudo = PseudoSet.read(files, self._job.sets["unlabeled"])
        if self._job.host.rank == 0 and pseudo.num_labeled and not len(pseudo):
            logger.warning(
                "None of the %d labels of %s, round %d, is used: the round trains on labeled images alone. Either no "
                "label is good enough yet (label more images, or take another prior), or the selector is too strict "
                "(l2l, scorer: lower selector.reward.gate_margin, with selector.cells also selector.reward.wrong_cost; "
                "fixed_threshold: lower selector.threshold).",
                pseudo.num_labeled,
                label_of(self._method),
                round_index,
            )
        return pseudo

    def _train_student(self, pseudo: PseudoSet | OnlineSet, position: Position) -> dict[str, float]:
        """Take the round's steps that are left; return the round's mean of each term, earlier steps included."""
        loop, host, round_index = self._loop, self._job.host, position.version
        rows = range(len(self._job.sets["labeled"]))
        means = dict(position.means)
        for step in range(position.step, loop.round_steps):
            done = loop.burn_in_steps + round_index * loop.round_steps + step
            terms = self._job.steps.take(self._networks, f"round{round_index}", step, done, rows, pseudo)
            for name, value in terms.items():
                means[name] = means.get(name, 0.0) + value / loop.round_steps
            host.progress(Stage(self._method, round_index), step + 1, loop.round_steps, terms)
            is_due = bool(loop.checkpoint_steps) and (step + 1) % loop.checkpoint_steps == 0
            leaves = (step + 1) % LOOK_EVERY_STEPS == 0 and host.leaves_soon()
            if (is_due or leaves) and step + 1 < loop.round_steps:
                here = replace(position, step=step + 1, means=dict(means))
                host.publish(here, partial(self._networks.save, position=here, learner=self._learner), terms)
        return means

    def _train_selector(self, version: int) -> dict[str, float]:
        """Update the selector of a version on rank 0 and share the result: the ranks must not drift apart."""
        job, learner, metrics = self._job, self._learner, dict[str, float]()
        if job.host.rank == 0:
            teacher, device = self._networks.teacher, job.host.device
            unlabeled = unlabeled_evidence(job.config, job.sets["unlabeled"], teacher, device)
            cross_fitted, seed, chunk = self._cross_fitted, self._loop.seed, self._loop.eval_batch
            found = learner.learn(cross_fitted, unlabeled, version, seed)
            others = [] if unlabeled is None else unlabeled.all(chunk)
            found |= learner.selector.settle(cross_fitted.parts(), others)
            metrics = {f"policy/{name}": value for name, value in found.items()}
            learner.calibration = calibration_of(learner, cross_fitted, unlabeled, version, seed, chunk)
        learner.receive(job.host.broadcast(learner.send()))
        return job.host.broadcast(metrics)

    @cached_property
    def _cross_fitted(self) -> CrossFitted:
        return self._job.cross_fitted()

    def _publish(self, position: Position, metrics: dict[str, float]) -> None:
        """Publish teacher and selector as one version."""
        self._job.host.publish(
            position, partial(self._networks.save, position=position, learner=self._learner), metrics
        )


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
