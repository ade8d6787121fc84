"""The Ray layer: roles as plain classes, made into actors where they are created. Start at `run`.

Nothing outside this folder (and `tune_spaces/`) imports ray. This file holds the defaults of Ray's environment, because
Ray reads most of them when it is first imported; so `run` and `sweep` set them, then import the rest. A variable that
is already set is left alone.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

    from pandas import DataFrame

    from l2l_ray.config import RunConfig

ENV_DEFAULTS = {
    # report() returns at the controller's next poll: with Ray's 2 s each published version would cost 2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Ray's print patch shows every line twice.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Without it the dashboard's Train tab stays empty.
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    # Metrics reach the node's agent this often; Ray's 10 s is longer than a smoke run's rounds.
    "RAY_metrics_report_interval_ms": "2000",
    # A role sees a GPU if and only if its resources ask for one.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Bars of several processes cannot be read in a job's log.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

# Makes every socket of a one-machine cluster bind 127.0.0.1; a second node could not join it.
LOOPBACK_ENV = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def set_environment(private: bool) -> None:
    """Set Ray's environment defaults; call before ray is imported.

    Args:
        private: The cluster will be one for this process on this machine: bind loopback only, and let in only who knows
            a fresh token (Ray's own default writes a token to the user's home, which changes later clusters).
    """
    defaults = dict(ENV_DEFAULTS)
    if private:
        defaults |= LOOPBACK_ENV
        if "RAY_AUTH_MODE" not in os.environ:
            defaults |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def wants_private_cluster(address: str | None) -> bool:
    """Whether a run with this configured address makes a cluster of its own."""
    return not (address or os.environ.get("RAY_ADDRESS"))


def run(config: RunConfig) -> Path:
    """Run the whole job on Ray and return its run folder.

    Raises:
        L2LError: See `driver.run`.
    """
    set_environment(wants_private_cluster(config.cluster.address))
    from l2l_ray.actors import driver

    return driver.run(config)


def sweep(
    config: RunConfig, space: Callable[[], Mapping[str, Any]], name: str, num_samples: int = 1, asha: bool = False
) -> DataFrame:
    """Run a sweep over whole runs and return its table.

    `space` is called once Ray may be imported, and returns config field -> search domain.

    Raises:
        L2LError: See `tuning.sweep`, which also describes the other arguments.
    """
    set_environment(wants_private_cluster(config.cluster.address))
    from l2l_ray.actors import tuning

    return tuning.sweep(config, space(), name, num_samples, asha)
