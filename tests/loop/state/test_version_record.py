"""version.json: what it says comes back, what is wrong beside it is named, and a full disk is a clear error."""

from pathlib import Path

import pytest

from l2l_ray.errors import CheckpointError
from l2l_ray.loop.state.position import Position
from l2l_ray.loop.state.version_record import forget_files, problems_in, read_position, whole_copy, write_position
from tests.whole_run import FullDisk

POSITION = Position("l2l", 2, 40, {"loss": 0.5})


def test_positions_round_trip(tmp_path: Path) -> None:
    write_position(tmp_path, POSITION)
    assert read_position(tmp_path) == POSITION


def test_each_file_that_is_not_as_it_was_written_is_named(tmp_path: Path) -> None:
    for name in ("teacher", "selector", "student"):
        (tmp_path / name).write_bytes(name.encode())
    write_position(tmp_path, POSITION)
    assert problems_in(tmp_path) == {}
    (tmp_path / "teacher").write_bytes(b"teachet")
    (tmp_path / "student").unlink()
    assert set(problems_in(tmp_path)) == {"teacher", "student"} and problems_in(tmp_path, "selector") == {}
    with pytest.raises(CheckpointError, match="cannot read .*teacher: "):
        whole_copy(tmp_path / "teacher")
    forget_files(tmp_path, ["student"])
    assert set(problems_in(tmp_path)) == {"teacher"} and read_position(tmp_path) == POSITION


def test_a_damaged_record_is_named_itself(tmp_path: Path) -> None:
    assert problems_in(tmp_path) == {"version.json": "it is missing"}
    write_position(tmp_path, POSITION)
    path = tmp_path / "version.json"
    path.write_text(path.read_text().replace("40", "41"))
    assert problems_in(tmp_path) == {"version.json": "its content is damaged"}
    with pytest.raises(CheckpointError, match="is not a whole version"):
        read_position(tmp_path)
    path.write_text("")
    assert problems_in(tmp_path) == {"version.json": "it is empty"}


def test_a_full_disk_is_a_clear_error(tmp_path: Path, full_disk: FullDisk) -> None:
    with full_disk(10), pytest.raises(CheckpointError, match=r"cannot write .*version\.json: .*--resume"):
        write_position(tmp_path, POSITION)
