"""What was promised of a run's files, and what is said where it is not kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2l_ray.loop.state.digests import Digest, Digests, give_up, promise, sealed, unsealed


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "priors" / "val.parquet"
    path.parent.mkdir()
    path.write_bytes(b"what was written" * 100)
    return path


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"what was written" * 100, None),
        (b"what was Written" + b"what was written" * 99, "its bytes have changed (SHA-256 differs)"),
        (b"what was", "it has 8 bytes instead of 1,600"),
        (b"", "it is empty"),
        (None, "it is missing"),
    ],
)
def test_a_problem_is_said_in_words(file: Path, content: bytes | None, problem: str | None) -> None:
    digest = Digest.of(file)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert digest.problem(file) == problem


def test_an_empty_file_may_be_what_was_written(file: Path) -> None:
    file.write_bytes(b"")
    assert Digest.of(file).problem(file) is None


def test_the_last_promise_counts_until_it_is_given_up(tmp_path: Path, file: Path) -> None:
    promise(tmp_path, file)
    file.write_bytes(b"again")
    promise(tmp_path, file)
    assert Digests.load(tmp_path).promised == {"priors/val.parquet": Digest.of(file)}
    give_up(tmp_path, "priors/val.parquet")
    found = Digests.load(tmp_path)
    assert found.promised == {} and found.last == {"priors/val.parquet": Digest.of(file)}


def test_a_damaged_line_promises_nothing(tmp_path: Path, file: Path) -> None:
    promise(tmp_path, file)
    lines = tmp_path / "digests.jsonl"
    lines.write_text(lines.read_text().replace("1600", "1601") + "nonsense\n[3]\n" + '{"path": "x"}\n')
    assert Digests.load(tmp_path) == Digests()


@given(st.dictionaries(st.text(max_size=5), st.none() | st.floats(allow_nan=False) | st.integers() | st.text()))
def test_a_record_comes_back_and_a_change_of_it_is_noticed(record: dict[str, object]) -> None:
    record.pop("crc32", None)
    text = json.dumps(sealed(record))
    assert unsealed(text) == record
    with pytest.raises(ValueError):
        unsealed(json.dumps({**sealed(record), "more": 1}))


def test_a_record_of_an_older_version_has_no_checksum() -> None:
    assert unsealed('{"epoch": 1}') == {"epoch": 1}
