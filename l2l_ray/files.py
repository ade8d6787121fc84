"""Files and folders that appear whole or not at all: written under a temporary name beside their place, then renamed.

A reader therefore never sees half of one, whatever happens to the writer. The temporary name is hidden, holds an id
that no other writer has, on whatever machine, and ends in `.tmp`, so that two writers do not meet and what a killed one
left can be found and removed (`RunFolder.mark_finished` does). Permissions are those of any new file. Where the place
is a symbolic link, the link is replaced, not what it points to.

In an object store (`storage`) the temporary name lies on this machine, and what was written is sent when the block
ends. One object is replaced at once. A folder is not: its objects are sent one by one, the one called `MARKER` last, so
a folder that has it is whole (`is_whole`); what a killed writer left has none.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from l2l_ray.errors import DataError, L2LError
from l2l_ray.storage import StorePath, fetch, knows_no_conditions, remove_objects

MARKER = "version.json"  # of a folder in an object store: the object that is sent last
_LOCK_POLL_S = 0.1
_PROCESS = secrets.token_hex(8)  # process ids begin anew on each machine, and in each container
_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "beegfs", "gpfs", "afs", "pvfs2", "9p"),
    *("ocfs2", "gfs2", "virtiofs"),
}  # kinds of filesystems that several machines may see; every `fuse.` is taken for one, too


def temporary_path(path: Path) -> Path:
    """Return the hidden name beside `path` under which this thread writes it."""
    return _beside(path, "tmp")


@contextmanager
def saying_why(path: Path) -> Iterator[None]:
    """Turn what the system says when the block cannot write a user's file or folder into one line.

    Raises:
        DataError: With the path and the system's reason.
    Example: `with saying_why(path), replacing(path) as temporary: temporary.write_text("...")`
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{str(path)!r} cannot be written: {error.strerror or error}; choose another place, or correct its "
            "rights or space"
        ) from error
    except ValueError as error:  # of names that no file can have
        if isinstance(error, L2LError):
            raise
        raise DataError(f"{str(path)!r} cannot be written: {error}; choose another name") from error


def require_new(out: Path, what: str = "--out") -> Path:
    """Return the absolute path of a file or folder that a user wants written, before the work on it begins.

    Args:
        out: The path.
        what: What the command calls it.
    Raises:
        DataError: Something is there, or nothing can be made there.
    """
    out = Path(os.path.abspath(out))
    with saying_why(out):
        if os.path.lexists(out):
            raise DataError(f"{out} is there already; choose another {what}")
        above = next(folder for folder in out.parents if os.path.lexists(folder))
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{above} is no folder")
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"nothing can be made in {above}")
    return out


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path; what the block writes there takes the place of the file `path`.

    When the block fails, what it wrote is removed and an earlier file stays as it was.

    Args:
        path: The file; its folder is made where it is missing.
        durable: Return only when the file and its name would survive a power loss.
    Raises:
        OSError: The folder cannot be made or the file cannot be renamed.
    Example: `with replacing(path) as temporary: temporary.write_text("...")`
    """
    if isinstance(path, StorePath):
        with _scratch() as folder:
            yield folder / path.name
            path.send(folder / path.name)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    temporary.unlink(missing_ok=True)  # one that could not be removed; written through if it is a link
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a temporary path; what the block writes there becomes the file `path`, which only one process can make.

    In an object store that holds where the store can refuse to replace an object (S3's `If-None-Match: *`, which AWS,
    Google, Azure and most others have); elsewhere two that come within the same moment may both make it.

    Raises:
        FileExistsError: `path` was there when the block ended; it stays as it is.
        OSError: The file cannot be made.
    Example: `with new_file(path) as temporary: temporary.write_text("...")`
    """
    if isinstance(path, StorePath):
        with _scratch() as folder:
            yield folder / path.name
            content = (folder / path.name).read_bytes()
            try:
                path.write_bytes(content, only_new=True)
            except OSError as error:
                if not knows_no_conditions(error):
                    raise
                if path.exists():
                    raise FileExistsError(errno.EEXIST, "it was made meanwhile", str(path)) from None
                path.write_bytes(content)
        return
    temporary = temporary_path(path)
    temporary.unlink(missing_ok=True)  # one that could not be removed
    try:
        yield temporary
        try:
            os.link(temporary, path)
        except OSError:  # there is one, or the file system has no links
            if path.exists():
                raise FileExistsError(errno.EEXIST, "it was made meanwhile", str(path)) from None
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def refuses_a_second(path: Path) -> bool:
    """Whether the place of a file that `new_file` made can hold two writers apart; tried where it is not known."""
    if not isinstance(path, StorePath):
        return True
    content = path.read_bytes()
    try:
        path.write_bytes(content, only_new=True)
    except FileExistsError:
        return True
    except OSError as error:
        if not knows_no_conditions(error):
            raise
    return False


@contextmanager
def new_folder(path: Path, durable: bool = False) -> Iterator[Path]:
    """Give an empty folder under a temporary name, which becomes `path`; when the block fails, it is removed.

    Args:
        path: The folder.
        durable: Return only when the folder and all in it would survive a power loss.
    Raises:
        FileExistsError: `path` was there when the block ended; it stays as it is, and what was written is removed.
        OSError: The folder cannot be made or renamed.
    Example: `with new_folder(path) as temporary: (temporary / "index.json").write_text("...")`
    """
    if isinstance(path, StorePath):
        with _scratch() as folder:
            yield folder
            if is_whole(path):
                raise FileExistsError(errno.EEXIST, "it was made meanwhile", str(path))
            _send(folder, path)
        return
    temporary = temporary_path(path)
    shutil.rmtree(temporary, ignore_errors=True)  # one that could not be removed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for place in [*temporary.rglob("*"), temporary] if durable else ():
            sync(place)
        try:
            os.replace(temporary, path)
        except OSError as error:
            if path.exists():  # the system says "not empty" or "not a folder", by what is there
                raise FileExistsError(error.errno, "it was made meanwhile", str(path)) from error
            raise
        if durable:
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder as `new_folder` does, which takes the place of an earlier folder `path`.

    No system call exchanges two folders: for a moment there is none, and a process killed just then leaves the earlier
    one as `.<name>.<id>.old`.

    Raises:
        FileExistsError: Another process put a folder there at the same moment; that one stays.
        OSError: The folder cannot be made or renamed; an earlier one stays, in an object store perhaps without its
            marker.
    """
    if isinstance(path, StorePath):
        with _scratch() as folder:
            yield folder
            _send(folder, path)
        return
    old = _beside(path, "old")
    try:
        with new_folder(path) as temporary:
            yield temporary
            if path.exists():
                _remove(old)  # one that could not be removed
            with suppress(FileNotFoundError):  # there is none, or another process has just moved it
                os.replace(path, old)
    except BaseException:
        with suppress(OSError):  # nothing was moved, or another process has put a folder there
            os.replace(old, path)
        if path.exists():
            _remove(old)
        raise
    _remove(old)


def is_whole(folder: Path) -> bool:
    """Whether a folder that `new_folder` makes is there; in an object store, one that has a `MARKER`."""
    return (folder / MARKER).exists() if isinstance(folder, StorePath) else folder.exists()


def remove_tree(folder: Path) -> None:
    """Remove a folder with all in it; nothing where there is none.

    Raises:
        OSError: Something in it cannot be removed.
    """
    if isinstance(folder, StorePath):
        (folder / MARKER).unlink(missing_ok=True)
        remove_objects(list(folder.rglob("*")))
    elif folder.exists():
        shutil.rmtree(folder)


def move(source: Path, target: Path) -> None:
    """Give a file another name; in an object store it is copied, then removed.

    Raises:
        OSError: It cannot be done; the source is still there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, StorePath) and isinstance(target, StorePath):
        source.call("cp_file", target.key)
        source.unlink(missing_ok=True)
    else:
        os.replace(source, target)


@contextmanager
def locked(
    path: Path,
    timeout_s: float | None = None,
    waiting: Callable[[], None] = lambda: None,
    makes_folder: bool = True,
) -> Iterator[None]:
    """Let one process at a time into the block; the system lets the next one in when a holder ends or dies.

    The file stays: removing it would let two in. Where the system has no such locks (Windows), nobody waits.

    Args:
        path: The lock's file; made where it is missing, never read.
        timeout_s: Longest wait; None = as long as the holder lives.
        waiting: Called again and again while another process holds it; what it raises ends the wait.
        makes_folder: Make the folder of the lock's file where it is missing.
    Raises:
        TimeoutError: Another process held it all the time.
        OSError: The file cannot be made.
    """
    if makes_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with path.open("ab") as file:
        while True:
            try:
                lock_file(file, wait=False)
                break
            except BlockingIOError:
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "another process holds it", str(path)) from None
                waiting()
                time.sleep(_LOCK_POLL_S)
        yield  # closing the file lets the next one in


def lock_file(file: IO[bytes], wait: bool = True) -> None:
    """Lock an open file until it is closed; other openings of it wait meanwhile. Without effect on Windows.

    Raises:
        BlockingIOError: Another opening holds it, and `wait` is off.
    """
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def on_network(path: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether a folder lies on a filesystem that a network brings, where locks may not hold.

    Args:
        path: The folder; it need not be there.
        mounts: What is mounted where, as Linux says; without it, nothing is taken for one.
    """
    try:
        lines = mounts.read_text().split("\n")
    except OSError:
        return False
    place = path.absolute().resolve()
    found = [(Path(target), kind) for line in lines if line for _, target, kind, *_ in [line.split(" ")]]
    over = [(len(target.parts), number, kind) for number, (target, kind) in enumerate(found) if _holds(target, place)]
    kind = max(over)[2] if over else ""  # of the deepest mount, and of these the last
    return kind in _NETWORK or kind.startswith("fuse.")


def _holds(target: Path, place: Path) -> bool:
    words = str(target).replace("\\040", " ")
    return place.is_relative_to(words)


def unique_name(ending: str) -> str:
    """Return a name that no other writer uses, on whatever machine; later ones sort after earlier ones of a writer."""
    return f"{time.time_ns():020d}-{socket.gethostname()}-{os.getpid()}-{threading.get_native_id()}{ending}"


def read_many(files: Sequence[Path]) -> dict[Path, bytes]:
    """Return the contents of files, in their order; objects of a store are fetched side by side.

    Raises:
        FileNotFoundError: One of them is gone.
        OSError: One of them cannot be read.
    """
    stored = [file for file in files if isinstance(file, StorePath)]
    if len(stored) < len(files):
        return {file: file.read_bytes() for file in files}
    return dict(zip(stored, fetch(stored), strict=True))


def sync(path: Path) -> None:
    """Return only when a file's content, or which names a folder holds, would survive a power loss.

    Some network file systems know no such thing of folders; there it is left to them.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(handle)


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="l2l-") as folder:
        yield Path(folder)


def _send(folder: Path, path: StorePath) -> None:
    """Put the files of a folder in the place of what lies at `path`, the marker last."""
    remove_tree(path)
    files = sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.name == MARKER)
    for file in files:
        (path / file.relative_to(folder).as_posix()).send(file)


def _beside(path: Path, ending: str) -> Path:
    # No two threads of a machine have the same native id, those of forked processes among them.
    return path.with_name(f".{path.name}.{_PROCESS}-{threading.get_native_id()}.{ending}")


def _remove(folder: Path) -> None:
    """Remove a folder, or a link to one and not what it leads to."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
