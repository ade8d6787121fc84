"""What a run remembers of its data: what counts as a change, and what does not."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from l2l_ray.loop.state.data_record import DataRecord
from l2l_ray.types import Example, LabeledExample, Rle

MASK = Rle(size=[4, 4], counts="04")


@pytest.fixture
def examples(tmp_path: Path) -> list[Example]:
    """Give a labeled and two unlabeled examples with pictures on disk."""
    made: list[Example] = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        path.write_bytes(bytes([number]))
        fields = (10 + number, number, 20 + number, str(path), 4, 4, f"cat {number}")
        made.append(Example(*fields) if number else LabeledExample(*fields, MASK, ""))
    return made


def _record(examples: list[Example], known: DataRecord | None = None) -> DataRecord:
    return DataRecord.of(examples, {}, known or DataRecord())


def test_nothing_changed(examples: list[Example]) -> None:
    assert _record(examples).changes(_record(examples)) == []


def test_more_fewer_and_changed_are_counted(examples: list[Example], tmp_path: Path) -> None:
    before = _record(examples)
    now = [
        replace(examples[0], expression="a cat", mask_rle=Rle(size=[4, 4], counts="13")),  # type: ignore[call-arg]
        LabeledExample(**asdict(examples[1]), mask_rle=MASK, category=""),
    ]
    assert before.changes(_record(now)) == [
        "1 more mask", "1 mask changed", "1 text fewer", "1 text changed", "1 photo fewer",
    ]  # fmt: skip
    assert _record(now).changes(before) == [
        "1 mask fewer", "1 mask changed", "1 more text", "1 text changed", "1 more photo",
    ]  # fmt: skip


def test_a_text_that_moved_to_another_split_has_changed(examples: list[Example]) -> None:
    now = DataRecord.of(examples[:2], {"val": examples[2:]}, DataRecord())
    assert _record(examples).changes(now) == ["1 text changed"]


def test_a_picture_is_known_by_its_content(examples: list[Example], tmp_path: Path) -> None:
    before = _record(examples)
    os.utime(tmp_path / "1.png", (5, 5))
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / "2.png").rename(tmp_path / "moved" / "2.png")
    now = [*examples[:2], replace(examples[2], image_path=str(moved))]
    assert before.changes(_record(now, before)) == []
    (tmp_path / "1.png").write_bytes(b"!")
    moved.unlink()
    assert before.changes(_record(now, before)) == ["1 photo fewer", "1 photo changed"]


def test_an_unchanged_picture_is_not_read_again(examples: list[Example], tmp_path: Path) -> None:
    before = _record(examples)
    times = (tmp_path / "1.png").stat()
    (tmp_path / "1.png").write_bytes(b"!")  # as many bytes
    os.utime(tmp_path / "1.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert before.changes(_record(examples, before)) == []
    assert before.changes(_record(examples)) == ["1 photo changed"]


def test_there_and_back(examples: list[Example], tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    assert DataRecord.load(path) is None
    path.write_text(json.dumps({"val_source": "split", **asdict(_record(examples))}))
    assert DataRecord.load(path) == _record(examples)
    path.write_text(json.dumps(asdict(DataRecord())))
    assert DataRecord.load(path) is None
    path.write_text("{")
    assert DataRecord.load(path) is None
