"""The ledger: first commit wins, a torn line costs one shard at most, a full disk costs nothing that is committed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2l_ray.errors import LedgerError
from l2l_ray.loop.state.lease import held
from l2l_ray.loop.state.ledger import Attempt, Ledger, LedgerEntry, read_shard, shard_path, write_shard
from l2l_ray.types import Candidate, PseudoLabel
from tests.whole_run import FullDisk

GRID = 6


def _entry(method: str = "l2l", round_index: int = 0, shard: int = 0, sha256: str = "9f") -> LedgerEntry:
    path = shard_path(method, round_index, shard)
    return LedgerEntry(method, round_index, shard, path, sha256, 0, 256, 201, 0.625, 4.5)


def _label(sent_id: int, weight: bool = True) -> PseudoLabel:
    rng = np.random.default_rng(sent_id)
    return PseudoLabel(
        sent_id=sent_id,
        grid=GRID,
        source=Candidate(sent_id % len(Candidate)),
        target=rng.random((GRID, GRID)) < 0.5,
        accepted=rng.random((GRID, GRID)) < 0.4,
        weight=rng.integers(0, 256, (GRID, GRID), dtype=np.uint8) if weight else None,
        gate=1.0,
        confidence=0.875,
        seed=2**62 + sent_id,
        mean_log_prob=-0.25,
        version=3,
        prior_key="9f",
    )


def test_commits_are_there_when_the_ledger_is_opened_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    entries = [_entry(shard=s) for s in (2, 0, 1)] + [_entry(round_index=1), _entry("pwa")]
    assert all(ledger.commit(entry) for entry in entries)
    again = Ledger(tmp_path / "ledger.jsonl")
    assert again.entries("l2l", 0) == [_entry(shard=s) for s in range(3)]
    assert again.keys() == {entry.key for entry in entries}
    assert list(again.all_entries()) == entries
    assert again.complete("l2l", 0, 3)
    assert not again.complete("l2l", 0, 4)
    assert again.complete("l2l", 5, 0)
    assert ("pwa", 0, 0) in again and len(again) == 5


def test_the_first_commit_of_a_shard_wins(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ledger.commit(_entry(sha256="first"))
    assert not ledger.commit(_entry(sha256="second"))
    assert not Ledger(tmp_path / "ledger.jsonl").commit(_entry(sha256="third"))
    assert Ledger(tmp_path / "ledger.jsonl").entries("l2l", 0) == [_entry(sha256="first")]


@settings(max_examples=25)  # each commit waits for the disk
@given(
    keys=st.lists(st.tuples(st.sampled_from(["l2l", "pwa"]), st.integers(0, 2), st.integers(0, 3)), max_size=30),
    reopened=st.sets(st.integers(0, 29)),
)
def test_duplicate_commits_leave_each_shard_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, keys: list[tuple[str, int, int]], reopened: set[int]
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    ledger = Ledger(path)
    for number, key in enumerate(keys):
        ledger = Ledger(path) if number in reopened else ledger
        assert ledger.commit(_entry(*key, sha256=str(number))) == (key not in keys[:number])
    lines = path.read_text().splitlines() if path.exists() else []
    assert len(lines) == len(set(keys))
    for key in keys:
        assert [e.sha256 for e in Ledger(path).entries(*key[:2]) if e.key == key] == [str(keys.index(key))]


@settings(max_examples=25)  # each commit waits for the disk
@given(cut=st.integers(0, 900))
def test_cut_at_any_byte_only_the_torn_shard_is_open_again(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    ledger = Ledger(path)
    for shard in range(4):
        ledger.commit(_entry(shard=shard))
    raw = path.read_bytes()[:cut]
    path.write_bytes(raw)
    survivor = Ledger(path)
    whole = raw.count(b"\n")
    assert [e.shard for e in survivor.entries("l2l", 0)] == list(range(whole))
    for shard in range(4):
        assert survivor.commit(_entry(shard=shard)) == (shard >= whole)
    assert Ledger(path).entries("l2l", 0) == [_entry(shard=s) for s in range(4)]


def test_opening_a_ledger_never_cuts_the_line_its_writer_is_writing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path).commit(_entry())
    half = path.read_bytes() + b'{"method": "l2'
    path.write_bytes(half)
    Ledger(path)
    assert path.read_bytes() == half


@pytest.mark.parametrize("line", ["{}", "nonsense", "[1]", '{"method": "l2l"}', '{"revoked": 3}', "\\x00"])
def test_a_line_that_is_no_entry_costs_nothing_else(tmp_path: Path, line: str) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path).commit(_entry())
    path.write_text(path.read_text() + line + "\n")
    Ledger(path).commit(_entry(shard=1))
    ledger = Ledger(path)
    assert ledger.damaged == [(2, line.encode())] and ledger.entries("l2l", 0) == [_entry(), _entry(shard=1)]
    ledger.drop_damaged()
    assert ledger.entries("l2l", 0) == [_entry(), _entry(shard=1)], "its lines have moved"
    assert Ledger(path).damaged == [] and Ledger(path).entries("l2l", 0) == [_entry(), _entry(shard=1)]


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_and_costs_one_shard(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    Ledger(path, 3).commit(_entry())
    Ledger(path, 3).commit(_entry(shard=1))
    raw = bytearray(path.read_bytes())
    raw[at % raw.index(b"\n")] ^= 1 << bit  # in the first line
    path.write_bytes(raw)
    ledger = Ledger(path)
    assert ledger.entries("l2l", 0) in ([_entry(shard=1)], [_entry(), _entry(shard=1)])
    assert len(ledger.damaged) >= 2 - len(ledger.keys())


def test_a_revoked_shard_is_open_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", 1)
    ledger.commit(_entry(sha256="lost"))
    ledger.revoke(_entry().key)
    assert _entry().key not in ledger and _entry().key not in Ledger(tmp_path / "ledger.jsonl")
    assert ledger.commit(_entry(sha256="again"))
    assert Ledger(tmp_path / "ledger.jsonl").entries("l2l", 0) == [_entry(sha256="again")]


def test_nothing_is_read_of_a_holder_that_was_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    first, second = Ledger(path, 1), Ledger(path, 2)
    first.commit(_entry(shard=0, sha256="first"))
    first.commit(_entry(shard=1, sha256="slipped in"))  # after the second holder had read the ledger
    second.commit(_entry(shard=1, sha256="second"))
    first.commit(_entry(shard=2, sha256="too late"))
    found = Ledger(path).entries("l2l", 0)
    assert [entry.sha256 for entry in found] == ["first", "second"]


def test_whoever_was_taken_over_commits_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with held(tmp_path, "a local run") as first:
        (tmp_path / "lease" / f"{first + 1:06d}.json").write_text("{}")
        with pytest.raises(LedgerError, match="was taken over by a run"):
            Ledger(tmp_path / "ledger.jsonl", first).commit(_entry())
    assert not (tmp_path / "ledger.jsonl").exists()


def test_a_ledger_is_not_opened_for_an_epoch_whose_lines_nobody_would_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger(path, 3).commit(_entry())
    with pytest.raises(LedgerError, match="has lines of epoch 3, and this process holds epoch 2: what it commits"):
        Ledger(path, 2)
    assert Ledger(path, 3).keys() == Ledger(path).keys() == {_entry().key}


def test_lines_of_an_older_version_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(json.dumps(asdict(_entry())) + "\n")
    assert Ledger(path).entries("l2l", 0) == [_entry()]
    assert Ledger(path, 1).commit(_entry(shard=1))
    assert Ledger(path).keys() == {_entry().key, _entry(shard=1).key}


def test_a_shard_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / shard_path("l2l", 1, 4)
    labels = [_label(1), _label(2, weight=False), _label(3)]
    digest = write_shard(path, labels)
    assert path == tmp_path / "l2l" / "labels" / "r001-s00004.parquet"
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    for written, found in zip(labels, read_shard(path), strict=True):
        for name in ("target", "accepted"):
            assert np.array_equal(getattr(written, name), getattr(found, name))
        if written.weight is None:
            assert found.weight is None
        else:
            assert np.array_equal(written.weight, found.weight)
        plain = {"target": None, "accepted": None, "weight": None}
        assert replace(written, **plain) == replace(found, **plain)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_same_labels_make_the_same_bytes(tmp_path: Path) -> None:
    digests = {write_shard(tmp_path / name, [_label(1), _label(2)]) for name in ("a.parquet", "b.parquet")}
    assert len(digests) == 1


def test_a_damaged_or_missing_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"gone\.parquet is in the ledger but cannot be read"):
        read_shard(tmp_path / "gone.parquet")
    (tmp_path / "half.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(LedgerError, match=r"half\.parquet is in the ledger but cannot be read"):
        read_shard(tmp_path / "half.parquet")


@pytest.mark.parametrize(("schema", "columns"), [(2, {"from_teacher", "from_prior"}), (99, {"source", "accepted"})])
def test_a_shard_of_another_version_is_refused(tmp_path: Path, schema: int, columns: set[str]) -> None:
    write_shard(tmp_path / "other.parquet", [_label(1)])
    row = pq.read_table(tmp_path / "other.parquet").to_pylist()[0]
    kept = {name: value for name, value in row.items() if name not in ("source", "accepted", "schema_version")}
    other = kept | dict.fromkeys(columns, row["accepted"]) | {"schema_version": schema}
    pq.write_table(pa.Table.from_pylist([other]), tmp_path / "other.parquet")
    message = rf"other\.parquet has schema {schema}, this version reads 3 and 4; .* \(env\.json names it\), or start"
    with pytest.raises(LedgerError, match=message):
        read_shard(tmp_path / "other.parquet")


def test_a_shard_of_schema_3_is_read_without_its_scale(tmp_path: Path) -> None:
    write_shard(tmp_path / "now.parquet", [_label(1)])
    (row,) = pq.read_table(tmp_path / "now.parquet").to_pylist()
    assert row["schema_version"] == 4 and not {"scale_x", "scale_y"} & row.keys()
    then = {**row, "schema_version": 3, "scale_x": GRID / 640, "scale_y": GRID / 480}
    pq.write_table(pa.Table.from_pylist([then]), tmp_path / "then.parquet", write_page_checksum=True)
    (old,), (new,) = read_shard(tmp_path / "then.parquet"), read_shard(tmp_path / "now.parquet")
    assert np.array_equal(old.target, new.target) and np.array_equal(old.accepted, new.accepted)
    assert (old.sent_id, old.seed, old.confidence) == (new.sent_id, new.seed, new.confidence)


@pytest.mark.parametrize("bytes_left", [0, 1, 100])
def test_a_full_disk_while_committing_loses_nothing(tmp_path: Path, full_disk: FullDisk, bytes_left: int) -> None:
    path = tmp_path / "ledger.jsonl"
    for shard in range(3):
        Ledger(path).commit(_entry(shard=shard))
    before = path.read_bytes()
    ledger = Ledger(path)
    message = r"cannot commit shard \('l2l', 0, 9\) to .*; 3 committed shards are safe; free some space .* --resume"
    with full_disk(len(before) + bytes_left), pytest.raises(LedgerError, match=message):
        ledger.commit(_entry(shard=9))
    assert path.read_bytes() == before
    assert ("l2l", 0, 9) not in ledger
    assert ledger.commit(_entry(shard=9))
    assert Ledger(path).keys() == {("l2l", 0, shard) for shard in (0, 1, 2, 9)}


def test_each_attempt_at_a_shard_has_a_file_of_its_own() -> None:
    tries = [Attempt(), Attempt(1, 1), Attempt(0, 2), Attempt(1, 2)]
    assert [shard_path("l2l", 1, 4, attempt) for attempt in tries] == [
        "l2l/labels/r001-s00004.parquet",
        "l2l/labels/r001-s00004-a1.parquet",
        "l2l/labels/r001-s00004-e2.parquet",
        "l2l/labels/r001-s00004-e2-a1.parquet",
    ]


@pytest.mark.parametrize("limit", [0, 1000])
def test_a_full_disk_while_writing_a_shard_leaves_no_half_file(tmp_path: Path, full_disk: FullDisk, limit: int) -> None:
    path = tmp_path / shard_path("l2l", 0, 0)
    labels = [_label(number) for number in range(50)]
    with full_disk(limit), pytest.raises(LedgerError, match="cannot write shard .* nothing was committed; free some"):
        write_shard(path, labels)
    assert list(path.parent.iterdir()) == []
    write_shard(path, labels)
    assert len(read_shard(path)) == 50
