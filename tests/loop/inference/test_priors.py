"""Priors are asked for once, kept as they come, and counted where a reply holds none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.loop.inference.asking import Question
from l2l_ray.loop.inference.priors import (
    Answered,
    KnownMllm,
    fill_all_priors,
    fill_priors,
    known_mllm,
    no_box_sentence,
)
from l2l_ray.loop.state.example_files import read_priors
from l2l_ray.loop.state.prepare import RunData, prepare
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.loading import identify_prior
from l2l_ray.prior.mllm import MllmIdentity, Reply
from l2l_ray.prior.prompt import QWEN_RELATIVE
from l2l_ray.prior.store import PriorStore
from l2l_ray.types import Hint, LabeledExample
from tests.tiny_sams import SAMS
from tests.whole_run import changed

GOOD = '[{"bbox_2d": [100, 200, 500, 600], "label": "cat"}]'


class Model:
    """What answers: canned replies, and a count of what was asked."""

    def __init__(self, bad: str = "", sam: str = "") -> None:
        self.fingerprint, self.sam = "f00d", sam
        self.asked: list[Question] = []
        self.drawn: list[Question] = []
        self.batches: list[int] = []
        self._bad = bad

    def identity(self) -> MllmIdentity:
        return MllmIdentity(self.fingerprint, QWEN_RELATIVE, self.sam)

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        everything = list(batches)
        for batch in reversed(everything):  # any order is allowed
            self.asked += [q for q in batch if q.prior is None]
            self.drawn += [q for q in batch if q.prior is not None]
            self.batches.append(len(batch))
            yield batch, [self.reply(question) for question in batch]

    def reply(self, question: Question) -> Reply:
        if question.prior is not None:
            masks = [f"mask of {box}" for box in question.prior.boxes_xyxy_frac or question.prior.points_xy_frac]
            return Reply.drawn(masks, [0.9] * len(masks))
        return Reply(("I see a cat" if question.expression == self._bad else GOOD,), (-0.1,), 0, 0)


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


def test_who_an_mllm_is_needs_no_loading_where_others_know_it(
    config: RunConfig, run: RunFolder, sets: RunData, tmp_path: Path
) -> None:
    identity = MllmIdentity("known", QWEN_RELATIVE)
    known = KnownMllm(config.prior.model_copy(update={"model": str(tmp_path / "not-there")}), identity)
    assert known.identity() is identity
    with pytest.raises(ConfigError, match="not-there"):
        row = sets.splits["val"][0]
        question = Question("k", row.image_path, row.expression, row.width_px, row.height_px)
        next(known.ask(iter([[question]])))  # a question that nobody has asked does load it


def test_where_the_store_has_every_answer_the_model_is_known_without_loading(
    config: RunConfig, run: RunFolder, sets: RunData
) -> None:
    prior = config.prior.model_copy(update={"device": "cpu"})
    assert known_mllm(config, prior, run, sets) is None
    model = Model()
    model.fingerprint = identify_prior(prior).fingerprint
    for name in sets.prior_order:
        _fill(config, run, sets, model, name)
        run.priors_path(name).unlink()
    known = known_mllm(config, prior, run, sets)
    assert known is not None and known.identity().fingerprint == model.fingerprint
    on_gpu = prior.model_copy(update={"device": "auto"})
    assert known_mllm(config, on_gpu, run, sets) is None, "it would depend on the GPU"


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
    assert event["failures"] == {"not JSON": 1}


def test_people_are_told_how_many_texts_have_no_box_and_why(
    config: RunConfig, run: RunFolder, sets: RunData, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(config, run, sets, Model(sets.splits["val"][1].expression))
    assert [record.getMessage() for record in caplog.records] == [
        "The language model gave no usable box for 1 of 4 texts of the val set (an answer without coordinates: 1); "
        "training goes on."
    ]
    sentence = no_box_sentence({"cut off": 2, "missing key": 1, "not objects": 2}, "labeled", 9)
    assert "5 of 9 texts" in sentence and "(an answer without a box: 3, an answer that was cut off: 2)" in sentence
    assert sentence.endswith("training goes on. Raise prior.max_new_tokens for answers that are cut off.")


# Questions that fail


class Failing(Model):
    """Fails on some expressions, by kind."""

    def __init__(self, failures: dict[str, str]) -> None:
        super().__init__()
        self._failures = failures

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        for batch, replies in super().ask(batches):
            failures = [self._failures.get(q.expression) for q in batch]
            yield (
                batch,
                [Reply.failed(kind, "why") if kind else good for kind, good in zip(failures, replies, strict=True)],
            )


def test_a_question_that_failed_is_counted_and_asked_again_by_another_run(
    config: RunConfig, run: RunFolder, sets: RunData
) -> None:
    bad = sets.splits["val"][1]
    _fill(config, run, sets, Failing({bad.expression: "picture"}))
    assert read_priors(run.priors_path("val"))[bad.sent_id].failure == "picture: why"
    (event,) = [event for event in run.events() if event["event"] == "priors"]
    assert event["failures"] == {"picture": 1}
    run.priors_path("val").unlink()
    assert _fill(config, run, sets, Model()) == 1
    assert not read_priors(run.priors_path("val"))[bad.sent_id].failure


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("model", ConfigError, r"failed on each of the first \d questions \(model: why\).*prior\.model"),
        ("picture", DataError, r"none of the first \d pictures can be opened \(picture: why\)"),
    ],
)
def test_a_run_whose_first_questions_all_fail_ends(
    config: RunConfig, run: RunFolder, sets: RunData, kind: str, error: type[Exception], message: str
) -> None:
    model = Failing({row.expression: kind for row in sets.splits["val"]})
    with pytest.raises(error, match=message):
        _fill(config, run, sets, model)
    assert not run.priors_path("val").exists()
    _fill(config, run, sets, Model(), "labeled")
    _fill(config, run, sets, model)  # the model has answered before: these questions are at fault
    assert all(prior.failure for prior in read_priors(run.priors_path("val")).values())


def test_a_server_that_goes_away_ends_the_run_and_what_it_answered_stays(
    config: RunConfig, run: RunFolder, sets: RunData
) -> None:
    class GoesAway(Model):
        def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
            for number, (batch, replies) in enumerate(super().ask(batches)):
                yield batch, replies if number < 2 else [Reply.failed("server", "HTTP 503") for _ in batch]

    texts = [replace(sets.unlabeled[0], sent_id=number, expression=f"cat {number}") for number in range(20)]
    with PriorStore(config.cache_dir / "priors.sqlite") as store:
        with pytest.raises(ConfigError, match=r"no usable answer to \d+ questions in a row .*HTTP 503.*--resume"):
            fill_priors("unlabeled", texts, run, store, GoesAway(), 2)
        assert len(store) == 4 and not run.priors_path("unlabeled").exists()


def test_an_image_that_is_gone_leaves_its_example_without_a_prior(
    config: RunConfig, run: RunFolder, sets: RunData, tmp_path: Path
) -> None:
    rows = list(sets.splits["val"])
    rows[0] = replace(rows[0], image_path=str(tmp_path / "gone.jpg"))
    model = Failing({rows[0].expression: "picture"})
    assert _fill(config, run, RunData([], [], {"val": rows}), model) == 4
    assert read_priors(run.priors_path("val"))[rows[0].sent_id].failure == "picture: why"


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


# Masks of SAM


@pytest.fixture
def sam_run(config: RunConfig) -> RunFolder:
    """Give the folder of a run whose proposals are SAM's masks, on the same cats and with the same store."""
    prior = {"proposal": "sam", "sam_model": "stands/for-sam"}
    return _opened(changed(config, name="sam", prior=prior))


def _opened(config: RunConfig) -> RunFolder:
    run = RunFolder.open(config)
    run.path.mkdir(parents=True)
    return run


def test_masks_are_drawn_once_and_are_part_of_the_priors(
    config: RunConfig, run: RunFolder, sam_run: RunFolder, sets: RunData
) -> None:
    _fill(config, run, sets, Model())
    bad = sets.splits["val"][1].expression
    model = Model(bad, sam="5a")
    assert _fill(config, sam_run, sets, model) == 0, "what the MLLM has said is known from the run without SAM"
    assert len(model.drawn) == 4
    plain, found = (read_priors(each.priors_path("val")) for each in (run, sam_run))
    for sent_id, prior in found.items():
        (box,) = prior.boxes_xyxy_frac
        assert prior.masks == (f"mask of {box}",) and prior.mask_scores == (0.9,)
        assert replace(prior, key=plain[sent_id].key, masks=(), mask_scores=()) == plain[sent_id]
    assert not {prior.key for prior in plain.values()} & {prior.key for prior in found.values()}
    (event,) = [event for event in sam_run.events() if event["event"] == "priors"]
    assert (event["asked"], event["drawn"]) == (0, 4)
    sam_run.priors_path("val").unlink()
    assert _fill(config, sam_run, sets, model) == 0 and len(model.drawn) == 4, "nor are masks drawn twice"
    assert read_priors(sam_run.priors_path("val")) == found
    sam_run.priors_path("val").unlink()
    other = Model(sam="5b")
    assert _fill(config, sam_run, sets, other) == 0 and len(other.drawn) == 4, "another SAM draws anew"


def test_an_answer_without_a_box_gets_no_masks_and_keeps_its_reason(
    config: RunConfig, sam_run: RunFolder, sets: RunData
) -> None:
    bad = sets.splits["val"][1]
    model = Model(bad.expression, sam="5a")
    assert _fill(config, sam_run, sets, model) == 4 and len(model.drawn) == 3
    prior = read_priors(sam_run.priors_path("val"))[bad.sent_id]
    assert prior.failure.startswith("not JSON") and not prior.masks


def test_what_users_say_gets_masks_too(config: RunConfig, sam_run: RunFolder, sets: RunData) -> None:
    rows, model = sets.splits["val"], Model(sam="5a")
    hinted = [replace(rows[0], hint=BOX), replace(rows[1], hint=POINT), *rows[2:]]
    data = RunData([], [], {"val": hinted})
    assert _fill(config, sam_run, data, model) == 3 and len(model.drawn) == 4
    priors = read_priors(sam_run.priors_path("val"))
    assert priors[rows[0].sent_id].source == "user"
    assert priors[rows[0].sent_id].masks == (f"mask of {BOX.box_xyxy_frac}",)
    (of_point,) = [q.prior for q in model.drawn if q.expression == rows[1].expression]
    assert of_point is not None and of_point.points_xy_frac == POINT.points_xy_frac, "SAM is given the user's point"
    sam_run.priors_path("val").unlink()
    assert _fill(config, sam_run, data, model) == 0 and len(model.drawn) == 4, (
        "they are stored, for they cost something"
    )


def test_where_all_is_a_users_the_mllm_is_not_asked_for_the_masks(
    config: RunConfig, sam_run: RunFolder, sets: RunData
) -> None:
    model = Model(sam="5a")
    hinted = [replace(row, hint=BOX) for row in sets.splits["val"]]
    assert _fill(config, sam_run, RunData([], [], {"val": hinted}), model) == 0
    assert not model.asked and len(model.drawn) == 4


class FailingToDraw(Model):
    """SAM fails on some expressions."""

    def __init__(self, *bad: str) -> None:
        super().__init__(sam="5a")
        self.bad = bad

    def reply(self, question: Question) -> Reply:
        if question.prior is not None and question.expression in self.bad:
            return Reply.failed("sam", "why")
        return super().reply(question)


def test_a_mask_that_fails_is_counted_and_drawn_again_by_another_run(
    config: RunConfig, sam_run: RunFolder, sets: RunData
) -> None:
    bad = sets.splits["val"][1]
    _fill(config, sam_run, sets, FailingToDraw(bad.expression))
    prior = read_priors(sam_run.priors_path("val"))[bad.sent_id]
    assert prior.failure == "sam: why" and not prior.boxes_xyxy_frac and prior.reply == GOOD
    (event,) = [event for event in sam_run.events() if event["event"] == "priors"]
    assert event["failures"] == {"sam": 1}
    sam_run.priors_path("val").unlink()
    again = Model(sam="5a")
    assert _fill(config, sam_run, sets, again) == 0 and [q.expression for q in again.drawn] == [bad.expression]
    assert read_priors(sam_run.priors_path("val"))[bad.sent_id].masks


def test_a_sam_that_draws_nothing_ends_the_run(config: RunConfig, sam_run: RunFolder, sets: RunData) -> None:
    model = FailingToDraw(*(row.expression for row in sets.splits["val"]))
    with pytest.raises(
        ConfigError, match=r"SAM failed on each of the first \d questions \(sam: why\).*prior\.sam_model"
    ):
        _fill(config, sam_run, sets, model)
    assert not sam_run.priors_path("val").exists()


def test_a_prior_without_its_masks_is_half_done(config: RunConfig, sam_run: RunFolder, sets: RunData) -> None:
    told = list[tuple[str, int, int]]()
    with PriorStore(config.cache_dir / "priors.sqlite") as store:
        model, val = Model(sam="5a"), sets.examples("val")
        fill_priors("val", val, sam_run, store, model, 2, lambda *progress: told.append(progress))
    assert told == [("val", 1, 4), ("val", 2, 4), ("val", 3, 4), ("val", 3, 4)]


def test_models_are_known_without_loading_only_where_the_masks_are_stored_too(
    config: RunConfig, sam_run: RunFolder, sets: RunData, tmp_path: Path
) -> None:
    SAMS["sam2"](tmp_path / "sam2")
    prior = sam_run.config.prior.model_copy(update={"device": "cpu", "sam_model": str(tmp_path / "sam2")})
    identity, model = identify_prior(prior), Model()
    model.fingerprint, model.sam = identity.fingerprint, identity.sam
    box_run = _opened(changed(config, name="box"))
    for name in sets.prior_order:
        _fill(config, box_run, sets, model, name)
    assert known_mllm(config, prior, sam_run, sets) is None
    for name in sets.prior_order:
        _fill(config, sam_run, sets, model, name)
        sam_run.priors_path(name).unlink()
    known = known_mllm(config, prior, sam_run, sets)
    assert known is not None and known.identity() == identity
