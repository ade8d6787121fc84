"""The ledger: which pseudo-label shards are committed. Append-only JSON lines, one writer, fsync before success.

Work is at-least-once, the effect exactly once: each attempt at a shard, whose key is (method, round, shard), writes a
file of its own under a temporary name and renames it, and only then is its line appended. The first line of a key wins;
a later one is refused, so a retried or duplicated call changes nothing. A torn last line (power loss, SIGKILL) was
never acknowledged: it is not read, the next commit cuts it off, and its shard is labeled again.

Each line carries the epoch of its writer (`lease`) and a checksum of itself. Lines of an epoch older than one before
them are not read: their writer had been taken over. A line may also revoke a key whose file was lost; the key is then
open again. Where a line is damaged, its shard is not committed. Lines of older versions, without an epoch, are of epoch
0.

In memory is only where the line of each shard begins: 8 bytes a shard, and a count per round.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from l2l_ray.data.masks import decode, encode
from l2l_ray.errors import HEALS, LedgerError, run_remedy
from l2l_ray.files import replacing
from l2l_ray.jsonl import append_line, lines_at, placed_lines, rewrite_lines
from l2l_ray.loop.state.digests import sealed, unsealed
from l2l_ray.loop.state.lease import require_current
from l2l_ray.storage import local_copy
from l2l_ray.types import Candidate, PseudoLabel, Rle

SCHEMA_VERSION = 4
_READABLE = (3, 4)  # 3 has two more columns, which nothing needs
Key = tuple[str, int, int]

_SCHEMA = pa.schema(
    [
        ("schema_version", pa.int16()),
        ("sent_id", pa.int64()),
        ("grid", pa.int32()),
        ("source", pa.string()),
        ("target", pa.string()),
        ("accepted", pa.string()),
        ("weight", pa.binary()),
        ("gate", pa.float32()),
        ("confidence", pa.float32()),
        ("seed", pa.int64()),
        ("mean_log_prob", pa.float32()),
        ("version", pa.int32()),
        ("prior_key", pa.string()),
        ("sees_truth", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One committed shard.

    Example: `LedgerEntry("l2l", 0, 3, "l2l/labels/r000-s00003.parquet", "9f..", 0, 256, 201, 0.62, 4.1)`
    """

    method: str
    round: int
    shard: int
    path: str  # relative to the run folder
    sha256: str
    version: int
    num: int
    num_gated_on: int
    accepted_frac: float
    seconds: float

    @property
    def key(self) -> Key:
        """What makes a shard unique."""
        return self.method, self.round, self.shard


class _Round:
    """The committed shards of one round, by where their lines begin."""

    def __init__(self) -> None:
        self.num = 0
        self._places = array("q")  # by shard; -1 = it is open

    def place(self, shard: int) -> int:
        """Return where a shard's line begins; -1 where it is open."""
        return self._places[shard] if shard < len(self._places) else -1

    def put(self, shard: int, place: int) -> None:
        """Note that a shard's line begins at `place`; -1 opens the shard again."""
        self._places.extend([-1] * (shard + 1 - len(self._places)))
        self.num += (place >= 0) - (self._places[shard] >= 0)
        self._places[shard] = place

    def places(self) -> dict[int, int]:
        """Return the place of each committed shard, in shard order."""
        return {shard: place for shard, place in enumerate(self._places) if place >= 0}


class Ledger:
    """Append-only record of committed shards; `key in ledger` says whether a shard is one, `len` how many are.

    Args:
        path: Its file, in the run's folder; the first commit makes it.
        epoch: That of the holder for whom this ledger commits; 0 where it is only read.
    Raises:
        LedgerError: There are lines of a later epoch, so that what this holder commits would not be read.
    """

    def __init__(self, path: Path, epoch: int = 0) -> None:
        self._path = path
        self._epoch = epoch
        newest = self._read()
        if epoch and epoch < newest:
            raise LedgerError(
                f"{path} has lines of epoch {newest}, and this process holds epoch {epoch}: what it commits would not "
                "be read; expected the newest epoch: another process has taken the run over, or this one lost its "
                "lease; let the other one end, or start again with --resume"
            )

    def __len__(self) -> int:
        return sum(found.num for found in self._rounds.values())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and self._place(key) >= 0

    def commit(self, entry: LedgerEntry) -> bool:
        """Append `entry`; False when its key is already committed.

        Raises:
            LedgerError: The line could not be written (disk full), or the run was taken over; nothing already
                committed is lost.
        """
        if entry.key in self:
            return False
        self._put(entry.key, self._append(asdict(entry), f"cannot commit shard {entry.key} to"))
        return True

    def revoke(self, key: Key) -> None:
        """Append that a shard has to be labeled again.

        Raises:
            LedgerError: As `commit`.
        """
        self._append({"revoked": list(key)}, f"cannot revoke shard {key} in")
        self._put(key, -1)

    def drop_damaged(self) -> None:
        """Leave out of the file the lines that are not read.

        Raises:
            LedgerError: As `commit`.
        """
        require_current(self._path.parent, self._epoch)
        numbers = {number for number, _ in self.damaged}
        kept = (line for number, (_, line) in enumerate(placed_lines(self._path), start=1) if number not in numbers)
        try:
            rewrite_lines(self._path, kept)
        except OSError as error:
            raise LedgerError(f"cannot write {self._path}: {error}; {run_remedy(error)}") from error
        self._read()

    def keys(self) -> set[Key]:
        """All committed keys."""
        return {(*of, shard) for of, found in self._rounds.items() for shard in found.places()}

    def entries(self, method: str, round_index: int) -> list[LedgerEntry]:
        """Read the committed shards of one round, in shard order."""
        found = self._rounds.get((method, round_index), _Round())
        return [self._entry(line) for line in lines_at(self._path, found.places().values())] if found.num else []

    def complete(self, method: str, round_index: int, num_shards: int) -> bool:
        """Whether every shard of the round is committed; they are numbered from 0."""
        return self._rounds.get((method, round_index), _Round()).num >= num_shards

    def all_entries(self) -> Iterator[LedgerEntry]:
        """Read the committed shards, in the order of their commits."""
        places = sorted(place for found in self._rounds.values() for place in found.places().values())
        return map(self._entry, lines_at(self._path, places)) if places else iter(())

    def _place(self, key: Key) -> int:
        found = self._rounds.get(key[:2])
        return -1 if found is None else found.place(key[2])

    def _put(self, key: Key, place: int) -> None:
        self._rounds.setdefault(key[:2], _Round()).put(key[2], place)
        if place < 0:
            self.revoked.add(key)
        else:
            self.revoked.discard(key)

    def _append(self, record: dict[str, Any], what: str) -> int:
        require_current(self._path.parent, self._epoch)
        try:
            return append_line(self._path, sealed({"epoch": self._epoch, **record}), durable=True)
        except OSError as error:
            raise LedgerError(
                f"{what} {self._path}: {error}; {len(self)} committed shards are safe; {run_remedy(error)}"
            ) from error

    def _read(self) -> int:
        """Read all lines; return the newest epoch."""
        self._rounds: dict[tuple[str, int], _Round] = {}
        self.revoked: set[Key] = set()  # open again, and not committed since
        self.damaged: list[tuple[int, bytes]] = []  # lines that are not read, by number from 1
        newest, newest_begins = 0, 0  # the newest epoch so far, and where its first line begins
        for number, (place, line) in enumerate(placed_lines(self._path), start=1):
            try:
                record = unsealed(line)
                epoch = record.pop("epoch", 0)
                if epoch < newest:
                    continue
                is_revoked = "revoked" in record
                method, round_index, shard = record["revoked"] if is_revoked else LedgerEntry(**record).key
                key = method, round_index, shard
                if epoch > newest:
                    newest, newest_begins = epoch, place
                # A later holder did not see the line when it began, and committed the shard again.
                if is_revoked or self._place(key) < newest_begins:
                    self._put(key, -1 if is_revoked else place)
            except (ValueError, TypeError, KeyError):
                self.damaged.append((number, line))
        return newest

    @staticmethod
    def _entry(line: bytes) -> LedgerEntry:
        record = unsealed(line)
        record.pop("epoch", None)
        return LedgerEntry(**record)


def num_shards(num_unlabeled: int, shard_size: int) -> int:
    """Return how many labelling shards a round has."""
    return -(-num_unlabeled // shard_size)


class Attempt(NamedTuple):
    """Which try at a shard it is: each writes a file of its own, so none writes over one that was committed.

    Example: `Attempt(1, 2)` is the second try under the second holder of the run's folder.
    """

    number: int = 0  # how many the holder has handed out before
    epoch: int = 0  # the holder's (`lease`)


FIRST = Attempt()


def shard_path(method: str, round_index: int, shard: int, attempt: Attempt = FIRST) -> str:
    """Return the file name of a shard, relative to the run folder."""
    again = f"-e{attempt.epoch}" if attempt.epoch > 1 else ""
    again += f"-a{attempt.number}" if attempt.number else ""
    return f"{method}/labels/r{round_index:03d}-s{shard:05d}{again}.parquet"


def write_shard(path: Path, labels: Iterable[PseudoLabel]) -> str:
    """Write pseudo-labels to `path` (temporary name, fsync, rename) and return the file's SHA-256.

    Raises:
        LedgerError: The file could not be written; no partial file keeps the final name.
    """
    rows: list[dict[str, Any]] = [_to_row(label) for label in labels]
    try:
        with replacing(path, durable=True) as temporary:  # the ledger will promise that it is there
            pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary, write_page_checksum=True)
            digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    except OSError as error:
        raise LedgerError(f"cannot write shard {path}: {error}; nothing was committed; {run_remedy(error)}") from error
    return digest


def read_shard(path: Path) -> list[PseudoLabel]:
    """Read a shard back.

    Raises:
        LedgerError: Missing or damaged file (most damage is noticed), or a schema this version does not know.
    """
    return [_from_row(row, path) for row in _read(path).to_pylist()]


def read_columns(path: Path, names: Sequence[str]) -> pa.Table:
    """Read some columns of a shard; masks that are not among them are neither read nor decoded.

    Raises:
        LedgerError: As `read_shard`.
    """
    return _read(path, names)


def is_used(label: PseudoLabel) -> bool:
    """Whether training uses a label: its gate is on, and some accepted cell is of the object."""
    return label.gate >= 0.5 and bool((label.accepted & label.target).any())


def _read(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    try:
        with pq.ParquetFile(local_copy(path), page_checksum_verification=True) as file:
            return file.read(names, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise LedgerError(f"shard {path} is in the ledger but cannot be read: {error}; {HEALS}") from error


def _to_row(label: PseudoLabel) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "sent_id": label.sent_id,
        "grid": label.grid,
        "source": label.source.name.lower(),
        "target": encode(label.target)["counts"],
        "accepted": encode(label.accepted)["counts"],
        "weight": None if label.weight is None else label.weight.tobytes(),
        "gate": label.gate,
        "confidence": label.confidence,
        "seed": label.seed,
        "mean_log_prob": label.mean_log_prob,
        "version": label.version,
        "prior_key": label.prior_key,
        "sees_truth": label.sees_truth,
    }


def _from_row(row: dict[str, Any], path: Path) -> PseudoLabel:
    if row["schema_version"] not in _READABLE:
        raise LedgerError(
            f"{path} has schema {row['schema_version']}, this version reads {' and '.join(map(str, _READABLE))}; "
            "read it with the version of the code that wrote it (env.json names it), or start another run"
        )
    grid = row["grid"]

    def mask(column: str) -> np.ndarray:
        return decode(Rle(size=[grid, grid], counts=row[column]))

    weight = None if row["weight"] is None else np.frombuffer(row["weight"], np.uint8).reshape(grid, grid)
    return PseudoLabel(
        sent_id=row["sent_id"],
        grid=grid,
        source=Candidate[row["source"].upper()],
        target=mask("target"),
        accepted=mask("accepted"),
        weight=weight,
        gate=row["gate"],
        confidence=row["confidence"],
        seed=row["seed"],
        mean_log_prob=row["mean_log_prob"],
        version=row["version"],
        prior_key=row["prior_key"],
        sees_truth=row["sees_truth"],
    )
