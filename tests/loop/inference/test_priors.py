"""Priors are asked for once, kept as they come, and counted where a reply holds none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.loop.inference.priors import Answered, Question, fill_all_priors, fill_priors
from l2l_ray.loop.state.example_files import read_priors
from l2l_ray.loop.state.prepare import RunData, prepare
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.mllm import MllmIdentity, Reply
from l2l_ray.prior.prompt import QWEN_RELATIVE
from l2l_ray.prior.store import PriorStore
from l2l_ray.types import Hint, LabeledExample
from tests.whole_run import changed

GOOD = '[{"bbox_2d": [100, 200, 500, 600], "label": "cat"}]'


class Model:
    """What answers: canned replies, and a count of what was asked."""

    def __init__(self, bad: str = "") -> None:
        self.fingerprint = "f00d"
        self.asked: list[Question] = []
        self.batches: list[int] = []
        self._bad = bad

    def identity(self) -> MllmIdentity:
        return MllmIdentity(self.fingerprint, QWEN_RELATIVE)

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        everything = list(batches)
        for batch in reversed(everything):  # any order is allowed
            self.asked += batch
            self.batches.append(len(batch))
            texts = ["I see a cat" if q.expression == self._bad else GOOD for q in batch]
            yield batch, [Reply((text,), (-0.1,), 0, 0) for text in texts]


def _fill(config: RunConfig, run: RunFolder, sets: RunData, model: Model, name: str = "val") -> int:
    with PriorStore(config.cache_dir / "priors.sqlite") as store:
        return fill_priors(name, sets.examples(name), run, store, model, 3)


def test_every_example_gets_its_prior(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    model = Model()
    assert _fill(config, run, sets, model) == 4
    assert sorted(model.batches) == [1, 3]
    priors = read_priors(run.priors_path("val"))
    assert priors.keys() == {row.sent_id for row in sets.splits["val"]}
    assert {prior.boxes_xyxy_frac for prior in priors.values()} == {((0.1, 0.2, 0.5, 0.6),)}
    assert len({prior.key for prior in priors.values()}) == 4


def test_nothing_is_asked_twice(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    model = Model()
    _fill(config, run, sets, model)
    expected = read_priors(run.priors_path("val"))
    run.priors_path("val").unlink()
    assert _fill(config, run, sets, model) == 0  # the store has them all
    other = changed(config, name="other", loop={"seed": 5})
    other_run = RunFolder.open(other)
    assert _fill(other, other_run, prepare(other, other_run), model) == 0  # also those of another run
    assert len(model.asked) == 4
    assert read_priors(run.priors_path("val")) == read_priors(other_run.priors_path("val")) == expected


def test_equal_questions_are_one_question(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    row = sets.splits["val"][0]
    twin = LabeledExample(
        999, row.ref_id, row.image_id, row.image_path, 32, 24, row.expression, row.mask_rle, row.category
    )
    model = Model()
    assert _fill(config, run, RunData([], [], {"val": [row, twin, row]}), model) == 1
    assert read_priors(run.priors_path("val")).keys() == {row.sent_id, 999}


def test_another_model_is_asked_anew(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    _fill(config, run, sets, Model())
    run.priors_path("val").unlink()
    other = Model()
    other.fingerprint = "beef"
    assert _fill(config, run, sets, other) == 4


def test_answers_before_a_crash_are_kept(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    model = Model()

    class Dies(Model):
        def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
            yield next(model.ask(batches))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _fill(config, run, sets, Dies())
    assert not run.priors_path("val").exists()
    kept = len(model.asked)
    assert _fill(config, run, sets, model) == 4 - kept
    assert len(model.asked) == 4


def test_bad_replies_are_counted(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    bad = sets.splits["val"][1]
    _fill(config, run, sets, Model(bad.expression))
    prior = read_priors(run.priors_path("val"))[bad.sent_id]
    assert not prior.boxes_xyxy_frac and prior.failure and prior.reply == "I see a cat"
    (event,) = [event for event in run.events() if event["event"] == "priors"]
    assert (event["set"], event["num"], event["asked"]) == ("val", 4, 4)
    assert list(event["failures"].values()) == [1]


BOX, POINT = Hint((0.5, 0.5, 1.0, 1.0), ((0.75, 0.75),)), Hint(None, ((0.3, 0.4),))


def test_a_users_box_is_not_asked_about_and_not_shared(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    rows = sets.splits["val"]
    hinted = [replace(rows[0], hint=BOX), *rows[1:]]
    model, told = Model(), list[tuple[str, int, int]]()
    with PriorStore(config.cache_dir / "priors.sqlite") as store:
        data = RunData([], [], {"val": hinted})
        args = "val", data.examples("val"), run, store, model, 2, lambda *progress: told.append(progress)
        assert fill_priors(*args) == 3
        assert len(store) == 3
    assert rows[0].expression not in [q.expression for q in model.asked]
    assert told == [("val", 2, 4), ("val", 3, 4)]  # the batch of one comes first
    priors = read_priors(run.priors_path("val"))
    found = priors[rows[0].sent_id]
    assert (found.source, found.boxes_xyxy_frac) == ("user", (BOX.box_xyxy_frac,))
    assert found.points_xy_frac == BOX.points_xy_frac
    assert {priors[row.sent_id].source for row in rows[1:]} == {"mllm"}
    (event,) = [event for event in run.events() if event["event"] == "priors"]
    assert (event["num"], event["asked"], event["by_user"]) == (4, 3, 1)
    run.priors_path("val").unlink()
    assert _fill(config, run, sets, model) == 1, "without the hint the question is open"
    assert read_priors(run.priors_path("val"))[rows[0].sent_id].source == "mllm"


def test_a_set_with_a_box_for_every_item_needs_no_mllm(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    class Absent(Model):
        def identity(self) -> MllmIdentity:
            raise AssertionError("it was loaded")

    hinted = [replace(row, hint=BOX) for row in sets.splits["val"]]
    assert _fill(config, run, RunData([], [], {"val": hinted}), Absent()) == 0
    assert {prior.source for prior in read_priors(run.priors_path("val")).values()} == {"user"}


def test_points_choose_among_answers_which_are_stored_as_they_came(
    config: RunConfig, run: RunFolder, sets: RunData
) -> None:
    rows, model = sets.splits["val"], Model()
    elsewhere = Hint(None, ((0.9, 0.9),))
    hinted = [replace(rows[0], hint=POINT), replace(rows[1], hint=elsewhere), *rows[2:]]
    assert _fill(config, run, RunData([], [], {"val": hinted}), model) == 4
    priors = read_priors(run.priors_path("val"))
    assert priors[rows[0].sent_id].points_xy_frac == POINT.points_xy_frac
    assert priors[rows[1].sent_id].failure.startswith("no box at the user's point")
    (event,) = [event for event in run.events() if event["event"] == "priors"]
    assert event["failures"] == {"no box at the user's point": 1} and "by_user" not in event
    run.priors_path("val").unlink()
    assert _fill(config, run, sets, model) == 0, "the answers are those of the MLLM, for all runs"
    assert {prior.failure for prior in read_priors(run.priors_path("val")).values()} == {""}


def test_all_sets_are_filled_in_the_order_they_are_needed_and_told_of(
    config: RunConfig, run: RunFolder, sets: RunData
) -> None:
    config, told = changed(config, prior={"batch_size": 2}), list[tuple[str, int, int]]()
    fill_all_priors(config, run, sets, Model(), lambda *progress: told.append(progress))
    assert list(dict.fromkeys(name for name, *_ in told)) == ["labeled", "unlabeled", "val", "testA"]
    assert [done for name, done, _ in told if name == "unlabeled"] == [1, 2, 3]  # complete once its file is there
    model = Model()
    fill_all_priors(config, run, sets, model)
    assert not model.asked and all(run.priors_path(name).exists() for name in sets.prior_order)
