"""From table rows to batches: images, boxes and words of the right row; no truth where there must be none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from l2l_ray.data.masks import mask_to_grid
from l2l_ray.errors import DataError
from l2l_ray.loop.inference.inputs import ExampleSet, Inputs
from l2l_ray.loop.state.example_files import write_examples, write_priors
from l2l_ray.types import LabeledExample

RunData = Callable[..., ExampleSet]


def test_a_batch_holds_the_rows_asked_for(table_of: RunData) -> None:
    table = table_of(4)
    batch = table.inputs([2, 0])
    assert len(table) == 4 and len(batch) == 2
    assert batch.expressions == ["left red circle 2", "left red circle 0"]
    assert batch.phrases == ["red circle", "red circle"]
    assert batch.images.shape == (2, 3, 64, 64)
    assert torch.equal(batch.images, table.inputs([0, 2]).images.flip(0))
    assert batch.prior_score.tolist() == [0.5, 0.5]  # a rank among known scores
    first_columns = [int((proposal.amax(0) > 0.5).nonzero()[0]) for proposal in batch.proposal]
    assert first_columns == [2, 0]  # boxes start at 2/32 and 0/32 of the width, on a grid of 32


def test_an_example_without_prior_has_none(table_of: RunData) -> None:
    table = table_of(2)
    del table.priors[101]
    batch = table.inputs([0, 1])
    assert batch.has_prior.tolist() == [True, False]
    assert batch.phrases[1] == ""
    assert batch.prior_score[1] == 0.0
    assert (batch.proposal[1] == 0.5).all()


def test_perturbed_proposals_are_keyed_by_sentence(table_of: RunData) -> None:
    table = table_of(3)
    plain, moved = table.inputs([0, 1, 2]), table.inputs([0, 1, 2], perturb_seed=5)
    assert all(not torch.equal(a, b) for a, b in zip(plain.proposal, moved.proposal, strict=True))
    assert torch.equal(table.inputs([2, 1], perturb_seed=5).proposal, moved.proposal[[2, 1]])
    assert not torch.equal(table.inputs([0], perturb_seed=6).proposal, moved.proposal[:1])
    assert torch.equal(moved.images, plain.images)
    assert torch.equal(moved.prior_score, plain.prior_score)


def test_hiding_a_prior_hides_the_phrase_too(table_of: RunData) -> None:
    batch = table_of(3).inputs([0, 1, 2]).without_prior(torch.tensor([True, False, True]))
    assert batch.has_prior.tolist() == [False, True, False]
    assert batch.phrases == ["", "red circle", ""]


def test_moving_to_a_device_keeps_words_and_values(table_of: RunData) -> None:
    batch = table_of(2).inputs([0, 1])
    moved = batch.to(torch.device("cpu"))
    assert moved.expressions == batch.expressions and torch.equal(moved.proposal, batch.proposal)
    assert all(getattr(batch.to(torch.device("meta")), name).is_meta for name in ("images", "proposal", "has_prior"))


def test_truth_is_coverage_on_the_grid(table_of: RunData) -> None:
    table = table_of(3, labeled=True, grid=8)
    masks = table.masks([2, 0])
    example = table.examples[2]
    assert isinstance(example, LabeledExample)
    assert torch.equal(masks[0], torch.from_numpy(mask_to_grid(example.mask_rle, 8)))
    assert masks[1].sum().item() == pytest.approx(20 * 20 / (48 * 40) * 64)


def test_an_unlabeled_table_has_no_truth_to_give(table_of: RunData) -> None:
    with pytest.raises(AssertionError, match="holds no truth"):
        table_of(2).masks([0])


def test_a_table_comes_back_from_the_files_of_the_driver(table_of: RunData, tmp_path: Path) -> None:
    table = table_of(3)
    write_examples(tmp_path / "unlabeled.parquet", table.examples)
    write_priors(tmp_path / "priors.parquet", table.priors.items())
    labeled = [replace(table.priors[100], score=score) for score in (0.1, 0.9)]
    failed = replace(table.priors[100], score=0.0, failure="not JSON: a dog")
    write_priors(tmp_path / "labeled.parquet", enumerate([*labeled, failed]))
    names = ("unlabeled.parquet", "priors.parquet", "labeled.parquet")
    read = ExampleSet.read(*(tmp_path / name for name in names), table._images, table._proposer, table.grid)
    assert read.examples == table.examples and read.priors == table.priors
    found, expected = read.inputs([1]), table.inputs([1])
    assert isinstance(found, Inputs) and torch.equal(found.proposal, expected.proposal)
    assert found.prior_score.tolist() == [0.5]  # above one of the two labeled priors that did not fail


@pytest.mark.parametrize(("score", "rank"), [(0.1, 0.0), (0.2, 0.25), (0.85, 0.5), (0.95, 1.0), (0.99, 1.0)])
def test_prior_score_is_a_rank_among_the_labeled_ones(table_of: RunData, score: float, rank: float) -> None:
    table = table_of(2)
    table.priors[100] = replace(table.priors[100], score=score, box_scores=(score,))
    table.priors[101] = replace(table.priors[101], score=0.99, boxes_xyxy_frac=(), box_scores=())
    assert table.inputs([0, 1]).prior_score.tolist() == [rank, 0.0]  # without a prior there is no score


def test_an_image_that_vanished_is_a_clear_error(table_of: RunData) -> None:
    table = table_of(2)
    Path(table.examples[1].image_path).unlink()
    with pytest.raises(DataError, match=r"11\.png: image file not found"):
        table.inputs([0, 1])
