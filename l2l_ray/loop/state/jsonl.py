"""Append-only JSON lines: what the ledger, the digests and the run's event log are kept in.

A line counts once its newline is on disk. What a crash or a full disk leaves after the last newline was never
acknowledged: readers do not see it, and the next append cuts it off first. Reading never changes the file. Threads and
processes of one machine append one after another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from l2l_ray.files import lock_file, sync


def read_lines(path: Path) -> list[bytes]:
    """Return the whole lines of a file; none where there is no file."""
    return [line for _, line in placed_lines(path)]


def placed_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines of a file, each with its place, which `lines_at` finds again."""
    if not path.exists():
        return
    place = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield place, line[:-1]
            place += len(line)


def lines_at(path: Path, places: Iterable[int]) -> Iterator[bytes]:
    """Yield the lines at some places of a file."""
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
    with path.open("ab+", buffering=0) as file:  # a buffer would be written again when the file is closed
        lock_file(file)  # closing it lets the next one in
        size = _cut_torn_line(file)
        try:
            while line:
                line = line[file.write(line) :]
            if durable:
                os.fsync(file.fileno())
        except OSError:
            os.truncate(path, size)
            raise
    if durable and not size:
        sync(path.parent)  # the file may be new
    return size


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
