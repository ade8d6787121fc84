"""Append-only lines: whole lines only, reading changes nothing, a torn tail never damages what comes after it."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from l2l_ray.jsonl import append_line, read_lines


def test_no_file_has_no_lines(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "absent.jsonl") == []
    assert not (tmp_path / "absent.jsonl").exists()


def test_records_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_line(path, {"a": 1, "text": "line\nbreak \u2028 é"})
    append_line(path, {"a": 2}, durable=True)
    assert [json.loads(line) for line in read_lines(path)] == [{"a": 1, "text": "line\nbreak \u2028 é"}, {"a": 2}]


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
