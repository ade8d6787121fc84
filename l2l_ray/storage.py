"""Paths in object stores: `s3://bucket/prefix/run` and whatever else fsspec knows, used as a path of this machine is.

`place` makes a path of what a user gives: a `Path` of this machine, or a `StorePath`, which is one to whoever reads,
lists or asks. What cannot be the same there lies in `files.py` (what replaces what) and `jsonl.py` (what is appended).

An object appears whole or not at all when it has been sent, there are no folders, and nothing can be renamed or
appended to. Libraries that need a file of this machine are given a copy (`local_copy`), from a cache of bounded size;
one that is handed the path itself by mistake ends with an error that names it, so nothing is ever written beside.

fsspec comes with torch; the store's own driver (s3fs for S3) with `pip install 'l2l-ray[storage]'`. Where the store is
and who may use it is read from where that driver looks: for S3 `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` and so on.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import os
import secrets
import shutil
import stat
import threading
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path, PosixPath
from typing import IO, Any

from l2l_ray.errors import ConfigError, L2LError, one_line

CACHE_BYTES = 20_000_000_000  # of copies on this machine at most; less where the disk is small
# Sizes of what was fetched since this process last looked how much is kept: to look takes as long as many copies.
_fetched: list[int] = []
_counting = threading.Lock()
KEPT_S = 60.0  # a copy that was taken so recently is not removed: somebody is about to open it
_EXTRA = "pip install 'l2l-ray[storage]'"


class StorePath(PosixPath):
    """A path in an object store.

    Example: `StorePath("s3://bucket/runs") / "demo" / "config.yaml"`
    """

    __slots__ = ()

    def __str__(self) -> str:
        if not self.is_absolute():  # a part of one, such as a name relative to a run's folder
            return "/".join(self.parts) or "."
        return f"{self.parts[0]}//{self.key}"

    def __fspath__(self) -> str:
        if self.is_absolute():
            raise L2LError(
                f"{self} lies in an object store, and this needs a file or folder of this machine; copy it here"
            )
        return str(self)

    @property
    def scheme(self) -> str:
        """Which kind of store it is in."""
        return self.parts[0].rstrip(":")

    @property
    def key(self) -> str:
        """Bucket and name of the object, as fsspec takes them."""
        return "/".join(self.parts[1:])

    def is_absolute(self) -> bool:
        """Whether it begins with a store."""
        return bool(self.parts) and self.parts[0].endswith(":")

    def absolute(self) -> StorePath:
        """Return it as it is."""
        return self

    def resolve(self, strict: bool = False) -> StorePath:
        """Return it as it is: a store has no links."""
        return self

    def expanduser(self) -> StorePath:
        """Return it as it is."""
        return self

    def is_symlink(self) -> bool:
        """Return False: a store has no links."""
        return False

    def exists(self, **_: Any) -> bool:
        """Whether there is such an object, or one whose name begins with this one as a folder's."""
        return self._kind() is not None

    def is_file(self, **_: Any) -> bool:
        """Whether there is such an object."""
        return self._kind() == "file"

    def is_dir(self, **_: Any) -> bool:
        """Whether there are objects below it."""
        return self._kind() == "directory"

    def stat(self, **_: Any) -> os.stat_result:
        """Return size and time of change; the inode number tells one content of the object from another."""
        info = self.call("info")
        changed = info.get("LastModified") or info.get("created") or info.get("mtime") or 0.0
        seconds = changed.timestamp() if isinstance(changed, datetime) else float(changed)
        tag = hashlib.sha256(str(info.get("ETag", seconds)).encode()).digest()
        mode = stat.S_IFDIR if info["type"] == "directory" else stat.S_IFREG
        fields = (mode, int.from_bytes(tag[:6], "big"), 0, 1, 0, 0, int(info["size"] or 0), *[int(seconds)] * 3)
        exact = {f"st_{kind}time": seconds for kind in "amc"} | {
            f"st_{kind}time_ns": int(seconds * 1e9) for kind in "amc"
        }
        return os.stat_result(fields, exact)

    def iterdir(self) -> Generator[StorePath, None, None]:
        """Yield what lies directly below it, sorted by name.

        Raises:
            FileNotFoundError: There is nothing.
        """
        keys = {str(key).strip("/") for key in self.call("ls", detail=False)}  # those of some stores begin with "/"
        yield from (self / name for name in sorted({key.rsplit("/", 1)[-1] for key in keys - {self.key}}))

    def glob(self, pattern: str, **_: Any) -> Generator[StorePath, None, None]:
        """Yield what a pattern matches; folders are looked into only as far as the pattern goes."""
        places = [self]
        *parents, last = Path(pattern).parts
        for part in parents:
            places = [found for place in places for found in place._matching(part)]
        yield from (found for place in places for found in place._matching(last) if _is_magic(last) or found.exists())

    def rglob(self, pattern: str, **_: Any) -> Generator[StorePath, None, None]:
        """Yield the objects below it, at any depth, whose names match."""
        for key in self.call("find"):
            found = self / str(key).strip("/")[len(self.key) :].lstrip("/")
            if fnmatch.fnmatchcase(found.name, pattern):
                yield found

    def open(self, mode: str = "r", *_: Any, **options: Any) -> IO[Any]:  # type: ignore[override]
        """Open the object to read; what is written is sent whole, by `write_bytes`.

        Raises:
            OSError: It cannot be read, or not so.
        """
        if mode not in ("r", "rb"):
            raise OSError(errno.EOPNOTSUPP, f"objects cannot be opened with mode {mode!r}", str(self))
        opened: IO[Any] = self.call("open", mode, **options)
        return opened

    def read_bytes(self) -> bytes:
        """Return the content."""
        return bytes(self.call("cat_file"))

    def read_text(self, encoding: str | None = None, errors: str | None = None, **_: Any) -> str:
        """Return the content as text."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: Any, only_new: bool = False) -> int:
        """Send the object, whole.

        Args:
            data: Its content.
            only_new: Fail where there is one of this name; certain where the store can do that (`files.new_file`).
        Raises:
            FileExistsError: There is one.
            OSError: It could not be sent.
        """
        try:
            self.call("pipe_file", bytes(data), mode="create" if only_new else "overwrite")
        except OSError as error:
            if only_new and _says_it_is_there(error):
                raise FileExistsError(errno.EEXIST, "there is one already", str(self)) from error
            raise
        return len(data)

    def send(self, file: Path) -> None:
        """Send a file of this machine as the object, whole; a large one in parts that become it at the end.

        Raises:
            OSError: It could not be sent.
        """
        self.explained(lambda: file_system(self.scheme).put_file(str(file), self.key))

    def write_text(self, data: str, encoding: str | None = None, *_: Any, **__: Any) -> int:
        """Send the object, whole."""
        return self.write_bytes(data.encode(encoding or "utf-8"))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a store has no folders."""

    def rmdir(self) -> None:
        """Do nothing: a store has no folders."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        with suppress(*[FileNotFoundError] if missing_ok else []):
            self.call("rm_file")

    def why_unusable(self) -> str | None:
        """Return why nothing can be kept below it, as far as that can be told without writing; None = no reason."""
        bucket = StorePath("/".join(self.parts[:2]))
        try:
            bucket.call("ls", detail=False)
            return None
        except FileNotFoundError:
            return f"there is no {bucket}"
        except (OSError, L2LError) as error:
            return one_line(error)

    def call(self, method: str, *args: Any, **options: Any) -> Any:
        """Call a method of the store's file system on this object.

        Raises:
            ConfigError: There is no driver for such a store.
            OSError: The store refuses, or does not answer.
        """
        return self.explained(lambda: getattr(file_system(self.scheme), method)(self.key, *args, **options))

    def explained(self, do: Callable[[], Any]) -> Any:
        """Return what a call of the store's library gives; what it raises becomes an `OSError`."""
        try:
            return do()
        except (OSError, L2LError):
            raise
        except Exception as error:  # of the store's own library
            raise OSError(errno.EIO, f"{type(error).__name__}: {error}", str(self)) from error

    def _kind(self) -> str | None:
        # fsspec's own `exists` and `isfile` say no where a store does not answer, and a run would begin anew.
        try:
            return str(self.call("info")["type"])
        except FileNotFoundError:
            return None

    def _matching(self, part: str) -> Iterable[StorePath]:
        if not _is_magic(part):
            return [self / part]
        try:
            return [found for found in self.iterdir() if fnmatch.fnmatchcase(found.name, part)]
        except FileNotFoundError:
            return []


def place(words: str | Path) -> Path:
    """Return what a user's words name: a path in an object store where they begin like `s3://`, else of this machine.

    Raises:
        ConfigError: They begin with `file://`, and no absolute path follows.
    Example: `place("s3://bucket/runs")`, `place("~/l2l_runs")`
    """
    if isinstance(words, Path):
        return words
    if not words.startswith("file://"):
        return StorePath(words) if "://" in words else Path(words)
    if not words.startswith("file:///"):
        raise ConfigError(f"{words!r} names no place of this machine; expected file:///folder, or the path alone")
    return Path(words.removeprefix("file://"))


def here(words: str) -> Path:
    """Return a path of this machine; for `argparse`, where a command uses nothing else.

    Raises:
        ArgumentTypeError: It names an object store.
        ConfigError: See `place`.
    """
    if isinstance(path := place(words), StorePath):
        raise ArgumentTypeError(f"{words!r} lies in an object store; expected a file or folder of this machine")
    return path


@cache
def file_system(scheme: str) -> Any:
    """Return fsspec's file system of a store, one for the process: it serves several threads at once.

    Raises:
        ConfigError: There is no such store, or its driver is not installed.
    """
    try:
        import fsspec

        return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)  # others write there, too
    except ImportError as error:
        raise ConfigError(f"{scheme}:// cannot be used: {error}; {_EXTRA} brings what S3 needs") from error
    except ValueError as error:
        raise ConfigError(f"{scheme}:// is no store that fsspec knows ({error}); use s3:// or a folder") from error


def fetch(paths: Sequence[StorePath]) -> list[bytes]:
    """Return the contents of objects of one store, fetched side by side.

    Raises:
        FileNotFoundError: One of them is gone.
        OSError: The store refuses, or does not answer.
    """
    if not paths:
        return []
    system, nothing = file_system(paths[0].scheme), [None] * len(paths)
    keys = [path.key for path in paths]
    contents: list[bytes] = paths[0].explained(lambda: system.cat_ranges(keys, nothing, nothing, on_error="raise"))
    return contents


def remove_objects(paths: Sequence[StorePath]) -> None:
    """Remove objects of one store, many at a time where it can; those that are gone already are none.

    Raises:
        OSError: One cannot be removed.
    """
    if not paths:
        return
    system, keys = file_system(paths[0].scheme), [path.key for path in paths]
    try:
        paths[0].explained(lambda: system.rm(keys))
    except OSError:  # not every store can, and one may be gone
        for path in paths:
            path.unlink(missing_ok=True)


def at_home(path: Path) -> Path:
    """Return a path with its `~` or `~name` replaced by the home folder.

    Raises:
        ConfigError: Nobody has this name here.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{path} begins with the home folder of nobody here; give the path itself") from None


def local_cache() -> Path:
    """Return this machine's folder for what can be had again: `$L2L_HOME/cache`, else `~/l2l_runs/cache`."""
    usual = Path.home() / "l2l_runs"
    home = place(os.environ.get("L2L_HOME") or usual)
    return (usual if isinstance(home, StorePath) else at_home(home).absolute()) / "cache"


def local_copy(path: Path) -> Path:
    """Return a file of this machine with the content of `path`: itself, or a copy of the object.

    Copies are told apart by what the store says of the content, so one that was replaced is fetched again. The least
    recently used ones are removed when all take more than `CACHE_BYTES`, or half of what the disk could hold.

    Raises:
        OSError: There is no such object, or it cannot be copied.
    """
    if not isinstance(path, StorePath):
        return path
    status = path.stat()
    version = f"{path} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    name = hashlib.sha256(version.encode()).hexdigest()[:40]
    copy = local_cache() / "objects" / name[:2] / f"{name}{path.suffix}"
    with suppress(FileNotFoundError):
        os.utime(copy)  # it is used again
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    temporary = copy.with_name(f".{copy.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.call("get_file", str(temporary))
        os.replace(temporary, copy)
    finally:
        temporary.unlink(missing_ok=True)
    with _counting:
        _fetched.append(status.st_size)
        is_due = len(_fetched) == 1 or sum(_fetched[1:]) > CACHE_BYTES // 100
        if is_due:
            _fetched[:] = [0]
    if is_due:
        _make_room(copy.parent.parent)
    return copy


def _make_room(folder: Path) -> None:
    """Remove copies, the least recently used first, until the others take no more than they may."""
    found = []
    for copy in folder.glob("*/*"):
        with suppress(OSError):
            status = copy.stat()
            found.append((status.st_mtime, status.st_size, copy))
    total = sum(size for _, size, _ in found)
    limit = min(CACHE_BYTES, (total + shutil.disk_usage(folder).free) // 2)
    for used, size, copy in sorted(found):
        if total <= limit or time.time() - used < KEPT_S:
            return
        copy.unlink(missing_ok=True)
        total -= size


def _says_it_is_there(error: OSError) -> bool:
    """Whether a store refused to make an object because there is one; s3fs has no error of its own for it."""
    answer = getattr(error.__cause__, "response", None)
    taken = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")  # the last two: at the same moment
    return isinstance(answer, dict) and answer.get("Error", {}).get("Code") in taken


def knows_no_conditions(error: OSError) -> bool:
    """Whether a store, or its driver, cannot make an object on the condition that there is none."""
    answer = getattr(error.__cause__, "response", None)
    if isinstance(answer, dict):
        return answer.get("Error", {}).get("Code") in ("NotImplemented", "501", "InvalidArgument", "InvalidRequest")
    return isinstance(error.__cause__, NotImplementedError | TypeError | ValueError)


def _is_magic(part: str) -> bool:
    return any(char in part for char in "*?[")
