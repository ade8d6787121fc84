"""How versions are placed on disk, and which training states are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from l2l_ray.actors.train_group import place, prune_train_states


def _write(text: str) -> object:
    def write(folder: Path) -> None:
        (folder / "version.json").write_text(text)

    return write


def test_a_version_appears_whole_with_its_figures(tmp_path: Path) -> None:
    final = place(tmp_path / "l2l-v0000", _write("{}"), {"loss": 0.5})
    assert final == tmp_path / "l2l-v0000"
    assert json.loads((final / "metrics.json").read_text()) == {"loss": 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["l2l-v0000"]


def test_a_published_version_is_never_replaced(tmp_path: Path) -> None:
    place(tmp_path / "l2l-v0000", _write("first"), {})
    place(tmp_path / "l2l-v0000", _write("second"), {})
    assert (tmp_path / "l2l-v0000" / "version.json").read_text() == "first"


def test_a_failed_write_publishes_nothing_and_its_rest_is_removed_next_time(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "teacher.safetensors").write_text("half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        place(tmp_path / "l2l-v0001", broken, {})
    assert not (tmp_path / "l2l-v0001").exists()
    place(tmp_path / "l2l-v0001", _write("{}"), {})
    assert [path.name for path in tmp_path.iterdir()] == ["l2l-v0001"]


def _state(train_dir: Path, name: str) -> None:
    (train_dir / name).mkdir()
    for file in ("version.json", "teacher.safetensors", "train_state.pt"):
        (train_dir / name / file).touch()


def test_only_the_newest_training_states_are_kept_and_all_weights(tmp_path: Path) -> None:
    for version in range(4):
        _state(tmp_path, f"l2l-v000{version}")
    prune_train_states(tmp_path, keep=2)
    assert sorted(path.parent.name for path in tmp_path.glob("*/train_state.pt")) == ["l2l-v0002", "l2l-v0003"]
    assert len(list(tmp_path.glob("*/teacher.safetensors"))) == 4


def test_a_mid_round_state_goes_as_a_whole_once_it_is_old(tmp_path: Path) -> None:
    for name in ("l2l-v0001-s00010", "l2l-v0001-s00020", "l2l-v0002"):
        _state(tmp_path, name)
    prune_train_states(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l2l-v0001-s00020", "l2l-v0002"]
