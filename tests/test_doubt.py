"""Which masks are sure and which doubtful: one rule."""

import pytest

from l2l_ray.doubt import DOUBTFUL, SURE, Doubt


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [
        (SURE, Doubt(1, 1, 0)),
        (SURE - 1e-6, Doubt(1, 0, 0)),
        (DOUBTFUL, Doubt(1, 0, 0)),
        (DOUBTFUL - 1e-6, Doubt(1, 0, 1)),
        (0.0, Doubt(1, 0, 1)),
    ],
)
def test_where_sure_begins_and_doubtful_ends(confidence: float, expected: Doubt) -> None:
    assert Doubt.of([confidence]) == expected


def test_counts_in_words() -> None:
    assert Doubt(3791, 1200, 412).words("labels") == (
        "412 of 3,791 labels are doubtful (confidence below 0.4), 1,200 sure (0.7 or more): look at the doubtful first"
    )
    assert Doubt.of(x / 10 for x in (9, 5, 1)).words("masks").startswith("1 of 3 masks is doubtful")
    assert "look at" not in Doubt(3, 2, 0).words("masks")
    assert Doubt.of([]) == Doubt(0, 0, 0)
