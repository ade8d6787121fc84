"""Every prior ever obtained, in one SQLite file: a data set is asked about once, not once per round or per run.

One row per key (`prior.reply.prior_key` hashes weights, processor, prompt, image and expression), holding the `Prior`
as JSON and, apart, its failure text. A failed reply is a row too: it is an outcome, and never asked for again.
Rows are never changed: `put_many` inserts the keys that are not there and ignores the others, so work done twice (an
actor that was killed after its reply, two runs sharing the cache) has the effect of work done once.

Only the driver writes. Prior actors return their replies to it; labelers and train workers open the file to read.
Several processes may nevertheless open and write it at once: a writer waits for the lock up to `LOCK_TIMEOUT_S`.

It lies on a disk of this machine only: elsewhere its locks do not hold (`shared_store.open_store` decides).

Journal mode: SQLite's rollback journal (DELETE) with synchronous=FULL, not WAL, which leaves two side files that a copy
of the store can miss. Writes here are few and large (one transaction
per answered batch), so WAL's concurrency would gain nothing. After SIGKILL the next process to open the file rolls an
unfinished batch back; committed batches are on disk.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from l2l_ray.errors import DataError
from l2l_ray.types import Prior

LOCK_TIMEOUT_S = 60.0
SCHEMA_VERSION = 1
# SQLite refuses statements with more than SQLITE_MAX_VARIABLE_NUMBER parameters; 999 is its smallest default.
_KEYS_PER_QUERY = 900
_CREATE = """CREATE TABLE IF NOT EXISTS priors
    (key TEXT PRIMARY KEY, prior TEXT NOT NULL, failure TEXT NOT NULL) WITHOUT ROWID"""
# Not INSERT OR IGNORE: that also passes over rows which break a NOT NULL rule.
_INSERT = "INSERT INTO priors VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING"


class PriorStore:
    """A persistent map from prior key to `Prior`. Safe to use from several threads and processes.

    Args:
        path: The SQLite file; created, with its folder, when missing.
        lock_timeout_s: Longest wait for another process's transaction, seconds.
    Raises:
        DataError: The file is not a store, has another schema version, or cannot be opened.
    """

    def __init__(self, path: Path, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        with self._explained("open"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # isolation_level=None: transactions are ours, begun and ended explicitly in _transaction.
            self._db = sqlite3.connect(self.path, lock_timeout_s, isolation_level=None, check_same_thread=False)
            try:
                self._db.execute("PRAGMA journal_mode=DELETE")
                self._db.execute("PRAGMA synchronous=FULL")
                self._create_or_check()
            except BaseException:
                self._db.close()
                raise

    def get_many(self, keys: Iterable[str]) -> dict[str, Prior]:
        """Return the stored priors among `keys`; keys that are not stored are absent from the result."""
        found: dict[str, Prior] = {}
        for key, text in self._select("key, prior", keys):
            found[key] = _decode(text, key, self.path)
        return found

    def get_all(self) -> list[Prior]:
        """Return every stored prior."""
        with self._explained("read"), self._lock:
            rows = self._db.execute("SELECT key, prior FROM priors ORDER BY key").fetchall()
        return [_decode(text, key, self.path) for key, text in rows]

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Return the keys that are not stored, each once, in the order given."""
        stored = {row[0] for row in self._select("key", keys)}
        return [key for key in dict.fromkeys(keys) if key not in stored]

    def put_many(self, priors: Sequence[Prior]) -> int:
        """Store all of `priors` or, when anything fails, none of them; keys already stored keep their row.

        Returns:
            How many rows are new.
        Raises:
            DataError: The disk is full, the file is locked for too long, or it is damaged. Nothing stored is lost.
        """
        rows = [(prior.key, prior.to_json(), prior.failure) for prior in priors]
        with self._explained(f"write {len(rows)} priors to"), self._transaction() as db:
            before = db.total_changes
            db.executemany(_INSERT, rows)
            return db.total_changes - before

    def close(self) -> None:
        """Close the file; using the store afterwards raises `DataError`."""
        self._db.close()

    def __len__(self) -> int:
        with self._explained("read"), self._lock:
            (num,) = self._db.execute("SELECT COUNT(*) FROM priors").fetchone()
        assert isinstance(num, int)
        return num

    def __enter__(self) -> PriorStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _select(self, columns: str, keys: Iterable[str]) -> Iterator[tuple[str, ...]]:
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            chunk = wanted[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(chunk))
            with self._explained("read"), self._lock:
                rows = self._db.execute(f"SELECT {columns} FROM priors WHERE key IN ({marks})", chunk).fetchall()
            yield from rows

    def _create_or_check(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            with self._transaction() as db:  # two processes may both get here: both statements are idempotent
                db.execute(_CREATE)
                db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise DataError(
                f"{self.path}: prior store has schema version {version}, expected {SCHEMA_VERSION}; "
                "use another cache folder or delete the file to ask the MLLM again"
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # IMMEDIATE takes the write lock at once: a transaction that starts by reading cannot wait for it later.
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite has already rolled back after a full disk
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            remedy = _REMEDIES.get(_cause(error), "check the folder's permissions and free space, then start again")
            raise DataError(f"cannot {action} prior store {self.path}: {error}; {remedy}") from error


_REMEDIES = {
    "full": "the disk is full, over its quota or failing: free space and start again; all earlier batches are kept",
    "locked": f"another process held its lock for longer than the timeout (default {LOCK_TIMEOUT_S:g} s); "
    "stop it, or give each run its own cache folder",
    "damaged": "the file is not a SQLite database or is damaged; move it away and the MLLM is asked again",
}


def _cause(error: Exception) -> str:
    """Name the cause of an SQLite error; `sqlite_errorcode` is missing from errors raised by the module itself."""
    code = getattr(error, "sqlite_errorcode", -1) & 0xFF  # the low byte is the primary code
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):  # a file-size or quota limit surfaces as an I/O error
        return "full"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "locked"
    return "damaged" if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else ""


def _decode(text: str, key: str, path: Path) -> Prior:
    try:
        return Prior.from_json(text)
    except ValueError as error:
        raise DataError(f"{path}: row {key} does not hold a Prior ({error}); delete the file to ask again") from error
