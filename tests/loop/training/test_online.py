"""Labels of the step: what the teacher of the moment says, what its selector takes of it, and a whole run of it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence

import pytest
import torch

from l2l_ray.config import LoopConfig, RunConfig, SelectorConfig
from l2l_ray.errors import ConfigError
from l2l_ray.loop.inference.inputs import ExampleSet
from l2l_ray.loop.inference.teacher import predict
from l2l_ray.loop.local import run_local
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.loop.state.position import Stage
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.training.online import OnlineSet
from l2l_ray.loop.training.student import Networks
from l2l_ray.loop.training.train import Job, train
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.selector.base import Decision, Selector, make_selector
from l2l_ray.selector.rules import Rule
from l2l_ray.types import Evidence
from tests.loop.training_only import TrainingOnly
from tests.whole_run import changed, label_weights, single_thread

pytestmark = pytest.mark.usefixtures("one_thread")
SetOf = Callable[..., ExampleSet]
LOOP = LoopConfig(autocast=False)
RULE = make_selector(SelectorConfig(name="online", threshold=0.7))


class ByTurns(Rule):
    """Takes every cell of the first sample, only background of the second, and leaves the third out."""

    def decide(self, evidence: Evidence, keys: Sequence[int]) -> Decision:
        found = evidence.mask_probs > 0.5
        weight = torch.stack([torch.full_like(found[0], 0.5, dtype=torch.float32), (~found[1]).float(), found[2] + 0.0])
        return Decision(torch.tensor([1.0, 1.0, 0.4]), weight)


@pytest.fixture
def teacher(segmenter: Segmenter) -> Segmenter:
    return _that_finds_objects(copy.deepcopy(segmenter))


def _that_finds_objects(segmenter: Segmenter) -> Segmenter:
    """Lift the logits, which are below 0 before any training, so that a part of each photo is taken for the object."""
    with torch.no_grad():
        segmenter.decoder.last_layer.bias.add_(4.0)
    return segmenter


def _set(unlabeled: ExampleSet, teacher: Segmenter, selector: Selector = RULE) -> OnlineSet:
    return OnlineSet(unlabeled, teacher, selector, LOOP, 0)


def test_the_label_is_the_teachers_where_it_is_sure_enough(set_of: SetOf, teacher: Segmenter) -> None:
    unlabeled = set_of(4, grid=teacher.grid)
    probs = predict(teacher, unlabeled.inputs([2, 0]), use_autocast=False).sigmoid()
    batch = _set(unlabeled, teacher).batch([2, 0])
    found, sure = probs > 0.5, (probs >= 0.7) | (probs <= 0.3)
    assert (found & sure).flatten(1).any(1).all() and not sure.all(), "both samples are used, and not every cell is"
    assert torch.equal(batch.target, found.float()) and torch.equal(batch.pixel_weight, sure.float())
    assert batch.inputs.expressions == ["left red circle 2", "left red circle 0"]
    assert torch.equal(batch.inputs.images, unlabeled.inputs([2, 0]).images), "the photo as it is"


def test_a_label_that_is_refused_or_names_no_object_cell_teaches_nothing(set_of: SetOf, teacher: Segmenter) -> None:
    unlabeled = set_of(3, grid=teacher.grid)
    found = predict(teacher, unlabeled.inputs([0, 1, 2]), use_autocast=False) > 0
    assert found.flatten(1).any(1).all() and not found.flatten(1).all(1).any()
    batch = _set(unlabeled, teacher, ByTurns(SelectorConfig())).batch([0, 1, 2])
    assert (batch.pixel_weight[0] == 0.5).all() and torch.equal(batch.target[0], found[0].float())
    # No target either: what has no known object is neither cropped nor pasted into.
    assert batch.pixel_weight[1:].sum() == batch.target[1:].sum() == 0


def test_labels_follow_the_teacher(set_of: SetOf, teacher: Segmenter) -> None:
    online = _set(set_of(2, grid=teacher.grid), teacher)
    before = online.batch([0, 1])
    for value in teacher.parameters():
        value.mul_(-1)
    assert not torch.equal(online.batch([0, 1]).target, before.target)


def test_each_rank_labels_its_share(set_of: SetOf, teacher: Segmenter) -> None:
    online = _set(set_of(5, grid=teacher.grid), teacher)
    drawn = [3, 0, 4, 3]
    whole, shares = online.batch(drawn), [online.batch(drawn[rank::2]) for rank in (0, 1)]
    for rank, share in enumerate(shares):
        assert torch.equal(share.target, whole.target[rank::2])
        assert torch.equal(share.pixel_weight, whole.pixel_weight[rank::2])


def test_labels_are_made_with_the_memory_there_is(
    set_of: SetOf, teacher: Segmenter, memory_for: Callable[[int], None]
) -> None:
    online = _set(set_of(3, grid=teacher.grid), teacher)
    whole = online.batch([2, 0, 1])
    memory_for(2)
    found = online.batch([2, 0, 1])
    assert found.inputs.expressions == whole.inputs.expressions
    assert (found.target != whole.target).float().mean() < 0.01, "another batch rounds differently"
    assert torch.equal(found.inputs.images, whole.inputs.images)


def test_a_selector_that_needs_the_version_before_is_refused(set_of: SetOf, teacher: Segmenter) -> None:
    with pytest.raises(ConfigError, match=r"got Agreement with needs_full_evidence=True; set that to False"):
        _set(set_of(1, grid=teacher.grid), teacher, make_selector(SelectorConfig(name="agreement")))


class OneView(OnlineSet):
    """The same with one view."""

    num_views = 1


def _first_step(config: RunConfig, whole_run: RunFolder, kind: type[OnlineSet]) -> dict[str, float]:
    host = TrainingOnly(whole_run)
    job, networks = Job.begin(config, whole_run, host), Networks.fresh(config, host)
    teacher = _that_finds_objects(networks.teacher)
    pseudo = kind(job.sets["unlabeled"], teacher, RULE, config.loop, 0)
    return job.steps.take(networks, "round0", 0, 4, range(len(job.sets["labeled"])), pseudo)


def test_two_views_of_each_sample_are_averaged(whole_run: RunFolder) -> None:
    strong = {"jitter_prob": 0.0, "gray_prob": 0.0, "blur_prob": 0.0}
    plain = changed(whole_run.config, augment={"flip_prob": 0.0, "strong": strong}, segmenter={"prior_dropout": 0.0})
    one, two = (_first_step(plain, whole_run, kind) for kind in (OneView, OnlineSet))
    assert one["loss_unlabeled"] > 0.01 and two == pytest.approx(one, rel=1e-5), "views that are equal count as one"
    one, two = (_first_step(whole_run.config, whole_run, kind) for kind in (OneView, OnlineSet))
    assert two["loss_labeled"] == pytest.approx(one["loss_labeled"], rel=1e-5)
    assert two["loss_unlabeled"] != pytest.approx(one["loss_unlabeled"], rel=1e-3), "the second view is another one"


def _config(config: RunConfig, name: str, checkpoint_steps: int = 0) -> RunConfig:
    selector = {"name": "online", "threshold": 0.6}
    return changed(config, name=name, compare=(), selector=selector, loop={"checkpoint_steps": checkpoint_steps})


@pytest.fixture(scope="module")
def online_run(whole_run: RunFolder) -> RunFolder:
    """Give a finished run that labels at every step; it shares the burn-in of the whole run."""
    with single_thread():
        return run_local(_config(whole_run.config, "online"))


def test_a_whole_run_stores_no_labels_and_ends_with_table_and_report(online_run: RunFolder) -> None:
    results = json.loads((online_run.path / "results.json").read_text())
    assert [row["method"] for row in results["rows"]] == ["prior_only", "online"]
    assert results["hidden_truth"] == {"online": []} and not Ledger(online_run.ledger_path).keys()
    events = [e for e in online_run.events() if e.get("method") == "online" and "quality" in e]
    assert [event["version"] for event in events] == [0, 1, 2], "what its rule makes of val is measured"
    trained = [event["loss_unlabeled"] for event in online_run.events() if "loss_unlabeled" in event]
    assert len(trained) == 2 and min(trained) > 0
    assert "weak to strong, every step" in (online_run.path / "report.html").read_text()


def test_training_killed_within_a_round_comes_to_the_same_versions(online_run: RunFolder) -> None:
    config = _config(online_run.config, "online-killed", checkpoint_steps=1)
    run = RunFolder(config.run_dir, config)
    without = shutil.ignore_patterns("FINISHED", "train", "evals", "panels", "lease")
    shutil.copytree(online_run.path, run.path, ignore=without)
    with pytest.raises(KeyboardInterrupt):
        train(config, run.path, TrainingOnly(run, dies_at=(Stage("online", 1), 2)))
    assert (run.train_dir / "online-v0001-s00001").is_dir() and not run.version_dir("online", 2).exists()
    train(config, run.path, TrainingOnly(run))
    for version in range(config.loop.rounds + 1):
        found, expected = (label_weights(r.version_dir("online", version)) for r in (run, online_run))
        assert found == expected, version
