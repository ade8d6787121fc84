"""The state of an application on Ray Serve: waits until it runs, and says when that changes.

Nothing heavy is imported here: a task that asks for states starts at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from l2l_ray.actors.cluster import own_error
from l2l_ray.errors import ClusterError
from l2l_ray.wording import Say

APP, API, PREDICTOR, PRIOR = "l2l", "Api", "Predictor", "Prior"  # an application, and the deployments in it
START_TIMEOUT_S = 600.0  # a large MLLM loads for minutes
POLL_S = 0.5
LOOK_EVERY_S = 5.0
_FAILED = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)


def wait_until_it_runs(name: str, deadline: float) -> None:
    """Wait until an application and the HTTP proxy are up.

    Args:
        name: Of the application.
        deadline: `START_TIMEOUT_S` after the wait began, by `time.monotonic`.
    Raises:
        ClusterError: They failed, or did not come up in time.
    """
    while True:
        status = serve.status()
        app = status.applications.get(name)
        proxies = {str(state) for state in status.proxies.values()}
        if app and app.status == ApplicationStatus.RUNNING and "HEALTHY" in {one.rpartition(".")[2] for one in proxies}:
            return
        if app and app.status in _FAILED:
            raise ClusterError(f"the server could not be started: {_why(app)}; its logs are in the dashboard")
        if time.monotonic() > deadline:
            state = app.status if app else "not there"
            raise ClusterError(
                f"the server did not come up within {START_TIMEOUT_S:g} s: application {name} {state}, HTTP {proxies}; "
                "free resources, or see its logs in the dashboard"
            )
        time.sleep(POLL_S)


def states_after(checkpoint: str, asked: str) -> list[dict[str, str]]:
    """Return the state of every predictor replica, once each has been asked to change over to a checkpoint.

    Args:
        checkpoint: For the message.
        asked: Of the `user_config` that asked.
    Raises:
        ClusterError: Not every one has in time, or the application failed.
    """
    # In a process of its own, which ends with it: where Serve has made a handle, a thread asks the cluster on, and
    # connects again when this job has left it.
    task: Any = ray.remote(_states_after).options(num_cpus=0, max_retries=0)
    try:
        states: list[dict[str, str]] = ray.get(task.remote(checkpoint, asked))
    except RayTaskError as error:
        raise own_error(error) from None
    return states


def _states_after(checkpoint: str, asked: str) -> list[dict[str, str]]:
    handle = serve.get_deployment_handle(PREDICTOR, APP)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        wait_until_it_runs(APP, deadline)
        states: list[Any] = []
        with suppress(RayServeException, TimeoutError):  # the only one has just died
            left_s = max(deadline - time.monotonic(), 0.0)
            states = handle.broadcast("state").results(timeout_s=left_s, return_exceptions=True)
        counts = serve.status().applications[APP].deployments[PREDICTOR].replica_states
        are_all = all(state == "RUNNING" for state, count in counts.items() if count)
        if are_all and 0 < sum(counts.values()) == len(states) and all(_was_asked(one, asked) for one in states):
            return states
        time.sleep(POLL_S)
    raise ClusterError(
        f"not every predictor took {checkpoint} within {START_TIMEOUT_S:g} s; their logs are in the dashboard"
    )


def _was_asked(state: Any, asked: str) -> bool:
    return isinstance(state, dict) and state["asked"] == asked  # else an error: it died meanwhile


def _why(app: ApplicationStatusOverview) -> str:
    """Return the cause in a message of Serve's, which may hold a whole traceback: its last line of text."""
    messages = [app.message, *(deployment.message for deployment in app.deployments.values())]
    lines = [line.strip() for message in messages for line in message.splitlines()]
    errors = [line for line in lines if line.startswith("l2l_ray.") or "Error:" in line]
    return (errors or [line for line in lines if line] or ["no reason given"])[-1]


def watch(names: Sequence[str], say: Say) -> None:
    """Wait for the word to end; say when the state of an application changes."""
    known = dict.fromkeys(names, ApplicationStatus.RUNNING)
    while True:
        time.sleep(LOOK_EVERY_S)
        found = serve.status().applications
        for name in names:
            app = found.get(name)
            if app is None:
                raise ClusterError("the server was ended by somebody else (`serve shutdown`?); start it again")
            if app.status != known[name]:
                known[name] = app.status
                say(state_line(name, app))


def state_line(name: str, app: ApplicationStatusOverview) -> str:
    """Return what is said of an application whose state has changed: the state, and why where it failed."""
    why = f": {_why(app)}" if app.status in _FAILED else ""
    return f"{'state' if name == APP else 'review':<11}{app.status.value.lower()}{why}"
