"""Masks of SAM are drawn once, for what the MLLM and users say, and are part of the priors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.errors import ConfigError
from l2l_ray.loop.inference.asking import Question
from l2l_ray.loop.inference.priors import fill_priors, known_mllm
from l2l_ray.loop.state.example_files import read_priors
from l2l_ray.loop.state.prepare import RunData
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.loading import identify_prior
from l2l_ray.prior.reply import Reply
from l2l_ray.prior.store import PriorStore
from tests.loop.canned_mllm import BOX, GOOD, POINT, CannedMllm, fill
from tests.tiny_sams import SAMS
from tests.whole_run import changed


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
    fill(config, run, sets, CannedMllm())
    bad = sets.splits["val"][1].expression
    model = CannedMllm(bad, sam="5a")
    assert fill(config, sam_run, sets, model) == 0, "what the MLLM has said is known from the run without SAM"
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
    assert fill(config, sam_run, sets, model) == 0 and len(model.drawn) == 4, "nor are masks drawn twice"
    assert read_priors(sam_run.priors_path("val")) == found
    sam_run.priors_path("val").unlink()
    other = CannedMllm(sam="5b")
    assert fill(config, sam_run, sets, other) == 0 and len(other.drawn) == 4, "another SAM draws anew"


def test_an_answer_without_a_box_gets_no_masks_and_keeps_its_reason(
    config: RunConfig, sam_run: RunFolder, sets: RunData
) -> None:
    bad = sets.splits["val"][1]
    model = CannedMllm(bad.expression, sam="5a")
    assert fill(config, sam_run, sets, model) == 4 and len(model.drawn) == 3
    prior = read_priors(sam_run.priors_path("val"))[bad.sent_id]
    assert prior.failure.startswith("not JSON") and not prior.masks


def test_what_users_say_gets_masks_too(config: RunConfig, sam_run: RunFolder, sets: RunData) -> None:
    rows, model = sets.splits["val"], CannedMllm(sam="5a")
    hinted = [replace(rows[0], hint=BOX), replace(rows[1], hint=POINT), *rows[2:]]
    data = RunData([], [], {"val": hinted})
    assert fill(config, sam_run, data, model) == 3 and len(model.drawn) == 4
    priors = read_priors(sam_run.priors_path("val"))
    assert priors[rows[0].sent_id].source == "user"
    assert priors[rows[0].sent_id].masks == (f"mask of {BOX.box_xyxy_frac}",)
    (of_point,) = [q.prior for q in model.drawn if q.expression == rows[1].expression]
    assert of_point is not None and of_point.points_xy_frac == POINT.points_xy_frac, "SAM is given the user's point"
    sam_run.priors_path("val").unlink()
    assert fill(config, sam_run, data, model) == 0 and len(model.drawn) == 4, "they are stored, for they cost something"


def test_where_all_is_a_users_the_mllm_is_not_asked_for_the_masks(
    config: RunConfig, sam_run: RunFolder, sets: RunData
) -> None:
    model = CannedMllm(sam="5a")
    hinted = [replace(row, hint=BOX) for row in sets.splits["val"]]
    assert fill(config, sam_run, RunData([], [], {"val": hinted}), model) == 0
    assert not model.asked and len(model.drawn) == 4


class FailingToDraw(CannedMllm):
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
    fill(config, sam_run, sets, FailingToDraw(bad.expression))
    prior = read_priors(sam_run.priors_path("val"))[bad.sent_id]
    assert prior.failure == "sam: why" and not prior.boxes_xyxy_frac and prior.reply == GOOD
    (event,) = [event for event in sam_run.events() if event["event"] == "priors"]
    assert event["failures"] == {"sam": 1}
    sam_run.priors_path("val").unlink()
    again = CannedMllm(sam="5a")
    assert fill(config, sam_run, sets, again) == 0 and [q.expression for q in again.drawn] == [bad.expression]
    assert read_priors(sam_run.priors_path("val"))[bad.sent_id].masks


def test_a_sam_that_draws_nothing_ends_the_run(config: RunConfig, sam_run: RunFolder, sets: RunData) -> None:
    model = FailingToDraw(*(row.expression for row in sets.splits["val"]))
    with pytest.raises(
        ConfigError, match=r"SAM failed on each of the first \d questions \(sam: why\).*prior\.sam_model"
    ):
        fill(config, sam_run, sets, model)
    assert not sam_run.priors_path("val").exists()


def test_a_prior_without_its_masks_is_half_done(config: RunConfig, sam_run: RunFolder, sets: RunData) -> None:
    told = list[tuple[str, int, int]]()
    with PriorStore(config.cache_dir / "priors.sqlite") as store:
        model, val = CannedMllm(sam="5a"), sets.examples("val")
        fill_priors("val", val, sam_run, store, model, 2, lambda *progress: told.append(progress))
    assert told == [("val", 1, 4), ("val", 2, 4), ("val", 3, 4), ("val", 3, 4)]


def test_models_are_known_without_loading_only_where_the_masks_are_stored_too(
    config: RunConfig, sam_run: RunFolder, sets: RunData, tmp_path: Path
) -> None:
    SAMS["sam2"](tmp_path / "sam2")
    prior = sam_run.config.prior.model_copy(update={"device": "cpu", "sam_model": str(tmp_path / "sam2")})
    identity, model = identify_prior(prior), CannedMllm()
    model.fingerprint, model.sam = identity.fingerprint, identity.sam
    box_run = _opened(changed(config, name="box"))
    for name in sets.prior_order:
        fill(config, box_run, sets, model, name)
    assert known_mllm(config, prior, sam_run, sets) is None
    for name in sets.prior_order:
        fill(config, sam_run, sets, model, name)
        sam_run.priors_path(name).unlink()
    known = known_mllm(config, prior, sam_run, sets)
    assert known is not None and known.identity() == identity
