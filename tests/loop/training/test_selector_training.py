"""A selector in training: what it learns from, and that saved, sent and resumed it learns the same."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from l2l_ray.config import SelectorConfig
from l2l_ray.data.images import ImageStore, batch_indices
from l2l_ray.data.splits import folds
from l2l_ray.loop.inference.inputs import ExampleSet, ExampleSets, read_known_scores
from l2l_ray.loop.inference.networks import load_segmenter, run_segmenter
from l2l_ray.loop.inference.quality import decision_of
from l2l_ray.loop.inference.teacher import gather_evidence, predict
from l2l_ray.loop.state.checkpoint import load_train_state, save_train_state
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.training.selector_training import (
    CrossFitted,
    SelectorLearner,
    StoredEvidence,
    labeled_gradient,
    unlabeled_evidence,
)
from l2l_ray.prior.proposal import Proposer
from l2l_ray.selector.base import make_selector
from l2l_ray.types import Evidence
from tests.whole_run import changed

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sets(whole_run: RunFolder) -> ExampleSets:
    return ExampleSets(whole_run.config, whole_run, whole_run.priors_path)


@pytest.fixture(scope="module")
def labeled(sets: ExampleSets) -> ExampleSet:
    return sets["labeled"]


@pytest.fixture(scope="module")
def burn_in(whole_run: RunFolder) -> Path:
    (folder,) = (whole_run.config.cache_dir / "burn_in").iterdir()
    return folder


@pytest.fixture(scope="module")
def fold_rows(whole_run: RunFolder, labeled: ExampleSet) -> list[list[int]]:
    image_ids = list(dict.fromkeys(example.image_id for example in labeled.examples))
    parts = folds(image_ids, whole_run.config.selector.num_folds, whole_run.config.data.split_seed)
    return [[row for row, e in enumerate(labeled.examples) if e.image_id in part] for part in parts]


@pytest.fixture(scope="module")
def cross_fitted(whole_run: RunFolder, labeled: ExampleSet, burn_in: Path, fold_rows: list[list[int]]) -> CrossFitted:
    teachers = [burn_in / f"fold{number}" for number in range(len(fold_rows))]
    return CrossFitted(whole_run.config, labeled, fold_rows, teachers, CPU)


def test_no_image_is_in_two_folds(labeled: ExampleSet, fold_rows: list[list[int]]) -> None:
    assert sorted(row for fold in fold_rows for row in fold) == list(range(len(labeled)))
    first, second = ({labeled.examples[row].image_id for row in fold} for fold in fold_rows)
    assert first and second and not first & second


def test_every_labeled_row_is_seen_once_by_the_teacher_that_did_not_train_on_it(
    whole_run: RunFolder, labeled: ExampleSet, burn_in: Path, fold_rows: list[list[int]], cross_fitted: CrossFitted
) -> None:
    order = batch_indices(len(labeled), len(labeled), 7, "reward2", 0)
    found = cross_fitted.batch(10_000, seed=7, version=3, number=0)
    stored = [row for fold in fold_rows for row in fold]
    rows = [stored[position] for position in order]
    assert sorted(rows) == list(range(len(labeled)))
    assert torch.equal(found.mask, labeled.masks(rows))
    networks = [
        load_segmenter(whole_run.config.segmenter, burn_in / f"fold{k}" / "teacher.safetensors", CPU) for k in range(2)
    ]
    probs = [predict(network, labeled.inputs(rows), False).sigmoid() for network in networks]
    for position, row in enumerate(rows):
        own = 0 if row in fold_rows[0] else 1
        torch.testing.assert_close(found.evidence.mask_probs[position], probs[own][position], atol=1e-4, rtol=0.0)
    assert (probs[0] - probs[1]).abs().amax((1, 2)).min() > 1e-3  # so the comparison above tells them apart


def test_batches_are_keyed(cross_fitted: CrossFitted) -> None:
    batch = cross_fitted.batch(3, 0, 1, 0)
    assert batch.mask.shape[0] == len(batch.evidence.prior_score) == 3
    assert torch.equal(cross_fitted.batch(3, 0, 1, 0).evidence.mask_probs, batch.evidence.mask_probs)
    for other in ((1, 1, 0), (0, 2, 0), (0, 1, 1)):
        assert not torch.equal(cross_fitted.batch(3, *other).evidence.mask_probs, batch.evidence.mask_probs)


def test_the_open_rate_is_the_share_of_labeled_images_whose_label_would_be_used(
    whole_run: RunFolder, labeled: ExampleSet, cross_fitted: CrossFitted
) -> None:
    evidence = cross_fitted.batch(10_000, 0, 1, 0).evidence
    total = len(labeled)
    claimed = int((evidence.mask_probs > 0.5).flatten(1).any(1).sum())
    assert claimed > 0
    section = whole_run.config.selector
    rates = {
        name: cross_fitted.open_rate(make_selector(section.model_copy(update={"name": name}), 32), 0, 1)
        for name in ("accept_all", "agreement", "supervised")
    }
    agreement = make_selector(section.model_copy(update={"name": "agreement"}), 32)
    used = decision_of(agreement.select(evidence, range(total))).used
    assert rates == {"accept_all": claimed / total, "agreement": int(used.sum()) / total, "supervised": 0.0}


def test_the_labeled_gradient_is_that_of_autograd(whole_run: RunFolder, labeled: ExampleSet) -> None:
    teacher = load_segmenter(whole_run.config.segmenter, whole_run.version_dir("l2l", 1) / "teacher.safetensors", CPU)
    teacher.requires_grad_(False)
    found = labeled_gradient(whole_run.config, labeled, teacher, CPU)
    rows = list(range(len(labeled)))
    assert len(rows) <= 64  # all of them are in the gradient
    inputs = labeled.inputs(rows)
    teacher.last_layer.requires_grad_(True)
    output = run_segmenter(teacher, inputs, use_autocast=False)
    F.binary_cross_entropy_with_logits(output.mask_logits, labeled.masks(rows)).backward()
    weight, bias = teacher.last_layer.weight.grad, teacher.last_layer.bias.grad
    assert weight is not None and bias is not None and weight.abs().max() > 1e-4
    torch.testing.assert_close(found, torch.cat([weight.flatten(), bias]), atol=1e-6, rtol=1e-3)


def test_the_unlabeled_subset_is_fixed_by_sentence(whole_run: RunFolder, sets: ExampleSets) -> None:
    unlabeled, folder = sets["unlabeled"], whole_run.version_dir("l2l", 0)
    teacher = load_segmenter(whole_run.config.segmenter, folder / "teacher.safetensors", CPU)
    previous = folder / "previous.safetensors"

    def scores(num: int, examples: ExampleSet) -> list[float]:
        config = changed(whole_run.config, selector={"max_unlabeled": num})
        evidence = unlabeled_evidence(config, examples, teacher, previous, CPU)
        assert evidence is not None
        return sorted(evidence.take(range(len(evidence))).prior_score.tolist())

    shuffled = ExampleSet(
        list(unlabeled.examples)[::-1],
        unlabeled.priors,
        ImageStore(whole_run.config.segmenter.image_size, 8),
        Proposer(whole_run.config.prior),
        unlabeled.grid,
        read_known_scores(whole_run.priors_path("labeled")),
    )
    four, five = scores(4, unlabeled), scores(5, unlabeled)
    assert len(four) == 4 and len(five) == 5
    assert scores(4, shuffled) == four
    assert set(four) <= set(five)
    none = changed(whole_run.config, selector={"max_unlabeled": 0})
    assert unlabeled_evidence(none, unlabeled, teacher, previous, CPU) is None


def test_stored_evidence_comes_back_in_full_precision_but_for_features(
    whole_run: RunFolder, labeled: ExampleSet, burn_in: Path
) -> None:
    teacher = load_segmenter(whole_run.config.segmenter, burn_in / "base" / "teacher.safetensors", CPU)
    parts = [
        gather_evidence(teacher, teacher, labeled.inputs(rows), labeled.inputs(rows), False) for rows in ([0, 1], [2])
    ]
    stored = StoredEvidence(parts, CPU)
    assert len(stored) == 3
    evidence = stored.take([2, 0])
    for field in fields(Evidence):
        found = getattr(evidence, field.name)
        expected = torch.cat([getattr(parts[1], field.name), getattr(parts[0], field.name)[:1]])
        assert found.dtype == expected.dtype
        exact = "features" not in field.name
        bound = 0.0 if exact else 1e-3  # half precision has 11 bits
        torch.testing.assert_close(found, expected, atol=bound, rtol=bound, msg=field.name)
    again = stored.batch(8, seed=0, version=2, number=0)
    assert sorted(again.prior_score.tolist()) == sorted(stored.take([0, 1, 2]).prior_score.tolist())


def _learner(name: str = "l2l") -> SelectorLearner:
    return SelectorLearner(SelectorConfig(name=name, group_size=3, update_batch=4), 32, CPU)


def _learn(learner: SelectorLearner, cross_fitted: CrossFitted, version: int, num: int) -> list[dict[str, float]]:
    before = learner.frozen_copy()
    return [
        learner.selector.update(learner.optimizer, batch, before)
        for batch in learner.batches(cross_fitted, None, torch.zeros(33), version, num, seed=0)
    ]


def test_a_selector_learns_the_same_after_it_was_saved_or_sent(cross_fitted: CrossFitted, tmp_path: Path) -> None:
    learner, resumed, other_rank = _learner(), _learner(), _learner()
    assert all(terms["entropy"] > 0 for terms in _learn(learner, cross_fitted, version=0, num=2))
    state: dict[str, object] = {}
    learner.save(tmp_path, state)
    save_train_state(tmp_path / "train_state.pt", state)
    resumed.load(tmp_path, load_train_state(tmp_path / "train_state.pt"))
    other_rank.receive(learner.send())
    sent = {name: value.clone() for name, value in other_rank.send().items()}
    assert all(torch.equal(value, sent[name]) for name, value in learner.send().items())
    expected = _learn(learner, cross_fitted, version=1, num=1)
    assert _learn(resumed, cross_fitted, version=1, num=1) == expected
    assert all(torch.equal(value, resumed.send()[name]) for name, value in learner.send().items())
    assert not all(torch.equal(value, sent[name]) for name, value in learner.send().items())


def test_every_update_has_its_own_random_numbers(cross_fitted: CrossFitted) -> None:
    learner = _learner()
    seeds = [
        b.generator.initial_seed() for v in (0, 1) for b in learner.batches(cross_fitted, None, None, v, 2, seed=3)
    ]
    assert seeds == [3_000_009, 3_000_010, 3_010_016, 3_010_017]  # results of finished runs depend on these values


def test_a_rule_is_kept_without_weights(tmp_path: Path) -> None:
    rule = _learner("fixed_threshold")
    assert rule.send() == {}
    with pytest.raises(AssertionError, match="without a parameter"):
        _ = rule.optimizer
    state: dict[str, object] = {}
    rule.save(tmp_path, state)
    _learner("fixed_threshold").load(tmp_path, state)
