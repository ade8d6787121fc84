"""Replies that were read wrongly once: each gives the right boxes, or no prior and a reason that is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from l2l_ray.prior.prompt import prompt_for
from l2l_ray.prior.reply import FAILURE_WORDS, MllmIdentity, Reply, failure_kind, make_prior

ROWS = [
    pytest.param(json.loads(line), id=f"{path.parent.name}-{number}")
    for path in sorted(Path(__file__).parent.glob("0[3-8]/replies.jsonl"))
    for number, line in enumerate(path.read_text().splitlines())
]


def test_the_files_are_found() -> None:
    assert len(ROWS) == 23


@pytest.mark.parametrize("row", ROWS)
def test_a_reply_gives_its_boxes_or_no_prior_with_a_reason(row: dict) -> None:
    mllm = MllmIdentity("f", prompt_for(row["model_type"]))
    prior = make_prior("k", Reply((row["reply"],), (-0.1,), *row["seen"]), mllm, *row["seen"])
    expected = row.get("expected")
    assert prior.boxes_xyxy_frac == tuple(pytest.approx(tuple(box)) for box in expected or ())
    if expected is None:
        assert not prior.points_xy_frac and prior.score == 0
        assert failure_kind(prior.failure) in FAILURE_WORDS
