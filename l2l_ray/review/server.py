"""`l2l review`: serves the review page of one run to this machine alone, until Ctrl-C.

It listens on loopback, whatever the machine's networks are; for a run on another machine, forward the port by ssh. The
address carries the token behind `#`, a part that browsers send to nobody; the page takes it out of the address at once.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import getpass
import html
import os
import signal
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from urllib.parse import quote

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from l2l_ray.errors import ConfigError
from l2l_ray.job import end_signals
from l2l_ray.review.app import checked_name, identity, make_app
from l2l_ray.review.journal import Journal
from l2l_ray.serving.access import own_or_new_token, sha256_of
from l2l_ray.serving.settings import LOOPBACK, origin_of
from l2l_ray.storage import here
from l2l_ray.wording import Say

OPENING = "review-open.html"  # an earlier version wrote it into the run's folder
_ANY_PORT = 0
_OWN_PORTS = range(20_000, 30_000)  # below those that systems give to whoever asks for any


def review_command(words: Sequence[str], say: Say) -> None:
    """Run `l2l review`.

    Args:
        words: Words after it.
        say: Takes each line of output.
    Raises:
        L2LError: As `review`.
    """
    about = "Look at a finished run's labels in the browser, the doubtful first, and decide; see docs/review.md."
    parser = argparse.ArgumentParser(prog="l2l review", description=about)
    parser.add_argument("run_dir", type=here, metavar="RUN", help="a finished run, of this machine")
    parser.add_argument("--port", type=int, help="port of this machine; if not given, this run's and reviewer's own")
    parser.add_argument("--reviewer", metavar="NAME", help="whose decisions are written; you, if not given")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    given = parser.parse_args(words)
    review(given.run_dir, given.port, given.reviewer, not given.no_browser, say)


def review(run_dir: Path, port: int | None, reviewer: str | None, opens_browser: bool, say: Say) -> None:
    """Serve the page until the process is asked to end, then say what was decided.

    Args:
        run_dir: The run's folder, of this machine.
        port: Port to listen on; None = `own_port`, or any that is free.
        reviewer: Whose decisions are written; None = the user of this machine.
        opens_browser: Open the page in the browser of this machine.
        say: Takes each line of output.
    Raises:
        ConfigError: The port is taken, the name cannot be used, or there is no finished run.
        L2LError: The run's labels or its journal cannot be read, or nothing could be saved there.
        SystemExit: A signal other than Ctrl-C ended it.
    """
    name = checked_name(_own_name() if reviewer is None else reviewer, "--reviewer")
    token, _ = own_or_new_token()
    usual = own_port(run_dir, name)
    with listening(port, usual) as listener:
        chosen = listener.getsockname()[1]
        app = make_app(run_dir, name, sha256_of(token), own_addresses(chosen))
        Journal(run_dir).require_writable()
        with suppress(OSError):
            (run_dir / OPENING).unlink()  # of an earlier version that was killed
        address = f"http://{LOOPBACK}:{chosen}/#token={quote(token, safe='')}"
        say(f"review     {address}")
        say(f"reviewer   {name}; every decision is a line of {run_dir / 'review.jsonl'}; Ctrl-C ends the server")
        if port is None and chosen != usual:
            say(f"port       {usual} is taken; what a browser could not save there is sent when it is free again")
        seen = _Seen(app)
        server = uvicorn.Server(uvicorn.Config(seen, log_level="warning", timeout_graceful_shutdown=5))
        # uvicorn answers what is open at Ctrl-C and SIGTERM, and hands the signal on
        with _ended_by_signals(server), suppress(KeyboardInterrupt):
            with opening_page(address) if opens_browser else nullcontext() as seen.page:
                if seen.page is not None:
                    threading.Thread(target=_open, args=(seen.page.as_uri(),), daemon=True).start()
                asyncio.run(server.serve(sockets=[listener]))
    say(f"decided    {Journal(run_dir).summary().line}")


def _own_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have a number alone
        raise ConfigError("this user has no name on this machine; give yours with --reviewer NAME") from None


class _Seen:
    """An application behind which a file is removed once a browser has shown the token that is in it.

    Every page that opens asks for `/api/run` first; one that was open before, and waits for the server, does not.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.page: Path | None = None  # the file, while there is one

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched(message: Message) -> None:
            if self.page is not None and message.get("status") == 200 and scope["path"] == "/api/run":
                with suppress(OSError):
                    self.page.unlink()
                self.page = None
            await send(message)

        await self._app(scope, receive, watched)


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """End the server, and then the process, in order when it is told to end or its terminal is closed.

    Raises:
        SystemExit: It was; the status is 128 and the signal's number, as shells count.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    got: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        got.append(number)
        server.should_exit = True

    taken = {one: signal.getsignal(one) for one in end_signals()}
    for one in taken:
        signal.signal(one, end)
    try:
        yield
    finally:
        for one, was in taken.items():
            signal.signal(one, was)
    if got:
        raise SystemExit(128 + got[0])


@contextmanager
def opening_page(address: str) -> Iterator[Path]:
    """Give a file for this user's eyes alone that leads a browser to an address; it is gone afterwards.

    The address holds the token, and the words that a browser is started with can be read by every user of the machine.
    So the file lies in a private temporary folder, never in the run's, which people copy and share.

    Raises:
        ConfigError: It cannot be written.
    """
    with ExitStack() as held:
        try:
            folder = held.enter_context(tempfile.TemporaryDirectory(prefix="l2l-review-", ignore_cleanup_errors=True))
            page = Path(folder) / OPENING
            with open(os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f'<!doctype html><meta http-equiv="refresh" content="0;url={html.escape(address)}">\n')
        except OSError as error:
            raise ConfigError(
                f"cannot write a temporary file: {error}; open the address yourself, with --no-browser"
            ) from error
        yield page.absolute()


def _open(address: str) -> None:
    """Open a page in a browser; in one that would take the terminal, as without a desktop, only if it is asked for."""
    with suppress(webbrowser.Error):
        if "BROWSER" in os.environ or type(webbrowser.get()) is not webbrowser.GenericBrowser:
            webbrowser.open(address)


def own_addresses(port: int) -> frozenset[str]:
    """Return how a browser names this machine's server at a port: without the port where it is that of HTTP."""
    return frozenset(origin_of(f"http://{host}:{port}") for host in (LOOPBACK, "localhost"))


def own_port(run_dir: Path, reviewer: str) -> int:
    """Return the port that a reviewer of a run gets if it is free: browsers keep what is not saved by address."""
    return _OWN_PORTS[int(identity(run_dir, reviewer), 16) % len(_OWN_PORTS)]


def listening(port: int | None, usual: int = _ANY_PORT) -> socket.socket:
    """Return a socket that listens on loopback.

    Args:
        port: The port; None = `usual`, or any other where that one is taken.
        usual: See `port`.
    Raises:
        ConfigError: The port cannot be had.
    """
    if port is None:
        with suppress(ConfigError):
            return listening(usual)
        return listening(_ANY_PORT)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen()  # at once: two sockets may be bound to one port, until one of them listens
    except (OSError, OverflowError) as error:
        listener.close()
        is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why = "is taken by another program" if is_taken else f"cannot be had ({error})"
        raise ConfigError(f"port {port} of this machine {why}; choose another --port, or leave it out") from None
    return listener
