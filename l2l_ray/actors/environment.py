"""The environment variables Ray reads when it is first imported; set here, before that. This file does not import ray.

A variable that is already set is left alone.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from l2l_ray.actors import session
from l2l_ray.config import ClusterConfig, RunConfig
from l2l_ray.errors import ClusterError

STOP_S = 40  # a driver that is told to end releases its actors one after the other; mostly in a few seconds

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
    # Tune would take Ctrl-C as "save and end as if all were well".
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Tune's newer output shows a banner even where it is told to be silent.
    "RAY_AIR_NEW_OUTPUT": "0",
    # A proxy that is not up within Serve's own 5 s is killed and started again, on a busy machine for ever.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    # Arrow's own allocator keeps some 25 MB that a labeler has read and dropped.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    # `ray job stop` kills a driver after that; Ray's 3 s are over before actors are released.
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S),
    # Bars of several processes cannot be read in a job's log.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

# Makes every socket of a one-machine cluster bind 127.0.0.1, and those who reach it use that address; a second node
# could not join it.
LOOPBACK_ENV = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

# What Ray reads of tokens; where one of them is set, no token is looked for.
TOKEN_ENV = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def set_environment(config: RunConfig) -> None:
    """Set the environment for a job with this config; call before ray is imported."""
    set_defaults(address_of(config.cluster))


def address_of(config: ClusterConfig) -> str | None:
    """Return the address of the cluster to use; None = make a private one for this process.

    Two of Ray's own words are understood: `local` is a private one, and `auto` the one that `make cluster-up` has
    started in the current folder. Ray would make the first without a token and open to the network, and look
    for the second among whatever runs on the machine.

    Raises:
        ClusterError: It is `auto`, and none of the current folder runs.
    """
    wanted = (config.address or os.environ.get("RAY_ADDRESS") or "").strip()
    if wanted in ("", "local"):
        return None
    if wanted != "auto":
        return wanted
    if (found := session.address_of_checkout(Path.cwd())) is None:
        raise ClusterError(
            f"RAY_ADDRESS or cluster.address is auto, but no Ray cluster that was started in {Path.cwd()} runs; start "
            "one with `make cluster-up`, or name another cluster as HOST:PORT, which `. .ray/env` in its folder does"
        )
    return found


def set_defaults(address: str | None) -> None:
    """Set every default whose variable is not set yet.

    A cluster on this machine's loopback is reached over loopback, with the token of the one that this user started
    there. A private one lets in only who knows a fresh token: Ray's own default writes a token to the user's home,
    which changes later clusters.

    Args:
        address: Of the cluster to use; None = a private one.
    """
    defaults = dict(ENV_DEFAULTS)
    if address is None or address.startswith(("127.0.0.1:", "localhost:")):
        defaults |= LOOPBACK_ENV
    if address is None and os.environ.get("RAY_AUTH_MODE", "token") == "token":
        defaults |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    elif address is not None and not any(name in os.environ for name in TOKEN_ENV):
        if (path := session.token_path(address)) is not None:
            defaults |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
