"""What the scores of a version mean: judged by selectors that go on from version to version, and after a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from l2l_ray.calibration import Calibration
from l2l_ray.config import SelectorConfig
from l2l_ray.data.images import ImageStore
from l2l_ray.loop.inference.inputs import ExampleSet, read_known_scores
from l2l_ray.loop.state.checkpoint import load_train_state, save_train_state
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.training.calibrating import calibration_of
from l2l_ray.loop.training.selector_training import CrossFitted, SelectorLearner
from l2l_ray.prior.proposal import Proposer

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def _learner(name: str = "l2l") -> SelectorLearner:
    section = SelectorConfig(name=name, group_size=3, update_batch=4, warmup_updates=2, round_updates=1)
    return SelectorLearner(section, CPU)


def _calibrated(learner: SelectorLearner, cross_fitted: CrossFitted, version: int) -> Calibration:
    return calibration_of(learner, cross_fitted, None, version, seed=0, chunk=8)


def _weights(learners: tuple[SelectorLearner, ...]) -> list[dict[str, Any]]:
    return [{name: value.clone() for name, value in learner.send().items()} for learner in learners]


def _same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return all(torch.equal(value, o[name]) for a, o in zip(one, other, strict=True) for name, value in a.items())


def test_judges_go_on_from_version_to_version_and_after_a_restart(cross_fitted: CrossFitted, tmp_path: Path) -> None:
    learner, resumed, late = _learner(), _learner(), _learner()
    _calibrated(learner, cross_fitted, 0)
    before = _weights(learner.judges)
    state: dict[str, object] = {}
    learner.save(tmp_path, state)
    save_train_state(tmp_path / "train_state.pt", state)
    resumed.load(tmp_path, load_train_state(tmp_path / "train_state.pt"))
    expected = _calibrated(learner, cross_fitted, 1)
    assert not _same(before, _weights(learner.judges))
    assert [judge.num_versions for judge in learner.judges] == [2, 2]
    # A folder of before judges were kept has none: they learn for every version that they missed.
    for other in (resumed, late):
        assert _calibrated(other, cross_fitted, 1) == expected
        assert _same(_weights(other.judges), _weights(learner.judges))


def test_each_judge_learns_as_its_selector_does_but_from_the_other_half(cross_fitted: CrossFitted) -> None:
    learner = _learner()
    checked = _calibrated(learner, cross_fitted, 0).checked
    first, second = cross_fitted.halves()
    assert checked.image_ids == first.image_ids + second.image_ids
    alone = _learner()
    alone.learn(second, None, 0, 2, seed=0)
    assert _same(_weights((learner.judges[0],)), _weights((alone,)))
    assert not _same(_weights((learner.judges[1],)), _weights((alone,)))


def test_the_judges_of_a_rule_learn_nothing(cross_fitted: CrossFitted) -> None:
    learner = _learner("accept_all")
    assert len(_calibrated(learner, cross_fitted, 0).checked.ious) == len(cross_fitted.image_ids)
    assert [judge.send() for judge in learner.judges] == [{}, {}]


def test_reviewed_labels_teach_and_judge_nothing(
    whole_run: RunFolder, labeled: ExampleSet, burn_in: Path, fold_rows: list[list[int]], cross_fitted: CrossFitted
) -> None:
    first = {rows[0] for rows in fold_rows}
    reviewed = [replace(row, is_reviewed=number in first) for number, row in enumerate(labeled.examples)]
    scores = read_known_scores(whole_run.priors_path("labeled"))
    images = ImageStore(whole_run.config.segmenter.image_size, 8)
    examples = ExampleSet(reviewed, labeled.priors, images, Proposer(whole_run.config.prior), labeled.grid, scores)
    teachers = [burn_in / f"fold{number}" for number in range(len(fold_rows))]
    found = CrossFitted(whole_run.config, examples, fold_rows, teachers, CPU)
    learner, usual = _learner(), _learner()
    checked = _calibrated(learner, found, 0).checked
    assert len(checked.ious) == len(labeled) - len(first)
    assert len(_calibrated(usual, cross_fitted, 0).checked.ious) == len(labeled)
    assert _same(_weights(learner.judges), _weights(usual.judges))
    everything = [replace(row, is_reviewed=True) for row in labeled.examples]
    examples = ExampleSet(everything, labeled.priors, images, Proposer(whole_run.config.prior), labeled.grid, scores)
    found = CrossFitted(whole_run.config, examples, fold_rows, teachers, CPU)
    assert len(_calibrated(_learner(), found, 0).checked.ious) == len(labeled)
