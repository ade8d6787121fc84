import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from l2l_ray.errors import DataError
from l2l_ray.prior.store import PriorStore
from l2l_ray.types import Prior

BOX = (0.1, 0.2, 0.5, 0.6)

WRITER = """
import sys
from l2l_ray.prior.store import PriorStore
from l2l_ray.types import Prior
path, start, stop, batch = sys.argv[1], *map(int, sys.argv[2:5])
with PriorStore(path) as store:
    for first in range(start, stop, batch):
        keys = [f"k{i:06d}" for i in range(first, min(first + batch, stop))]
        store.put_many([Prior.absent(k, "no box", "x" * 200) for k in keys])
        print(first, flush=True)
"""

LIMITED_WRITER = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from l2l_ray.errors import DataError
from l2l_ray.prior.store import PriorStore
from l2l_ray.types import Prior
store = PriorStore(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
for n in range(100):
    try:
        store.put_many([Prior.absent(f"b{n:03d}i{i}", "no box", "x" * 1000) for i in range(50)])
    except DataError as error:
        print(n, len(store), error, sep="|")
        break
"""


def prior(key: str, failure: str = "") -> Prior:
    if failure:
        return Prior.absent(key, failure, "I cannot see it")
    polygon = ((0.1, 0.2), (0.5, 0.2), (0.5, 0.6))
    boxes = (BOX, (0.0, 0.0, 1.0, 1.0))
    return Prior(key, boxes, (0.83, 0.1), ((0.3, 0.4),), "red “circle”", 0.83, "", "[...]", (polygon,))


def spawn(code: str, *words: object) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, text=True)


def integrity(path: Path) -> str:
    with sqlite3.connect(path) as db:
        result = str(db.execute("PRAGMA integrity_check").fetchone()[0])
    db.close()
    return result


def test_round_trip_equals_what_was_put(tmp_path: Path) -> None:
    with PriorStore(tmp_path / "deep" / "priors.sqlite") as store:
        assert store.put_many([prior("a"), prior("b", "reply holds no box")]) == 2
        assert store.get_many(["b", "a", "c", "a"]) == {"a": prior("a"), "b": prior("b", "reply holds no box")}
        assert store.missing(["c", "a", "d", "c"]) == ["c", "d"]
        assert len(store) == 2
    with PriorStore(tmp_path / "deep" / "priors.sqlite") as again:
        assert again.get_many(["a"])["a"] == prior("a")


def test_first_answer_stays(tmp_path: Path) -> None:
    with PriorStore(tmp_path / "p.sqlite") as store:
        store.put_many([prior("a")])
        assert store.put_many([prior("a", "other"), prior("b")]) == 1
        assert store.get_many(["a"])["a"] == prior("a")


def test_its_length_counts_failures_too(tmp_path: Path) -> None:
    with PriorStore(tmp_path / "p.sqlite") as store:
        assert len(store) == 0
        store.put_many([prior("a"), prior("b", "no box"), prior("c", "no box"), prior("b")])
        assert len(store) == 3


def test_more_keys_than_one_query_takes(tmp_path: Path) -> None:
    keys = [f"k{i}" for i in range(2500)]
    with PriorStore(tmp_path / "p.sqlite") as store:
        store.put_many([prior(key) for key in keys[::2]])
        assert set(store.get_many(keys)) == set(keys[::2])
        assert store.missing(keys) == keys[1::2]


def test_a_failing_batch_leaves_nothing_of_itself(tmp_path: Path) -> None:
    with PriorStore(tmp_path / "p.sqlite") as store:
        store.put_many([prior("a")])
        broken = [prior("b"), Prior.absent(None, "", "")]  # type: ignore[arg-type]
        with pytest.raises(DataError, match="cannot write 2 priors"):
            store.put_many(broken)
        assert store.missing(["a", "b"]) == ["b"]
        assert store.put_many([prior("b")]) == 1


def test_a_killed_writer_loses_no_committed_batch(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    process = spawn(WRITER, path, 0, 10**6, 50)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().splitlines()
    process.wait()
    process.stdout.close()
    committed = int((rest or lines)[-1]) + 50
    assert integrity(path) == "ok"
    with PriorStore(path) as store:
        assert store.missing([f"k{i:06d}" for i in range(committed)]) == []
        assert len(store) % 50 == 0  # whole batches only
        assert len(store) in (committed, committed + 50)  # one more may have committed before it could say so
        assert store.put_many([prior("new")]) == 1


def test_two_processes_write_overlapping_keys(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    writers = [spawn(WRITER, path, 0, 300, 10), spawn(WRITER, path, 150, 450, 10)]
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    with PriorStore(path) as store:
        assert store.missing([f"k{i:06d}" for i in range(450)]) == []
        assert len(store) == 450


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path) -> None:
    process = spawn(LIMITED_WRITER, tmp_path / "p.sqlite")
    out = process.communicate(timeout=60)[0]
    failed_batch, stored, message = out.strip().split("|")
    assert int(failed_batch) > 0
    assert int(stored) == 50 * int(failed_batch)
    assert "disk is full" in message and "free space" in message
    with PriorStore(tmp_path / "p.sqlite") as store:  # with space again, it goes on
        assert len(store) == int(stored)
        assert store.put_many([prior("new")]) == 1


def test_a_long_lock_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    PriorStore(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with PriorStore(path, lock_timeout_s=0.05) as store:
        started = time.monotonic()
        with pytest.raises(DataError, match="another process held its lock"):
            store.put_many([prior("a")])
        assert time.monotonic() - started < 10
        other.execute("ROLLBACK")
        other.close()
        assert store.put_many([prior("a")]) == 1


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(DataError, match="not a SQLite database"):
        PriorStore(path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "p.sqlite")
    db.execute("PRAGMA user_version=9")
    db.close()
    with pytest.raises(DataError, match="schema version 9, expected 1"):
        PriorStore(tmp_path / "p.sqlite")


def test_a_row_that_is_no_prior_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    PriorStore(path).close()
    db = sqlite3.connect(path)
    db.execute("INSERT INTO priors VALUES ('a', ?, '')", (json.dumps({"key": "a"}),))
    db.commit()
    db.close()
    with PriorStore(path) as store, pytest.raises(DataError, match="row a does not hold a Prior"):
        store.get_many(["a"])
