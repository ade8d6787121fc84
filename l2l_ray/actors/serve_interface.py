"""Serve's REST interface on Ray's dashboard, with a limit for every answer, and errors in our words."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import requests
from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

from l2l_ray.errors import ClusterError

READ_TIMEOUT_S = 60.0
CHANGE_TIMEOUT_S = 300.0  # Serve is started or ended meanwhile, on a busy machine slowly


class ServeInterface(ServeSubmissionClient):
    """Ray's own client, which by itself waits for ever."""

    def _do_request(self, method: str, *args: Any, **kwargs: Any) -> requests.Response:  # every call of Ray's goes here
        limit_s = READ_TIMEOUT_S if method == "GET" else CHANGE_TIMEOUT_S
        try:
            return super()._do_request(method, *args, timeout=(READ_TIMEOUT_S, limit_s), **kwargs)
        except requests.RequestException as error:
            raise ClusterError(
                f"Ray's dashboard at {self.get_address()} gives no answer, expected one within {limit_s:g} s: "
                f"{' '.join(str(error).split())}; see dashboard.log in Ray's session folder, or start the cluster again"
            ) from error

    def applications(self) -> dict[str, dict[str, Any] | None]:
        """Return the config of every application on the cluster; None = it was not deployed as a config."""
        return {name: one["deployed_app_config"] for name, one in self.get_serve_details()["applications"].items()}

    def _raise_error(self, response: requests.Response) -> NoReturn:
        raise ClusterError(
            f"Ray Serve answered {response.status_code}: {_last_words(response.text)}; free resources, or see the logs "
            "of Serve in the dashboard"
        )


def interface_at(dashboard: str) -> ServeInterface:
    """Return the interface of a cluster.

    Args:
        dashboard: As `connected` says it.
    Raises:
        ClusterError: There is none, or it does not answer.
    """
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # the terminal has this job's own words, not "slow"
    url = dashboard.partition(" ")[0]
    if not url.startswith("http"):
        raise ClusterError(f"the cluster's dashboard is needed to start a server, got {dashboard!r}; start Ray with it")
    return ServeInterface(url)


def _last_words(message: str) -> str:
    """Return the end of a message that may hold a traceback: what it died of."""
    lines = [line.strip(" .") for line in message.splitlines()]
    return next((line for line in reversed(lines) if line), "no reason given")
