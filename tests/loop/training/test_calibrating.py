"""What the scores of a version mean: judged by selectors that go on from version to version, and after a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
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
from l2l_ray.selector.base import LabeledEvidence

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def _learner(name: str = "l2l") -> SelectorLearner:
    section = SelectorConfig(name=name, group_size=3, update_batch=4, warmup_updates=2, round_updates=1)
    return SelectorLearner(section, CPU)


def _calibrated(learner: SelectorLearner, cross_fitted: CrossFitted, version: int) -> Calibration:
    found = calibration_of(learner, cross_fitted, None, version, seed=0, chunk=8)
    assert found is not None
    return found


def _weights(learners: tuple[SelectorLearner, ...]) -> list[dict[str, Any]]:
    return [{name: value.clone() for name, value in learner.send().items()} for learner in learners]


def _same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    return all(torch.equal(value, o[name]) for a, o in zip(one, other, strict=True) for name, value in a.items())


def _images_of_guided_labels(cross_fitted: CrossFitted) -> list[int]:
    """Return the images of the samples whose guided prediction has a cell, half by half."""
    found = []
    for half in cross_fitted.halves():
        has_cell = torch.cat([(part.evidence.mask_probs > 0.5).flatten(1).any(1) for part in half.parts()])
        found += [image for image, has in zip(half.image_ids, has_cell.tolist(), strict=True) if has]
    return found


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
    alone.learn(second, None, 0, seed=0)
    assert _same(_weights((learner.judges[0],)), _weights((alone,)))
    assert not _same(_weights((learner.judges[1],)), _weights((alone,)))


def test_the_judges_of_a_rule_learn_nothing(cross_fitted: CrossFitted) -> None:
    learner = _learner("accept_all")
    assert _calibrated(learner, cross_fitted, 0).checked.image_ids == _images_of_guided_labels(cross_fitted)
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


def test_labels_without_a_cell_say_nothing_of_those_with_one(
    cross_fitted: CrossFitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sample in three without an object: its label is empty, and right."""
    take = CrossFitted._take  # why: evidence of texts without an object takes another data set and burn-in

    def some_empty(self: CrossFitted, rows: np.ndarray) -> LabeledEvidence:
        found = take(self, rows)
        kept = torch.from_numpy(rows % 3 > 0)[:, None, None]
        probs = ("mask_probs", "mask_probs_unguided", "mask_probs_flipped", "proposal")
        evidence = replace(found.evidence, **{name: getattr(found.evidence, name) * kept for name in probs})
        return LabeledEvidence(evidence, found.mask * kept)

    full = len(_calibrated(_learner("accept_all"), cross_fitted, 0).checked.ious)
    monkeypatch.setattr(CrossFitted, "_take", some_empty)  # why: as above
    checked = _calibrated(_learner("accept_all"), cross_fitted, 0).checked
    assert 0 < len(checked.ious) == len(checked.image_ids) == len(checked.ranks) < full
    assert checked.image_ids == _images_of_guided_labels(cross_fitted)
    assert min(checked.ranks) < 0.5 < max(checked.ranks), "ranks are among labels with a cell"
    assert max(checked.ious) < 1, "no right answer about an empty text is among them"
