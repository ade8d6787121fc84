"""Private folders of the clusters that this package starts: Ray's files, the token, and whose they are.

    l2l-ray-XXXXXXXX/     only this user may look in
        ray/              Ray's temporary folder; Ray opens it to everybody, hence the folder around it
        auth_token        who knows it may run code on the cluster; Ray's programs read it by RAY_AUTH_TOKEN_PATH
        owner.json        the process that the cluster ends with, and its machine

A driver finds the token of a cluster on this machine by its address (`token_path`). What clusters that were killed left
behind is removed when the next one starts; where the temporary folder is shared between machines or containers, each
removes its own. This file does not import ray.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from l2l_ray.processes import start_time_of, still_running, this_machine

PREFIX = "l2l-ray-"
STARTING_S = 60.0  # so long a folder may be without a word on whose it is


def new_folder(token: str | None = None) -> Path:
    """Make a private folder for a cluster of this process, after removing those of clusters that are gone.

    Args:
        token: What the cluster asks for; None = it asks for none.
    """
    remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_parent()))  # mode 0700
    own(folder, os.getpid())
    if token is not None:
        path = folder / "auth_token"
        path.touch(mode=0o600)
        path.write_text(token)
    return folder


def own(folder: Path, pid: int) -> None:
    """Note the process that the cluster ends with."""
    owner = {"machine": this_machine(), "pid": pid, "start_time": start_time_of(pid)}
    (folder / "owner.json").write_text(json.dumps(owner))


def elsewhere(folder: Path) -> str | None:
    """Return the name of the other machine or container whose cluster the folder is; None = of this one, or unknown."""
    try:
        machine = str(json.loads((folder / "owner.json").read_text())["machine"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    theirs, ours = machine.split(), this_machine().split()
    is_before_a_reboot = theirs[:1] == ours[:1] and theirs[1:2] != ours[1:2]
    return None if theirs == ours or is_before_a_reboot else theirs[0]


def address(folder: Path) -> str | None:
    """Return `host:port` of the cluster whose files lie there, once it has one."""
    try:
        return (folder / "ray" / "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None


def state_file(checkout: Path) -> Path:
    """Return where a checkout remembers the head that `make cluster-up` started there (`head.py`)."""
    return checkout / ".ray" / "head.json"


def address_of_checkout(checkout: Path) -> str | None:
    """Return `host:port` of the cluster that `make cluster-up` has started in a checkout; None = none runs."""
    try:
        folder = Path(json.loads(state_file(checkout).read_text())["folder"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return address(folder) if _lives(folder) else None


def token_path(wanted: str) -> Path | None:
    """Return the file with the token of a cluster that this user started on this machine; None = no such cluster.

    Args:
        wanted: The cluster's address, `host:port`.
    """
    host, _, port = wanted.rpartition(":")
    same = {wanted, f"127.0.0.1:{port}"} if host == "localhost" else {wanted}
    return next(
        (f / "auth_token" for f in _folders() if address(f) in same and _lives(f) and (f / "auth_token").exists()), None
    )


def remove_abandoned() -> None:
    """Remove the folders of this user's clusters whose process is gone; of another machine's nothing is known."""
    for folder in _folders():
        if not _lives(folder) and elsewhere(folder) is None:
            remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove a session folder; Ray's last process may still be writing into it for a moment."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.2)


def _parent() -> str | None:
    """Return where the folders lie: a short path, because names of Unix sockets are limited; the same for all."""
    return os.environ.get("RAY_TMPDIR") or ("/tmp" if os.path.isdir("/tmp") else None)


def _folders() -> Iterator[Path]:
    """Give this user's folders; one that others may write to, or made for us to find, is none of them."""
    for folder in sorted(Path(_parent() or tempfile.gettempdir()).glob(f"{PREFIX}*")):
        try:
            info = folder.lstat()
        except OSError:
            continue  # it was removed meanwhile
        if stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o077:
            yield folder


def _lives(folder: Path) -> bool:
    """Whether the process of a folder runs on this machine, or the folder is new."""
    try:
        owner = json.loads((folder / "owner.json").read_text())
        return bool(still_running({int(owner["pid"]): str(owner["start_time"])}))
    except (OSError, ValueError, TypeError, KeyError):
        with suppress(OSError):  # it was removed meanwhile
            return time.time() - folder.stat().st_mtime < STARTING_S
        return False
