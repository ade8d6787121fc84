"""What the scripts in `jobs/` say, and how they end: exit status, and one line for what went wrong."""

from __future__ import annotations

import errno
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from l2l_ray.errors import L2LError, one_line

STOPPED = 130  # 128 and the number of the signal, as shells count


def say(line: str) -> None:
    """Write a line to stdout, where it is seen at once also behind a pipe."""
    with _whoever_reads():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _complain(line: str) -> None:
    with _whoever_reads():
        sys.stderr.write(f"{line}\n")


@contextmanager
def _whoever_reads() -> Iterator[None]:
    """Let words to a terminal that was closed go, or they would end what releases things."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def end_signals() -> list[int]:
    """Return the signals besides Ctrl-C that end a program in order: SIGTERM, and SIGHUP when its terminal is closed.

    One that is ignored stays so: `nohup` has it that the terminal's end does not matter.
    """
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def signals_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM (`ray job stop`) and a closed terminal end a job as Ctrl-C does, which releases what it holds."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in end_signals()}
    take_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not _hung_up:  # of a block around this one: after the terminal's end it is ignored
                signal.signal(number, handler)


def take_signals() -> None:
    """Let them act as Ctrl-C again, inside of `signals_as_ctrl_c`, where somebody has put another handler there."""
    if threading.current_thread() is threading.main_thread():
        for number in end_signals():
            signal.signal(number, signal.default_int_handler if number == signal.SIGTERM else _hung_up)


def _hung_up(number: int, frame: FrameType | None) -> None:
    """Act as Ctrl-C, once: a shell and the system both tell of a closed terminal, and a second Ctrl-C means hurry."""
    signal.signal(number, signal.SIG_IGN)
    signal.default_int_handler(number, frame)


def run_job(name: str, act: Callable[[], int | None], stopped: str, without: str = "") -> int:
    """Do what a job does; what it raises on purpose becomes a line on stderr.

    Args:
        name: Of the job, before what went wrong.
        act: What it does; returns its exit status, None = 0.
        stopped: Said after Ctrl-C, SIGTERM or the terminal's end, unless that says so itself: what stays.
        without: Said where Ray is not installed: what needs none.
    Returns:
        The status of `act`, 1 when it could not be done, `STOPPED` when it was told to stop.
    """
    try:
        with signals_as_ctrl_c():
            return act() or 0
    except ModuleNotFoundError as error:
        if error.name not in ("ray", "fastapi", "starlette"):
            raise
        _complain(f"{name}: {error.name} is not installed; `pip install '.[ray]'` brings it{without}")
    except (L2LError, OSError) as error:
        _complain(f"{name}: {one_line(error)}")
    except KeyboardInterrupt as stop:
        _complain(f"\nstopped; {str(stop) or stopped}")
        return STOPPED
    return 1
