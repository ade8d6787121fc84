"""The way to a server of chat completions: the key, how long an answer may take, and when a question is asked again.

- An answer has `timeout_s` to begin and to be whole, also one that comes in drips; one that stops in its middle is
  waited for once more as long. Such a question is not asked again now.
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
import threading
import time
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError
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
BUSY = (408, 429, 502, 503, 504, *range(520, 530))  # the last ten are said by proxies whose server is away or busy
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
        self._thread.sent_s = time.monotonic()
        try:
            with session.request(method, url, json=body, **settings) as response:
                status = response.status_code
                if response.is_redirect:  # not followed: each step would have its time, and the key would go along
                    place = response.headers["location"]
                    raise Unusable(f"HTTP {status}: it has moved to {place}; set prior.url to where that is", status)
                content = _content(response, timeout_s, self._thread.sent_s)
        except (requests.ReadTimeout, ReadTimeoutError):
            raise _late(timeout_s) from None
        except (requests.RequestException, HTTPError) as error:
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
            session.mount(scheme, HTTPAdapter(max_retries=retries))
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
        self._thread.sent_s = time.monotonic()  # the same thread sends the question again now


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


def _key() -> str:
    """Return the key for the server, "" where there is none."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not all("!" <= letter <= "~" for letter in key):
        raise ConfigError(
            f"the environment variable {KEY_VARIABLE} holds a character that no key has; expected ASCII letters, "
            "digits and signs, without blanks, control characters or line ends between them: set it to the key alone"
        )
    return key


def _content(response: requests.Response, timeout_s: float, sent_s: float) -> bytes:
    """Return the body of an answer, piece by piece as it comes: a timeout of sockets is for one read alone.

    Args:
        response: Its beginning.
        timeout_s: How long it may take.
        sent_s: When its question was sent, the last time, by `time.monotonic`.
    Raises:
        Unusable: It is too large, or not whole in time.
        HTTPError: It breaks off.
    """
    end_s = sent_s + timeout_s
    content = bytearray()
    while piece := response.raw.read1(2**16, decode_content=True):
        content += piece
        if len(content) > MOST_BYTES:
            raise Unusable(f"an answer of more than {MOST_BYTES >> 20} MiB", response.status_code)
        if time.monotonic() > end_s:
            raise _late(timeout_s)
    return bytes(content)


def _late(timeout_s: float) -> Unusable:
    return Unusable(f"timed out: no whole answer within {timeout_s:g} s")
