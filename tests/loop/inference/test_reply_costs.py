"""Tokens and time of replies, as `l2l prior check` prints and a run records them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.loop.inference.asking import Question
from l2l_ray.loop.inference.priors import Answered, fill_all_priors
from l2l_ray.loop.inference.reply_costs import ReplyCosts
from l2l_ray.loop.state.prepare import RunData
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.reply import Reply
from tests.loop.canned_mllm import CannedMllm
from tests.whole_run import changed

LOADING_S, BATCH_S = 0.5, 0.02


def answered(tokens: list[list[int]]) -> Iterator[Answered]:
    """Answer batches of questions about photos of so many tokens; the first one takes long."""
    for number, batch in enumerate(tokens):
        time.sleep(BATCH_S if number else LOADING_S)
        yield [], [Reply(("x",), (-0.1,), 0, 0, num_image_tokens=num) for num in batch]


def test_tokens_of_all_photos_and_the_time_after_loading_are_told() -> None:
    costs = ReplyCosts(2)
    assert len(list(costs.watched(answered([[64, 0], [32, 66], [66]])))) == 3
    event = costs.as_event()
    assert event["image_tokens"] == {"mean": 57, "min": 32, "max": 66} and event["batch_size"] == 2
    assert 2 * BATCH_S / 3 <= event["seconds_per_reply"] < LOADING_S / 3
    first, second = costs.lines()
    assert first == "image tokens of a photo: 57 (32 to 66)"
    assert second.startswith("time of a reply: 0.") and second.endswith(" s, asked 2 at a time")


def test_what_is_not_known_is_not_told() -> None:
    costs = ReplyCosts(2)
    list(costs.watched(answered([[0, 0]])))
    assert costs.as_event() == {"image_tokens": None, "seconds_per_reply": None, "batch_size": 2}
    assert costs.lines() == []


class WithTokens(CannedMllm):
    """Says how many tokens a photo has: another number for the labeled ones, for others, and for SAM's masks."""

    labeled: frozenset[str] = frozenset()

    def reply(self, question: Question) -> Reply:
        if question.prior is not None:
            return replace(super().reply(question), num_image_tokens=999)
        return replace(super().reply(question), num_image_tokens=48 if question.expression in self.labeled else 80)


@pytest.mark.parametrize(("batch_size", "is_timed"), [(2, True), (99, False)])
def test_a_run_records_them_with_its_check_of_labeled_priors(
    config: RunConfig, sets: RunData, batch_size: int, is_timed: bool
) -> None:
    prior = {"batch_size": batch_size, "min_accuracy": 0.0, "proposal": "sam", "sam_model": "stands/for-sam"}
    config = changed(config, name="costs", prior=prior)
    run, model = RunFolder.open(config), WithTokens(sam="5a")
    run.create()
    model.labeled = frozenset(example.expression for example in sets.labeled)
    fill_all_priors(config, run, sets, model)
    (event,) = [event for event in run.events() if event["event"] == "prior_check"]
    assert event["num"] == len(sets.labeled) > 2 and model.drawn
    assert event["image_tokens"] == {"mean": 48, "min": 48, "max": 48} and event["batch_size"] == batch_size
    assert (event["seconds_per_reply"] is not None) == is_timed, "of a single batch, loading cannot be told apart"

    again = RunFolder.open(changed(config, name="again"))
    again.create()
    fill_all_priors(config, again, sets, model)
    (event,) = [event for event in again.events() if event["event"] == "prior_check"]
    assert event["num"] == len(sets.labeled), "the same check"
    assert event["image_tokens"] is event["seconds_per_reply"] is None, "of answers that are stored nothing is known"
