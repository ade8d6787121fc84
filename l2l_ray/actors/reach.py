"""Ask an address whether a Ray cluster answers there and lets us in, before Ray is asked: Ray itself tries for minutes.

One call that Ray's head answers to anybody who has the token, with its own limit; what answers otherwise is told apart
by gRPC's status. An address of Ray's client, `ray://host:port`, is left to Ray where somebody listens.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import grpc

from l2l_ray.errors import ClusterError
from l2l_ray.processes import port_in

TIMEOUT_S = 15.0  # a head with a hundred processes to start answers late
CLIENT = "ray://"
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # of Ray's own protocol; an unknown name is answered UNIMPLEMENTED
_OTHER = "unset RAY_ADDRESS and cluster.address to use a private one"
_START = f"`make cluster-up` starts one; {_OTHER}"
_ENV = "`make cluster-up` prints a file with address and token: `. .ray/env`"


def require_answer(address: str, remedy: str = _START) -> None:
    """Refuse an address where no cluster answers, or one that does not let us in, within `TIMEOUT_S`.

    Args:
        address: Of the head, `host:port`, or of Ray's client.
        remedy: What to do where nobody answers.
    Raises:
        ClusterError: It is no address, nobody listens there, it is no Ray head, or the token is missing or wrong.
    """
    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"RAY_ADDRESS or cluster.address is {address}, which is where `ray job submit` sends jobs; a job itself "
            f"needs HOST:PORT of the head; {_ENV}"
        )
    by_client = address.startswith(CLIENT)
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    number = port_in(port)
    if not host or "://" in host or number is None:
        raise ClusterError(
            f"RAY_ADDRESS or cluster.address is {address!r}, expected HOST:PORT of the head, `auto` or `local`, "
            f"with a port from 1 to 65535; {_ENV}; {_OTHER}"
        )
    if by_client:
        return _require_listener(address, host.strip("[]"), number, remedy)
    token = _token()
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_ALIVE)(b"", timeout=TIMEOUT_S, metadata=metadata)
        except grpc.RpcError as error:
            _refuse(address, error.code(), str(error.details()), bool(token), remedy)


def _require_listener(address: str, host: str, port: int, remedy: str) -> None:
    try:
        socket.create_connection((host, port), TIMEOUT_S).close()
    except (OSError, UnicodeError) as error:  # the second: a name that cannot be one
        raise ClusterError(f"no Ray cluster answers at {address}: {error}; {remedy}") from None


def _refuse(address: str, code: grpc.StatusCode, details: str, with_token: bool, remedy: str) -> None:
    if code == grpc.StatusCode.UNAUTHENTICATED:
        wrong = "the token we have is not its token" if with_token else "it asks for a token and we have none"
        raise ClusterError(
            f"the Ray cluster at {address} does not let us in: {wrong}; set RAY_AUTH_MODE=token and "
            f"RAY_AUTH_TOKEN_PATH to the file that holds it; {_ENV}"
        )
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        details = f"something listens there but says nothing within {TIMEOUT_S:g} s"
    if code != grpc.StatusCode.UNIMPLEMENTED:
        said = next(iter(details.splitlines()), code.name)
        raise ClusterError(f"no Ray cluster answers at {address}: {said}; {remedy}")


def _token() -> str:
    """Return the token that Ray will send, found as Ray finds it; empty = none.

    Raises:
        ClusterError: The file that RAY_AUTH_TOKEN_PATH names cannot be read.
    """
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return ""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        return Path(named or Path.home() / ".ray" / "auth_token").read_text().strip()
    except OSError as error:
        if named:
            raise ClusterError(f"RAY_AUTH_TOKEN_PATH is {named}, which cannot be read: {error}; {_ENV}") from None
        return ""
