"""The columns of a REFER data set on disk: parsed once, then mapped by every process that opens the data set.

Two files: refs, sentences and images in one, masks and categories in the other, which nothing opens until somebody asks
for a mask, or, as every run does, which refs have one.

The files lie in `<folder>/<key>.refs` and `<folder>/<key>.truth`, where the folder is `$L2L_HOME/cache/refer` (or
`~/l2l_runs/cache/refer`) unless the caller names another, and the key is a hash of the contents of both source files
and of `FORMAT`, to be raised with every change of the columns or of the parser. The folder may be deleted at any time.
What makes it safe:
- A file appears by renaming, so it is whole or absent, and writers of the same key write the same.
- A folder that cannot be written (read-only, full) costs time and a warning, nothing else; so does a damaged file.
- Hashes of unchanged source files are remembered (`<folder>/stamps/`): by device, inode, size, modification and change
  time together. No program can set the last one, and a file that changed within the last `AT_REST_NS` is hashed again,
  because clocks of file systems are coarse.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from l2l_ray.data.refer_columns import Columns, RefColumns, TruthColumns, ref_columns, truth_columns
from l2l_ray.data.refer_files import read_instances, read_refs
from l2l_ray.errors import DataError
from l2l_ray.files import replacing
from l2l_ray.storage import at_home, local_cache

logger = logging.getLogger(__name__)

FORMAT = 5
AT_REST_NS = 2 * 10**9
_MAGIC = b"L2LCOLUM"
_LEAD = struct.Struct("<8sIQQ")  # magic, checksum of the header, bytes of header and of data
_ALIGN_BYTES = 64


def default_folder() -> Path:
    """Return where columns are kept when nobody says otherwise."""
    return local_cache() / "refer"


class ReferCache:
    """The columns of one pair of source files, from the folder where it has them, else from the files.

    Example: `ReferCache(refs_path, instances_path).refs.take()`
    """

    def __init__(self, refs_path: Path, instances_path: Path, folder: Path | None = None) -> None:
        """Open the columns of refs and images.

        Args:
            refs_path: `refs(<split_by>).p`.
            instances_path: `instances.json`.
            folder: Where columns are kept; None = `default_folder()`.
        Raises:
            DataError: If a source file is not what it should be.
        """
        self._sources = refs_path, instances_path
        self._folder = default_folder() if folder is None else at_home(Path(folder)).absolute()
        self.key = self._content_key()
        self._truths: TruthColumns | None = None
        self.refs = RefColumns(self._columns("refs"))

    @property
    def truths(self) -> TruthColumns:
        """Masks and categories; the file that holds them is opened here and nowhere else.

        Raises:
            DataError: If it has to be made again and the source files are not what they were.
        """
        if self._truths is None:
            self._truths = TruthColumns(self._columns("truth"))
        return self._truths

    def _columns(self, part: str) -> Columns:
        path = self._path(part)
        try:
            return read_columns(path)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logger.warning("%s is unusable and is made again: %s", path, error)
        refs_path, instances_path = self._sources
        try:
            refs = read_refs(refs_path)
            instances = read_instances(instances_path, {ann_id for ref in refs for ann_id in ref.ann_ids})
            unchanged = self._content_key() == self.key
        except FileNotFoundError:
            unchanged = False
        if not unchanged:
            raise DataError(f"{refs_path} or {instances_path} changed since it was opened; open the data set again")
        built = {"refs": ref_columns(refs, instances), "truth": truth_columns(instances)}
        try:
            for name, columns in built.items():
                write_columns(self._path(name), columns)
            return read_columns(path)
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be cached, the next start parses it again: %s", instances_path, error)
            return built[part]

    def _path(self, part: str) -> Path:
        return self._folder / f"{self.key}.{part}"

    def _content_key(self) -> str:
        hashes = [_content_hash(path, self._folder / "stamps") for path in self._sources]
        return hashlib.sha256(json.dumps([FORMAT, *hashes]).encode()).hexdigest()[:32]


def write_columns(path: Path, columns: Columns) -> None:
    """Write columns to a file, which appears whole or not at all.

    Raises:
        OSError: If that is not possible.
    """
    places: dict[str, list[Any]] = {}
    at = 0
    for name, column in columns.items():
        places[name] = [column.dtype.str, at, len(column)]
        at += -(-column.nbytes // _ALIGN_BYTES) * _ALIGN_BYTES
    header = json.dumps(places).encode()
    header += b" " * (-(_LEAD.size + len(header)) % _ALIGN_BYTES)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_LEAD.pack(_MAGIC, zlib.crc32(header), len(header), at) + header)
        for column in columns.values():
            file.write(column.tobytes() + b"\0" * (-column.nbytes % _ALIGN_BYTES))


def read_columns(path: Path) -> Columns:
    """Map the columns of a file; they are read-only, and processes that map the same file share the memory.

    Raises:
        OSError: If there is no such file, or it cannot be read.
        ValueError: If it is not a whole file of columns.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(mapped) < _LEAD.size:
        raise ValueError(f"got {len(mapped)} bytes, not a whole file of columns")
    magic, checksum, header_bytes, data_bytes = _LEAD.unpack_from(mapped)
    start = _LEAD.size + header_bytes
    header = mapped[_LEAD.size : start]
    if magic != _MAGIC or len(mapped) != start + data_bytes or zlib.crc32(header) != checksum:
        raise ValueError(f"got {len(mapped)} bytes that are not a whole file of columns")
    places = json.loads(header)
    return {name: np.frombuffer(mapped, dtype, size, start + at) for name, (dtype, at, size) in places.items()}


def _content_hash(path: Path, stamps: Path) -> str:
    """Return the hash of a file's contents; read the file only if it is not known to be unchanged."""
    remembered = stamps / f"{hashlib.sha256(os.fsencode(str(path))).hexdigest()[:32]}.json"
    now = time.time_ns()
    stamp = _stamp(path)
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(remembered.read_text())
        if known["stamp"] == stamp:
            return str(known["sha256"])
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if now - max(stamp[-2:]) > AT_REST_NS and _stamp(path) == stamp:
        with suppress(OSError), replacing(remembered) as temporary:
            temporary.write_text(json.dumps({"stamp": stamp, "sha256": found, "path": str(path)}))
    return found


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
