"""What the tests of whole sweeps share: a tiny config, a space of their own, and how a sweep is started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from l2l_ray.config import RunConfig, save_config
from l2l_ray.sweep.space import Grid
from l2l_ray.sweep.trials import Trial, trials_of
from tests.ray_runs import ROOT, WAIT_S
from tests.whole_run import changed, tiny_config

SPACE_FILE = """from l2l_ray.sweep.space import Grid


def space(config):
    return {"selector.name": Grid(%r)}
"""


def sweep_config(root: Path) -> RunConfig:
    """Return the run of `tests/whole_run.py` as a trial: two rounds of two steps, by one thread."""
    return changed(
        tiny_config(root),
        name=None,
        compare=(),
        loop={"rounds": 2, "burn_in_steps": 2, "fold_steps": 2, "round_steps": 2},
        cluster={"threads_per_worker": 1, "start_timeout_s": WAIT_S},
    )


def expected_trials(root: Path, names: tuple[str, ...], seeds: tuple[int, ...] = (0,)) -> list[Trial]:
    """Return the trials that `sweep_words` starts."""
    return trials_of(sweep_config(root), {"selector.name": Grid(names)}, "sweep-mine", seeds)


def sweep_words(root: Path, names: tuple[str, ...], *more: str) -> list[str]:
    """Write a config and a space of some selectors; return the command that sweeps it."""
    save_config(sweep_config(root), root / "run.yaml")
    (root / "mine.py").write_text(SPACE_FILE % (names,))
    return [sys.executable, "jobs/sweep.py", str(root / "mine.py"), "--config", str(root / "run.yaml"), *more]


def sweep_env(address: str) -> dict[str, str]:
    """Return the environment of a sweep on the cluster at `address`."""
    return {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)}
