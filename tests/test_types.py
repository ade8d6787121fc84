"""Records and errors travel between processes: each comes back from pickle as it was."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from l2l_ray import errors, types
from l2l_ray.loop.inference.quality import Quality
from l2l_ray.loop.state.ledger import LedgerEntry
from l2l_ray.loop.state.plan import EvalItem, LabelItem

GRID = 4
PRIOR = types.Prior(
    "9f", ((0.1, 0.2, 0.5, 0.6),), (0.8,), ((0.3, 0.4),), "red man", 0.8, "", "[]", (((0.0, 0.0), (1.0, 1.0)),)
)
MASKED = dataclasses.replace(PRIOR, masks=("iVBORw0K", "iVBORw1L"), mask_scores=(0.9, 0.25))
EXAMPLE = types.Example(7, 3, 12, "/data/12.jpg", 640, 480, "left man in red")
MASK = np.eye(GRID, dtype=bool)
MAP = torch.rand(2, GRID, GRID)

RECORDS: list[Any] = [
    EXAMPLE,
    types.LabeledExample(
        **dataclasses.asdict(EXAMPLE), mask_rle={"size": [480, 640], "counts": "PPY13"}, category="man"
    ),
    types.Hint((0.1, 0.2, 0.5, 0.6), ((0.3, 0.4),)),
    types.PhotoText(Path("12.jpg"), "left man", {"box": [10, 20, 30, 40]}),
    types.Skip("truncated_image", 7, "/data/12.jpg", "image file is truncated"),
    PRIOR,
    types.Evidence(MAP, MAP, MAP, MAP, MAP[:, 0, 0], MAP[:, 0, 0] > 0.5, MAP[:, 0, :4]),
    types.Selection(torch.ones(2).to(torch.int8), MAP > 0.5, MAP, MAP[:, 0, 0], MAP[:, 0, 0], MAP[:, 0, 0]),
    types.PseudoLabel(7, GRID, types.Candidate.PRIOR, MASK, ~MASK, MASK.astype(np.uint8), 1.0, 0.9, 5, -0.1, 2, "9f"),
    types.Candidate.PRIOR,
    LabelItem("l2l", 1, 4, 1),
    EvalItem("l2l", 3, "testA", 0, 512),
    LedgerEntry("l2l", 0, 3, "l2l/labels/r000-s00003.parquet", "9f", 0, 256, 201, 0.62, 4.1),
    Quality(
        np.ones((3, 3), np.int64),
        np.ones((2, 3), np.int64),
        np.ones((4, 4)),
        {"prior": np.ones(2, np.int64)},
        {7: {"size": [GRID, GRID], "counts": "PPY13"}},
    ),
]


def _same(left: Any, right: Any) -> bool:
    if dataclasses.is_dataclass(left):
        pairs = [(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left)]
        return type(left) is type(right) and all(_same(a, b) for a, b in pairs)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    return bool(left == right)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_records_survive_pickle(record: Any) -> None:
    assert _same(record, pickle.loads(pickle.dumps(record)))


def test_every_record_of_types_is_tried() -> None:
    records = [c for _, c in inspect.getmembers(types, dataclasses.is_dataclass) if c.__module__ == types.__name__]
    assert set(records) <= {type(record) for record in RECORDS}


@pytest.mark.parametrize("record", [r for r in RECORDS if dataclasses.is_dataclass(r)], ids=lambda r: type(r).__name__)
def test_records_are_frozen(record: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[0].name, None)


ERRORS = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.L2LError)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda c: c.__name__)
def test_errors_survive_pickle_and_are_caught_by_their_base(error: type[errors.L2LError]) -> None:
    back = pickle.loads(pickle.dumps(error("labeled_frac must be in (0, 1], got 1.5")))
    assert isinstance(back, errors.L2LError)
    assert type(back) is error
    assert str(back) == "labeled_frac must be in (0, 1], got 1.5"


def test_the_tree_in_the_docstring_lists_every_error() -> None:
    assert [c.__name__ for c in ERRORS if c.__name__ not in str(errors.__doc__)] == []


def test_an_unlabeled_example_has_no_field_for_the_truth() -> None:
    truth = {"mask", "mask_rle", "bbox", "box", "area", "category", "category_id", "segmentation"}
    assert not truth & {f.name for f in dataclasses.fields(types.Example)}
    assert not hasattr(EXAMPLE, "__dict__")


@pytest.mark.parametrize(
    "prior",
    [
        PRIOR,
        dataclasses.replace(PRIOR, source="user"),
        MASKED,
        types.Prior.absent("a0", "not JSON: got “banana”", "“banana”"),
    ],
)
def test_a_prior_comes_back_from_json(prior: types.Prior) -> None:
    assert types.Prior.from_json(prior.to_json()) == prior
    assert hash(types.Prior.from_json(prior.to_json())) == hash(prior)  # tuples all the way down
    assert ("source" in prior.to_json()) == (prior.source == "user")  # rows that the MLLM filled stay as they are
    assert ("masks" in prior.to_json()) == ("mask_scores" in prior.to_json()) == bool(prior.masks)  # and without SAM


@pytest.mark.parametrize("hint", [types.Hint((0.1, 0.2, 0.5, 0.6), ((0.3, 0.4),)), types.Hint(None, ((0.3, 0.4),))])
def test_a_hint_comes_back_from_json(hint: types.Hint) -> None:
    assert types.Hint.from_json(hint.to_json()) == hint
    assert hash(types.Hint.from_json(hint.to_json())) == hash(hint)


@pytest.mark.parametrize("text", ["", "[]", "{}", '"prior"', '{"key": "9f", "boxes": []}'])
def test_what_is_not_a_prior_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not the JSON of a prior|Expecting value"):
        types.Prior.from_json(text)


def test_an_absent_prior_says_why() -> None:
    prior = types.Prior.absent("9f", "no box", "a dog")
    assert (prior.key, prior.failure, prior.reply) == ("9f", "no box", "a dog")
    assert not (prior.boxes_xyxy_frac or prior.points_xy_frac or prior.polygons_xy_frac or prior.score)


def test_an_example_without_truth_has_none() -> None:
    labeled = RECORDS[1]
    assert labeled.without_truth() == EXAMPLE
    hinted = dataclasses.replace(labeled, hint=types.Hint(None, ((0.3, 0.4),)))
    assert hinted.without_truth() == dataclasses.replace(EXAMPLE, hint=hinted.hint)  # what the user gave is no truth
    assert not hasattr(labeled.without_truth(), "mask_rle") and EXAMPLE.without_truth() == EXAMPLE
