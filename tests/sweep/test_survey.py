"""What is known before a sweep starts: impossible trials are refused, each text is asked about once."""

from __future__ import annotations

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.errors import ConfigError
from l2l_ray.loop.state.enough import candidates_of
from l2l_ray.sweep.space import Grid
from l2l_ray.sweep.survey import survey
from l2l_ray.sweep.trials import trials_of

SELECTORS = Grid(("supervised", "l2l"))


def test_a_share_with_one_labeled_image_is_refused_for_a_learner_alone(smoke: RunConfig) -> None:
    num = len({e.image_id for e in candidates_of(smoke).labeled}) / smoke.data.benchmark_frac
    one = round(1.5 / num, 4)
    space = {"data.labeled_frac": Grid((one, 0.5)), "selector.name": SELECTORS}
    with pytest.raises(ConfigError) as refused:
        survey(trials_of(smoke, space, "s"))
    start = f"1 of 4 trials cannot run, so none was started: labeled_frac={one:g} selector=l2l seed=0: "
    assert str(refused.value).startswith(start + "1 labeled image, and l2l needs 2")


def test_a_share_with_no_image_is_refused_for_all(smoke: RunConfig) -> None:
    space = {"data.labeled_frac": Grid((0.0001, 0.5)), "selector.name": SELECTORS}
    with pytest.raises(ConfigError, match=r"2 of 4 trials cannot run.*gives 0 labeled images"):
        survey(trials_of(smoke, space, "s"))


def test_the_mllm_is_asked_about_the_union_of_all_shares_and_seeds(smoke: RunConfig) -> None:
    trials = trials_of(smoke, {"data.labeled_frac": Grid((0.2, 0.5))}, "s", [0, 1])
    (asked,) = survey(trials)
    found = [candidates_of(trial.config) for trial in trials]
    sets = [examples for one in found for examples in (one.labeled, one.unlabeled, *one.splits.values())]
    assert set(asked.examples) == {example.sent_id for examples in sets for example in examples}
    assert sorted(asked.trials) == sorted(trial.id for trial in trials)


def test_another_way_of_asking_is_asked_apart(smoke: RunConfig) -> None:
    groups = survey(trials_of(smoke, {"prior.max_new_tokens": Grid((16, 32))}, "s"))
    assert sorted(group.config.prior.max_new_tokens for group in groups) == [16, 32]
    assert [len(group.trials) for group in groups] == [1, 1]
