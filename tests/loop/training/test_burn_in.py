"""The burn-in: who shares it, what each part saw, and that kills change nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from l2l_ray.config import RunConfig, SegmenterConfig, config_fields
from l2l_ray.data.masks import decode, encode
from l2l_ray.errors import CheckpointError
from l2l_ray.files import locked
from l2l_ray.loop.inference.inputs import ExampleSets
from l2l_ray.loop.state.example_files import read_examples, read_priors, write_examples, write_priors
from l2l_ray.loop.state.position import Stage
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.training.burn_in import ADDED, NOT_IN_BURN_IN, burn_in_key, burn_in_settings
from l2l_ray.loop.training.train import Job
from l2l_ray.types import LabeledExample, Prior
from tests.damage import empty, flip
from tests.loop.training_only import BURN_IN_PARTS, TrainingOnly, burn_in_of
from tests.whole_run import changed, weights

pytestmark = pytest.mark.usefixtures("one_thread")
Copied = Callable[..., RunFolder]


def _train_burn_in(run: RunFolder, dies_at: tuple[Stage, int] | None = None) -> Path:
    job = Job.begin(run.config, run, TrainingOnly(run, dies_at))
    job.train_burn_in()
    return job.burn_in.folder


def test_a_fold_teacher_does_not_know_its_fold(copied: Copied, whole_run: RunFolder) -> None:
    run = copied()
    held_out = set(Job.begin(run.config, run, TrainingOnly(run)).burn_in.folds[0])
    rows = [row for row in read_examples(run.examples_path("labeled")) if isinstance(row, LabeledExample)]
    strangers = [row.image_path for row in read_examples(run.examples_path("unlabeled"))]
    spoiled = [
        replace(row, mask_rle=encode(~decode(row.mask_rle)), image_path=strangers[i % len(strangers)])
        if i in held_out
        else row
        for i, row in enumerate(rows)
    ]
    write_examples(run.examples_path("labeled"), spoiled)
    found, expected = _train_burn_in(run), burn_in_of(whole_run)
    assert found.name != expected.name, "other masks, another burn-in"
    same = [weights(found / part) == weights(expected / part) for part in BURN_IN_PARTS]
    assert same == [False, True, False]


def test_a_burn_in_that_was_killed_goes_on_where_it_was(
    copied: Copied, whole_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(loop={"checkpoint_steps": 1})
    for stage, step in ((Stage(None, 0), 2), (Stage(None, 0), 4), (Stage(None, 2), 1)):
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
        assert weights(folder / part) == weights(burn_in_of(whole_run) / part), part
    assert sorted(path.name for path in folder.iterdir()) == sorted(BURN_IN_PARTS)


def test_a_damaged_part_is_trained_again(
    copied: Copied, whole_run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    run = copied(with_burn_in=True)
    folder = burn_in_of(run)
    flip(folder / "fold1" / "teacher.safetensors")
    empty(folder / "base" / "version.json")
    assert _train_burn_in(run) == folder
    for part in BURN_IN_PARTS:
        assert weights(folder / part) == weights(burn_in_of(whole_run) / part), part
    told = [
        record.getMessage() for record in caplog.records if "is damaged and is trained again" in record.getMessage()
    ]
    assert len(told) == 2 and "version.json: it is empty" in told[0] and "teacher.safetensors: its bytes" in told[1]


def test_a_burn_in_that_another_process_trains_is_waited_for(copied: Copied) -> None:
    run = copied(loop={"burn_in_steps": 1, "fold_steps": 1})
    host = TrainingOnly(run)
    job = Job.begin(run.config, run, host)
    lock = run.config.cache_dir / "locks" / f"burn_in-{job.burn_in.folder.name}"
    with locked(lock):
        waiting = threading.Thread(target=job.train_burn_in)
        waiting.start()
        waiting.join(2.0)  # its steps take less
        assert waiting.is_alive() and not job.burn_in.folder.exists()
        assert set(host.waited_for) == {"another run, which trains the same burn-in"}
        other = Job.begin(changed(run.config, loop={"burn_in_steps": 2}), run, TrainingOnly(run))
        other.train_burn_in()  # another burn-in waits for nobody
    waiting.join(60.0)
    assert host.waited_for[-1] == ""
    assert job.burn_in.base.exists() and other.burn_in.base.exists()


def test_a_burn_in_that_cannot_be_written_says_what_to_do(copied: Copied) -> None:
    run = copied()
    job = Job.begin(changed(run.config, run_root=str(run.path / "elsewhere")), run, TrainingOnly(run))
    job.burn_in.folder.parent.mkdir(parents=True)
    job.burn_in.folder.touch()  # as a full disk, this is in the way of the folder
    with pytest.raises(CheckpointError, match="cannot write the burn-in: .*; check its place and permissions"):
        job.train_burn_in()


def test_the_burn_in_is_shared_by_what_it_does_not_depend_on(whole_run: RunFolder) -> None:
    host = TrainingOnly(whole_run)

    def key(**fields: object) -> str:
        config = changed(whole_run.config, **fields)
        return Job.begin(config, RunFolder(whole_run.path, config), host).burn_in.folder.name

    shared = key()
    assert key(compare=("pwa",), selector={"name": "scorer", "lr": 0.5, "max_unlabeled": 3}) == shared
    assert key(name="other", resume=True, cluster={"num_workers": 4}, loop={"checkpoint_steps": 5, "lag": 1}) == shared
    for own in (
        {"loop": {"seed": 1}},
        {"loop": {"burn_in_steps": 5}},
        {"loop": {"lr": 0.1}},
        {"loop": {"rounds": 3}},  # the learning rate falls over all rounds
        {"segmenter": {"width": 32}},
        {"selector": {"num_folds": 3}},
        {"data": {"split_seed": 1}},
        {"loop": {"dice_weight": 0.1}},
        {"augment": {"strong": whole_run.config.augment.strong.model_dump() | {"blur_prob": 0.1}}},
    ):
        assert key(**own) != shared, own


def test_a_question_that_failed_is_no_burn_in_of_its_later_answer(copied: Copied) -> None:
    run = copied()
    priors = read_priors(run.priors_path("labeled"))
    sent_id, answered = next(iter(priors.items()))

    def key(prior: Prior) -> str:
        write_priors(run.priors_path("labeled"), (priors | {sent_id: prior}).items())
        return burn_in_key(run.config, ExampleSets(run.config, run, run.priors_path)["labeled"])

    failed, otherwise = (Prior.absent(answered.key, kind, "") for kind in ("memory: full", "server: busy"))
    assert key(answered) != key(failed) == key(otherwise)
    useless = Prior.absent(answered.key, "no area: got [1, 1, 1, 1]", "[1, 1, 1, 1]")
    assert key(useless) == key(answered), "an answer of no use is stored like any other"


def _with_another(config: RunConfig, path: str) -> RunConfig:
    """Return the config with another value of one field."""
    content = config.model_dump()
    *sections, name = path.split(".")
    place = content
    for section in sections:
        place = place[section]
    value = place[name]
    if isinstance(value, bool):
        place[name] = not value
    elif isinstance(value, int):
        place[name] = value + 4
    elif isinstance(value, float):
        place[name] = value / 2 or 0.25
    elif value is None and path.startswith("loop."):
        place[name] = 3  # a number in place of a rule
    else:
        place[name] = f"{value}/other"
    return RunConfig.model_validate(content)


@pytest.mark.parametrize("section", ["segmenter", "loop", "augment"])
def test_every_field_of_training_is_in_the_key_or_is_named_as_left_out(section: str) -> None:
    config = RunConfig()
    paths = [field.path for field in config_fields(RunConfig) if field.path.startswith(f"{section}.")]
    changes = {path for path in paths if burn_in_settings(_with_another(config, path)) != burn_in_settings(config)}
    assert changes == set(paths) - NOT_IN_BURN_IN


def test_what_is_left_out_of_the_key_exists_and_the_rest_is_in_it() -> None:
    paths = {field.path for field in config_fields(RunConfig)}
    sections = {path.split(".")[0] for path in paths}
    assert paths | sections >= NOT_IN_BURN_IN
    kept = set(burn_in_settings(RunConfig()))
    assert {"prior.proposal", "prior.sam_model", "prior.box_softness", "data.split_seed", "selector.num_folds"} <= kept
    assert not {"selector.lr", "cluster.num_workers", "data.root", "name"} & kept


def test_fields_that_came_later_leave_the_burn_ins_of_earlier_versions_alone() -> None:
    assert not ADDED & set(burn_in_settings(RunConfig()))
    adapted = RunConfig(segmenter=SegmenterConfig(lora_rank=4))
    assert burn_in_settings(adapted) == {**burn_in_settings(RunConfig()), "segmenter.lora_rank": 4}
