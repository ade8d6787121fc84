"""Training, one rank: what it reads, what it starts from, and that stopping and going on changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from l2l_ray.errors import ConfigError
from l2l_ray.loop.inference.networks import load_segmenter
from l2l_ray.loop.state.example_files import read_examples, write_examples
from l2l_ray.loop.state.ledger import read_shard, write_shard
from l2l_ray.loop.state.position import Stage
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.version_record import read_position
from l2l_ray.loop.state.versions import newest_checkpoint
from l2l_ray.loop.training.train import Job, train
from l2l_ray.predictor import save_version
from l2l_ray.saved_model import WEIGHTS, open_model
from l2l_ray.types import LabeledExample
from tests.loop.training_only import BURN_IN_PARTS, TrainingOnly, burn_in_of
from tests.whole_run import label_weights, weights

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
Copied = Callable[..., RunFolder]
EVALUATION = ("val.parquet", "testA.parquet", "testB.parquet")


def test_training_needs_neither_the_data_set_nor_the_evaluation_splits(copied: Copied, whole_run: RunFolder) -> None:
    without = ("FINISHED", "train", "evals", "panels", *EVALUATION)
    run = copied(without=without, compare=())
    for name in ("labeled", "unlabeled"):  # only the images of these sets are there
        rows = read_examples(run.examples_path(name))
        moved = [replace(row, image_path=str(run.path / name / Path(row.image_path).name)) for row in rows]
        (run.path / name).mkdir()
        for old, new in zip(rows, moved, strict=True):
            shutil.copyfile(old.image_path, new.image_path)
        write_examples(run.examples_path(name), moved)
    train(run.config, run.path, TrainingOnly(run))
    assert not (run.config.cache_dir / "data").exists()
    for part in BURN_IN_PARTS:
        assert weights(burn_in_of(run) / part) == weights(burn_in_of(whole_run) / part), part
    for version in range(run.config.loop.rounds + 1):
        found, expected = (label_weights(r.version_dir("l2l", version)) for r in (run, whole_run))
        assert found == expected, version


def test_more_workers_than_samples_are_a_clear_error(whole_run: RunFolder) -> None:
    host = TrainingOnly(whole_run)
    host.world_size = 5
    with pytest.raises(ConfigError, match=r"got 5 workers and a global batch of 4; raise loop\.labeled_batch"):
        Job.begin(whole_run.config, whole_run, host)


def test_the_first_version_is_the_burn_in(whole_run: RunFolder) -> None:
    base = label_weights(burn_in_of(whole_run) / "base")
    for method in whole_run.methods:
        first = label_weights(whole_run.version_dir(method, 0))
        assert {name: first[name] for name in base} == base


def _last_step(run: RunFolder, method: str) -> int:
    folder = run.version_dir(method, run.config.loop.rounds)
    assert json.loads((folder / "version.json").read_text())["version"] == run.config.loop.rounds
    optimizer = torch.load(folder / "train_state.pt", weights_only=True)["optimizer"]
    return max(int(state["step"]) for state in optimizer["state"].values())


def test_every_method_takes_the_same_number_of_steps(copied: Copied, whole_run: RunFolder) -> None:
    without = ("FINISHED", "train", "evals", "panels")
    alone = copied(without, with_burn_in=True, compare=(), selector={"name": "supervised"})
    train(alone.config, alone.path, TrainingOnly(alone))  # of a job's methods, only the last one's states are kept
    assert _last_step(alone, "supervised") == _last_step(whole_run, "l2l") == 4 + 2 * 3
    for version in (1, 2):
        found, expected = (label_weights(r.version_dir("supervised", version)) for r in (alone, whole_run))
        assert found == expected, version


class _UnusedLabels(TrainingOnly):
    """A host whose labels are all left out, as by a selector that is too strict."""

    def labels(self, method: str, round_index: int) -> list[Path]:
        files = list[Path]()
        for file in super().labels(method, round_index):
            files.append(file.with_suffix(".unused.parquet"))
            write_shard(files[-1], [replace(label, gate=0.0) for label in read_shard(file)])
        return files


def test_a_round_none_of_whose_labels_is_used_is_told(copied: Copied, caplog: pytest.LogCaptureFixture) -> None:
    without = ("FINISHED", "train", "evals", "panels")
    for host in (_UnusedLabels, TrainingOnly):  # the second one shares the burn-in of the first
        run = copied(without, name=host.__name__, compare=(), loop={"rounds": 1})
        caplog.clear()
        train(run.config, run.path, host(run))
        told = [record.getMessage() for record in caplog.records if record.name == "l2l_ray.loop.training.train"]
        number = sum(len(read_shard(file)) for file in TrainingOnly(run).labels("l2l", 0))
        assert len(told) == (host is _UnusedLabels)
        assert all(text.startswith(f"None of the {number} labels of L2L (RPLE), round 0, is used:") for text in told)


def test_rewards_never_come_from_val(whole_run: RunFolder, job: Job) -> None:
    val = {row.image_id for row in read_examples(whole_run.examples_path("val"))}
    assert val and not val & {row.image_id for row in job.sets["labeled"].examples}
    assert all(isinstance(row, LabeledExample) for row in job.sets["labeled"].examples)


class _LeavesAt(TrainingOnly):
    """A host whose machine is taken away: it is told before a step of round 0, and the process ends later on."""

    def __init__(self, run: RunFolder, notice: int, end: int) -> None:
        super().__init__(run, dies_at=(Stage("l2l", 0), end))
        self._notice, self._asked = notice, 0

    def leaves_soon(self) -> bool:
        self._asked += 1
        return self._asked == self._notice


def test_a_notice_that_the_machine_goes_away_saves_the_steps_so_far(
    copied: Copied, whole_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l2l_ray.loop.training.train.LOOK_EVERY_STEPS", 1)
    run = copied(without=("FINISHED", "train", "evals", "panels"), with_burn_in=True, compare=())
    assert not run.config.loop.checkpoint_steps
    with pytest.raises(KeyboardInterrupt):
        train(run.config, run.path, _LeavesAt(run, notice=2, end=3))
    newest = newest_checkpoint(run, "l2l")
    assert newest is not None and read_position(newest).step == 2
    train(run.config, run.path, TrainingOnly(run))
    for version in (1, 2):
        found, expected = (label_weights(r.version_dir("l2l", version)) for r in (run, whole_run))
        assert found == expected, version


@pytest.mark.slow
def test_with_adapters_and_pieces_too_stopping_and_going_on_changes_nothing(copied: Copied, tmp_path: Path) -> None:
    settings = {
        "compare": (),
        "segmenter": {"lora_rank": 2, "checkpoint_activations": True},
        "loop": {"rounds": 1, "checkpoint_steps": 2, "micro_batch": 3, "text_lr_scale": 0.5},
    }
    without = ("FINISHED", "train", "evals", "panels")
    stopped = copied(without, name="stopped", **settings)
    for stage, step in ((Stage(None, 0), 2), (Stage("l2l", 0), 2)):
        with pytest.raises(KeyboardInterrupt):
            train(stopped.config, stopped.path, TrainingOnly(stopped, dies_at=(stage, step)))
    train(stopped.config, stopped.path, TrainingOnly(stopped))
    (stopped.config.cache_dir / "burn_in").rename(tmp_path / "burn_in")  # the other run makes its own
    unbroken = copied(without, name="unbroken", **settings)
    train(unbroken.config, unbroken.path, TrainingOnly(unbroken))
    for version in (0, 1):
        found, expected = (weights(run.version_dir("l2l", version)) for run in (stopped, unbroken))
        assert found == expected, version
    newest = stopped.version_dir("l2l", 1)
    assert any(".lora_A." in name for name in load_file(newest / "student.safetensors"))
    save_version(newest, tmp_path / "model")  # what labels is a plain segmenter, and so is what is saved of it
    section = open_model(tmp_path / "model")[0].segmenter
    saved = load_segmenter(section, tmp_path / "model" / WEIGHTS, CPU).state_dict()
    labels_with = load_file(newest / "teacher.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in labels_with.items())
