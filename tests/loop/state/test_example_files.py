"""Examples and priors reach other processes unchanged, and the file of unlabeled ones has no place for the truth."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2l_ray.errors import DataError
from l2l_ray.loop.state.example_files import (
    ExampleTable,
    PriorTable,
    RowsById,
    read_examples,
    read_priors,
    small,
    write_examples,
    write_priors,
)
from l2l_ray.types import Example, Hint, LabeledExample, Prior

UNLABELED = [Example(s, 3, 12, f"/data/{s}.jpg", 640, 480, f"left man {s}, “red”") for s in range(5)]
LABELED = [
    LabeledExample(**asdict(e), mask_rle={"size": [480, 640], "counts": "PPY13n3"}, category="") for e in UNLABELED
]
HINTED = [replace(UNLABELED[0], hint=Hint((0.1, 0.2, 1 / 3, 1.0), ((0.3, 0.4),))), UNLABELED[1]]
LABELED_HINTED = [replace(LABELED[0], hint=Hint(None, ((0.3, 0.4), (0.1, 0.2)))), LABELED[1]]
PRIOR = Prior("9f", ((0.1, 0.2, 0.5, 1 / 3),), (0.83,), ((0.3, 0.4),), "red man", 0.83, "", '[{"bbox_2d": [1]}]')


@pytest.mark.parametrize(
    "examples",
    [UNLABELED, LABELED, [], HINTED, LABELED_HINTED],
    ids=["unlabeled", "labeled", "empty", "hinted", "labeled and hinted"],
)
def test_examples_come_back_equal_and_of_their_own_type(tmp_path: Path, examples: list[Example]) -> None:
    write_examples(tmp_path / "examples" / "x.parquet", examples)
    found = read_examples(tmp_path / "examples" / "x.parquet")
    assert found == examples
    assert [type(example) for example in found] == [type(example) for example in examples]


def test_the_unlabeled_file_has_the_columns_of_an_example_and_no_other(tmp_path: Path) -> None:
    write_examples(tmp_path / "unlabeled.parquet", UNLABELED)
    names = [f.name for f in fields(Example)]
    assert pq.read_schema(tmp_path / "unlabeled.parquet").names == [name for name in names if name != "hint"]
    write_examples(tmp_path / "hinted.parquet", HINTED)
    assert pq.read_schema(tmp_path / "hinted.parquet").names == names


@pytest.mark.parametrize(
    "prior",
    [
        PRIOR,
        replace(PRIOR, source="user"),
        Prior.absent("a0", "not JSON: got 'banana'", "banana"),
        Prior("b1", (), (), (), "cup", 0.5, "", "", (((0.0, 0.0), (0.5, 0.0), (0.5, 0.5)), ((0.9, 0.9), (1.0, 1.0)))),
    ],
    ids=["boxes", "of the user", "no prior", "polygons"],
)
def test_priors_come_back_equal(tmp_path: Path, prior: Prior) -> None:
    write_priors(tmp_path / "priors.parquet", [(7, prior), (8, PRIOR)])
    assert read_priors(tmp_path / "priors.parquet") == {7: prior, 8: PRIOR}


@settings(max_examples=25)
@given(box=st.tuples(*[st.floats(0, 1)] * 4), reply=st.text())
def test_any_coordinates_and_any_reply_survive(
    tmp_path_factory: pytest.TempPathFactory, box: tuple[float, float, float, float], reply: str
) -> None:
    path = tmp_path_factory.mktemp("priors") / "priors.parquet"
    prior = Prior("9f", (box,), (0.5,), (), reply, 0.5, "", reply)
    write_priors(path, [(1, prior)])
    assert read_priors(path) == {1: prior}


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a group have four rows and a table keep eight, as if there were very many."""
    monkeypatch.setattr("l2l_ray.loop.state.example_files.GROUP_ROWS", 4)
    monkeypatch.setattr("l2l_ray.loop.state.example_files.KEPT_ROWS", 8)


MANY = [replace(UNLABELED[0], sent_id=70 - s, expression=f"man {s}") for s in range(23)]


@pytest.mark.parametrize(("shard_size", "rows"), [(1, 4), (3, 6), (5, 5), (100, 23)])
def test_a_group_holds_whole_shards(tmp_path: Path, small_groups: None, shard_size: int, rows: int) -> None:
    path = tmp_path / "x.parquet"
    write_examples(path, MANY, shard_size)
    metadata = pq.read_metadata(path)
    found = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert sum(found) == 23 and set(found[:-1]) <= {rows}
    assert read_examples(path) == MANY


@pytest.mark.parametrize("rows_in_group", [1, 7, 1000])
def test_rows_are_found_in_any_order_and_in_files_of_any_layout(
    tmp_path: Path, small_groups: None, rows_in_group: int
) -> None:
    write_examples(tmp_path / "x.parquet", MANY)
    pq.write_table(pq.read_table(tmp_path / "x.parquet"), tmp_path / "y.parquet", row_group_size=rows_in_group)
    table = ExampleTable(tmp_path / "y.parquet")
    order = [22, 0, 13, 13, 4, 21, 1, 0, 22, -1]
    assert [table[row] for row in order] == [MANY[row] for row in order]
    assert table[5:20:6] == MANY[5:20:6] and list(table) == MANY
    assert table.column("sent_id").tolist() == [example.sent_id for example in MANY]
    with pytest.raises(IndexError):
        table[23]


def test_only_the_groups_in_use_are_read(tmp_path: Path, small_groups: None) -> None:
    path = tmp_path / "x.parquet"
    write_examples(path, MANY)
    chunk = pq.read_metadata(path).row_group(3).column(6)
    raw = bytearray(path.read_bytes())
    raw[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(raw)
    table = ExampleTable(path)
    assert table[0] == MANY[0] and table[22] == MANY[22]
    with pytest.raises(DataError, match=r"x\.parquet cannot be read"):
        table[13]


def test_priors_are_found_by_sent_id_whatever_their_order(tmp_path: Path, small_groups: None) -> None:
    priors = {sent_id: replace(PRIOR, key=str(sent_id)) for sent_id in (9, 2, 14, 3, 8, 1, 77, 5, 4, 60)}
    write_priors(tmp_path / "priors.parquet", priors.items(), shard_size=3)
    table = PriorTable(tmp_path / "priors.parquet")
    assert [table[sent_id].key for sent_id in (60, 2, 9, 60)] == ["60", "2", "9", "60"]
    assert table.get(10) is None and table.get(78) is None and 0 not in table
    assert table == priors and len(table) == 10


@given(st.lists(st.integers(-2, 2) | st.sampled_from([2**31 - 1, 2**31, -(2**31), 2**62]), max_size=12))
def test_rows_are_found_by_ids_of_any_size(ids: list[int]) -> None:
    found = RowsById(small(np.array(ids, np.int64)))
    for wanted in {*ids, 1, 2**31, 2**40}:
        rows = [row for row, each in enumerate(ids) if each == wanted]
        assert found.rows(wanted).tolist() == rows
        if rows:
            assert found.row(wanted) == rows[0]
        else:
            with pytest.raises(KeyError):
                found.row(wanted)


def test_a_missing_damaged_or_foreign_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.parquet cannot be read"):
        read_examples(tmp_path / "gone.parquet")
    (tmp_path / "half.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"half\.parquet cannot be read"):
        read_priors(tmp_path / "half.parquet")
    write_priors(tmp_path / "priors.parquet", [(1, PRIOR)])
    with pytest.raises(DataError, match=r"priors\.parquet holds no examples"):
        read_examples(tmp_path / "priors.parquet")


def test_a_full_disk_keeps_the_file_that_was_there(
    tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / "labeled.parquet"
    write_examples(path, LABELED[:1])
    with full_disk(500), pytest.raises(DataError, match=r"cannot write .*labeled\.parquet: .*--resume"):
        write_examples(path, LABELED * 50)
    assert read_examples(path) == LABELED[:1]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
