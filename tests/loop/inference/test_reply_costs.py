"""Tokens and time of replies, as `l2l prior check` prints and a run records them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.loop.inference.asking import Question
from l2l_ray.loop.inference.prior_command import ask_and_check
from l2l_ray.loop.inference.priors import Answered, fill_all_priors
from l2l_ray.loop.inference.reply_costs import ReplyCosts
from l2l_ray.loop.state.prepare import RunData
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.reply import Reply
from tests.loop.canned_mllm import CannedMllm
from tests.whole_run import changed

LOADING_S, BATCH_S = 0.5, 0.02


class Timed:
    """Answers questions about photos of so many tokens, the first batch slowly; `ahead` batches are asked at once."""

    def __init__(self, ahead: int = 1) -> None:
        self._ahead, self._has_loaded = ahead, False

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        while asked := list(islice(batches, self._ahead)):
            time.sleep(BATCH_S if self._has_loaded else LOADING_S)
            self._has_loaded = True
            for batch in asked:  # together: they were in work at once
                yield batch, [Reply(("x",), (-0.1,), 0, 0, num_image_tokens=int(q.expression)) for q in batch]


def questions(tokens: list[list[int]]) -> Iterator[list[Question]]:
    return iter([[Question(f"{i}", f"{i}.png", f"{num}", 9, 9) for i, num in enumerate(batch)] for batch in tokens])


def test_tokens_of_all_photos_and_the_time_after_loading_are_told() -> None:
    costs = ReplyCosts(2)
    assert len(list(costs.watched(Timed().ask, questions([[64, 0], [32, 66], [66]])))) == 3
    event = costs.as_event()
    assert event["image_tokens"] == {"mean": 57, "min": 32, "max": 66} and event["batch_size"] == 2
    assert 2 * BATCH_S / 3 <= event["seconds_per_reply"] < LOADING_S / 3
    first, second = costs.lines()
    assert first == "image tokens of a photo: 57 (32 to 66)"
    assert second.startswith("time of a reply: 0.") and second.endswith(" s, asked 2 at a time")


def test_the_first_batch_of_a_loaded_model_is_timed() -> None:
    costs, model = ReplyCosts(2, is_loaded=True), Timed()
    list(model.ask(questions([[1]])))
    list(costs.watched(model.ask, questions([[64, 64]])))
    assert BATCH_S / 2 <= costs.as_event()["seconds_per_reply"] < LOADING_S / 3


def test_batches_that_are_in_work_at_once_are_not_timed() -> None:
    costs = ReplyCosts(1)
    assert len(list(costs.watched(Timed(ahead=4).ask, questions([[64]] * 8)))) == 8
    assert costs.as_event() == {
        "image_tokens": {"mean": 64, "min": 64, "max": 64}, "seconds_per_reply": None, "batch_size": 1
    }  # fmt: skip
    assert costs.lines() == ["image tokens of a photo: 64 (64 to 64)"]


def test_what_is_not_known_is_not_told() -> None:
    costs = ReplyCosts(2)
    list(costs.watched(Timed().ask, questions([[0, 0]])))
    assert costs.as_event() == {"image_tokens": None, "seconds_per_reply": None, "batch_size": 2}
    assert costs.lines() == []


class PhotosOfTheirOwn(CannedMllm):
    """Says that the first photo that it is asked about has 1000 tokens, and each other one 100."""

    def reply(self, question: Question) -> Reply:
        is_first = question.image_path == self.asked[0].image_path
        return replace(super().reply(question), num_image_tokens=1000 if is_first else 100)


def test_a_check_counts_each_photo_once(config: RunConfig) -> None:
    said: list[str] = []
    ask_and_check(changed(config, prior={"batch_size": 2}), 3, said.append, PhotosOfTheirOwn())
    assert "3 labeled images of cats, one text each" in said
    assert "image tokens of a photo: 400 (100 to 1000)" in said


class WithTokens(CannedMllm):
    """Says how many tokens a photo has: another number for the labeled ones, for others, and for SAM's masks."""

    labeled: frozenset[str] = frozenset()

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        for batch in batches:  # one by one, as in one process
            yield from super().ask(iter([batch]))

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
