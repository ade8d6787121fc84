"""`LocalHost`: a whole run in one process, killed anywhere, goes on to the same end."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from l2l_ray.config import RunConfig, save_config
from l2l_ray.errors import CheckpointError, ConfigError, DataError, L2LError, LedgerError
from l2l_ray.loop.evaluation.evaluate import Evaluations
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.local import LocalHost, Watch, run_local
from l2l_ray.loop.progress import Console, finished_text
from l2l_ray.loop.state.ledger import FIRST, Attempt, Ledger, LedgerEntry
from l2l_ray.loop.state.plan import Plan
from l2l_ray.loop.state.position import Position
from l2l_ray.loop.state.prepare import prepare
from l2l_ray.loop.state.run_folder import RunFolder, continued
from l2l_ray.loop.state.version_record import write_position
from tests.loop.partly_labeled import config_of, set_mask, write_partly
from tests.whole_run import Killed, assert_same, changed, kill_at, ledger_lines, outcome, run_up_to_the_report

pytestmark = pytest.mark.usefixtures("one_thread")


# Every kind of durable effect, each cut off once: before its file has its name, or just after, when nobody knows yet.
KILLS = (
    ("examples/unlabeled.parquet", "before"),
    ("priors/val.parquet", "after"),
    ("train/supervised-v0001", "before"),
    ("l2l/labels/r000-s00001-e4.parquet", "after"),  # by the fourth holder of the folder
    ("train/l2l-v0000-s00002", "after"),
    ("evals/l2l-v0001/val.parquet", "before"),
    ("train/l2l-v0002", "after"),
    ("panels/index.json", "before"),
)


def test_a_run_killed_anywhere_comes_to_the_same_end(whole_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(whole_run.config, name="killed", loop={"checkpoint_steps": 1})
    for target, when in KILLS:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, target, when)
            run_local(continued(config))
    run = run_local(continued(config))
    assert run.finished
    for method in whole_run.methods:
        assert_same(outcome(run, method), outcome(whole_run, method))
    found, expected = (json.loads((r.path / "results.json").read_text()) for r in (run, whole_run))
    assert found == expected
    assert not [path for path in run.train_dir.iterdir() if path.name.startswith(".")]


class FullDiskOnce(InferenceEngine):
    """An engine whose disk is full at the second shard of the second round."""

    full_disk: Callable[[int], AbstractContextManager[None]]

    def label(self, method: str, round_index: int, shard: int, version: int, attempt: Attempt = FIRST) -> LedgerEntry:
        if (round_index, shard) != (1, 1):
            return super().label(method, round_index, shard, version, attempt)
        with self.full_disk(1000):
            return super().label(method, round_index, shard, version, attempt)


@pytest.mark.slow
def test_after_sigkill_and_a_full_disk_a_run_comes_to_the_same_end(
    whole_run: RunFolder,
    tmp_path: Path,
    full_disk: Callable[[int], AbstractContextManager[None]],
) -> None:
    config = changed(whole_run.config, name="sigkill", compare=())
    run = RunFolder(config.run_dir, config)

    def is_labelling() -> bool:
        return run.ledger_path.exists() and b"\n" in run.ledger_path.read_bytes()

    def refuses_another() -> None:
        for other in (config, changed(config, resume=True)):
            with pytest.raises(ConfigError, match="is in use by a local run, process .* since .*; let it end, or stop"):
                run_local(other)

    _run_until_killed(config, is_labelling, tmp_path, refuses_another)
    committed = run.ledger_path.read_bytes().splitlines()
    assert 1 <= len(committed) < 6 and not run.finished
    with pytest.raises(ConfigError, match="continue it with --resume"):
        run_local(config)

    def make_engine(config: RunConfig, path: Path) -> InferenceEngine:
        engine = FullDiskOnce(config, path)
        engine.full_disk = full_disk
        return engine

    with pytest.raises(LedgerError, match=r"cannot write shard .*r001-s00001.*free some space and start again"):
        run_local(changed(config, resume=True), make_engine)
    assert ledger_lines(run, "l2l") == ledger_lines(whole_run, "l2l")[:4]
    more = run.ledger_path.read_bytes().splitlines()
    assert more[: len(committed)] == committed  # what was committed is not done again

    run_up_to_the_report(continued(config))
    assert run.ledger_path.read_bytes().splitlines()[:4] == more
    assert_same(outcome(run, "l2l"), outcome(whole_run, "l2l"))


def _run_until_killed(
    config: RunConfig, condition: Callable[[], bool], folder: Path, meanwhile: Callable[[], None]
) -> None:
    """Start `l2l run` in a process of its own; once a condition holds, do something and SIGKILL it."""
    save_config(config, folder / "run.yaml")
    command = [sys.executable, "-m", "l2l_ray.cli", "run", "--config", str(folder / "run.yaml")]
    with (folder / "log").open("wb") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            while not condition():
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.01)
            meanwhile()
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def _files(run: RunFolder) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}


def test_a_finished_run_started_again_does_nothing_and_says_so(whole_run: RunFolder) -> None:
    before = _files(whole_run)
    for config in (whole_run.config, changed(whole_run.config, resume=True)):
        out = io.StringIO()
        assert run_local(config, console=Console(config, out)).path == whole_run.path
        assert out.getvalue() == finished_text(whole_run) + "\n"
    assert _files(whole_run) == before


def test_a_run_shows_its_phases_its_table_and_what_comes_next(copied: Callable[..., RunFolder]) -> None:
    gone = ("FINISHED", "config.yaml", "train", "evals", "panels", "ledger.jsonl", "labels")
    run = copied(without=gone, compare=(), loop={"rounds": 1})
    out = io.StringIO()
    run_local(run.config, console=Console(run.config, out, every_s=0.0))
    said = out.getvalue()
    assert "INFO" not in said and "{" not in said
    phases = [line.partition("] ")[2] for line in said.splitlines() if line.startswith("[")]
    expected = ("burn-in 1/4", "labels of l2l round 0", "l2l v0 is measured on val", "l2l round 0 3/3", "the report is")
    places = [next(i for i, line in enumerate(phases) if line.startswith(phase)) for phase in expected]
    assert places == sorted(places)
    assert any("ETA" in line for line in phases)
    *_, report, correct, export, predict = said.splitlines()
    assert f"{'L2L (RPLE)':<28}val" in said
    assert report == f"report     {run.path / 'report.html'}"
    assert correct.startswith(f"next       l2l review {run.path}"), "its labels are doubtful"
    assert export.startswith(f"next       l2l export {run.path} ") and f"--run {run.path}" in predict


@pytest.mark.parametrize(
    ("fields", "kind", "said"),
    [
        ({"data": {"labeled_frac": 0.01}}, ConfigError, "labeled_frac gives 0 labeled images"),
        ({"data": {"root": "nowhere"}}, DataError, "does not exist; check root"),
        ({"prior": {"model": "nowhere/at/all"}}, L2LError, "prior.model 'nowhere/at/all' cannot be loaded"),
        ({"loop": {"labeled_batch": 1}, "resume": True}, ConfigError, "there is no run in .* to continue"),
    ],
    ids=["share", "data", "model", "resume"],
)
def test_a_refused_start_leaves_no_folder_and_says_nothing_before(
    whole_run: RunFolder, tmp_path: Path, fields: dict[str, Any], kind: type[L2LError], said: str
) -> None:
    config = changed(whole_run.config, name="refused", run_root=str(tmp_path / "runs"), **fields)
    told = io.StringIO()
    with pytest.raises(kind, match=said):
        run_local(config, console=Console(config, told))
    assert {path.name for path in (tmp_path / "runs").glob("*")} <= {"cache"}
    assert not told.getvalue() or "prior" in fields  # which model answers is known once the data are


def test_data_that_changed_are_told_of_a_finished_run_too(smoke: RunConfig, tmp_path: Path) -> None:
    root = write_partly(tmp_path / "data", 6, {0, 1, 2})
    run = RunFolder.open(config_of(smoke, root))
    prepare(run.config, run)
    run.mark_finished()
    told = io.StringIO()
    assert run_local(run.config, console=Console(run.config, told)).path == run.path
    assert told.getvalue() == f"{finished_text(run)}\n"
    set_mask(root, 5, [[1.0, 1, 20, 1, 20, 20]])
    with pytest.raises(DataError, match=r"1 more mask; a run keeps to the data it began with, so start one under anot"):
        run_local(run.config)


def test_other_settings_are_refused_by_name(whole_run: RunFolder) -> None:
    before = _files(whole_run)
    for fields, named in (
        ({"loop": {"rounds": 9}}, r"loop\.rounds was 2, now 9"),
        ({"selector": {"lr": 0.5}}, r"selector\.lr was 0\.002, now 0\.5"),
        ({"data": {"labeled_frac": 0.5}}, r"data\.labeled_frac was None, now 0\.5"),
    ):
        with pytest.raises(ConfigError, match=named):
            run_local(changed(whole_run.config, resume=True, **fields))
    assert _files(whole_run) == before


def _host(run: RunFolder) -> tuple[LocalHost, Plan]:
    data = prepare(run.config, run)
    plan = data.plan(run.config, run.methods)
    ledger, evaluations = Ledger(run.ledger_path, 1), Evaluations(run)  # of its only holder, as its lines are
    for name in ("labeled", "unlabeled", "val", "testA", "testB"):
        plan.priors_ready(name)
    published = {method: run.published(method) for method in run.methods}
    plan.restore(ledger.keys(), evaluations.mean_ious(), published)
    watch = Watch(run.config, run, data, Console(run.config, stream=None))
    return LocalHost(run, plan, ledger, evaluations, InferenceEngine(run.config, run.path), watch), plan


def test_from_a_finished_folder_nothing_is_left_to_do(whole_run: RunFolder) -> None:
    host, plan = _host(whole_run)
    assert plan.finished and plan.next() is None
    assert host.resume_point("l2l") == whole_run.version_dir("l2l", 2)
    labels = host.labels("l2l", 1)
    assert [path.name for path in labels] == ["r001-s00000.parquet", "r001-s00001.parquet", "r001-s00002.parquet"]
    assert host.priors("val") == whole_run.priors_path("val")
    assert host.broadcast(labels) is labels


def test_a_lost_evaluation_and_a_lost_shard_are_made_again(
    copied: Callable[..., RunFolder], whole_run: RunFolder
) -> None:
    run = copied()
    shutil.rmtree(run.path / "evals" / "l2l-v0001")
    lines = run.ledger_path.read_text().splitlines()
    run.ledger_path.write_text("\n".join([*lines[:-1], lines[-1][:40]]))  # the last one is torn
    _host(run)[0].work()
    assert ledger_lines(run, "l2l") == ledger_lines(whole_run, "l2l")
    # Also the tests of version 1 are there again: it is the best one, or they were never read.
    found, expected = (sorted(path.name for path in r.path.glob("evals/*/*")) for r in (run, whole_run))
    assert found == expected


def test_training_never_goes_on_without_its_labels(copied: Callable[..., RunFolder]) -> None:
    run = copied()
    run.ledger_path.unlink()
    shutil.rmtree(run.version_dir("l2l", 1))
    with pytest.raises(AssertionError, match="the version that labels is missing"):
        _host(run)[0].labels("l2l", 1)


def test_a_version_appears_whole_or_not_at_all(copied: Callable[..., RunFolder]) -> None:
    run = copied()
    host, final = _host(run)[0], run.train_dir / "l2l-v0000-s00001"
    stale = run.train_dir / ".l2l-v0000-s00001.1.tmp"
    stale.mkdir()

    def fails(folder: Path) -> None:
        assert folder.name.startswith(".") and not final.exists()
        raise OSError("no space left on device")

    with pytest.raises(CheckpointError, match="no space left"):
        host.publish(Position("l2l", 0, 1), fails, {"loss": 1.0})
    assert not final.exists() and not stale.exists()
    here = Position("l2l", 0, 1)
    host.publish(here, lambda folder: write_position(folder, here), {"loss": 1.0})
    assert json.loads((final / "metrics.json").read_text()) == {"loss": 1.0}
    assert not list(run.train_dir.glob(".*"))
