"""What every file of a run was when it was written: its size and SHA-256, so that damage is found and not trained on.

    ledger.jsonl            a committed shard's SHA-256 stands in its line
    train/*/version.json    those of the other files of the version
    digests.jsonl           those of all else that a run can lose: example tables, priors, evaluations, results

Records that say so carry a checksum of themselves (`sealed`), so that a flipped byte in them is found, too. A file that
is there without a line was placed by a process that was killed before it could append one, or by an older version.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from l2l_ray.jsonl import append_line, read_lines

_CHECKSUM = "crc32"


@dataclass(frozen=True, slots=True)
class Digest:
    """Size in bytes and SHA-256 of a file, or, without them, only its SHA-256.

    Example: `Digest.of(path).problem(path)` is None.
    """

    num_bytes: int | None
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Digest:
        """Read a file and return its digest.

        Raises:
            OSError: It cannot be read.
        """
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(file.tell(), found)

    def problem(self, path: Path) -> str | None:
        """Say in what the file at `path` is not this one; None where it is. Its size is looked at first."""
        try:
            size = path.stat().st_size
            if not size and self.num_bytes != 0:
                return "it is empty"
            if self.num_bytes not in (None, size):
                return f"it has {size:,} bytes instead of {self.num_bytes:,}"
            return None if Digest.of(path).sha256 == self.sha256 else "its bytes have changed (SHA-256 differs)"
        except FileNotFoundError:
            return "it is missing"
        except OSError as error:
            return f"it cannot be read ({error.strerror or error})"


@dataclass(frozen=True)
class Digests:
    """The content of `digests.jsonl`. Keys are paths relative to the run folder.

    Example: `Digests.load(run_path).promised["priors/val.parquet"].problem(run_path / "priors/val.parquet")`
    """

    promised: dict[str, Digest] = field(default_factory=dict)  # files that must be there as they were
    last: dict[str, Digest] = field(default_factory=dict)  # what each file was, also those given up since

    @classmethod
    def load(cls, run_path: Path) -> Digests:
        """Read what is promised; a line that is damaged promises nothing."""
        promised: dict[str, Digest] = {}
        last: dict[str, Digest] = {}
        for line in read_lines(run_path / "digests.jsonl"):
            try:
                record = unsealed(line)
                name = record.pop("path")
                if record.get("given_up"):
                    promised.pop(name, None)
                else:
                    promised[name] = last[name] = Digest(**record)
            except (ValueError, TypeError, KeyError):
                continue
        return cls(promised, last)


def promise(run_path: Path, file: Path) -> None:
    """Note what a file of a run is, once it has its name; it must be there as it is from now on.

    Raises:
        OSError: The file cannot be read, or the line not be written.
    """
    _append(run_path, {"path": file.relative_to(run_path).as_posix(), **asdict(Digest.of(file))})


def give_up(run_path: Path, relative: str) -> None:
    """Note that a file need not be there any more.

    Raises:
        OSError: The line could not be written.
    """
    _append(run_path, {"path": relative, "given_up": True})


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with a checksum of itself."""
    return {**record, _CHECKSUM: _checksum(record)}


def unsealed(text: bytes | str) -> dict[str, Any]:
    """Return the record that a text holds, without its checksum; of older versions there is none.

    Raises:
        ValueError: The text is no JSON object, or not what was written.
    """
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError(f"expected a record, got {type(record).__name__}")
    found = record.pop(_CHECKSUM, None)
    if found is not None and found != _checksum(record):
        raise ValueError("its checksum does not fit")
    return record


def _checksum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record).encode())


def _append(run_path: Path, record: dict[str, Any]) -> None:
    append_line(run_path / "digests.jsonl", sealed(record), durable=True)
