"""The store of priors where SQLite must not lie: in object stores, and on filesystems of a network.

    <cache>/priors/<number>-<writer>.jsonl    one answered batch, a JSON line for each prior; never changed

SQLite's locks do not hold on NFS and its like, and an object store has none. Here nothing is locked and nothing
changed: each batch is a file or object of its own, which appears whole under a name that nobody else uses. The same key
twice, from two runs at once, is the same answer twice; the first counts. When a run opens the store and finds many
batches, it writes them as one and removes exactly these, so a batch that came meanwhile stays.

A store is read whole when it is opened: a few hundred bytes of memory for each prior, kilobytes with masks.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from l2l_ray.errors import HEALS, DataError, run_remedy
from l2l_ray.files import on_network, read_many, replacing, unique_name
from l2l_ray.prior.store import PriorStore
from l2l_ray.storage import StorePath, local_copy
from l2l_ray.types import Prior

logger = logging.getLogger(__name__)

MANY = 64  # batches: more are made one
_TRIES = 5  # a reader whose batches are made one meanwhile looks again


class SharedPriorStore:
    """As `PriorStore`, in files that are only ever added. Safe to use from several threads, processes and machines.

    Args:
        folder: Where the batches lie; made where it is missing.
    Raises:
        DataError: It cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._found: dict[str, str] = {}
        contents = self._batches()
        for batch, content in contents.items():
            self._take(batch, content)
        if len(contents) > MANY:
            self._write(self._found.values())
            for batch in contents:
                batch.unlink(missing_ok=True)

    def get_many(self, keys: Iterable[str]) -> dict[str, Prior]:
        """Return the stored priors among `keys`; keys that are not stored are absent from the result."""
        return {key: Prior.from_json(self._found[key]) for key in dict.fromkeys(keys) if key in self._found}

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Return the keys that are not stored, each once, in the order given."""
        return [key for key in dict.fromkeys(keys) if key not in self._found]

    def put_many(self, priors: Sequence[Prior]) -> int:
        """Store all of `priors` or, when anything fails, none of them; keys already stored keep their answer.

        Returns:
            How many are new.
        Raises:
            DataError: They cannot be written. Nothing stored is lost.
        """
        new = {prior.key: prior.to_json() for prior in reversed(priors) if prior.key not in self._found}
        if new:
            self._write(new.values())
        self._found |= new
        return len(new)

    def close(self) -> None:
        """Do nothing: no file is open."""

    def __len__(self) -> int:
        return len(self._found)

    def __enter__(self) -> SharedPriorStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batches(self) -> dict[Path, bytes]:
        """Return all batches; looks again where another process makes many of them one meanwhile."""
        for tries_left in reversed(range(_TRIES)):
            try:
                return read_many(sorted(place for place in self.path.iterdir() if place.suffix == ".jsonl"))
            except FileNotFoundError as error:
                if not self.path.exists():
                    return {}
                if not tries_left:
                    raise self._unreadable(error) from error
                time.sleep(0.1)
            except OSError as error:
                raise self._unreadable(error) from error
        raise AssertionError("unreachable")

    def _unreadable(self, error: OSError) -> DataError:
        return DataError(f"cannot open prior store {self.path}: {error}; {HEALS}")

    def _take(self, batch: Path, content: bytes) -> None:
        for number, line in enumerate(content.splitlines(), 1):
            try:
                prior = Prior.from_json(json.loads(line))
                self._found.setdefault(prior.key, prior.to_json())
            except (ValueError, TypeError, KeyError) as error:
                logger.warning("%s, line %d holds no prior (%s): it is asked again", batch, number, error)

    def _write(self, texts: Iterable[str]) -> None:
        try:
            with replacing(self.path / unique_name(".jsonl"), durable=True) as temporary:
                temporary.write_text("".join(json.dumps(text) + "\n" for text in texts))
        except OSError as error:
            raise DataError(f"cannot write prior store {self.path}: {error}; {run_remedy(error)}") from error


Store = PriorStore | SharedPriorStore


def open_store(cache_dir: Path) -> Store:
    """Open the store of priors that all runs under one root share: SQLite on a disk of this machine, else files.

    Priors of an SQLite store that an earlier version made on a network's filesystem are taken over, once.

    Raises:
        DataError: It cannot be opened.
    """
    if not isinstance(cache_dir, StorePath) and not on_network(cache_dir):
        return PriorStore(cache_dir / "priors.sqlite")
    store, before = SharedPriorStore(cache_dir / "priors"), cache_dir / "priors.sqlite"
    if not len(store) and before.exists():
        with PriorStore(local_copy(before)) as old:
            store.put_many(old.get_all())
    return store
