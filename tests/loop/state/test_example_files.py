"""Examples and priors reach other processes unchanged, and the file of unlabeled ones has no place for the truth."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, fields, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2l_ray.errors import DataError
from l2l_ray.loop.state.example_files import read_examples, read_priors, write_examples, write_priors
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
