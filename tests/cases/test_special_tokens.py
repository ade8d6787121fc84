"""Sentences that spell special tokens: asked as text, in one batch with others, and no other answer changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from l2l_ray.config import PriorConfig
from l2l_ray.loop.inference.asking import Question, answer_batch
from l2l_ray.prior.loading import PriorModels
from l2l_ray.prior.mllm import MllmPrior
from l2l_ray.prior.reply import MllmIdentity, make_prior

CASE = Path(__file__).parent / "02"


def test_a_batch_with_a_special_token_is_answered_whole() -> None:
    rows = [json.loads(line) for line in (CASE / "rows.jsonl").read_text().splitlines()]
    questions = [
        Question(str(i), str(CASE / "ph" / row["image"]), row["expression"], 64, 64) for i, row in enumerate(rows)
    ]
    mllm = MllmPrior.load(PriorConfig(dtype="float32"))
    models = PriorModels(PriorConfig(), mllm)
    (special,) = [i for i, question in enumerate(questions) if "<|image_pad|>" in question.expression]
    replies = answer_batch(models, questions)
    assert len(replies) == 24 and not any(reply.failure for reply in replies)
    prior = make_prior("k", replies[special], MllmIdentity.of(mllm), 64, 64)
    assert prior.boxes_xyxy_frac or prior.failure
    others = answer_batch(models, questions[:special] + questions[special + 1 :])
    for with_it, without in zip(replies[:special] + replies[special + 1 :], others, strict=True):
        assert with_it.texts == without.texts
        assert with_it.mean_log_probs == pytest.approx(without.mean_log_probs, abs=1e-4)
