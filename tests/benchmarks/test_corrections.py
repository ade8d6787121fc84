"""The scripted reviewer looks where it should, and decides by the truth alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.corrections import review, to_look_at
from l2l_ray.data.masks import decode, encode
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.review.item import Items
from l2l_ray.review.journal import Journal
from l2l_ray.review.labels import Labels
from l2l_ray.types import Rle


@pytest.fixture
def copy(copied: Callable[..., RunFolder]) -> Path:
    return copied(without=()).path


def test_of_an_object_one_label_is_looked_at_the_most_doubtful_first(copy: Path) -> None:
    labels = Labels(copy)
    items = Items(labels)
    ref_of = {int(sent_id): items.photo(int(sent_id)).ref_id for sent_id in labels.sent_ids}
    confidence = dict(zip(labels.sent_ids.tolist(), labels.confidence.tolist(), strict=True))
    lowest = {ref_id: min(confidence[s] for s in ref_of if ref_of[s] == ref_id) for ref_id in ref_of.values()}
    asked = to_look_at(labels, "doubtful", 3, 0)
    assert [confidence[sent_id] for sent_id in asked] == sorted(lowest.values())[:3]
    assert [lowest[ref_of[sent_id]] for sent_id in asked] == [confidence[sent_id] for sent_id in asked]
    drawn = [to_look_at(labels, "random", 3, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len({ref_of[sent_id] for sent_id in drawn[0]}) == 3


@pytest.mark.parametrize(
    ("is_right", "made"), [(True, {"accept": 3, "redraw": 0}), (False, {"accept": 0, "redraw": 3})]
)
def test_what_is_right_is_accepted_and_the_rest_redrawn(copy: Path, is_right: bool, made: dict[str, int]) -> None:
    labels = Labels(copy)
    items = Items(labels)
    truth: dict[tuple[str, str], Rle] = {}
    for sent_id in labels.sent_ids.tolist():
        record, mask = items.record(sent_id)
        inside = decode(mask)
        assert inside.any(), "an empty mask is redrawn whatever the truth"
        truth[Path(record["image"]).name, record["expression"]] = mask if is_right else encode(np.logical_not(inside))
    assert review(copy, "doubtful", 3, 0, truth) == made
    decided = list(Journal(copy).decisions())
    assert {action.action for action in decided} == {"accept" if is_right else "redraw"} and len(decided) == 3
    for action in decided:
        assert action.rle == truth[Path(action.label["image"]).name, action.label["expression"]]
