"""How versions are placed on disk, found again and logged, and which training states are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.errors import CheckpointError, LedgerError
from l2l_ray.loop.evaluation.gate import gate_open_rates
from l2l_ray.loop.state.position import Position
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.version_record import TRAINING_FILES, problems_in, write_position
from l2l_ray.loop.state.versions import Write, log_versions, newest_checkpoint, place, prune_train_states, publish
from l2l_ray.report.record import read_run
from tests.whole_run import changed


def _write(text: str) -> Write:
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


def test_who_was_taken_over_publishes_nothing(smoke: RunConfig) -> None:
    with RunFolder(smoke.run_dir, smoke).held("a Ray job") as run:
        publish(run, Position("l2l", 0), _write("{}"), {})
        (run.path / "lease" / f"{run.epoch + 1:06d}.json").write_text("{}")
        with pytest.raises(LedgerError, match="was taken over by a run"):
            publish(run, Position("l2l", 1), _write("{}"), {})
    assert [folder.name for folder in run.train_dir.iterdir()] == ["l2l-v0000"]


def test_a_failed_write_publishes_nothing_and_its_rest_is_removed_next_time(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "teacher.safetensors").write_text("half")
        raise OSError("no space left on device")

    with pytest.raises(CheckpointError, match="no space left .* start again with --resume"):
        place(tmp_path / "l2l-v0001", broken, {})
    assert not (tmp_path / "l2l-v0001").exists()
    place(tmp_path / "l2l-v0001", _write("{}"), {})
    assert [path.name for path in tmp_path.iterdir()] == ["l2l-v0001"]


def _state(run: RunFolder, version: int, step: int = 0) -> None:
    folder = run.train_dir / (f"l2l-v{version:04d}" + (f"-s{step:05d}" if step else ""))
    folder.mkdir(parents=True)
    for file in ("teacher.safetensors", "student.safetensors", "train_state.pt"):
        (folder / file).touch()
    write_position(folder, Position("l2l", version, step))


@pytest.fixture
def run(smoke: RunConfig) -> RunFolder:
    return RunFolder.open(smoke).create()


def test_only_the_newest_training_states_are_kept_and_all_teachers(run: RunFolder) -> None:
    for version in (3, 0, 2, 1):  # written in any order: the position counts, not the file's time
        _state(run, version)
    prune_train_states(run, "l2l", keep=2)
    for file in ("student.safetensors", "train_state.pt"):
        assert sorted(p.parent.name for p in run.train_dir.glob(f"*/{file}")) == ["l2l-v0002", "l2l-v0003"]
    assert all(not problems_in(folder) for folder in run.train_dir.iterdir()), "nobody misses what was deleted"
    assert len(list(run.train_dir.glob("*/teacher.safetensors"))) == 4


def test_a_mid_round_state_goes_as_a_whole_once_it_is_old(run: RunFolder) -> None:
    _state(run, 1, step=10)
    _state(run, 1, step=20)
    _state(run, 2)
    prune_train_states(run, "l2l", keep=2)
    assert sorted(path.name for path in run.train_dir.iterdir()) == ["l2l-v0001-s00020", "l2l-v0002"]
    assert newest_checkpoint(run, "l2l") == run.train_dir / "l2l-v0002"


def test_a_method_goes_on_from_its_newest_whole_state(smoke: RunConfig) -> None:
    run = RunFolder.open(changed(smoke, compare=("supervised", "pwa")))
    assert newest_checkpoint(run, "pwa") is None
    for name in ("pwa-v0000", "pwa-v0000-s00008", ".pwa-v0001.77.tmp"):  # the last was killed before it had its name
        _folder(run, name, *TRAINING_FILES)
    assert newest_checkpoint(run, "pwa") == run.train_dir / "pwa-v0000-s00008"
    _folder(run, "pwa-v0001", "train_state.pt")  # its student was lost
    assert newest_checkpoint(run, "pwa") == run.train_dir / "pwa-v0000-s00008"
    assert newest_checkpoint(run, "supervised") is None
    _folder(run, "pwa-v0002", "teacher.safetensors")  # the last version needs none
    assert newest_checkpoint(run, "pwa") == run.train_dir / "pwa-v0002"


def test_of_a_method_that_is_over_no_training_state_is_kept(smoke: RunConfig) -> None:
    run = RunFolder.open(changed(smoke, compare=("supervised",)))
    for name in ("supervised-v0001", "supervised-v0002", "l2l-v0000"):
        _folder(run, name, "train_state.pt")
    prune_train_states(run, "supervised")
    assert len(list(run.train_dir.glob("supervised-*/train_state.pt"))) == 2  # perhaps its last version is damaged
    prune_train_states(run, "l2l")
    assert [path.parent.name for path in run.train_dir.glob("*/train_state.pt")] == ["l2l-v0000"]


def _folder(run: RunFolder, name: str, *files: str) -> None:
    (run.train_dir / name).mkdir(parents=True)
    for file in files:
        (run.train_dir / name / file).touch()
    write_position(run.train_dir / name, Position("any"))


def test_each_version_is_logged_once_from_its_folder(smoke: RunConfig) -> None:
    run = RunFolder.open(smoke).create()
    for version in (0, 1):
        folder = run.version_dir("l2l", version)
        folder.mkdir(parents=True)
        write_position(folder, Position("l2l", version))
        (folder / "metrics.json").write_text(json.dumps({"loss": version / 2}))
        log_versions(run)
        log_versions(run)
    assert run.events() == [
        {"event": "train", "method": "l2l", "version": 0, "loss": 0.0},
        {"event": "train", "method": "l2l", "version": 1, "loss": 0.5},
    ]


def test_a_version_that_was_made_again_is_logged_again_and_its_figures_count(smoke: RunConfig) -> None:
    run = RunFolder.open(smoke).create()
    for version in (0, 1):
        folder = run.version_dir("l2l", version)
        folder.mkdir(parents=True)
        write_position(folder, Position("l2l", version))
    labeled, unlabeled = run.version_dir("l2l", 0) / "metrics.json", run.version_dir("l2l", 1) / "metrics.json"
    labeled.write_text('{"policy/open_rate_labeled": 0.25}')
    for used_frac in (0.5, 0.75):  # as trained first, and after it was set aside
        unlabeled.write_text(f'{{"labels/used_frac": {used_frac}, "loss": NaN}}')
        log_versions(run)
        log_versions(run)
    assert len(run.events()) == 3
    (row,) = gate_open_rates(run.config, run)["l2l"]
    assert (row["unlabeled"], row["gap"]) == (0.75, 0.5)
    (run.path / "results.json").write_text("{}")
    (point,) = [p for p in read_run(run.path).points if p["version"] == 1]
    assert point["labels.used_frac"] == 0.75
