"""Files that another node has written: a network's file system may show them late, and a disk of its own never.

What is told between processes is often faster than a file. So whoever was told that something lies in the run's folder
waits until it is seen here; where it is not in time, the nodes do not share the folder, which `--resume` cannot mend.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from l2l_ray.errors import LedgerError

SEEN_TIMEOUT_S = 120.0  # NFS shows what others made within a minute, unless it was told otherwise
LOOK_AGAIN_S = 1.0


def wait_seen(is_seen: Callable[[], bool], what: str, fault: str, timeout_s: float | None = None) -> None:
    """Wait until this node sees what another one has written.

    Args:
        is_seen: Looks once.
        what: The file.
        fault: What is wrong with it as seen from here.
        timeout_s: Longest wait, seconds; None = `SEEN_TIMEOUT_S`.
    Raises:
        LedgerError: It is not seen in time.
    """
    limit_s = SEEN_TIMEOUT_S if timeout_s is None else timeout_s
    deadline = time.monotonic() + limit_s
    while not is_seen():
        if time.monotonic() > deadline:
            raise LedgerError(
                f"{what} {fault}, even after {limit_s:g} s; expected a file system on which all nodes see what one has "
                "written: put cluster-wide runs there (--run_root), then start again with --resume"
            )
        time.sleep(LOOK_AGAIN_S)


def seen(path: Path, timeout_s: float | None = None) -> Path:
    """Return a file that another node has written, once it is seen here.

    Args:
        path: The file.
        timeout_s: Longest wait, seconds; None = `SEEN_TIMEOUT_S`.
    Raises:
        LedgerError: It is not seen in time.
    """
    wait_seen(path.exists, str(path), "is not seen here, though another node has written it", timeout_s)
    return path
