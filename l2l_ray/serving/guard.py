"""What is asked of every request before anything else is read, for all that the package serves, and how it is told no.

A bearer token always. A server that knows under which addresses people open it also checks the `Host` that a browser
thinks it talks to: a page of a stranger whose name was pointed at this machine (DNS rebinding) has another one. And it
refuses requests that a browser says come from another site. No answer carries a header that would let another site read
it, and a token that travels in a header of its own is sent by no form and no link.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from l2l_ray.errors import L2LError
from l2l_ray.serving.access import is_allowed

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 2
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Refusal(L2LError):
    """A request that is not answered.

    Args:
        status: HTTP status, 4xx or 503.
        text: One line: what, got, expected, remedy.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status, self.text = status, text

    def __str__(self) -> str:
        return self.text


class Guard:
    """Asks for the token before anything else is read, and adds the headers of every response.

    Args:
        app: Whom it guards.
        token_sha256: From `access.sha256_of`.
        open_paths: Open to everybody; they hold no data. Without the prefix that the server puts before all paths.
        addresses: Under which people open the server, such as `http://127.0.0.1:8001`; None = any. Where they are
            given, requests for another `Host`, and from other sites, are refused.

    Raises:
        ValueError: An address names no host.
    """

    def __init__(
        self,
        app: ASGIApp,
        token_sha256: str,
        open_paths: Collection[str],
        addresses: Collection[str] | None = None,
    ) -> None:
        self._app, self._token_sha256, self._open_paths, self._addresses = app, token_sha256, open_paths, addresses
        self._hosts = {urlsplit(address).netloc for address in addresses or ()}
        if "" in self._hosts:
            raise ValueError(f"an address is like http://127.0.0.1:8001, got {sorted(addresses or ())}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        refusal = self._refusal(_own_path(scope), Request(scope))
        await (refusal or self._app)(scope, receive, with_headers)

    def _refusal(self, path: str, request: Request) -> Response | None:
        if self._addresses is not None:
            host = request.headers.get("host", "")
            if host not in self._hosts:
                expected = " or ".join(sorted(self._hosts))
                return said(421, f"this server is {expected}, got a request for {host[:80]!r}; open that address")
            if path not in self._open_paths and (origin := self._other_site(request)):
                return said(403, f"a request from {origin[:80]!r} is refused; use this server's own page")
        given = next((value for name, value in request.headers.raw if name == b"authorization"), None)
        if path in self._open_paths or is_allowed(given, self._token_sha256):
            return None
        got = "none" if given is None else "another"
        text = f"this server asks for its token, got {got}; send the header `Authorization: Bearer TOKEN`"
        return said(401, text, {"www-authenticate": "Bearer"})

    def _other_site(self, request: Request) -> str:
        """Return the site that a browser says a request comes from, if it is another one; else ""."""
        origin = request.headers.get("origin")
        if origin is not None and origin not in (self._addresses or ()):
            return origin or "an unnamed site"
        site = request.headers.get("sec-fetch-site", "same-origin")
        return "" if site in ("same-origin", "none") else site


def _own_path(scope: Scope) -> str:
    """Return a path as the application's routes name it: without the prefix it is served under, such as `/review`."""
    path: str = scope["path"]
    prefix = scope.get("root_path", "")
    below = path.removeprefix(prefix)
    return below if path.startswith(prefix) and below[:1] in ("", "/") else path


def said(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """Return a response that says in one line why there is no other."""
    return JSONResponse({"error": text}, status, headers)


async def refused(request: Request, error: Exception) -> Response:
    """Answer a `Refusal`."""
    assert isinstance(error, Refusal)
    headers = {"retry-after": str(RETRY_AFTER_S)} if error.status == 503 else {}
    if error.status in (408, 413):
        headers["connection"] = "close"  # the rest of the body is not read
    return said(error.status, error.text, headers)


def no_such(remedy: str) -> Callable[[Request, Exception], Coroutine[Any, Any, Response]]:
    """Return what answers a request for a path or a method that there is none of."""

    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = f"{error.detail}: {request.method} {request.url.path}"
        return said(error.status_code, f"{what}; {remedy}", dict(error.headers or {}))

    return answer


async def broken(request: Request, error: Exception) -> Response:
    """Answer where something failed that nobody thought of."""
    logger.error("a request broke", exc_info=error)
    return said(500, f"an error of this server: {type(error).__name__}; its log has more")


def limited(request: Request, limit: int, too_long: Callable[[str], Refusal]) -> Request:
    """Return a request whose body is refused where more than `limit` bytes of it come, or are announced.

    Args:
        request: Of which nothing has been read.
        limit: Bytes.
        too_long: Makes the refusal from how many bytes there are, in words.
    Raises:
        Refusal: More are announced.
    """
    declared = request.headers.get("content-length", "")[:20]
    if declared.isdecimal() and int(declared) > limit:
        raise too_long(declared)
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise too_long(f"more than {limit}")
        return message

    return Request(request.scope, receive)


def page_file(path: Path) -> Callable[[], Awaitable[Response]]:
    """Return a handler that sends a file of the package."""

    async def send() -> Response:
        return FileResponse(path)

    return send
