"""What the scripts in `jobs/` say, and how they end: exit status, and one line for what went wrong."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from l2l_ray.errors import L2LError, one_line

STOPPED = 130  # 128 and the number of the signal, as shells count


def say(line: str) -> None:
    """Write a line to stdout, where it is seen at once also behind a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM (`ray job stop`) end a job as Ctrl-C does, which releases what it holds, while the block runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    take_sigterm()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def take_sigterm() -> None:
    """Let SIGTERM act as Ctrl-C again, inside of `sigterm_as_ctrl_c`, where somebody has put another handler there."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def run_job(name: str, act: Callable[[], int | None], stopped: str, without: str = "") -> int:
    """Do what a job does; what it raises on purpose becomes a line on stderr.

    Args:
        name: Of the job, before what went wrong.
        act: What it does; returns its exit status, None = 0.
        stopped: Said after Ctrl-C or SIGTERM, unless that says so itself: what stays.
        without: Said where Ray is not installed: what needs none.
    Returns:
        The status of `act`, 1 when it could not be done, `STOPPED` when it was told to stop.
    """
    try:
        with sigterm_as_ctrl_c():
            return act() or 0
    except ModuleNotFoundError as error:
        if error.name not in ("ray", "fastapi", "starlette"):
            raise
        sys.stderr.write(f"{name}: {error.name} is not installed; `pip install '.[ray]'` brings it{without}\n")
    except (L2LError, OSError) as error:
        sys.stderr.write(f"{name}: {one_line(error)}\n")
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"\nstopped; {str(stop) or stopped}\n")
        return STOPPED
    return 1
