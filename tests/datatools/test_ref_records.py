"""What a data set's records say: of which texts, and which of two decisions of a review is the later one."""

from __future__ import annotations

from typing import Any

import pytest

from l2l_ray.datatools.ref_records import is_later_review, says_something_else

OLD: dict[str, Any] = {"source": "review", "updated_at": "2026-11-26T16:00:00+00:00", "as_of": 9}


@pytest.mark.parametrize(
    ("changes", "is_later"),
    [
        ({"as_of": 10}, True),
        ({}, False),
        ({"as_of": 8}, False),
        ({"updated_at": "2026-11-27T09:00:00+00:00", "as_of": 1}, True),
        ({"updated_at": "2026-11-25T09:00:00+00:00", "as_of": 99}, False),
        ({"source": "label_studio", "as_of": 10}, False),
        ({"as_of": "ten"}, False),
        ({"updated_at": None}, False),
    ],
)
def test_only_a_later_decision_of_a_review_comes_after_one(changes: dict[str, Any], is_later: bool) -> None:
    assert is_later_review({**OLD, **changes}, OLD) is is_later
    assert not is_later_review({**OLD, "as_of": 10}, {"source": "pseudo_label"})
    assert not is_later_review({**OLD, "as_of": 10}, None)


def test_what_a_ref_says_already_is_nothing_else() -> None:
    absent, rejected, mask = {"ann_ids": []}, {"rejected": OLD}, {"ann_id": 3}
    assert says_something_else(mask, absent) and says_something_else({}, rejected) and says_something_else({}, absent)
    assert not says_something_else(absent, absent) and not says_something_else(rejected, rejected)
    assert not says_something_else({}, mask) and not says_something_else({}, {})
