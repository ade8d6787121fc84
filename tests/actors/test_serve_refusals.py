"""What `jobs/serve.py` refuses before it serves anything, and what it says of a state."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from l2l_ray.actors import serve_interface
from l2l_ray.actors.serve import require_address, require_free_port, run
from l2l_ray.actors.serve_interface import interface_at
from l2l_ray.actors.serve_states import APP, state_line
from l2l_ray.errors import ClusterError, ConfigError
from l2l_ray.serving.settings import ServeConfig
from tests.actors.test_serve import free_port


def test_a_host_of_the_newer_internet_protocol_is_listened_on() -> None:
    port = free_port("::1")
    require_free_port(ServeConfig(host="::1", port=port))
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", port))
        taken.listen()
        with pytest.raises(ConfigError, match=f"cannot listen on host ::1, port {port}: Address already in use"):
            require_free_port(ServeConfig(host="::1", port=port))


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "2001:db8::1"])
def test_a_host_that_is_not_this_machine_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on host {host}, port 8000: .*; choose another --port"):
        require_free_port(ServeConfig(host=host))


def test_a_private_cluster_that_lets_anybody_in_is_refused(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ConfigError, match="RAY_AUTH_MODE must be token, got disabled: replicas of Ray Serve listen on"):
        run(run_dir, ServeConfig(port=free_port()), "0" * 64, None, print, "")


@pytest.mark.parametrize(
    ("status", "said"),
    [("DEPLOYING", "state      deploying"), ("UNHEALTHY", "state      unhealthy: no reason given")],
)
def test_a_state_has_a_reason_where_something_failed(status: str, said: str) -> None:
    assert state_line(APP, ApplicationStatusOverview(ApplicationStatus(status), "", 0.0, {})) == said


def test_a_dashboard_that_says_nothing_is_an_error_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_interface, "READ_TIMEOUT_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"dashboard at {url} gives no answer, expected one within 0.3 s"):
            interface_at(url)


def test_a_serve_that_listens_elsewhere_is_refused_with_both_addresses() -> None:
    port = free_port()
    settings, elsewhere = ServeConfig(port=port), {"host": "0.0.0.0", "port": 8393}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        require_address({"host": "127.0.0.1", "port": port}, settings)  # it is Serve itself that has the port
    require_address(None, settings)
    said = f"listens on host 0.0.0.0, port 8393 already, got --host 127.0.0.1 --port {port}; give those, or end it"
    with pytest.raises(ConfigError, match=said):
        require_address(elsewhere, settings)
