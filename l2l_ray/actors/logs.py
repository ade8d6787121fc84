"""What our actors write into Ray's log files: each line says which run, actor, method, round and shard it is about.

    2026-11-26 10:00:00,000 INFO run=photos actor=labeler-1 method=l2l round=2 shard=17 labeled 32 texts in 1.9 s

One line per shard, batch of the MLLM and published version, from warnings on also what libraries say. Ray keeps the
files in its session folder (`logs/worker-*.err`) and shows them in its dashboard, by actor. Nobody at a terminal sees
them, so what the package warns of in an actor is also handed to the driver (`hand_on`), which says it (`Relay`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

logger = logging.getLogger(__name__)

_LINE = "%(asctime)s %(levelname)s %(about)s %(message)s"
_ABOUT: ContextVar[str] = ContextVar("about", default="")  # of the item in work, in this thread or coroutine


class _About(logging.Filter):
    """Puts into each record what it is about."""

    def __init__(self, run: str, actor: str) -> None:
        super().__init__()
        self._always = f"run={run} actor={actor}"

    def filter(self, record: logging.LogRecord) -> bool:
        record.about = f"{self._always} {_ABOUT.get()}".strip()
        return record.levelno >= logging.WARNING or record.name.startswith("l2l_ray")


class _Lines(logging.StreamHandler[TextIO]):
    """The handler of `log_as`, told apart from others."""


class _HandedOn(logging.Handler):
    """The handler of `hand_on`, told apart from others."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line on; a failure is shown as logging shows its own."""
        try:
            self._tell(record.getMessage())
        except Exception:
            self.handleError(record)


def hand_on(tell: Callable[[str], object]) -> None:
    """Hand on what the package warns of in this process; a second call takes the first one's place.

    Args:
        tell: Given each line from now on, by whichever thread warns; must not wait.
    """
    ours = logging.getLogger("l2l_ray")
    for earlier in [handler for handler in ours.handlers if isinstance(handler, _HandedOn)]:
        ours.removeHandler(earlier)
    ours.addHandler(_HandedOn(tell))


class KeptNotes:
    """What the package warns of in this process, kept until somebody takes it along with an answer.

    Example: `notes = KeptNotes()`, then `notes.taken()` with each answer
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        hand_on(lambda line: self._lines.append(line))

    def taken(self) -> list[str]:
        """Return the lines since the last call, each once."""
        lines, self._lines = list(dict.fromkeys(self._lines)), []
        return lines


class Relay:
    """Says in the driver what was noted elsewhere: each line once, however many noted it."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, lines: Iterable[str]) -> None:
        """Say what is new."""
        for line in lines:
            if line not in self._said:
                self._said.add(line)
                logger.warning("%s", line)


def log_as(run: str, actor: str) -> None:
    """Let every line that this process logs say whose it is; a second call takes the first one's place.

    Args:
        run: Name of the run.
        actor: Name of the actor, as in Ray's dashboard.
    """
    root = logging.getLogger()
    for earlier in [handler for handler in root.handlers if isinstance(handler, _Lines)]:
        root.removeHandler(earlier)
    handler = _Lines(sys.stderr)
    handler.setFormatter(logging.Formatter(_LINE))
    handler.addFilter(_About(run, actor))
    root.addHandler(handler)
    logging.getLogger("l2l_ray").setLevel(logging.INFO)


@contextmanager
def about(method: str, round_index: int, shard: int | None = None) -> Iterator[None]:
    """Let lines logged inside say which round they are about, and which shard."""
    what = f"method={method} round={round_index}" + ("" if shard is None else f" shard={shard}")
    token = _ABOUT.set(what)
    try:
        yield
    finally:
        _ABOUT.reset(token)
