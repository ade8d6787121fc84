"""Append-only JSON lines: what the ledger, the digests and the run's event log are kept in.

A line counts once its newline is on disk. What a crash or a full disk leaves after the last newline was never
acknowledged: readers do not see it, and the next append cuts it off first. Reading never changes the file. Threads and
processes of one machine append one after another.

Nothing can be appended to an object. In an object store, each line is an object of its own in a folder beside:

    ledger.jsonl.d/<number>-<writer>.json   one line
    ledger.jsonl.d/<number>-all             all lines up to this number, by `compact`

The number is the time in nanoseconds, but more than that of every line that was there when the writer began, and of
its own before; so a later holder of a run writes after an earlier one, whatever their clocks say. Writers do not meet,
because the name holds who writes.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from l2l_ray.files import lock_file, remove_tree, replacing, sync, unique_name
from l2l_ray.storage import StorePath, fetch, remove_objects

_ALL = "all"
_TRIES = 5  # a reader that meets a `compact` looks again
_newest: dict[str, int] = {}  # number of the last line that this process wrote or found, by file
_numbering = threading.Lock()


def read_lines(path: Path) -> list[bytes]:
    """Return the whole lines of a file; none where there is no file."""
    return [line for _, line in placed_lines(path)]


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file that only shows what is kept elsewhere; what is no record is left out."""
    found = []
    for line in read_lines(path):
        with suppress(ValueError):
            found.append(json.loads(line))
    return [record for record in found if isinstance(record, dict)]


def placed_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines of a file, each with its place, which grows and by which `lines_at` finds it again."""
    if isinstance(path, StorePath):
        yield from _placed_in_objects(path)
    elif path.exists():
        with path.open("rb") as file:
            place = 0
            for line in file:
                if line.endswith(b"\n"):
                    yield place, line[:-1]
                place += len(line)


def lines_at(path: Path, places: Iterable[int]) -> Iterator[bytes]:
    """Yield the lines at some places of a file."""
    if isinstance(path, StorePath):
        yield from _lines_in_objects(path, list(places))
        return
    with path.open("rb") as file:
        for place in places:
            file.seek(place)
            yield file.readline()[:-1]


def append_line(path: Path, record: dict[str, Any], durable: bool = False) -> int:
    """Append one record and return its place.

    Args:
        path: The file; made where it is missing.
        record: Anything JSON can hold.
        durable: Return only when the line would survive a power loss.

    Raises:
        OSError: The line could not be written; the file is as it was before.
    """
    line = (json.dumps(record) + "\n").encode()
    if isinstance(path, StorePath):
        writer, number = unique_name(".json").partition("-")[2], _next_number(path)
        _object(path, f"{number:020d}-{writer}").write_bytes(line)
        return number
    with path.open("ab+", buffering=0) as file:  # a buffer would be written again when the file is closed
        lock_file(file)  # closing it lets the next one in
        size = _cut_torn_line(file)
        try:
            while line:
                line = line[file.write(line) :]
            if durable:
                os.fsync(file.fileno())
                if not size:
                    sync(path.parent)  # the file may be new
        except OSError:
            os.truncate(path, size)
            raise
    return size


def rewrite_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Put other lines in the place of all that are there; nobody else may write meanwhile.

    Raises:
        OSError: They could not be written; the file is as it was before.
    """
    content = b"".join(line + b"\n" for line in lines)
    if not isinstance(path, StorePath):
        with replacing(path, durable=True) as temporary:
            temporary.write_bytes(content)
        return
    found = _all_names(path)
    made = f"{max(map(_number, found), default=0):020d}-{_ALL}"
    _object(path, made).write_bytes(content)
    remove_objects([_object(path, name) for name in found if name != made])


def compact(path: Path) -> None:
    """Make many objects one; a file stays as it is. Nobody else may write meanwhile.

    Raises:
        OSError: It could not be done; no line is lost.
    """
    if isinstance(path, StorePath) and len(_names(path)) > 1:
        rewrite_lines(path, read_lines(path))


def remove_lines(path: Path) -> None:
    """Remove a file of lines; nothing where there is none.

    Raises:
        OSError: It cannot be removed.
    """
    path.unlink(missing_ok=True)
    if isinstance(path, StorePath):
        remove_tree(path.with_name(f"{path.name}.d"))


def _object(path: StorePath, name: str) -> StorePath:
    return path.with_name(f"{path.name}.d") / name


def _names(path: StorePath) -> list[str]:
    """Return the objects that hold a file's lines, in order: what is in a compacted one is left out."""
    found = _all_names(path)
    first = max((name for name in found if name.endswith(f"-{_ALL}")), default="")
    return ([first] if first else []) + [n for n in found if not n.endswith(_ALL) and _number(n) > _number(first)]


def _all_names(path: StorePath) -> list[str]:
    try:
        return sorted(place.name for place in path.with_name(f"{path.name}.d").iterdir())
    except FileNotFoundError:
        return []


def _placed_in_objects(path: StorePath) -> Iterator[tuple[int, bytes]]:
    """Yield the lines: an object's place is its number, that of a line in one of many lines where it begins there.

    Objects are whole: one that is empty, or lacks its newline, is damaged, and is a line too.
    """
    for name, content in _contents(path):
        if name and not name.endswith(f"-{_ALL}"):
            yield _number(name), content.partition(b"\n")[0]
            continue
        place = 0
        for line in content.splitlines(keepends=True) or ([b""] if name else []):
            yield place, line.rstrip(b"\n")
            place += len(line)


def _contents(path: StorePath) -> list[tuple[str, bytes]]:
    """Return the objects that hold a file's lines, in order; "" names a file that was sent whole, by `replacing`."""
    for tries_left in reversed(range(_TRIES)):
        names = _names(path)
        if not names:
            return [("", path.read_bytes())] if path.is_file() else []
        try:
            return list(zip(names, fetch([_object(path, name) for name in names]), strict=True))
        except FileNotFoundError:
            if not tries_left:
                raise
            time.sleep(0.1)
    raise AssertionError("unreachable")


def _lines_in_objects(path: StorePath, places: list[int]) -> list[bytes]:
    """Return the lines at some places. A number is a time in nanoseconds: no object of many lines is so long."""
    names = _names(path)
    by_number = {_number(name): name for name in names if not name.endswith(f"-{_ALL}")}
    wanted = [place for place in places if place in by_number]
    found = dict(zip(wanted, fetch([_object(path, by_number[place]) for place in wanted]), strict=True))
    many = b""
    if len(wanted) < len(places):
        many = (_object(path, names[0]) if names and names[0].endswith(f"-{_ALL}") else path).read_bytes()
    return [found[place].partition(b"\n")[0] if place in found else _line_at(many, place) for place in places]


def _line_at(content: bytes, place: int) -> bytes:
    end = content.find(b"\n", place)
    return content[place:] if end < 0 else content[place:end]


def _next_number(path: StorePath) -> int:
    with _numbering:
        before = _newest.get(str(path))
        if before is None:
            before = max(map(_number, _names(path)), default=0)
        _newest[str(path)] = number = max(time.time_ns(), before + 1)
        return number


def _number(name: str) -> int:
    head = name.partition("-")[0]
    return int(head) if head.isdigit() else 0


def _cut_torn_line(file: IO[bytes]) -> int:
    """Drop what follows the last newline; return the size that is left, in bytes."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return 0
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        size = file.read().rfind(b"\n") + 1
        file.truncate(size)
    return size
