"""The way to a server of chat completions: the key, how long an answer may take, and when a question is asked again.

- An exchange ends `timeout_s` after the question is sent, with the whole answer or without: the socket is shut down
  then, whether nothing comes or the answer drips. Such a question is not asked again now.
- Where the server is busy, or there is no connection, the question is asked again, up to `NUM_RETRIES` times. Waits are
  those of urllib3, or what Retry-After says; none is longer than `LONGEST_WAIT_S`. They do not count as exchange.
- A connection that breaks before the answer begins is made anew once: a question at which a server dies must not kill
  it seven times.
- The key is read from the environment alone. What a server says is shown without it, should it repeat it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import InvalidHeader, ReadTimeoutError
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry

from l2l_ray.errors import ConfigError

logger = logging.getLogger(__name__)

KEY_VARIABLE = "L2L_PRIOR_API_KEY"  # never in a config: those are saved and shown
CONNECT_TIMEOUT_S = 10.0
NUM_RETRIES = 6  # with waits of 0, 2, 4, 8, 16 and 32 s, where the server does not say how long
LONGEST_WAIT_S = 60.0
LOGGED_WAIT_S = 5.0  # a longer wait is said, at most once in `LONGEST_WAIT_S`: many questions wait at a time
MOST_BYTES = 32 * 2**20  # of an answer; 100,000 tokens with their log-probabilities have about half of it
BUSY = (408, 429, 502, 503, 504)
_SHOWN = 300  # characters of what a server said


class Unusable(Exception):
    """A server's answer that is none; `status` is its HTTP status, 0 = there was no whole answer.

    Its text may be long and repeat the key: `Server.shown` makes it fit for people.

    Example: `Unusable("HTTP 404: no such model", 404)`
    """

    def __init__(self, what: str, status: int = 0) -> None:
        super().__init__(what)
        self.status = status


class Server:
    """One server. Safe to use from several threads: each has connections of its own.

    Args:
        url: What questions' paths are below.
        timeout_s: Longest time from a question to the last byte of its answer.
    Raises:
        ConfigError: The key in the environment cannot be one.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._key = _key()
        self._thread = threading.local()
        self._lock = threading.Lock()
        self._last_said_s = -LONGEST_WAIT_S

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON that a server answers a question with.

        Raises:
            Unusable: It does not answer in time, or not with JSON.
        """
        if not hasattr(self._thread, "session"):
            self._thread.session = self._session((*BUSY, 500))
        return self._exchange(self._thread.session, "POST", self.url + path, self.timeout_s, body)

    def get(self, url: str) -> Any:
        """Return the JSON that lies at a whole address.

        Raises:
            Unusable: As of `post`; it has `CONNECT_TIMEOUT_S` to answer.
        """
        with self._session(BUSY) as session:
            return self._exchange(session, "GET", url, CONNECT_TIMEOUT_S)

    def shown(self, said: object) -> str:
        """Return what a server or a library said, in one line of at most 300 characters, without the key."""
        text = str(said)
        if self._key:
            for written in {json.dumps(self._key)[1:-1], repr(self._key)[1:-1], self._key}:
                text = text.replace(written, "<key>")
        return " ".join(text.split())[:_SHOWN]

    def _exchange(
        self, session: requests.Session, method: str, url: str, timeout_s: float, body: dict[str, Any] | None = None
    ) -> Any:
        timeouts = CONNECT_TIMEOUT_S, timeout_s
        settings: dict[str, Any] = {"timeout": timeouts, "stream": True, "allow_redirects": False}
        try:
            with session.request(method, url, json=body, **settings) as response:
                status = response.status_code
                if response.is_redirect:  # not followed: each step would have its time, and the key would go along
                    place = response.headers["location"]
                    raise Unusable(f"HTTP {status}: it has moved to {place}; set prior.url to where that is", status)
                content = _content(response)
        except requests.ReadTimeout:
            raise Unusable(f"timed out: no whole answer within {timeout_s:g} s") from None
        except requests.RequestException as error:
            raise Unusable(f"{type(error).__name__}: {error}") from None
        if status != 200:
            raise Unusable(f"HTTP {status}: {content.decode(errors='replace')}", status)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise Unusable(f"no JSON but {content.decode(errors='replace')!r}", status) from None

    def _session(self, again: tuple[int, ...]) -> requests.Session:
        """Return connections that ask again after some statuses, and where there is no connection."""
        session = requests.Session()
        retries = _Patience(
            total=NUM_RETRIES, read=1, backoff_factor=1, backoff_max=LONGEST_WAIT_S, backoff_jitter=0.5,
            allowed_methods=None, status_forcelist=again, raise_on_status=False, wait=self._wait,
        )  # fmt: skip
        for scheme in ("http://", "https://"):
            session.mount(scheme, _TimedAdapter(max_retries=retries))
        if self._key:
            session.headers["authorization"] = f"Bearer {self._key}"
        return session

    def _wait(self, wait_s: float, why: str) -> None:
        now = time.monotonic()
        with self._lock:
            is_said = wait_s > LOGGED_WAIT_S and now - self._last_said_s >= LONGEST_WAIT_S
            self._last_said_s = now if is_said else self._last_said_s
        if is_said:
            logger.warning(
                "the server at %s has no answer yet (%s); it is asked again in %.0f s, at most %d times",
                self.url, why, wait_s, NUM_RETRIES,
            )  # fmt: skip
        time.sleep(wait_s)


class _Patience(Retry):
    """urllib3's rules for asking again, with an end to every wait; what took too long is not asked again.

    Args:
        wait: Waits so many seconds, for a reason in words.
    """

    def __init__(self, *args: Any, wait: Callable[[float, str], None], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._wait = wait

    def new(self, **settings: Any) -> _Patience:
        return super().new(**{"wait": self._wait, **settings})

    def increment(self, *args: Any, **what: Any) -> _Patience:
        error = what.get("error")
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(*args, **what)

    def parse_retry_after(self, retry_after: str) -> float:
        """Return seconds, at most `LONGEST_WAIT_S`; 0 = it says nothing that can be read."""
        try:
            return min(super().parse_retry_after(retry_after), LONGEST_WAIT_S)
        except (InvalidHeader, ValueError, OverflowError):
            return 0.0

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        last = self.history[-1].error if self.history else None
        why = type(last).__name__ if response is None else f"HTTP {response.status}"
        self._wait((self.get_retry_after(response) if response else None) or self.get_backoff_time(), why)


class _Timed(HTTPConnection):
    """A connection whose socket is shut down when the time for an answer is over, wherever the answer hangs.

    A timeout of sockets alone is for each read: an answer that drips never ends.
    """

    is_late = False
    _alarm: threading.Timer | None = None

    def request(self, *args: Any, **settings: Any) -> None:
        self.rest()
        self.is_late = False
        super().request(*args, **settings)

    def getresponse(self) -> Any:
        # Of an answer whose end is that of the connection, `self.sock` is gone before it is read.
        self._alarm = threading.Timer(self.timeout or 0.0, self._shut_down, (self.sock,))
        self._alarm.daemon = True
        self._alarm.start()
        try:
            response = super().getresponse()
        except BaseException as error:
            self.rest()
            if self.is_late:
                raise TimeoutError("timed out") from error
            raise
        if self.is_late:  # headers that end early look whole
            response.close()
            raise TimeoutError("timed out")
        return response

    def rest(self) -> None:
        """Say that the answer is here, or no more wanted."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _shut_down(self, sock: object) -> None:
        self.is_late = True
        if isinstance(sock, socket.socket):
            with suppress(OSError):  # closed meanwhile
                # That of TLS would take the keys from under the thread that reads.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _TimedTls(_Timed, HTTPSConnection):
    """The same over TLS."""


class _TimedPool(HTTPConnectionPool):
    ConnectionCls = _Timed


class _TimedTlsPool(HTTPSConnectionPool):
    ConnectionCls = _TimedTls


class _TimedAdapter(HTTPAdapter):
    """Makes all connections such."""

    def init_poolmanager(self, *args: Any, **settings: Any) -> None:
        super().init_poolmanager(*args, **settings)
        self.poolmanager.pool_classes_by_scheme = {"http": _TimedPool, "https": _TimedTlsPool}

    def proxy_manager_for(self, *args: Any, **settings: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(*args, **settings)
        if type(manager) is ProxyManager:  # that of SOCKS has connections of its own
            manager.pool_classes_by_scheme = {"http": _TimedPool, "https": _TimedTlsPool}
        return manager


def _key() -> str:
    """Return the key for the server, "" where there is none."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not all("!" <= letter <= "~" for letter in key):
        raise ConfigError(
            f"the environment variable {KEY_VARIABLE} holds a character that no key has; expected ASCII letters, "
            "digits and signs, without blanks, control characters or line ends between them: set it to the key alone"
        )
    return key


def _content(response: requests.Response) -> bytes:
    """Return the body of an answer.

    Raises:
        Unusable: It is too large.
        requests.RequestException: It breaks off, or is not whole in time.
    """
    connection = getattr(response.raw, "connection", None)
    content = bytearray()
    try:
        for part in response.iter_content(2**16):
            content += part
            if len(content) > MOST_BYTES:
                raise Unusable(f"an answer of more than {MOST_BYTES >> 20} MiB", response.status_code)
    except requests.RequestException:
        if not getattr(connection, "is_late", False):
            raise
    finally:
        if isinstance(connection, _Timed):
            connection.rest()
    if getattr(connection, "is_late", False):  # an answer that says nothing of its length then looks whole
        raise requests.ReadTimeout
    return bytes(content)
