"""Starts, watches, changes and ends a server on Ray Serve; what it consists of is in `deployments`.

The application is deployed by Serve's own REST interface, as a config: only then does a new checkpoint reach the living
replicas (`user_config`) instead of replacing them. That interface holds all applications of a cluster in one config, so
a cluster whose Serve runs something else is refused; what others deploy later stays when the server ends.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import serve

from l2l_ray.actors import reviewing
from l2l_ray.actors.cluster import Need, node_resources, shortage
from l2l_ray.actors.connection import connected, still_answers
from l2l_ray.actors.deployments import require_same_mllm
from l2l_ray.actors.serve_interface import ServeInterface, interface_at
from l2l_ray.actors.serve_states import (
    APP,
    POLL_S,
    PREDICTOR,
    PRIOR,
    START_TIMEOUT_S,
    states_after,
    wait_until_it_runs,
    watch,
)
from l2l_ray.config import ClusterConfig, toy_answers
from l2l_ray.errors import ClusterError, ConfigError
from l2l_ray.predictor import run_and_version
from l2l_ray.processes import try_port
from l2l_ray.serving.settings import LOOPBACK, BuildArgs, ServeConfig
from l2l_ray.storage import place
from l2l_ray.wording import Say

logger = logging.getLogger(__name__)

END_S = 10.0  # that Serve takes to see that its replicas have ended
_IMPORT_PATH = "l2l_ray.actors.deployments:build"


def run(checkpoint: Path, settings: ServeConfig, token_sha256: str, address: str | None, say: Say, told: str) -> None:
    """Serve a checkpoint until it is told to end; then requests in work are answered, or refused, and all is released.

    They have `timeout_s` for that, as ever; a second Ctrl-C cuts them off.

    Args:
        checkpoint: A finished run, or one of its versions; see `Predictor.from_run`.
        settings: Of the server.
        token_sha256: Hash of the token.
        address: Ray's; None = a private cluster.
        say: Takes each line of output.
        told: Printed once it answers.
    Raises:
        L2LError: The checkpoint cannot be used, or not be reviewed, the cluster is too small, something else is served
            there, the port is taken, or an application failed.
        KeyboardInterrupt: It was told to end: Ctrl-C, SIGTERM, or a closed terminal.
    """
    if settings.review:
        reviewing.require_reviewable(checkpoint)
    note = toy_answers(run_and_version(checkpoint)[0].config)
    private = address is None
    if private:
        require_free_port(settings)  # before a cluster is started
        require_token_mode()
    with connected(ClusterConfig(address=address or "local")) as dashboard:
        say(f"dashboard  {dashboard}")
        _require_room(settings)
        client = interface_at(dashboard)
        if others := sorted(client.applications()):
            is_ours = APP in others and set(others) <= {APP, reviewing.REVIEW_APP}
            remedy = "--swap changes its checkpoint, `serve shutdown` ends it" if is_ours else "use another"
            raise ClusterError(
                f"Ray Serve on this cluster runs {', '.join(others)} already, expected nothing; {remedy}"
            )
        require_address(client.get_serve_details().get("http_options"), settings)
        config = _serve_config(checkpoint, settings, token_sha256)
        with _deployed(client, config, private, settings.timeout_s + END_S, say):
            say(told)
            _say_note(note, say)
            watch([app["name"] for app in config["applications"]], say)


def swap(checkpoint: Path, address: str | None, say: Say) -> None:
    """Let the server on a cluster change over to another checkpoint; no request is dropped.

    Its review page stays with the run that it was started for.

    Raises:
        L2LError: The checkpoint cannot be used, nothing is served there, or a replica could not load it.
    """
    note = toy_answers(run_and_version(checkpoint)[0].config)
    if address is None:
        raise ConfigError("--swap needs the cluster of the server, got none; give --address, or set RAY_ADDRESS")
    with connected(ClusterConfig(address=address)) as dashboard:
        client = interface_at(dashboard)
        apps = {name: config for name, config in client.applications().items() if config}
        if APP not in apps:
            raise ClusterError(f"no server runs on the cluster at {address}; start one without --swap")
        app = apps[APP]
        old = next(one["user_config"]["checkpoint"] for one in app["deployments"] if one["name"] == PREDICTOR)
        if any(one["name"] == PRIOR for one in app["deployments"]):
            require_same_mllm(place(old), checkpoint)
        try:
            name = _changed_to(str(checkpoint.resolve()), client, apps)
        except ClusterError as error:
            # Those that could load it go back, and one that starts later is not told to load it, too.
            try:
                stays = f"the checkpoint stays {_changed_to(old, client, apps)}"
            except ClusterError as worse:
                stays = f"each replica keeps what it has loaded, for {old} cannot be loaded again either ({worse})"
            raise ClusterError(f"{stays}: {error}") from None
        say(f"serving    {name}")
        _say_note(note, say)


def _say_note(note: str | None, say: Say) -> None:
    """Say what a replica would tell nobody: what the predictor notes at a picture ends in the replica's log."""
    if note:
        say(f"note: {note}")


def _changed_to(checkpoint: str, client: ServeInterface, apps: dict[str, dict[str, Any]]) -> str:
    """Deploy the applications, the predictors' with another checkpoint; return what answers call it.

    Raises:
        ClusterError: Not every replica took it in time, or the application failed.
    """
    user_config = user_config_of(checkpoint)
    for deployment in apps[APP]["deployments"]:
        deployment["user_config"] = user_config
    client.deploy_applications({"applications": list(apps.values())})
    states = states_after(checkpoint, user_config["asked"])
    if problem := next((state["problem"] for state in states if state["problem"]), ""):
        raise ClusterError(problem)
    return states[0]["checkpoint"]


def user_config_of(checkpoint: str) -> dict[str, str]:
    """Return the `user_config` that makes replicas load a checkpoint, also where they have loaded that path before."""
    return {"checkpoint": checkpoint, "asked": secrets.token_hex(8)}


def _serve_config(checkpoint: Path, settings: ServeConfig, token_sha256: str) -> dict[str, Any]:
    """Return what Serve is to run, as its config files say it."""
    names = [PREDICTOR, *([PRIOR] if settings.prior else [])]
    user_config = user_config_of(str(checkpoint.resolve()))
    app = {
        "name": APP,
        "route_prefix": "/",
        "import_path": _IMPORT_PATH,
        "args": BuildArgs(settings=settings, token_sha256=token_sha256).model_dump(mode="json"),
        "deployments": [{"name": name, "user_config": user_config} for name in names],
    }
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": settings.host, "port": settings.port},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [
            app,
            *([reviewing.application(checkpoint, settings, token_sha256)] if settings.review else []),
        ],
    }


@contextmanager
def _deployed(
    client: ServeInterface, config: dict[str, Any], private: bool, drain_s: float, say: Say
) -> Iterator[None]:
    """Let a config run for the length of the block; then requests in work are answered, and all is released.

    Args:
        client: Of the cluster.
        config: What to deploy.
        private: Whether nobody else can have deployed anything.
        drain_s: Longest wait for requests in work.
        say: Takes each line of output.
    Raises:
        ClusterError: An application failed, or did not come up in time.
    """
    has_served = False
    try:
        client.deploy_applications(config)
        deadline = time.monotonic() + START_TIMEOUT_S
        for app in config["applications"]:
            wait_until_it_runs(app["name"], deadline)
        has_served = True
        yield
    finally:
        if not still_answers():
            logger.warning("what was deployed cannot be ended: the Ray cluster does not answer")
        else:
            try:
                if has_served:
                    say("ends when the requests in work are answered; Ctrl-C again cuts them off")
                    drain(None if private else client, config, drain_s)
            finally:
                _release(client, config, private)


def _release(client: ServeInterface, config: dict[str, Any], private: bool) -> None:
    """End what runs of a config, and Serve itself where nobody else uses it."""
    if private:
        serve.shutdown()  # type: ignore[no-untyped-call]
    elif _others(client, config):
        _end(client, config)
    else:
        client.delete_applications()  # type: ignore[no-untyped-call]  # and Serve's own actors, within 30 s


def _others(client: ServeInterface, config: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
    """Return the applications on this cluster that a config does not name, as `applications` does."""
    names = {app["name"] for app in config["applications"]}
    return {name: app for name, app in client.applications().items() if name not in names}


def _end(client: ServeInterface, config: dict[str, Any]) -> None:
    """Take a config's applications off Serve; those that somebody else has deployed since stay."""
    others = [app for app in _others(client, config).values() if app]
    client.deploy_applications({**config, "applications": others})


def drain(client: ServeInterface | None, config: dict[str, Any], timeout_s: float) -> None:
    """End a config's applications and wait until they have no replica: each ends when its requests are answered.

    Args:
        client: None = a private cluster: nobody else has deployed anything, so the dashboard need not be asked.
        config: What was deployed.
        timeout_s: Longest wait.
    Raises:
        KeyboardInterrupt: A second one.
    """
    names, deadline = {app["name"] for app in config["applications"]}, time.monotonic() + timeout_s
    try:
        found = names & set(serve.status().applications)
        if client is None:
            for name in found:
                serve.delete(name, _blocking=False)
        elif found:
            _end(client, config)
        while names & set(serve.status().applications) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("requests that were in work were cut off") from None


def require_token_mode() -> None:
    """Refuse to serve on a private cluster that lets anybody in.

    Each replica of Ray Serve has a port for others that listens on every network, and no setting of Ray's changes that.

    Raises:
        ConfigError: RAY_AUTH_MODE says so.
    """
    if (mode := os.environ.get("RAY_AUTH_MODE")) != "token":
        raise ConfigError(
            f"RAY_AUTH_MODE must be token, got {mode}: replicas of Ray Serve listen on every network of this machine; "
            "unset it, or give a cluster of your own with --address"
        )


def _require_room(settings: ServeConfig) -> None:
    """Refuse what fits nowhere, for which Serve would wait without a word."""
    demand = [Need("predictor replica", settings.replicas, settings.replica_resources)]
    demand += [Need("prior replica", 1, settings.prior_resources)] if settings.prior else []
    demand += [Need("review page", 1, settings.review_resources)] if settings.review else []
    remedy = "add nodes, or lower replicas, replica_resources, prior_resources or review_resources"
    if problem := shortage(demand, node_resources(), remedy):
        raise ClusterError(problem)


def require_address(listens: Mapping[str, Any] | None, settings: ServeConfig) -> None:
    """Refuse a host and port that Serve could not take, or would not: where it runs, it keeps what it listens on.

    Args:
        listens: The `http_options` of the Serve that runs on the cluster; None = none does.
        settings: With host and port.
    Raises:
        ConfigError: The port is taken, or Serve listens elsewhere.
    """
    if listens is None:
        require_free_port(settings)
    elif (listens["host"], listens["port"]) != (settings.host, settings.port):
        raise ConfigError(
            f"Ray Serve on this cluster listens on host {listens['host']}, port {listens['port']} already, got --host "
            f"{settings.host} --port {settings.port}; give those, or end it with `serve shutdown`"
        )


def require_free_port(settings: ServeConfig) -> None:
    """Refuse a port that is taken on this machine, and a host that is not its own: Serve would only log it.

    Raises:
        ConfigError: It cannot be listened on.
    """
    try:
        try_port(settings.host, settings.port)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on host {settings.host}, port {settings.port}: {error.strerror}; choose another --port, or "
            f"--host {LOOPBACK}"
        ) from None
