"""Priors are asked for once, kept as they come, and counted where a reply holds none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.errors import ConfigError, DataError, OutageError
from l2l_ray.loop.inference.asking import Question
from l2l_ray.loop.inference.priors import (
    Answered,
    KnownMllm,
    fill_all_priors,
    fill_priors,
    known_mllm,
    no_box_sentence,
    question_of,
)
from l2l_ray.loop.state.example_files import read_priors
from l2l_ray.loop.state.prepare import RunData, prepare
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.loading import identify_prior
from l2l_ray.prior.mllm import MllmIdentity, Reply
from l2l_ray.prior.prompt import QWEN_RELATIVE
from l2l_ray.prior.store import PriorStore
from l2l_ray.types import Hint, LabeledExample
from tests.loop.canned_mllm import BOX, POINT, CannedMllm, fill
from tests.whole_run import changed


def test_every_example_gets_its_prior(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    model = CannedMllm()
    assert fill(config, run, sets, model) == 4
    assert sorted(model.batches) == [1, 3]
    priors = read_priors(run.priors_path("val"))
    assert priors.keys() == {row.sent_id for row in sets.splits["val"]}
    assert {prior.boxes_xyxy_frac for prior in priors.values()} == {((0.1, 0.2, 0.5, 0.6),)}
    assert len({prior.key for prior in priors.values()}) == 4


def test_nothing_is_asked_twice(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    model = CannedMllm()
    fill(config, run, sets, model)
    expected = read_priors(run.priors_path("val"))
    run.priors_path("val").unlink()
    assert fill(config, run, sets, model) == 0  # the store has them all
    other = changed(config, name="other", loop={"seed": 5})
    other_run = RunFolder.open(other)
    assert fill(other, other_run, prepare(other, other_run), model) == 0  # also those of another run
    assert len(model.asked) == 4
    assert read_priors(run.priors_path("val")) == read_priors(other_run.priors_path("val")) == expected


def test_equal_questions_are_one_question(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    row = sets.splits["val"][0]
    twin = LabeledExample(
        999, row.ref_id, row.image_id, row.image_path, 32, 24, row.expression, row.mask_rle, row.category
    )
    model = CannedMllm()
    assert fill(config, run, RunData([], [], {"val": [row, twin, row]}), model) == 1
    assert read_priors(run.priors_path("val")).keys() == {row.sent_id, 999}


def test_another_model_is_asked_anew(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    fill(config, run, sets, CannedMllm())
    run.priors_path("val").unlink()
    other = CannedMllm()
    other.fingerprint = "beef"
    assert fill(config, run, sets, other) == 4


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
    model = CannedMllm()
    model.fingerprint = identify_prior(prior).fingerprint
    for name in sets.prior_order:
        fill(config, run, sets, model, name)
        run.priors_path(name).unlink()
    known = known_mllm(config, prior, run, sets)
    assert known is not None and known.identity().fingerprint == model.fingerprint
    on_gpu = prior.model_copy(update={"device": "auto"})
    assert known_mllm(config, on_gpu, run, sets) is None, "it would depend on the GPU"


def test_answers_before_a_crash_are_kept(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    model = CannedMllm()

    class Dies(CannedMllm):
        def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
            yield next(model.ask(batches))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(config, run, sets, Dies())
    assert not run.priors_path("val").exists()
    kept = len(model.asked)
    assert fill(config, run, sets, model) == 4 - kept
    assert len(model.asked) == 4


def test_bad_replies_are_counted(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    bad = sets.splits["val"][1]
    fill(config, run, sets, CannedMllm(bad.expression))
    prior = read_priors(run.priors_path("val"))[bad.sent_id]
    assert not prior.boxes_xyxy_frac and prior.failure and prior.reply == "I see a cat"
    (event,) = [event for event in run.events() if event["event"] == "priors"]
    assert (event["set"], event["num"], event["asked"]) == ("val", 4, 4)
    assert event["failures"] == {"not JSON": 1}


def test_people_are_told_how_many_texts_have_no_box_and_why(
    config: RunConfig, run: RunFolder, sets: RunData, caplog: pytest.LogCaptureFixture
) -> None:
    fill(config, run, sets, CannedMllm(sets.splits["val"][1].expression))
    assert [record.getMessage() for record in caplog.records] == [
        "The language model gave no usable box for 1 of 4 texts of the val set (an answer without coordinates: 1); "
        "training goes on."
    ]
    sentence = no_box_sentence({"cut off": 2, "missing key": 1, "not objects": 2}, "labeled", 9)
    assert "5 of 9 texts" in sentence and "(an answer without a box: 3, an answer that was cut off: 2)" in sentence
    assert sentence.endswith("training goes on. Raise prior.max_new_tokens for answers that are cut off.")


# Questions that fail


class Failing(CannedMllm):
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
    fill(config, run, sets, Failing({bad.expression: "picture"}))
    assert read_priors(run.priors_path("val"))[bad.sent_id].failure == "picture: why"
    (event,) = [event for event in run.events() if event["event"] == "priors"]
    assert event["failures"] == {"picture": 1}
    run.priors_path("val").unlink()
    assert fill(config, run, sets, CannedMllm()) == 1
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
        fill(config, run, sets, model)
    assert not run.priors_path("val").exists()
    fill(config, run, sets, CannedMllm(), "labeled")
    fill(config, run, sets, model)  # the model has answered before: these questions are at fault
    assert all(prior.failure for prior in read_priors(run.priors_path("val")).values())


def test_a_server_that_goes_away_ends_the_run_and_what_it_answered_stays(
    config: RunConfig, run: RunFolder, sets: RunData
) -> None:
    class GoesAway(CannedMllm):
        def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
            for number, (batch, replies) in enumerate(super().ask(batches)):
                yield batch, replies if number < 2 else [Reply.failed("server", "HTTP 503") for _ in batch]

    texts = [replace(sets.unlabeled[0], sent_id=number, expression=f"cat {number}") for number in range(20)]
    with PriorStore(config.cache_dir / "priors.sqlite") as store:
        with pytest.raises(OutageError, match=r"no usable answer to \d+ questions in a row .*HTTP 503.*--resume"):
            fill_priors("unlabeled", texts, run, store, GoesAway(), 2)
        assert len(store) == 4 and not run.priors_path("unlabeled").exists()


def test_what_others_gave_up_is_not_asked_again_nor_held_against_the_server(
    config: RunConfig, run: RunFolder, sets: RunData, tmp_path: Path
) -> None:
    texts = [replace(sets.unlabeled[0], sent_id=number, expression=f"cat {number}") for number in range(20)]
    canned = CannedMllm()
    given_up = {question_of(e, canned.fingerprint).key: Reply.failed("server", "HTTP 503") for e in texts[:10]}
    missing = config.prior.model_copy(update={"model": str(tmp_path / "not-there")})
    known = KnownMllm(missing, canned.identity(), given_up)

    def failures() -> list[str]:
        assert fill_priors("unlabeled", texts, run, store, known, 2) == 0
        priors = read_priors(run.priors_path("unlabeled"))
        return [priors[number].failure for number in range(20)]

    with PriorStore(config.cache_dir / "priors.sqlite") as store:
        fill_priors("unlabeled", texts[10:], run, store, canned, 2)
        assert failures() == ["server: HTTP 503"] * 10 + [""] * 10
        fill_priors("unlabeled", texts, run, store, canned, 2)  # another run, meanwhile
        assert failures() == [""] * 20


def test_an_image_that_is_gone_leaves_its_example_without_a_prior(
    config: RunConfig, run: RunFolder, sets: RunData, tmp_path: Path
) -> None:
    rows = list(sets.splits["val"])
    rows[0] = replace(rows[0], image_path=str(tmp_path / "gone.jpg"))
    model = Failing({rows[0].expression: "picture"})
    assert fill(config, run, RunData([], [], {"val": rows}), model) == 4
    assert read_priors(run.priors_path("val"))[rows[0].sent_id].failure == "picture: why"


def test_a_users_box_is_not_asked_about_and_not_shared(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    rows = sets.splits["val"]
    hinted = [replace(rows[0], hint=BOX), *rows[1:]]
    model, told = CannedMllm(), list[tuple[str, int, int]]()
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
    assert fill(config, run, sets, model) == 1, "without the hint the question is open"
    assert read_priors(run.priors_path("val"))[rows[0].sent_id].source == "mllm"


def test_a_set_with_a_box_for_every_item_needs_no_mllm(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    class Absent(CannedMllm):
        def identity(self) -> MllmIdentity:
            raise AssertionError("it was loaded")

    hinted = [replace(row, hint=BOX) for row in sets.splits["val"]]
    assert fill(config, run, RunData([], [], {"val": hinted}), Absent()) == 0
    assert {prior.source for prior in read_priors(run.priors_path("val")).values()} == {"user"}


def test_points_choose_among_answers_which_are_stored_as_they_came(
    config: RunConfig, run: RunFolder, sets: RunData
) -> None:
    rows, model = sets.splits["val"], CannedMllm()
    elsewhere = Hint(None, ((0.9, 0.9),))
    hinted = [replace(rows[0], hint=POINT), replace(rows[1], hint=elsewhere), *rows[2:]]
    assert fill(config, run, RunData([], [], {"val": hinted}), model) == 4
    priors = read_priors(run.priors_path("val"))
    assert priors[rows[0].sent_id].points_xy_frac == POINT.points_xy_frac
    assert priors[rows[1].sent_id].failure.startswith("no box at the user's point")
    (event,) = [event for event in run.events() if event["event"] == "priors"]
    assert event["failures"] == {"no box at the user's point": 1} and "by_user" not in event
    run.priors_path("val").unlink()
    assert fill(config, run, sets, model) == 0, "the answers are those of the MLLM, for all runs"
    assert {prior.failure for prior in read_priors(run.priors_path("val")).values()} == {""}


def test_all_sets_are_filled_in_the_order_they_are_needed_and_told_of(
    config: RunConfig, run: RunFolder, sets: RunData
) -> None:
    config, told = changed(config, prior={"batch_size": 2}), list[tuple[str, int, int]]()
    fill_all_priors(config, run, sets, CannedMllm(), lambda *progress: told.append(progress))
    assert list(dict.fromkeys(name for name, *_ in told)) == ["labeled", "unlabeled", "val", "testA"]
    assert [done for name, done, _ in told if name == "unlabeled"] == [1, 2, 3]  # complete once its file is there
    model = CannedMllm()
    fill_all_priors(config, run, sets, model)
    assert not model.asked and all(run.priors_path(name).exists() for name in sets.prior_order)
