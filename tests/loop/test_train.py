"""Training, one rank: what it reads, what it starts from, and that stopping and going on changes nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from l2l_ray.config import SelectorConfig
from l2l_ray.data.masks import decode, encode
from l2l_ray.errors import ConfigError
from l2l_ray.loop.checkpoint import load_train_state, save_train_state
from l2l_ray.loop.driver_plan import Plan
from l2l_ray.loop.evaluate import Evaluations
from l2l_ray.loop.labeling import Labeler
from l2l_ray.loop.ledger import Ledger
from l2l_ray.loop.run_folder import RunFolder
from l2l_ray.loop.runtime import LocalRuntime
from l2l_ray.loop.tables import read_table, write_table
from l2l_ray.loop.train import Networks, SelectorLearner, Trainer, _rename_unless_there, train
from l2l_ray.segmenter.losses import segmentation_loss
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.types import LabeledExample
from tests.segmenter.test_backbone import dinov3_folder, swin_folder
from tests.whole_run import changed, weights

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
Copied = Callable[..., RunFolder]
EVALUATION = ("val.parquet", "testA.parquet", "testB.parquet")
BURN_IN_PARTS = ("base", "fold0", "fold1")


class TrainingOnly(LocalRuntime):
    """A host whose plan knows no evaluation; labels come from the ledger alone. Dies at a named step of a stage."""

    def __init__(self, run: RunFolder, dies_at: tuple[str, int] | None = None) -> None:
        ledger, config = Ledger(run.ledger_path), run.config
        num_shards = 1 + max(shard for _, _, shard in ledger.keys())
        plan = Plan(run.methods, config.loop.rounds, config.loop.lag, num_shards, {}, 1)
        plan.committed(ledger.keys())
        super().__init__(run, plan, ledger, Evaluations(run), Labeler(config, run.path))
        self._dies_at = dies_at

    def progress(self, stage: str, done: int, total: int, values: dict[str, float]) -> None:
        if (stage, done) == self._dies_at:
            raise KeyboardInterrupt


def _burn_in_of(run: RunFolder) -> Path:
    (folder,) = (run.config.cache_dir / "burn_in").iterdir()
    return folder


def test_training_needs_neither_the_data_set_nor_the_evaluation_splits(copied: Copied, whole_run: RunFolder) -> None:
    without = ("FINISHED", "train", "evals", "examples", *EVALUATION)
    run = copied(without=without, compare=())
    for name in ("labeled", "unlabeled"):  # only the images these tables name are there
        rows = read_table(run.table_path(name))
        moved = [replace(row, image_path=str(run.path / name / Path(row.image_path).name)) for row in rows]
        (run.path / name).mkdir()
        for old, new in zip(rows, moved, strict=True):
            shutil.copyfile(old.image_path, new.image_path)
        write_table(run.table_path(name), moved)
    train(run.config, run.path, TrainingOnly(run))
    assert not (run.config.cache_dir / "data").exists()
    for part in BURN_IN_PARTS:
        assert weights(_burn_in_of(run) / part) == weights(_burn_in_of(whole_run) / part), part
    for version in range(run.config.loop.rounds + 1):
        found, expected = (weights(r.version_dir("l2l", version)) for r in (run, whole_run))
        assert found == expected, version


def _train_burn_in(run: RunFolder, dies_at: tuple[str, int] | None = None) -> Path:
    return Trainer(run.config, run, TrainingOnly(run, dies_at)).burn_in()


def test_a_fold_teacher_does_not_know_its_fold(copied: Copied, whole_run: RunFolder) -> None:
    run = copied()
    trainer = Trainer(run.config, run, TrainingOnly(run))
    held_out = set(trainer._folds()[0])
    rows = [row for row in read_table(run.table_path("labeled")) if isinstance(row, LabeledExample)]
    strangers = [row.image_path for row in read_table(run.table_path("unlabeled"))]
    spoiled = [
        replace(row, mask_rle=encode(~decode(row.mask_rle)), image_path=strangers[i % len(strangers)])
        if i in held_out
        else row
        for i, row in enumerate(rows)
    ]
    write_table(run.table_path("labeled"), spoiled)
    found, expected = _train_burn_in(run), _burn_in_of(whole_run)
    assert found.name != expected.name, "other masks, another burn-in"
    same = [weights(found / part) == weights(expected / part) for part in BURN_IN_PARTS]
    assert same == [False, True, False]


def test_a_burn_in_that_was_killed_goes_on_where_it_was(
    copied: Copied, whole_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(loop={"checkpoint_steps": 1})
    for stage, step in (("burn-in base", 2), ("burn-in base", 4), ("burn-in fold1", 1)):
        with pytest.raises(KeyboardInterrupt):
            _train_burn_in(run, dies_at=(stage, step))

    def dies(source: Path, target: Path) -> None:
        if Path(target).name == "fold1":
            raise KeyboardInterrupt
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            _train_burn_in(run)
    folder = _train_burn_in(run)
    for part in BURN_IN_PARTS:
        assert weights(folder / part) == weights(_burn_in_of(whole_run) / part), part
    assert sorted(path.name for path in folder.iterdir()) == sorted(BURN_IN_PARTS)


@pytest.fixture
def reader(whole_run: RunFolder) -> Trainer:
    """Give a trainer of the finished run: its burn-in is there, and nothing is written."""
    return Trainer(whole_run.config, whole_run, TrainingOnly(whole_run))


def test_the_burn_in_is_shared_by_what_it_does_not_depend_on(whole_run: RunFolder) -> None:
    runtime = TrainingOnly(whole_run)

    def key(**fields: object) -> str:
        config = changed(whole_run.config, **fields)
        return Trainer(config, RunFolder(whole_run.path, config), runtime)._burn_in_key()

    shared = key()
    assert key(compare=("pwa",), selector={"name": "logistic", "lr": 0.5, "max_unlabeled": 3}) == shared
    assert key(name="other", resume=True, cluster={"num_workers": 4}, loop={"checkpoint_steps": 5, "lag": 1}) == shared
    for own in (
        {"loop": {"seed": 1}},
        {"loop": {"burn_in_steps": 5}},
        {"loop": {"lr": 0.1}},
        {"loop": {"rounds": 3}},  # the learning rate falls over all rounds
        {"segmenter": {"width": 32}},
        {"selector": {"num_folds": 3}},
        {"data": {"split_seed": 1}},
    ):
        assert key(**own) != shared, own


def test_of_two_that_made_the_same_the_first_stays(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "version.json").write_text(name)
        _rename_unless_there(tmp_path / name, tmp_path / "base")
    assert (tmp_path / "base" / "version.json").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_networks_start_from_the_seed_and_the_teacher_gets_no_gradient(whole_run: RunFolder, reader: Trainer) -> None:
    config, runtime = whole_run.config, TrainingOnly(whole_run)
    first, again = (Networks.fresh(config, runtime, CPU) for _ in range(2))
    other = Networks.fresh(changed(config, loop={"seed": 1}), runtime, CPU)
    start = {name: value.clone() for name, value in first.student.state_dict().items()}
    for same in (again.student, first.teacher):
        assert all(torch.equal(value, same.state_dict()[name]) for name, value in start.items())
    assert not all(torch.equal(value, other.student.state_dict()[name]) for name, value in start.items())
    assert not any(parameter.requires_grad for parameter in first.teacher.parameters())
    reader._step(first, "burn_in", 0, 0, [0, 1, 2, 3], None)
    assert all(parameter.grad is None for parameter in first.teacher.parameters())
    assert not all(torch.equal(value, start[name]) for name, value in first.student.state_dict().items())
    # The first step's decay is 0: the teacher is the student.
    teacher = first.teacher.state_dict()
    assert all(torch.equal(value, teacher[name]) for name, value in first.student.state_dict().items())


def test_a_frozen_backbone_is_not_trained(whole_run: RunFolder) -> None:
    frozen = Networks.fresh(
        changed(whole_run.config, segmenter={"train_backbone": False}), TrainingOnly(whole_run), CPU
    )
    assert not any(parameter.requires_grad for parameter in frozen.student.backbone.parameters())
    trained = {id(p) for group in frozen.optimizer.param_groups for p in group["params"]}
    assert not trained & {id(p) for p in frozen.student.backbone.parameters()}
    assert trained & {id(p) for p in frozen.student.decoder.parameters()}


def test_more_workers_than_samples_are_a_clear_error(whole_run: RunFolder) -> None:
    runtime = TrainingOnly(whole_run)
    runtime.world_size = 5
    with pytest.raises(ConfigError, match=r"got 5 workers and a global batch of 4; raise loop\.labeled_batch"):
        Trainer(whole_run.config, whole_run, runtime)


def test_the_first_version_is_the_burn_in(whole_run: RunFolder) -> None:
    base = weights(_burn_in_of(whole_run) / "base")
    for method in whole_run.methods:
        first = weights(whole_run.version_dir(method, 0))
        assert {name: first[name] for name in base} == base


def _last_step(run: RunFolder, method: str) -> int:
    folder = run.version_dir(method, run.config.loop.rounds)
    assert json.loads((folder / "version.json").read_text())["version"] == run.config.loop.rounds
    optimizer = torch.load(folder / "train_state.pt", weights_only=True)["optimizer"]
    return max(int(state["step"]) for state in optimizer["state"].values())


def test_every_method_takes_the_same_number_of_steps(copied: Copied, whole_run: RunFolder) -> None:
    alone = copied(without=("FINISHED", "train", "evals", "examples"), compare=(), selector={"name": "supervised"})
    train(alone.config, alone.path, TrainingOnly(alone))  # of a job's methods, only the last one's states are kept
    assert _last_step(alone, "supervised") == _last_step(whole_run, "l2l") == 4 + 2 * 3
    for version in (1, 2):
        found, expected = (weights(r.version_dir("supervised", version)) for r in (alone, whole_run))
        assert found == expected, version


def _one_pass(student: Segmenter) -> None:
    images, tokens = torch.rand(2, 3, 64, 64), student.tokenize(["left red circle", "square"])
    proposal, ones = torch.rand(2, student.grid, student.grid), torch.ones(2)
    output = student(images, tokens, proposal, ones, ones.bool(), phrases=tokens)
    target = torch.zeros_like(output.mask_logits)
    segmentation_loss(output, target, torch.ones_like(target), 2).backward()


@pytest.mark.parametrize("train_backbone", [True, False])
@pytest.mark.parametrize("folder", [swin_folder, dinov3_folder])
def test_what_is_trainable_always_gets_a_gradient(
    tmp_path: Path, whole_run: RunFolder, folder: Callable[[Path], Path], train_backbone: bool
) -> None:
    """A weight that is trainable and unused stops data-parallel training; a frozen random layer never learns."""
    segmenter = {"backbone": str(folder(tmp_path)), "pretrained": False, "train_backbone": train_backbone}
    config = changed(whole_run.config, segmenter={**segmenter, "fusion_stride": 16})
    student = Networks.fresh(config, TrainingOnly(whole_run), CPU).student
    _one_pass(student)
    assert not [name for name, p in student.named_parameters() if p.requires_grad and p.grad is None]
    model = {f"backbone.model.{name}" for name, _ in student.backbone.model.named_parameters()}
    frozen = {name for name, p in student.named_parameters() if not p.requires_grad}
    assert frozen <= model, "levels added to a checkpoint start random, so they must learn"
    assert (frozen == model) is not train_backbone


def _learner(name: str = "l2l") -> SelectorLearner:
    return SelectorLearner(name, SelectorConfig(name=name, group_size=3, update_batch=4), 32, CPU)


def test_a_selector_learns_the_same_after_it_was_saved_or_sent(reader: Trainer, tmp_path: Path) -> None:
    rewards, gradient = reader._reward_images(reader.burn_in()), torch.zeros(33)
    learner, resumed, other_rank = _learner(), _learner(), _learner()
    assert learner.update(rewards, None, gradient, 2, seed=0, round_index=-1)["policy/entropy"] > 0
    state: dict[str, object] = {}
    learner.save(tmp_path, state)
    save_train_state(tmp_path / "train_state.pt", state)
    resumed.load(tmp_path, load_train_state(tmp_path / "train_state.pt"))
    other_rank.receive(learner.send())
    sent = {name: value.clone() for name, value in other_rank.send().items()}
    assert all(torch.equal(value, sent[name]) for name, value in learner.send().items())
    expected = learner.update(rewards, None, gradient, 1, seed=0, round_index=0)
    assert resumed.update(rewards, None, gradient, 1, seed=0, round_index=0) == expected
    assert all(torch.equal(value, resumed.send()[name]) for name, value in learner.send().items())
    assert not all(torch.equal(value, sent[name]) for name, value in learner.send().items())


def test_a_rule_learns_nothing(reader: Trainer, tmp_path: Path) -> None:
    rule = _learner("fixed_threshold")
    rewards = reader._reward_images(reader.burn_in())
    assert rule.update(rewards, None, torch.zeros(33), 3, 0, 0) == {}
    assert rule.send() == {}
    state: dict[str, object] = {}
    rule.save(tmp_path, state)
    _learner("fixed_threshold").load(tmp_path, state)


def test_rewards_never_come_from_val(whole_run: RunFolder, reader: Trainer) -> None:
    val = {row.image_id for row in read_table(whole_run.table_path("val"))}
    assert val and not val & {row.image_id for row in reader._labeled.examples}
    assert all(isinstance(row, LabeledExample) for row in reader._labeled.examples)
