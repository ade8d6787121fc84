"""A selector in training: what it learns from, and that saved, sent and resumed it learns the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from l2l_ray.config import SelectorConfig
from l2l_ray.data.images import ImageStore, batch_indices
from l2l_ray.loop.inference.inputs import ExampleSet, ExampleSets, read_known_scores
from l2l_ray.loop.inference.networks import load_segmenter
from l2l_ray.loop.inference.teacher import gather_evidence, predict
from l2l_ray.loop.state.checkpoint import load_train_state, save_train_state
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.training.selector_training import (
    CrossFitted,
    SelectorLearner,
    StoredEvidence,
    unlabeled_evidence,
    unlabeled_rows,
)
from l2l_ray.prior.proposal import Proposer
from l2l_ray.selector.base import make_selector
from l2l_ray.types import Evidence
from tests.whole_run import changed

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


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
        # stored in half precision, which rounds by up to 2.5e-4 below 1
        torch.testing.assert_close(found.evidence.mask_probs[position], probs[own][position], atol=4e-4, rtol=0.0)
    assert (probs[0] - probs[1]).abs().amax((1, 2)).min() > 1e-3  # so the comparison above tells them apart


def test_batches_are_keyed(cross_fitted: CrossFitted) -> None:
    batch = cross_fitted.batch(3, 0, 1, 0)
    assert batch.mask.shape[0] == len(batch.evidence.prior_score) == 3
    assert torch.equal(cross_fitted.batch(3, 0, 1, 0).evidence.mask_probs, batch.evidence.mask_probs)
    for other in ((1, 1, 0), (0, 2, 0), (0, 1, 1)):
        assert not torch.equal(cross_fitted.batch(3, *other).evidence.mask_probs, batch.evidence.mask_probs)


def test_no_image_is_in_both_halves_and_each_sample_in_one(cross_fitted: CrossFitted) -> None:
    first, second = cross_fitted.halves()
    assert not set(first.image_ids) & set(second.image_ids)
    assert first.image_ids + second.image_ids == cross_fitted.image_ids
    masks = torch.cat([part.mask for half in (first, second) for part in half.parts()])
    assert torch.equal(masks, torch.cat([part.mask for part in cross_fitted.parts()]))
    drawn = first.batch(10_000, seed=0, version=1, number=0)
    assert len(drawn.mask) == len(first.image_ids) < len(cross_fitted.image_ids)


def test_the_parts_are_every_labeled_row_once_with_its_truth(
    whole_run: RunFolder, labeled: ExampleSet, fold_rows: list[list[int]], cross_fitted: CrossFitted
) -> None:
    parts, size = cross_fitted.parts(), whole_run.config.loop.eval_batch
    assert [len(part.mask) for part in parts[:-1]] == [size] * (len(labeled) // size)
    assert all(len(part.mask) == len(part.evidence.prior_score) <= size for part in parts)
    stored = [row for fold in fold_rows for row in fold]
    assert torch.equal(torch.cat([part.mask for part in parts]), labeled.masks(stored))
    drawn = cross_fitted.batch(10_000, seed=7, version=3, number=0)
    order = batch_indices(len(labeled), len(labeled), 7, "reward2", 0)
    found = torch.cat([part.evidence.mask_probs for part in parts])
    assert torch.equal(found[order], drawn.evidence.mask_probs)


def test_the_open_rate_is_the_share_of_labeled_images_whose_label_would_be_used(
    whole_run: RunFolder, labeled: ExampleSet, cross_fitted: CrossFitted
) -> None:
    evidence = cross_fitted.batch(10_000, 0, 1, 0).evidence
    total = len(labeled)
    claimed = int((evidence.mask_probs > 0.5).flatten(1).any(1).sum())
    assert claimed > 0
    rules = {
        name: make_selector(whole_run.config.selector.model_copy(update={"name": name}))
        for name in ("accept_all", "agreement", "supervised")
    }
    rates = {name: rule.settle(cross_fitted.parts(), [])["open_rate_labeled"] for name, rule in rules.items()}
    used = int(rules["agreement"].select(evidence, range(total)).used.sum())
    assert rates == pytest.approx({"accept_all": claimed / total, "agreement": used / total, "supervised": 0.0})


def test_the_unlabeled_subset_is_fixed_image_by_image(whole_run: RunFolder, sets: ExampleSets) -> None:
    unlabeled, folder = sets["unlabeled"], whole_run.version_dir("l2l", 0)
    teacher = load_segmenter(whole_run.config.segmenter, folder / "teacher.safetensors", CPU)

    def scores(num: int, examples: ExampleSet) -> list[float]:
        config = changed(whole_run.config, selector={"max_unlabeled": num})
        evidence = unlabeled_evidence(config, examples, teacher, CPU)
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
    config = changed(whole_run.config, selector={"max_unlabeled": 12})
    drawn = Counter(unlabeled[row].image_id for row in unlabeled_rows(config, unlabeled))
    sizes = Counter(example.image_id for example in unlabeled.examples)
    cut = [image_id for image_id, count in drawn.items() if count < sizes[image_id]]
    assert sum(drawn.values()) == 12 and len(drawn) > 1 and len(cut) <= 1
    none = changed(whole_run.config, selector={"max_unlabeled": 0})
    assert unlabeled_evidence(none, unlabeled, teacher, CPU) is None


def test_stored_evidence_comes_back_in_half_precision_on_every_way(
    whole_run: RunFolder, labeled: ExampleSet, burn_in: Path
) -> None:
    teacher = load_segmenter(whole_run.config.segmenter, burn_in / "base" / "teacher.safetensors", CPU)
    parts = [gather_evidence(teacher, labeled.inputs(rows), labeled.rivals(rows), False) for rows in ([0, 1], [2])]
    stored = StoredEvidence(parts, CPU)
    assert len(stored) == 3
    everything, drawn = stored.all(2), stored.take([2, 0])
    assert [len(part.prior_score) for part in everything] == [2, 1]
    for field in fields(Evidence):
        exact = torch.cat([getattr(part, field.name) for part in parts])
        found = torch.cat([getattr(part, field.name) for part in everything])
        assert found.dtype == exact.dtype, field.name
        assert torch.equal(found, exact.half().float() if exact.ndim == 3 else exact), field.name
        assert torch.equal(getattr(drawn, field.name), found[[2, 0]]), field.name
    again = stored.batch(8, seed=0, version=2, number=0)
    assert sorted(again.prior_score.tolist()) == sorted(stored.take([0, 1, 2]).prior_score.tolist())


def _learner(name: str = "l2l") -> SelectorLearner:
    return SelectorLearner(SelectorConfig(name=name, group_size=3, update_batch=4), CPU)


def _learn(learner: SelectorLearner, cross_fitted: CrossFitted, version: int, num: int) -> list[dict[str, float]]:
    return [
        learner.selector.update(learner.optimizer, batch)
        for batch in learner.batches(cross_fitted, None, version, num, seed=0)
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
    seeds = [b.generator.initial_seed() for v in (0, 1) for b in learner.batches(cross_fitted, None, v, 2, seed=3)]
    assert seeds == [3_000_009, 3_000_010, 3_010_016, 3_010_017]  # results of finished runs depend on these values


def test_a_rule_is_kept_without_weights(tmp_path: Path) -> None:
    rule = _learner("fixed_threshold")
    assert rule.send() == {}
    assert rule.optimizer is None
    state: dict[str, object] = {}
    rule.save(tmp_path, state)
    _learner("fixed_threshold").load(tmp_path, state)
