"""What our actors write into Ray's log files: each line says which run, actor, method, round and shard it is about.

    2026-11-26 10:00:00,000 INFO run=photos actor=labeler-1 method=l2l round=2 shard=17 labeled 32 texts in 1.9 s

One line per shard, batch of the MLLM and published version, from warnings on also what libraries say. Ray keeps the
files in its session folder (`logs/worker-*.err`) and shows them in its dashboard, by actor.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

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


class Notes(logging.Handler):
    """Keeps what the package warns of in this process, for a driver to say: nobody at a terminal sees an actor's log.

    Example: `notes = Notes.kept()`, then `notes.taken()` with each answer
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []

    @classmethod
    def kept(cls) -> Notes:
        """Return notes that are kept from now on."""
        notes = cls()
        logging.getLogger("l2l_ray").addHandler(notes)
        return notes

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._lines.append(record.getMessage())

    def taken(self) -> list[str]:
        """Return the lines since the last call, each once."""
        lines, self._lines = list(dict.fromkeys(self._lines)), []
        return lines


@contextmanager
def about(method: str, round_index: int, shard: int | None = None) -> Iterator[None]:
    """Let lines logged inside say which round they are about, and which shard."""
    what = f"method={method} round={round_index}" + ("" if shard is None else f" shard={shard}")
    token = _ABOUT.set(what)
    try:
        yield
    finally:
        _ABOUT.reset(token)
