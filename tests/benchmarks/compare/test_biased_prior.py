"""Boxes move to the nearest object of the same kind, for chosen categories alone; never for other data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.compare.biased_prior import Objects, chosen_categories, move_priors, prepare_biased
from l2l_ray.config import RunConfig
from l2l_ray.errors import ConfigError
from l2l_ray.loop.inference.asking import Question
from l2l_ray.loop.inference.priors import Answered
from l2l_ray.loop.state.example_files import read_priors
from l2l_ray.loop.state.prepare import prepare, read_facts
from l2l_ray.loop.state.run_folder import RunFolder, continued
from l2l_ray.prior.mllm import MllmIdentity, Reply
from l2l_ray.prior.prompt import QWEN_RELATIVE
from l2l_ray.types import Prior
from tests.whole_run import changed, run_up_to_the_report, tiny_config

BOXES = {1: (0.0, 0.0, 0.2, 0.2), 2: (0.8, 0.8, 1.0, 1.0), 3: (0.3, 0.0, 0.5, 0.2), 4: (0.2, 0.0, 0.3, 0.2)}
BOXES |= {5: (0.1, 0.0, 0.2, 0.2)}
# Image 7 holds circles 1, 2 and 3 and a star 4; circle 5 is nearer, but in another image.
OBJECTS = Objects(
    {11: 1, 12: 4, 13: 5},
    BOXES,
    {1: "circle", 2: "circle", 3: "circle", 4: "star", 5: "circle"},
    {1: 7, 2: 7, 3: 7, 4: 7, 5: 8},
)
OF_CIRCLES = next(seed for seed in range(20) if chosen_categories(OBJECTS, seed) == ("circle",))
OF_STARS = next(seed for seed in range(20) if chosen_categories(OBJECTS, seed) == ("star",))


def prior(key: str) -> Prior:
    return Prior(key, ((0.0, 0.0, 0.2, 0.3), (0.5, 0.5, 1.0, 1.0)), (0.8, 0.3), (), "circle", 0.8, "", "")


PRIORS = {11: prior("a"), 12: prior("b"), 13: prior("c"), 14: Prior.absent("d", "no_box", "")}


def test_the_nearest_object_alike_is_of_the_same_kind_and_image() -> None:
    assert [OBJECTS.nearest_alike(ann_id) for ann_id in (1, 2, 3, 4, 5)] == [3, 3, 1, None, None]


def test_boxes_about_chosen_categories_move_and_say_so_in_their_key() -> None:
    objects = Objects({**OBJECTS.refs, 14: 1}, OBJECTS.boxes, OBJECTS.categories, OBJECTS.images)
    moved = move_priors(PRIORS, objects, OF_CIRCLES, frac=1.0)
    assert moved[11].boxes_xyxy_frac == (BOXES[3],) and moved[11].box_scores == (0.8,)
    assert moved[11].key != "a" and (moved[11].score, moved[11].phrase) == (0.8, "circle")
    assert {i: moved[i] for i in (12, 13, 14)} == {i: PRIORS[i] for i in (12, 13, 14)}  # other kind, alone, no prior
    assert move_priors(PRIORS, objects, OF_STARS, frac=1.0) == PRIORS
    assert move_priors(PRIORS, objects, OF_CIRCLES, frac=0.0) == PRIORS
    with pytest.raises(ConfigError, match=r"must be in \[0, 1\], got 1.5"):
        move_priors(PRIORS, objects, 0, frac=1.5)


def test_a_share_of_the_sentences_is_drawn_alike_every_time() -> None:
    objects = Objects(dict.fromkeys(range(1000), 1), OBJECTS.boxes, OBJECTS.categories, OBJECTS.images)
    priors = {sent_id: prior(str(sent_id)) for sent_id in range(1000)}
    moved = move_priors(priors, objects, OF_CIRCLES, frac=0.5)
    assert sum(moved[i] != priors[i] for i in priors) == pytest.approx(500, abs=50)
    assert move_priors(priors, objects, OF_CIRCLES, frac=0.5) == moved


@pytest.mark.parametrize(("num", "num_chosen"), [(9, 3), (8, 2), (2, 1)])
def test_a_third_of_the_categories_rounded_down_is_chosen_by_the_seed(num: int, num_chosen: int) -> None:
    categories = {number: f"shape{number}" for number in range(num)}
    objects = Objects({}, {}, categories, {})
    drawn = {chosen_categories(objects, seed) for seed in range(5)}
    assert {len(names) for names in drawn} == {num_chosen} and len(drawn) > 1


class Model:
    """What answers: always the same box."""

    def identity(self) -> MllmIdentity:
        return MllmIdentity("f00d", QWEN_RELATIVE)

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        for batch in batches:
            reply = '[{"bbox_2d": [100, 200, 500, 600], "label": "circle"}]'
            yield batch, [Reply((reply,), (-0.1,), 0, 0) for _ in batch]


def test_a_run_is_given_moved_priors_and_says_so(tmp_path: Path) -> None:
    config = changed(tiny_config(tmp_path), data={"num_train_refs": 60, "num_eval_refs": 12})
    run = RunFolder.open(config)
    data = prepare(config, run)
    done = prepare_biased(config, run, data, Model(), frac=1.0)
    assert json.loads((run.path / "biased_prior.json").read_text()) == done
    assert done["kind"] == "same_class" and done["moved"].keys() == {"labeled", "unlabeled", "val", "testA", "testB"}
    assert "priors moved on purpose" in read_facts(run).notices[-1]  # results.json and the report show notices
    objects, num_moved = Objects.read(config), 0
    for name in data.prior_order:
        answered = (0.1, 0.2, 0.5, 0.6)
        for sent_id, found in read_priors(run.priors_path(name)).items():
            if found.boxes_xyxy_frac != (answered,):
                num_moved += 1
                other = objects.nearest_alike(objects.refs[sent_id])
                assert other is not None and found.boxes_xyxy_frac == (objects.boxes[other],)
                assert objects.categories[objects.refs[sent_id]] in done["categories"]
    assert num_moved == sum(moved for moved, _ in done["moved"].values()) > 0
    assert prepare_biased(config, run, data, Model(), frac=1.0) == done  # a second time changes nothing
    notices = json.loads((run_up_to_the_report(continued(config)).path / "results.json").read_text())["notices"]
    assert any("priors moved on purpose" in notice for notice in notices)
    assert not (run.path / "quarantine").exists(), "nothing of it is taken for damaged"


def test_no_other_data_are_moved() -> None:
    config = changed(RunConfig(), data={"root": "/data", "dataset": "refcoco", "split_by": "unc"})
    with pytest.raises(ConfigError, match="embedded benchmark alone, got data.root '/data'"):
        Objects.read(config)
