"""Append-only lines: whole lines only, reading changes nothing, a torn tail never damages what comes after it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2l_ray import jsonl
from l2l_ray.jsonl import (
    append_line,
    compact,
    lines_at,
    placed_lines,
    read_lines,
    read_records,
    remove_lines,
    rewrite_lines,
)
from tests.object_store import ObjectStore


def test_no_file_has_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "absent.jsonl") == []
    assert not (tmp_path / "absent.jsonl").exists()


def test_records_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_line(path, {"a": 1, "text": "line\nbreak \u2028 é"})
    append_line(path, {"a": 2}, durable=True)
    assert [json.loads(line) for line in read_lines(path)] == [{"a": 1, "text": "line\nbreak \u2028 é"}, {"a": 2}]


def test_what_is_no_record_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n[2]\n\xff\n{"a": 3}\n{"a": 4')
    assert read_records(path) == [{"a": 1}, {"a": 3}]


def test_reading_leaves_a_line_alone_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": ')
    assert read_lines(path) == [b'{"a": 1}']
    assert path.read_bytes() == b'{"a": 1}\n{"a": '


@given(cut=st.integers(0, 40))
def test_appending_after_a_cut_at_any_byte_keeps_every_whole_line(tmp_path_factory: object, cut: int) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"  # type: ignore[attr-defined]
    for number in range(3):
        append_line(path, {"n": number})
    whole = path.read_bytes()[:cut]
    path.write_bytes(whole)
    append_line(path, {"n": 9})
    kept = whole.count(b"\n")
    assert [json.loads(line)["n"] for line in read_lines(path)] == [*range(kept), 9]


def _numbers(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in read_lines(path)]


def test_in_a_store_each_line_is_an_object_until_they_are_compacted(store: ObjectStore) -> None:
    path = store.place("lines/log.jsonl")
    assert read_lines(path) == []
    for number in range(3):
        append_line(path, {"n": number}, durable=True)
    assert _numbers(path) == [0, 1, 2] and len(list(path.parent.glob("log.jsonl.d/*"))) == 3
    compact(path)
    assert _numbers(path) == [0, 1, 2] and len(list(path.parent.glob("log.jsonl.d/*"))) == 1
    append_line(path, {"n": 3})
    assert _numbers(path) == [0, 1, 2, 3]
    rewrite_lines(path, read_lines(path)[2:])
    assert _numbers(path) == [2, 3]
    remove_lines(path)
    assert read_lines(path) == [] and not path.parent.exists()


def test_who_comes_later_writes_after_all_that_is_there_whatever_its_clock_says(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.place("clocks/log.jsonl")
    append_line(path, {"n": 0})
    monkeypatch.setattr(jsonl, "_newest", {})  # why: as in a process that has written nothing yet
    monkeypatch.setattr(time, "time_ns", lambda: 5)  # its clock is behind
    for number in (1, 2):
        append_line(path, {"n": number})
    assert _numbers(path) == [0, 1, 2]


def test_a_compaction_that_is_cut_before_it_removes_anything_counts_no_line_twice(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.place("cut/log.jsonl")
    for number in range(3):
        append_line(path, {"n": number})
    monkeypatch.setattr(jsonl, "remove_objects", lambda _: None)
    compact(path)
    assert len(list(path.parent.glob("log.jsonl.d/*"))) == 4 and _numbers(path) == [0, 1, 2]


def test_a_damaged_object_is_a_line_that_cannot_be_read(store: ObjectStore) -> None:
    path = store.place("damaged/log.jsonl")
    for number in range(3):
        append_line(path, {"n": number})
    first, second, _ = path.parent.glob("log.jsonl.d/*")
    store.file(first).write_bytes(b"")
    store.file(second).write_bytes(b'{"n"')
    assert read_lines(path) == [b"", b'{"n"', b'{"n": 2}']


def test_lines_are_found_again_by_their_places(tmp_path: Path, store: ObjectStore) -> None:
    for path in (tmp_path / "log.jsonl", store.place("places/log.jsonl")):
        places = [append_line(path, {"a": number}) for number in range(3)]
        assert [place for place, _ in placed_lines(path)] == places == sorted(places)
        compact(path)
        places = [place for place, _ in placed_lines(path)] + [append_line(path, {"a": 3})]
        assert [json.loads(line)["a"] for line in lines_at(path, [places[2], places[3], places[0]])] == [2, 3, 0]


def test_compacting_again_leaves_one_object(store: ObjectStore) -> None:
    path = store.place("again/log.jsonl")
    for number in range(6):
        append_line(path, {"a": number})
        compact(path)
    assert len(list(path.with_name("log.jsonl.d").iterdir())) == 1
    assert [json.loads(line)["a"] for line in read_lines(path)] == list(range(6))


def test_a_folder_that_cannot_be_synced_leaves_no_line_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"

    def full(folder: Path) -> None:
        raise OSError(28, "no space left", str(folder))

    with monkeypatch.context() as patched:
        patched.setattr(jsonl, "sync", full)
        with pytest.raises(OSError, match="no space left"):
            append_line(path, {"a": 1}, durable=True)
        assert read_lines(path) == []
    append_line(path, {"a": 2}, durable=True)
    assert read_lines(path) == [b'{"a": 2}']
