"""Every row is a config that may run, and differs from the schedule in what its name says."""

from __future__ import annotations

import json

import pytest

from benchmarks.compare.records import Record
from benchmarks.compare.rows import CURVE, ROWS, SCHEDULES, Task, chosen_rows, with_needed
from l2l_ray.config import PRESETS, RunConfig
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.selector.registry import selectors
from tests.benchmarks.compare.records_by_hand import labels, record


def task(row: str, schedule: str = "5pct", seed: int = 10) -> Task:
    return Task("refshapes", schedule, seed, row)


def needed(of: Task) -> dict[str, Record]:
    """Give the records a row needs; L2L's took a second more than the others."""
    return {
        name: record(
            of.sibling(name), (1.0, 0.5), cpu_s={"burn-in": 40.0, "training": 60.0, "selector": float(name == "l2l")}
        )
        for name in of.spec.needs
    }


@pytest.fixture(scope="module")
def configs() -> dict[str, RunConfig]:
    """Give the config of every row."""
    return {row.name: task(row.name).config(needed(task(row.name))) for row in ROWS}


def test_every_row_is_a_valid_config_of_its_own(configs: dict[str, RunConfig]) -> None:
    seen: dict[str, str] = {}
    for row in ROWS:
        config = configs[row.name]
        assert config.loop.seed == config.data.split_seed == 10
        content = json.dumps([config.model_dump(exclude={"name"}), row.oracle, row.is_biased])
        assert seen.setdefault(content, row.name) == row.name


def test_every_registered_selector_has_a_row(configs: dict[str, RunConfig]) -> None:
    assert {config.selector.name for config in configs.values()} == {spec.name for spec in selectors()}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_is_its_preset_with_another_share_of_labels(schedule: str) -> None:
    preset, frac = SCHEDULES[schedule]
    config, base = task("l2l", schedule, seed=0).config({}), PRESETS[preset]()
    assert config.data.benchmark_frac == (base.data.benchmark_frac if frac is None else frac)
    assert (config.loop, config.selector, config.segmenter) == (base.loop, base.selector, base.segmenter)


def test_the_label_curve_goes_from_half_a_percent_to_ten() -> None:
    shares = [task("l2l", schedule).config({}).data.benchmark_frac for schedule in CURVE]
    assert shares == [0.005, 0.01, 0.02, 0.05, 0.1]


@pytest.mark.parametrize("used", [0.0, 1.0])
def test_there_is_no_random_gate_where_l2l_uses_no_label_or_all(used: float) -> None:
    l2l = record(task("l2l"), (1.0, 0.5), rounds=[labels(used=used)])
    with pytest.raises(DataError, match=f"L2L uses {used:.0%} of its labels"):
        task("random_gate").config({"l2l": l2l})


def test_the_random_gate_has_l2ls_mean_rate() -> None:
    l2l = record(task("l2l"), (1.0, 0.5), rounds=[labels(used=0.2), labels(used=0.6)])
    assert task("random_gate").config({"l2l": l2l}).selector.rate == pytest.approx(0.4)


def test_equal_cost_buys_steps_for_the_seconds_that_l2l_takes_more() -> None:
    # L2L 90 + 10 s of the folds; accept_all 60 + 10 = 70 s, its 450 steps in 60 s: 30 s buy 225 steps, 75 in each of 3
    # rounds.
    l2l = record(task("l2l"), (1.0, 0.5), cpu_s={"burn-in": 40.0, "training": 90.0, "folds": 10.0})
    cheap = record(task("accept_all"), (1.0, 0.5), cpu_s={"training": 60.0, "labels": 10.0, "burn-in": 500.0})
    config = task("accept_all_same_cost").config({"l2l": l2l, "accept_all": cheap})
    assert (config.loop.rounds, config.loop.round_steps) == (3, 225)
    dear = record(task("accept_all"), (1.0, 0.5), cpu_s={"training": 160.0})
    assert task("accept_all_same_cost").config({"l2l": l2l, "accept_all": dear}).loop.round_steps == 150
    late = record(task("l2l"), (1.0, 0.5), cpu_s={"training": 90.0, "folds": 1.0})  # another row trained the burn-in
    with pytest.raises(
        DataError, match="accept_all at L2L's cost, seed 10: what the folds' teachers cost is not known"
    ):
        task("accept_all_same_cost").config({"l2l": late, "accept_all": cheap})


def test_seconds_of_a_gpu_are_the_clocks() -> None:
    assert record(task("l2l"), (1.0, 0.5)).cost_s() == 100.0
    assert record(task("l2l"), (1.0, 0.5), device="cuda").cost_s() == 120.0


@pytest.mark.parametrize(("row", "rounds"), [("l2l_1_round", 1), ("l2l_2_rounds", 2)])
def test_fewer_rounds_take_the_same_steps(row: str, rounds: int) -> None:
    loop, base = task(row).config({}).loop, PRESETS["5pct"]().loop
    assert loop.rounds == rounds
    assert loop.rounds * loop.round_steps == base.rounds * base.round_steps


def test_rows_are_chosen_by_name_or_group_with_what_they_need() -> None:
    assert [row.name for row in chosen_rows(["pwa", "main"])] == ["l2l", "pwa"]
    assert [row.name for row in with_needed(chosen_rows(["accept_all_same_cost"]))] == [
        "l2l",
        "accept_all",
        "accept_all_same_cost",
    ]
    with pytest.raises(ConfigError, match="no row or group 'pwq'; choose from main, selectors"):
        chosen_rows(["pwq"])
