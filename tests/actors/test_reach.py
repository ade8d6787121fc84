"""An address that leads to no Ray head, or to one that does not let us in, is an error in seconds.

A head that asks for its token is in `test_head.py`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from l2l_ray.actors import reach
from l2l_ray.actors.environment import TOKEN_ENV
from l2l_ray.actors.reach import require_answer
from l2l_ray.errors import ClusterError


@pytest.fixture
def port() -> Iterator[socket.socket]:
    """Give a bound port at which nobody listens yet."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken


def _address(port: socket.socket) -> str:
    return f"127.0.0.1:{port.getsockname()[1]}"


def test_the_head_answers(ray_local: str) -> None:
    require_answer(ray_local)


def test_nobody_listens(port: socket.socket) -> None:
    with pytest.raises(
        ClusterError, match=f"no Ray cluster answers at {_address(port)}: .*`make cluster-up` starts one"
    ):
        require_answer(_address(port))


def test_something_listens_and_says_nothing(port: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "TIMEOUT_S", 0.5)
    port.listen()
    start = time.monotonic()
    with pytest.raises(ClusterError, match="something listens there but says nothing within 0.5 s"):
        require_answer(_address(port))
    assert time.monotonic() - start < 10.0


def test_an_address_for_submitting_jobs_is_told_apart() -> None:
    with pytest.raises(ClusterError, match="which is where `ray job submit` sends jobs; a job itself needs HOST:PORT"):
        require_answer("http://127.0.0.1:8265")


def test_an_address_of_rays_client_is_left_to_ray_where_somebody_listens(port: socket.socket) -> None:
    with pytest.raises(ClusterError, match=f"no Ray cluster answers at ray://{_address(port)}: .*`make cluster-up`"):
        require_answer(f"ray://{_address(port)}")
    port.listen()
    require_answer(f"ray://{_address(port)}")


@pytest.mark.parametrize(
    "address",
    [
        *("node7", "127.0.0.1", "127.0.0.1:abc", ":6379", "node7:6379/", "ray://node7", "foo://x", "foo://x:6379"),
        *("127.0.0.1:0", "127.0.0.1:99999", "ray://127.0.0.1:99999", f"127.0.0.1:{'9' * 5000}"),
    ],
)
def test_what_is_no_address_is_refused_before_ray_tries_it_for_minutes(address: str) -> None:
    said = "expected HOST:PORT of the head, `auto` or `local`, with a port from 1 to 65535; `make cluster-up`"
    with pytest.raises(ClusterError, match=said):
        require_answer(address)


def test_a_token_file_that_is_gone_is_named(
    tmp_path: Path, port: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TOKEN_ENV:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "gone"))
    with pytest.raises(ClusterError, match=f"RAY_AUTH_TOKEN_PATH is {tmp_path / 'gone'}, which cannot be read"):
        require_answer(_address(port))
