"""From examples to batches: images, boxes and words of the right one; no truth where there must be none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from l2l_ray.config import PriorConfig
from l2l_ray.data.images import ImageStore
from l2l_ray.data.masks import mask_to_grid
from l2l_ray.errors import DataError
from l2l_ray.loop.inference.inputs import ExampleSet, ExampleSets, Inputs, Rivals, read_known_scores
from l2l_ray.loop.state.example_files import (
    ExampleTable,
    PriorTable,
    read_examples,
    read_priors,
    write_examples,
    write_priors,
)
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.proposal import Proposer
from l2l_ray.types import LabeledExample

MakeSet = Callable[..., ExampleSet]


def test_a_batch_holds_the_rows_asked_for(set_of: MakeSet) -> None:
    examples = set_of(4)
    batch = examples.inputs([2, 0])
    assert len(examples) == 4 and len(batch) == 2
    assert batch.expressions == ["left red circle 2", "left red circle 0"]
    assert batch.phrases == ["red circle", "red circle"]
    assert batch.images.shape == (2, 3, 64, 64)
    assert torch.equal(batch.images, examples.inputs([0, 2]).images.flip(0))
    assert batch.prior_score.tolist() == [0.5, 0.5]  # a rank among known scores
    first_columns = [int((proposal.amax(0) > 0.5).nonzero()[0]) for proposal in batch.proposal]
    assert first_columns == [2, 0]  # boxes start at 2/32 and 0/32 of the width, on a grid of 32


def test_an_example_without_prior_has_none(set_of: MakeSet) -> None:
    examples = set_of(2)
    del examples.priors[101]
    batch = examples.inputs([0, 1])
    assert batch.has_prior.tolist() == [True, False]
    assert batch.phrases[1] == ""
    assert batch.prior_score[1] == 0.0
    assert (batch.proposal[1] == 0.5).all()


def test_a_users_box_ranks_first_and_moves_no_other_rank(set_of: MakeSet, tmp_path: Path) -> None:
    examples = set_of(3)
    plain = examples.inputs([0, 1, 2]).prior_score
    examples.priors[101] = replace(examples.priors[101], score=1.0, box_scores=(1.0,), source="user")
    assert examples.inputs([0, 1, 2]).prior_score.tolist() == [plain[0], 1.0, plain[2]]
    write_priors(tmp_path / "labeled.parquet", examples.priors.items())
    assert read_known_scores(tmp_path / "labeled.parquet") == [0.8, 0.8], "a user's box is not on the MLLM's scale"


def test_a_users_box_is_sure_where_every_labeled_item_has_one(set_of: MakeSet, tmp_path: Path) -> None:
    examples = set_of(2)
    alone = ExampleSet(
        examples.examples,
        {100: replace(examples.priors[100], score=1.0, source="user")},
        ImageStore(64, 1),
        Proposer(PriorConfig()),
        32,
        [],
    )
    assert alone.inputs([0, 1]).prior_score.tolist() == [1.0, 0.0]


def test_rivals_are_the_images_expressions_about_other_objects(
    set_of: MakeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = set_of(6)
    images, refs = [7, 8, 7, 7, 7, 9], [1, 2, 3, 1, 4, 5]  # rows 0 and 3 are two sentences about one object
    examples.examples = [
        replace(example, image_id=image, ref_id=ref)
        for example, image, ref in zip(examples.examples, images, refs, strict=True)
    ]
    found = examples.rivals([4, 0, 1])
    assert found.inputs is not None
    assert found.inputs.expressions == ["left red circle 2", "left red circle 3"]
    assert found.is_rival.tolist() == [  # of rows 4, 0 and 1, then 2 and 3
        [False, True, False, True, True],
        [True, False, False, True, False],
        [False] * 5,
    ]
    alone = examples.rivals([1, 5])
    assert alone.inputs is None and not alone.is_rival.any() and alone.is_rival.shape == (2, 2)
    everybody = examples.rivals(range(6))
    assert everybody.inputs is None and everybody.is_rival.equal(everybody.is_rival.T)
    monkeypatch.setattr("l2l_ray.loop.inference.inputs.MAX_RIVALS", 2)
    near = examples.rivals([4, 0])  # the image's rows in order are 0, 2, 3, 4: the two next ones are looked at
    assert near.inputs is not None and near.inputs.expressions == ["left red circle 2", "left red circle 3"]
    assert near.is_rival.tolist() == [[False, False, True, True], [False, False, True, False]]


def test_a_table_gives_what_its_rows_in_memory_give(
    set_of: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("l2l_ray.loop.state.example_files.GROUP_ROWS", 2)
    plain = set_of(9)
    plain.examples = [replace(example, image_id=7 + row % 2) for row, example in enumerate(plain.examples)]
    write_examples(tmp_path / "examples.parquet", plain.examples, shard_size=2)
    write_priors(tmp_path / "priors.parquet", plain.priors.items(), shard_size=2)
    read = set_of(0)
    read.examples, read.priors = ExampleTable(tmp_path / "examples.parquet"), PriorTable(tmp_path / "priors.parquet")
    rows = [6, 0, 3]  # each in a group of its own; their rivals lie in all others
    for found, expected in ((read.inputs(rows), plain.inputs(rows)), *_both(read.rivals(rows), plain.rivals(rows))):
        assert found.expressions == expected.expressions and found.phrases == expected.phrases
        assert torch.equal(found.images, expected.images) and torch.equal(found.proposal, expected.proposal)
    assert torch.equal(read.rivals(rows).is_rival, plain.rivals(rows).is_rival)
    assert read.rows_of([104, 100]) == plain.rows_of([104, 100]) == [4, 0]


def _both(found: Rivals, expected: Rivals) -> list[tuple[Inputs, Inputs]]:
    assert found.inputs is not None and expected.inputs is not None
    return [(found.inputs, expected.inputs)]


def test_hiding_a_prior_hides_the_phrase_too(set_of: MakeSet) -> None:
    batch = set_of(3).inputs([0, 1, 2]).without_prior(torch.tensor([True, False, True]))
    assert batch.has_prior.tolist() == [False, True, False]
    assert batch.phrases == ["", "red circle", ""]


def test_moving_to_a_device_keeps_words_and_values(set_of: MakeSet) -> None:
    batch = set_of(2).inputs([0, 1])
    moved = batch.to(torch.device("cpu"))
    assert moved.expressions == batch.expressions and torch.equal(moved.proposal, batch.proposal)
    assert all(getattr(batch.to(torch.device("meta")), name).is_meta for name in ("images", "proposal", "has_prior"))


def test_truth_is_coverage_on_the_grid(set_of: MakeSet) -> None:
    examples = set_of(3, labeled=True, grid=8)
    masks = examples.masks([2, 0])
    example = examples[2]
    assert isinstance(example, LabeledExample)
    assert torch.equal(masks[0], torch.from_numpy(mask_to_grid(example.mask_rle, 8)))
    assert masks[1].sum().item() == pytest.approx(20 * 20 / (48 * 40) * 64)


def test_an_unlabeled_set_has_no_truth_to_give(set_of: MakeSet) -> None:
    with pytest.raises(AssertionError, match="holds no truth"):
        set_of(2).masks([0])


def test_the_sets_of_a_run_are_read_once_from_its_files(whole_run: RunFolder) -> None:
    asked: list[str] = []

    def priors(name: str) -> Path:
        asked.append(name)
        return whole_run.priors_path(name)

    sets = ExampleSets(whole_run.config, whole_run, priors)
    assert not asked, "nothing is waited for before a set is asked for"
    val = sets["val"]
    assert val.examples == read_examples(whole_run.examples_path("val"))
    assert val.priors == read_priors(whole_run.priors_path("val"))
    known = [prior.score for prior in read_priors(whole_run.priors_path("labeled")).values() if not prior.failure]
    score, rank = val.priors[val[0].sent_id].score, val.inputs([0]).prior_score.item()
    assert rank == pytest.approx(sum(other <= score for other in known) / len(known))
    assert sets["val"] is val and asked == ["val", "labeled"]


@pytest.mark.parametrize(("score", "rank"), [(0.1, 0.0), (0.2, 0.25), (0.85, 0.5), (0.95, 1.0), (0.99, 1.0)])
def test_the_score_is_a_rank_among_the_labeled_ones(set_of: MakeSet, score: float, rank: float) -> None:
    examples = set_of(2)
    examples.priors[100] = replace(examples.priors[100], score=score, box_scores=(score,))
    examples.priors[101] = replace(examples.priors[101], score=0.99, boxes_xyxy_frac=(), box_scores=())
    assert examples.inputs([0, 1]).prior_score.tolist() == [rank, 0.0]  # without a prior the score is 0


def test_an_image_that_vanished_is_a_clear_error(set_of: MakeSet) -> None:
    examples = set_of(2)
    Path(examples[1].image_path).unlink()
    with pytest.raises(DataError, match=r"11\.png cannot be read: image file not found"):
        examples.inputs([0, 1])
