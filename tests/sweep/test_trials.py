"""Trials from points and seeds: whole configs, each named by its own hash."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from l2l_ray.config import PRESETS, RewardConfig, lavt_like_config, smoke_config
from l2l_ray.errors import ConfigError
from l2l_ray.sweep.space import Grid, Space, Uniform
from l2l_ray.sweep.trials import short_names, trial_id, trials_of
from tests.whole_run import changed

SPACE: Space = {"data.labeled_frac": Grid((0.1, 0.2)), "selector.name": Grid(("supervised", "l2l"))}


def test_each_point_is_run_with_each_seed_which_moves_the_labeled_draw_and_training() -> None:
    trials = trials_of(smoke_config(), SPACE, "s", [0, 3])
    assert [(t.values["data.labeled_frac"], t.values["selector.name"], t.seed) for t in trials[:3]] == [
        (0.1, "supervised", 0), (0.1, "supervised", 3), (0.2, "supervised", 0)
    ]  # fmt: skip
    assert len(trials) == 8
    for trial in trials:
        assert trial.config.loop.seed == trial.config.data.split_seed == trial.seed
        assert trial.config.data.labeled_frac == trial.values["data.labeled_frac"]
        assert trial.config.name == f"s/{trial.id}" and not trial.config.resume


def test_the_id_is_of_what_decides_the_result_alone() -> None:
    config = smoke_config()
    elsewhere = changed(config, name="x", run_root="/else", resume=True, cluster={"num_labelers": 7})
    assert trial_id(elsewhere) == trial_id(config)
    assert trial_id(changed(config, loop={"lr": 1e-4})) != trial_id(config)


@pytest.mark.parametrize(
    "other",
    [
        {"loop": {"eval_batch": 3, "micro_batch": 1}},
        {"prior": {"url": "http://gpu:8000/v1", "timeout_s": 99.0, "batch_size": 2}},
        {"data": {"image_cache_mb": 64}},
        {"segmenter": {"checkpoint_activations": True}},
    ],
)
def test_settings_that_change_no_result_change_no_id(other: dict[str, Any]) -> None:
    assert trial_id(changed(smoke_config(), **other)) == trial_id(smoke_config())


def test_the_same_point_has_the_same_name_in_any_sweep() -> None:
    one = {trial.id for trial in trials_of(smoke_config(), SPACE, "one")}
    other = {trial.id for trial in trials_of(smoke_config(), {"selector.name": Grid(("l2l",))}, "other")}
    beside = changed(smoke_config(), data={"labeled_frac": 0.2})
    again = {trial.id for trial in trials_of(beside, {"selector.name": Grid(("l2l",))}, "again")}
    assert not other & one and again < one


def test_a_point_that_comes_twice_is_one_trial() -> None:
    assert len(trials_of(smoke_config(), {"data.labeled_frac": Grid((0.1, 0.1, 0.2))}, "s")) == 2


def test_a_trial_is_one_selector() -> None:
    config = changed(smoke_config(), compare=("supervised",))
    (trial,) = trials_of(config, {"selector.name": Grid(("supervised",))}, "s")
    assert trial.config.compare == ()


def test_rivals_share_seed_data_and_rounds() -> None:
    trials = trials_of(smoke_config(), SPACE | {"loop.rounds": Grid((2, 4))}, "s", [0, 1])
    groups = {trial.rivals: [t for t in trials if t.rivals == trial.rivals] for trial in trials}
    assert len(groups) == 8
    for rivals in groups.values():
        assert [trial.values["selector.name"] for trial in rivals] == ["supervised", "l2l"]
        assert len({trial.config.loop.rounds for trial in rivals}) == 1


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"selector.reword.coverage": Grid((1,))}, r"field 'selector.reword.coverage' does not exist; did you mean"),
        ({"loop.seed": Grid((1,))}, "use --seeds 0 1 2"),
        ({"cluster.num_labelers": Grid((1,))}, "changes no result"),
        ({"data.labeled_frac": Grid((0.1, 1.5))}, r"point labeled_frac=1.5 .*cannot be: data.labeled_frac"),
        ({"prior.temperature": Grid((0.1, 0.2))}, "would change nothing by prior.temperature: .*num_samples is 1"),
    ],
)
def test_an_impossible_space_is_refused(space: Space, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trials_of(smoke_config(), space, "s")


def test_a_share_of_benchmarks_is_not_swept_over_data_that_may_be_none() -> None:
    space: Space = {"data.benchmark_frac": Grid((0.3, 0.6))}
    assert len(trials_of(smoke_config(), space, "s")) == 2
    own = changed(smoke_config(), data={"root": "/refer", "dataset": "cups", "split_by": "own"})
    with pytest.raises(ConfigError, match=r"data.root names others; sweep data\.labeled_frac, which holds for every"):
        trials_of(own, space, "s")


@pytest.mark.parametrize("seeds", [[], [0, 0], [-1]])
def test_wrong_seeds_are_refused(seeds: list[int]) -> None:
    with pytest.raises(ConfigError, match="different numbers from 0 up"):
        trials_of(smoke_config(), SPACE, "s", seeds)


def test_short_names_differ() -> None:
    names = short_names(["selector.lr", "loop.lr", "selector.name", "data.labeled_frac"])
    assert list(names.values()) == ["selector.lr", "loop.lr", "selector", "labeled_frac"]


@pytest.mark.parametrize("name", ["label_ratio", "reward_weights", "selectors"])
@pytest.mark.parametrize("preset", list(PRESETS))
def test_the_shipped_spaces_fit_every_preset(name: str, preset: str) -> None:
    config = PRESETS[preset]()
    assert len(trials_of(config, importlib.import_module(f"tune_spaces.{name}").space(config), "s")) > 1


def test_label_ratio_asks_the_published_shares_of_a_large_data_set() -> None:
    space = importlib.import_module("tune_spaces.label_ratio").space(lavt_like_config())
    assert space["data.labeled_frac"] == Grid((0.005, 0.01, 0.02, 0.05, 0.1))


def test_reward_weights_are_fields_of_the_reward() -> None:
    module = importlib.import_module("tune_spaces.reward_weights")
    assert set(module.RANGES) <= set(RewardConfig.model_fields)
    assert module.space(smoke_config())["selector.reward.unlabeled"] == Uniform(*module.RANGES["unlabeled"])
    with_cells = module.space(smoke_config().with_values({"selector.cells": True}))
    assert set(with_cells) - set(module.space(smoke_config())) == {"selector.reward.wrong_cost"}
