"""Ray Tune over whole L2L runs: one trial is one run, in one process, from burn-in to val figures.

    priors      asked once before the trials, for the smallest and the largest labeled share (splits are nested, so
                these two cover all between); trials read the same store
    burn-ins    shared through the run root's cache by every trial that differs in nothing it depends on
    how many    at once: the cluster's resources divided by what one run needs, computed here

A trial runs `loop.local.run_local`, so it starts no actors of its own: nothing it could wait for can be held by
another trial, which is how nested trainers deadlock. It reserves what the roles of a run would reserve together. A
trial that died is started again and resumes from its own run folder.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.sample import Categorical, Domain, Float, Integer

from l2l_ray.actors.background import Background
from l2l_ray.actors.cluster import Need, connected, namespace_of, needs, node_resources, shortage, total
from l2l_ray.actors.priors import PriorPool
from l2l_ray.config import RunConfig
from l2l_ray.errors import ClusterError, ConfigError
from l2l_ray.loop.inference.priors import fill_all_priors, lacks_priors
from l2l_ray.loop.state.plan import VAL
from l2l_ray.loop.state.prepare import prepare
from l2l_ray.loop.state.run_folder import RunFolder, continued

logger = logging.getLogger(__name__)

METRIC = "val_mean_iou"
POLL_S = 0.5
Space = Mapping[str, Any]


def sweep(config: RunConfig, space: Space, name: str, num_samples: int = 1, asha: bool = False) -> pd.DataFrame:
    """Run one trial per point of `space` and return their figures, best first.

    Args:
        config: What all trials share.
        space: Config field -> search domain, e.g. `{"data.labeled_frac": tune.grid_search([0.01, 0.05])}`.
        name: Folder of the sweep under the run root; the table goes to `<name>/sweep.csv`.
        num_samples: Draws from the sampled domains; a grid is repeated that often.
        asha: Stop trials that fall behind at a round.
    Raises:
        ConfigError: A field of the space does not exist, or the data set has no val split.
        ClusterError: Not even one trial fits, or all failed.
    """
    folder = config.root / name
    config = config.model_copy(update={"name": f"{name}/base"})
    check_space(config, space)
    with connected(config.cluster):
        at_once = max_concurrent(config, node_resources())
        sys.stdout.write(f"sweep folder {folder}\n{at_once} trials at once\n")
        ask_priors(config, space, name)
        results = _tuner(config, space, folder, num_samples, at_once, asha).fit()
    if errors := [str(error) for error in results.errors]:
        logger.warning("%d of %d trials failed; first: %s", len(errors), len(results), errors[0])
    table = as_table(results.get_dataframe(), list(space))
    table.to_csv(folder / "sweep.csv", index=False)
    return table


def set_field(config: RunConfig, path: str, value: Any) -> RunConfig:
    """Return a config with one field changed, checked by the models.

    Raises:
        ConfigError: There is no such field, or the value does not fit.
    """
    content = config.model_dump()
    *sections, field = path.split(".")
    place = content
    for section in sections:
        place = place.get(section, {})
    if field not in place:
        raise ConfigError(f"the sweep's field {path!r} does not exist; `selfevolve.py --help` lists every field")
    place[field] = value
    try:
        return RunConfig.model_validate(content)
    except ValueError as error:
        raise ConfigError(f"the sweep's value for {path} does not fit: {error}") from None


def check_space(config: RunConfig, space: Space) -> None:
    """Refuse a space with an unknown field or an impossible value before anything starts."""
    for path, domain in space.items():
        for value in extremes(domain):
            set_field(config, path, value)


def extremes(domain: Any) -> list[Any]:
    """Return the values of a domain at its ends: all of a grid or choice, the bounds of a range."""
    if isinstance(domain, dict) and "grid_search" in domain:
        return list(domain["grid_search"])
    if isinstance(domain, Categorical):
        return list(domain.categories)
    if isinstance(domain, Float):
        return [domain.lower, domain.upper]
    if isinstance(domain, Integer):
        return [domain.lower, domain.upper - 1]
    if isinstance(domain, Domain):
        raise ConfigError(f"a sweep cannot use the domain {domain!r}; use grid_search, choice, uniform or randint")
    return [domain]


def trial_resources(config: RunConfig) -> dict[str, float]:
    """Return what one trial reserves: CPU of all roles together, and the accelerator of one train worker."""
    wanted = total(needs(config.cluster))
    own = {"CPU": wanted.get("CPU", 0.0), "GPU": config.cluster.worker_resources.get("GPU", 0.0)}
    return {name: amount for name, amount in own.items() if amount > 0} or {"CPU": 1.0}


def max_concurrent(config: RunConfig, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return how many trials fit at once, counting each node alone.

    Raises:
        ClusterError: Not even one fits.
    """
    wanted = trial_resources(config)
    fit = sum(min(math.floor(node.get(k, 0.0) / v + 1e-6) for k, v in wanted.items()) for node in nodes)
    if not fit:
        raise ClusterError(shortage([Need("trial", 1, wanted)], nodes) or f"no node has {wanted} for one trial")
    return fit


def ask_priors(config: RunConfig, space: Space, name: str) -> None:
    """Ask for all priors the trials will need, so that they find them in the store.

    Raises:
        ConfigError: The data set has no val split to compare trials on.
    """
    if any(path.startswith("prior.") for path in space):
        return  # each trial asks another model, or asks differently
    drawn = space.get("data.labeled_frac")
    shares = [config.data.labeled_frac] if drawn is None else extremes(drawn)
    numbers = sorted(share for share in shares if share is not None)
    asked = dict.fromkeys([*numbers[:1], *numbers[-1:], *(share for share in shares if share is None)])
    pool: PriorPool | None = None
    try:
        for number, share in enumerate(asked):
            asking = set_field(
                config.model_copy(update={"name": f"{name}/priors-{number}"}), "data.labeled_frac", share
            )
            folder = RunFolder.open(continued(asking))
            data = prepare(asking, folder)
            if VAL not in data.splits:
                raise ConfigError(
                    f"a sweep compares trials on val, but {asking.data.dataset} has only {list(data.splits)}"
                )
            if lacks_priors(folder, data):
                pool = pool or PriorPool(asking, namespace_of(asking))
                fill_all_priors(asking, folder, data, pool)
    finally:
        if pool is not None:
            pool.close()


def trial(params: dict[str, Any], config: RunConfig, name: str) -> None:
    """Run one trial: a whole run in this process, reporting the val figure of each version as it comes.

    Args:
        params: Field -> value, drawn by Tune.
        config: What all trials share.
        name: Folder of the sweep.
    """
    import torch

    from l2l_ray.loop.local import run_local

    torch.set_num_threads(config.cluster.threads_per_worker)
    for path, value in params.items():
        config = set_field(config, path, value)
    config = continued(config.model_copy(update={"name": f"{name}/{tune.get_context().get_trial_id()}"}))
    folder = RunFolder(config.run_dir, config)
    run = Background("trial", lambda: run_local(config))
    reported = 0
    while True:
        over = not run.alive  # looked at before the events: what the run wrote last is then read below
        run.check()
        figures = val_figures(folder)
        for figure in figures[reported:]:
            tune.report(figure)
        reported = len(figures)
        if over:
            return
        time.sleep(POLL_S)


def val_figures(folder: RunFolder) -> list[dict[str, Any]]:
    """Return what Tune is told of each evaluated version of a run's main selector, in order."""
    main = folder.methods[-1]
    found = [
        event
        for event in folder.events()
        if event["event"] == "evaluation" and (event["method"], event["split"]) == (main, VAL) and event["version"] > 0
    ]
    return [
        {METRIC: event["mean_iou"], "val_overall_iou": event["overall_iou"], "version": event["version"]}
        for event in found
    ]


def as_table(frame: pd.DataFrame, fields: list[str]) -> pd.DataFrame:
    """Keep what a reader wants of Tune's frame: the swept fields, the figures, the run folder's name."""
    if METRIC not in frame:
        raise ClusterError("no trial reported a figure; the errors are above")
    kept = {f"config/{name}": name for name in fields}
    kept |= {METRIC: METRIC, "val_overall_iou": "val_overall_iou", "version": "version"}
    kept |= {"time_total_s": "seconds", "trial_id": "trial"}
    table = frame[[column for column in kept if column in frame]].rename(columns=kept)
    return table.sort_values(METRIC, ascending=False, ignore_index=True)


def _tuner(config: RunConfig, space: Space, folder: Path, num_samples: int, at_once: int, asha: bool) -> tune.Tuner:
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, config=config, name=folder.name), trial_resources(config)),
        param_space=dict(space),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            num_samples=num_samples,
            max_concurrent_trials=at_once,
            scheduler=ASHAScheduler(time_attr="version", max_t=config.loop.rounds) if asha else None,
            # A stopped trial's run goes on in its thread until the process ends, so the process must end.
            reuse_actors=not asha,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="tune", storage_path=str(folder), verbose=0, failure_config=tune.FailureConfig(max_failures=1)
        ),
    )
