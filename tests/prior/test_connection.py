"""The way to a server: no message holds the key, no answer takes longer than said, and no wait is endless."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from PIL import Image

from l2l_ray.config import PriorConfig
from l2l_ray.errors import ConfigError
from l2l_ray.prior.connection import KEY_VARIABLE
from l2l_ray.prior.http import HttpPrior
from tests.prior.chat_server import MODEL, TEXT, Server, completion, running, say

GRAY = Image.new("RGB", (60, 40), (90, 90, 90))
LIMIT_S = 0.6


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as found:
        yield found


def loaded(server: Server, timeout_s: float = 5.0) -> HttpPrior:
    return HttpPrior.load(PriorConfig(url=server.url, model=MODEL, timeout_s=timeout_s))


@pytest.mark.parametrize("key", ["sk-SECRET-1", "sk-SECRET-1\n", " \tsk-SECRET-1\r\n"])
def test_blanks_around_the_key_are_no_part_of_it(server: Server, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    assert loaded(server).ask([GRAY], ["x"])[0].texts == (TEXT,)
    assert {headers["authorization"] for headers in server.headers} == {"Bearer sk-SECRET-1"}


@pytest.mark.parametrize("key", ["", " \n"])
def test_an_empty_key_is_none(server: Server, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    loaded(server)
    assert all("authorization" not in headers for headers in server.headers)


@pytest.mark.parametrize(
    "key", ["sk-SEC\nRET", "sk-SEC RET", "sk-SECRET\x7f", "sk-SECRET\x1b[1m", "SECRET-ключ", "\ufeffSECRET"]
)
def test_what_can_be_no_key_is_refused_without_being_said(
    server: Server, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(ConfigError, match=f"environment variable {KEY_VARIABLE} .*expected ASCII") as told:
        loaded(server)
    assert "SEC" not in str(told.value) and not server.asked


REPEATS: dict[str, Callable[[str], tuple[int, Any]]] = {
    "not allowed": lambda key: (401, f"who is {key}?"),
    "bad request": lambda key: (400, {"error": f"no quota for {key}"}),
    "no JSON": lambda key: (200, f"<p>{'x' * 290}{key}"),
    "no completion": lambda key: (200, {"error": f"{'x' * 290}{key}"}),
    "other model": lambda key: (200, completion(model=key)),
}


@pytest.mark.parametrize("key", ["sk-SECRET-1", 'sk-"SECRET\\1'])
@pytest.mark.parametrize("kind", REPEATS)
def test_a_server_that_repeats_the_key_is_shown_without_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str, key: str
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    server.models = [key]
    prior = loaded(server)
    server.handle = lambda _, request, __: say(request, *REPEATS[kind](key))
    failure = prior.ask([GRAY], ["x"])[0].failure
    with pytest.raises(ConfigError) as told:
        loaded(server)
    assert failure.startswith("server: ") and "lists <key>" in caplog.text
    assert "SEC" not in failure + str(told.value) + caplog.text


@pytest.mark.parametrize(
    "said", ["36000", "9" * 5000, "Fri, 31 Dec 2100 23:59:59 GMT", "Fri, 31 Dec 99999999 23:59:59 GMT", "soon", "-5"]
)
def test_no_wait_is_longer_than_the_longest(server: Server, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr("l2l_ray.prior.connection.LONGEST_WAIT_S", 0.2)
    monkeypatch.setattr("l2l_ray.prior.connection.NUM_RETRIES", 2)
    prior = loaded(server)
    server.handle = lambda _, request, __: say(request, 429, {"error": "quota"}, retry_after=said)
    start_s = time.monotonic()
    assert prior.ask([GRAY], ["x"])[0].failure.startswith("server: HTTP 429")
    assert time.monotonic() - start_s < 2 and len(server.questions) == 3


def test_waits_between_tries_are_no_part_of_the_time_for_an_answer(server: Server) -> None:
    prior = loaded(server, LIMIT_S)

    def busy_at_first(_: Server, request: BaseHTTPRequestHandler, __: dict[str, Any]) -> None:
        if len(server.questions) > 1:
            say(request, 200, completion())
        else:
            say(request, 429, {"error": "quota"}, retry_after="1")

    server.handle = busy_at_first
    assert prior.ask([GRAY], ["x"])[0].texts == (TEXT,)


def test_an_error_that_stays_is_told_however_long_it_was_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l2l_ray.prior.connection.NUM_RETRIES", 1)
    prior = loaded(server, LIMIT_S)
    server.handle = lambda _, request, __: say(request, 500, {"error": "out of memory"}, retry_after="1")
    assert prior.ask([GRAY], ["x"])[0].failure == 'server: HTTP 500: {"error": "out of memory"}'


def test_a_long_wait_is_said_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("l2l_ray.prior.connection.LOGGED_WAIT_S", 0.5)
    monkeypatch.setattr("l2l_ray.prior.connection.NUM_RETRIES", 1)
    prior = loaded(server)
    server.handle = lambda _, request, __: say(request, 503, {}, retry_after="1")
    prior.ask([GRAY] * 3, ["x", "y", "z"])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"the server at {server.url} has no answer yet (HTTP 503); it is asked again in 1 s, at most 1 times"


def drip(request: BaseHTTPRequestHandler, start: bytes, drop: bytes) -> None:
    request.close_connection = True
    try:
        request.wfile.write(start)
        for _ in range(40):
            request.wfile.write(drop)
            request.wfile.flush()
            time.sleep(0.1)
    except OSError:
        pass  # nobody listens any more


DRIPS: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "a body of known length": (b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", b" "),
    "a body until the end": (b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(completion()).encode(), b" "),
    "chunks": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "a stop after the headers": (b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", b""),
}


@pytest.mark.parametrize("what", DRIPS)
def test_an_answer_takes_as_long_as_said_and_no_longer(server: Server, what: str) -> None:
    prior = loaded(server, LIMIT_S)
    server.handle = lambda _, request, __: drip(request, *DRIPS[what])
    start_s = time.monotonic()
    failure = prior.ask([GRAY], ["x"])[0].failure
    took_s = time.monotonic() - start_s
    assert failure.startswith("server: ") and LIMIT_S * 0.9 < took_s < LIMIT_S + 1.5, (failure, took_s)
    assert failure == f"server: timed out: no whole answer within {LIMIT_S} s"
    assert len(server.questions) == 1
    server.handle = lambda _, request, __: say(request, 200, completion())
    assert prior.ask([GRAY], ["x"])[0].texts == (TEXT,)


def test_a_server_that_has_moved_is_not_followed(server: Server) -> None:
    server.handle = lambda _, request, __: say(request, 308, {}, location="https://example.org/v1/chat/completions")
    with pytest.raises(ConfigError, match="HTTP 308: it has moved to https://example.org/v1/chat.*; set prior.url to"):
        loaded(server)
    assert len(server.asked) == 1


def test_no_answer_is_larger_than_the_largest(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2l_ray.prior.connection.MOST_BYTES", 1 << 20)
    prior = loaded(server)
    server.handle = lambda _, request, __: say(request, 200, completion("x" * (2 << 20)))
    assert prior.ask([GRAY], ["x"])[0].failure == "server: an answer of more than 1 MiB"


def test_nested_beyond_measure_is_no_answer(server: Server) -> None:
    prior = loaded(server)
    server.handle = lambda _, request, __: say(request, 200, "[" * 100_000)
    assert prior.ask([GRAY], ["x"])[0].failure.startswith("server: no JSON but '[[")
