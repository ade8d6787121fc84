"""Ray Tune over whole L2L runs: one trial is one run, in one process, from burn-in to val figures.

    points      all known before (`sweep.trials`); Tune gets a grid of their ids, and does what it is good at: which
                trial runs where and when, ASHA, and a second try for one whose process died
    priors      asked once before the trials, for the union of their texts; trials read the same store, and are told
                which questions failed: one that kills or hangs the MLLM does so to no trial
    burn-ins    shared through the run root's cache by every trial that differs in nothing they depend on; who comes
                while another one trains the same burn-in waits for it
    how many    at once: the cluster's resources divided by what one run needs, computed here; where others hold all of
                them, room for one trial is waited for before Tune starts, which would wait without a word

A trial runs `loop.local.run_local`, so it starts no actors of its own: nothing it could wait for can be held by another
trial, which is how nested trainers deadlock. It reserves what one train worker would, with the CPU of all roles of a
run. After a kill, finished trials are read, and the others resume from their own run folders.
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from l2l_ray.actors.asha import METRIC, LikeWithLike
from l2l_ray.actors.cluster import (
    Need,
    device_for,
    namespace_of,
    needs,
    node_resources,
    prior_of_actors,
    require_fit,
    total,
    wait_in_line,
)
from l2l_ray.actors.connection import connected
from l2l_ray.actors.logs import KeptNotes
from l2l_ray.actors.priors import PriorPool
from l2l_ray.config import RunConfig
from l2l_ray.errors import HEALS, L2LError, one_line
from l2l_ray.files import locked
from l2l_ray.job import say
from l2l_ray.loop.inference.priors import KnownMllm, fill_priors, known_mllm
from l2l_ray.loop.progress import Console, Status
from l2l_ray.loop.state.prepare import RunData
from l2l_ray.loop.state.run_folder import RunFolder, continued
from l2l_ray.prior.shared_store import open_store
from l2l_ray.sweep.figures import val_figures
from l2l_ray.sweep.folder import SweepFolder
from l2l_ray.sweep.survey import Asked
from l2l_ray.sweep.trials import Trial
from l2l_ray.wording import counted

# A trial of a killed sweep may outlive it by some seconds; until it is gone, nobody else works in its folder.
LAST_HOLDER_TIMEOUT_S = 120.0
MAX_FAILURES = 1  # of a trial's process, after which it is started once more
TUNE_FOLDER = "tune"  # below the sweep's: what Tune itself writes


def sweep(
    config: RunConfig, trials: Sequence[Trial], folder: SweepFolder, asked: Sequence[Asked], asha: bool = False
) -> None:
    """Run every trial that is not finished or stopped yet; what came of each is in its folder and in the sweep's log.

    Args:
        config: What all trials share; its `cluster` section says where they run.
        trials: All trials of the sweep.
        folder: The sweep's folder, held by this process.
        asked: The texts of the trials that have not ended yet, from `sweep.survey`.
        asha: Stop trials that fall behind their rivals at a version.
    Raises:
        DataError: A file cannot be written.
        ClusterError: Not even one trial fits.
    """
    outcomes = folder.outcomes(trials)
    to_run = [trial for trial in trials if outcomes[trial.id].is_open]
    done = len(trials) - len(to_run)
    if not to_run:
        say(f"all {counted(len(trials), 'trial')} have ended before; nothing is run")
        return
    with connected(config.cluster):
        at_once = max_concurrent(config, node_resources())
        places = f"{at_once} at once" if at_once is not None else "as many at once as there are nodes for"
        say(f"{counted(len(trials), 'trial')}: {done} ended before, {len(to_run)} to run, {places}")
        mllms = ask_priors(config, folder, asked)
        wait_in_line([Need("trial", 1, trial_resources(config))], config.cluster, say)
        known = {
            name: {version: figure["mean_iou"] for version, figure in outcome.figures.items()}
            for name, outcome in outcomes.items()
        }
        watch = Watch(folder, trials, done)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failure is said by `Watch`, in one line
        scheduler = None
        if asha:
            rivals = {trial.id: trial.rivals for trial in trials}
            rounds = {trial.id: trial.config.loop.rounds for trial in trials}
            scheduler = LikeWithLike(rivals, rounds, known, watch.stopped)
        _tuner(config, to_run, mllms, folder, at_once, scheduler, watch).fit()


def trial_resources(config: RunConfig) -> dict[str, float]:
    """Return what one trial reserves: what one train worker asks for, with the CPU of all roles together."""
    own = {**config.cluster.worker_resources, "CPU": total(needs(config.cluster)).get("CPU", 0.0)}
    return {name: amount for name, amount in own.items() if amount > 0} or {"CPU": 1.0}


def max_concurrent(config: RunConfig, nodes: Sequence[Mapping[str, float]]) -> int | None:
    """Return how many trials fit at once, counting each node alone.

    None where an autoscaler adds nodes: it is the waiting trials that make them come.

    Raises:
        ClusterError: Not even one fits.
    """
    wanted = trial_resources(config)
    require_fit([Need("trial", 1, wanted)], config.cluster, nodes)
    if config.cluster.autoscaled:
        return None
    return sum(min(math.floor(node.get(k, 0.0) / v + 1e-6) for k, v in wanted.items()) for node in nodes)


def ask_priors(config: RunConfig, folder: SweepFolder, asked: Sequence[Asked]) -> dict[str, KnownMllm]:
    """Ask for all priors the trials will need, so that they find them in the store; return who was asked, by trial.

    Where the store has them all, no prior actor is started. Else room for them is waited for.

    Args:
        config: What all trials share.
        folder: The sweep's folder.
        asked: The texts of each MLLM, or way to ask one.
    Raises:
        ClusterError: The cluster has no room for a prior actor.
    """
    cluster, mllms = config.cluster, dict[str, KnownMllm]()
    for number, group in enumerate(asked):
        asking = config.model_copy(update={"name": f"{folder.path.name}/priors-{number}", "prior": group.config.prior})
        run = RunFolder(asking.run_dir, asking)
        run.path.mkdir(parents=True, exist_ok=True)
        texts = list(group.examples.values())
        with ExitStack() as at_end:
            mllm: KnownMllm | PriorPool | None = known_mllm(
                asking, prior_of_actors(asking), run, RunData([], texts, {})
            )
            if mllm is None:
                wait_in_line([Need("prior", cluster.num_priors, cluster.prior_resources)], cluster, say)
                mllm = PriorPool(asking, namespace_of(asking))
                at_end.callback(mllm.close)
            with open_store(config.cache_dir) as store:
                num = fill_priors("union", texts, run, store, mllm, asking.prior.batch_size)
            known = f"; {len(texts) - num} were known or come twice" if num < len(texts) else ""
            say(f"the language model was asked about {num} of {counted(len(texts), 'text')}{known}")
            mllms |= dict.fromkeys(group.trials, KnownMllm(asking.prior, mllm.identity(), mllm.given_up))
    return mllms


def run_trial(params: dict[str, Any], configs: dict[str, RunConfig], mllms: dict[str, KnownMllm]) -> None:
    """Run one trial: a whole run in this process, reporting the val figure of each version as it comes.

    An error is reported, not raised: a second try would end the same way. Tune tries again where a process died.

    Args:
        params: `{"trial": id}`.
        configs: Config of every trial.
        mllms: Who has answered for every trial.
    """
    import torch

    from l2l_ray.loop.inference.engine import InferenceEngine
    from l2l_ray.loop.local import run_local

    config = configs[params["trial"]]
    torch.set_num_threads(config.cluster.threads_per_worker)
    notes = KeptNotes()
    reports = Reports(config, notes)
    engine = partial(InferenceEngine, device=device_for(config.cluster.worker_resources))
    try:
        with locked(config.run_dir.with_name(f".{params['trial']}.lock"), LAST_HOLDER_TIMEOUT_S):
            run_local(continued(config), engine, reports, mllms[params["trial"]])
            reports.bring_up_to_date()
    except Exception as error:  # of every kind: a trial's failure is its own, the others go on
        tune.report({"failed": _reason(error, config.run_dir), "notes": notes.taken()})


def _reason(error: Exception, run_dir: Path) -> str:
    """Return why a trial failed; of what nobody expected, also the file below the trial's folder that says where."""
    if isinstance(error, L2LError):
        return one_line(error)
    told, path = f"{type(error).__name__}: {one_line(error)}", run_dir / "error.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)))
    except OSError as full:
        return f"{told}; where it happened cannot be written: {full}"
    return f"{told}; where it happened is in {path}"


class Reports(Console):
    """Tells Tune of each version of a run once it is measured on val, in the run's own thread.

    Tune answers before the run goes on, so one that is stopped ends right there, with this version as its last.
    """

    def __init__(self, config: RunConfig, notes: KeptNotes) -> None:
        super().__init__(config, stream=None)
        self._notes = notes
        self._run = RunFolder(config.run_dir, config)
        self._seen: frozenset[str] | None = None
        self._reported = 0

    def update(self, status: Status, busy: int) -> None:
        """Report what is new; a resumed run begins with what was measured before."""
        if self._seen != status.mean_iou.keys():
            self._seen = frozenset(status.mean_iou)
            self.bring_up_to_date()

    def bring_up_to_date(self) -> None:
        """Report every version that was measured and not reported yet."""
        for version, figure in val_figures(self._run, self._reported).items():
            self._reported = version
            tune.report({"version": version, METRIC: figure["mean_iou"], "notes": self._notes.taken()})


class Watch(tune.Callback):
    """Writes down what happens to the trials, and says so, a line each.

    Args:
        folder: The sweep's folder.
        trials: All of its trials.
        done: How many have ended before.
    """

    def __init__(self, folder: SweepFolder, trials: Sequence[Trial], done: int) -> None:
        self._folder = folder
        self._rounds = {trial.id: trial.config.loop.rounds for trial in trials}
        self._words = {trial.id: trial.words() for trial in trials}
        self._done = done
        self._begun = time.monotonic()
        self._stopped: dict[str, int] = {}

    def stopped(self, trial: str, version: int) -> None:
        """Note that a trial is being stopped at a version."""
        self._stopped[trial] = version
        self._log("stopped", trial, version=version)

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Note a start."""
        self._log("started", str(trial.config["trial"]))

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """Say what the trial warned of, and how good a version is, but for the last, which its end tells."""
        name = str(trial.config["trial"])
        for note in result["notes"]:
            self._say(name, f"note: {note}")
        if METRIC in result and result["version"] < self._rounds[name] and name not in self._stopped:
            self._say(name, f"version {result['version']}, val mean IoU {100 * result[METRIC]:.1f} %")

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Note an end: finished, stopped or failed."""
        name, result = str(trial.config["trial"]), trial.last_result
        seconds, version = round(float(result["time_total_s"]), 1), self._stopped.get(name)
        reason = result.get("failed")
        if reason is None and version is None and result.get("version") != self._rounds[name]:
            reason = f"it ended without a figure on val of version {self._rounds[name]}; {HEALS}"
        if reason is not None:
            self._ended("failed", name, f"failed: {reason}", reason=reason, seconds=seconds)
            return
        figure = f"val mean IoU {100 * result[METRIC]:.1f} %, {seconds:.0f} s"
        if version is not None:
            self._ended("stopped", name, f"stopped at version {version}, {figure}", version=version, seconds=seconds)
        else:
            self._ended("finished", name, f"finished, {figure}", seconds=seconds)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Note a trial whose process died each time it was tried."""
        details = self._folder.path / TUNE_FOLDER / _own_id(trial) / "error.txt"
        reason = f"its process died each of {1 + MAX_FAILURES} times, perhaps for want of memory; details in {details}"
        self._ended("failed", str(trial.config["trial"]), f"failed: {reason}", reason=reason)

    def _ended(self, event: Any, name: str, what: str, **details: Any) -> None:
        self._log(event, name, **details)
        self._done += 1
        self._say(name, what)

    def _log(self, event: Any, name: str, **details: Any) -> None:
        """Write a line; a disk that fails costs the line and no trial, whose own folder says what it did."""
        try:
            self._folder.log(event, name, **details)
        except OSError as error:
            self._say(name, f"its end or start cannot be noted: {error}; free some space")

    def _say(self, name: str, what: str) -> None:
        clock = f"[{time.monotonic() - self._begun:5.0f}s]"
        say(f"{clock} {self._done}/{len(self._words)} {name} ({self._words[name]}): {what}")


def _tuner(
    config: RunConfig,
    trials: Sequence[Trial],
    mllms: Mapping[str, KnownMllm],
    folder: SweepFolder,
    at_once: int | None,
    scheduler: LikeWithLike | None,
    watch: Watch,
) -> tune.Tuner:
    configs = {trial.id: trial.config for trial in trials}
    function = tune.with_parameters(run_trial, configs=configs, mllms=dict(mllms))
    return tune.Tuner(
        tune.with_resources(function, trial_resources(config)),
        param_space={"trial": tune.grid_search(list(configs))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=at_once,
            scheduler=scheduler,
            reuse_actors=False,  # a process keeps a gigabyte or more of what each trial allocated and freed
            trial_dirname_creator=_own_id,
        ),
        run_config=tune.RunConfig(
            name=TUNE_FOLDER,
            storage_path=str(folder.path),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[watch],
        ),
    )


def _own_id(trial: TuneTrial) -> str:
    return f"{trial.config['trial']}-{Path(str(trial.trial_id)).name}"
