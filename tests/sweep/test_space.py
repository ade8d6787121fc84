"""Points from domains: grids in full, draws that are the same whenever they are drawn."""

from __future__ import annotations

from typing import Any

import pytest

from l2l_ray.errors import ConfigError
from l2l_ray.sweep.space import DEFAULT_SAMPLES, Grid, Uniform, checked_space, draw


def test_a_grid_is_every_combination_and_its_first_field_changes_fastest() -> None:
    points = draw({"a": Grid((1, 2)), "b": Grid(("x", "y"))}, {})
    assert points == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "y"}]
    assert [list(point) for point in points] == [["a", "b"]] * 4


def test_the_first_sample_is_the_configs_own_and_the_others_lie_between_the_bounds() -> None:
    points = draw({"w": Uniform(2.0, 3.0)}, {"w": 0.5})
    assert len(points) == DEFAULT_SAMPLES and points[0] == {"w": 0.5}
    assert all(2.0 <= point["w"] <= 3.0 for point in points[1:]) and len({point["w"] for point in points}) == 8


@pytest.mark.parametrize(("low", "high"), [(2e-5, 1e-4), (1e-6, 4e-5), (1e-3, 1e-3 + 1e-7), (-1e4, 1e4)])
def test_draws_of_a_range_of_any_width_differ_and_lie_within_it(low: float, high: float) -> None:
    drawn = [point["w"] for point in draw({"w": Uniform(low, high)}, {"w": 5.0}, 12)[1:]]
    assert all(low <= value <= high for value in drawn) and len(set(drawn)) == 11


def unchecked(kind: type, **values: Any) -> Any:
    """Return what somebody makes where nothing checks the types of arguments, as it is done in tests."""
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (None, "space is None; expected a dict of config field"),
        ({}, r"space is \{\}; expected"),
        ({"a": Grid((1,)), "b": [1, 2]}, r"domain of b is \[1, 2\]; expected .*Grid\(\(0.01, 0.05\)\) or Uniform"),
        ({"a": unchecked(Grid, values=2)}, r"domain of a is Grid\(values=2\); expected"),
    ],
)
def test_what_is_no_space_is_refused_by_field(space: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked_space(space)


def test_draws_depend_on_their_seed_alone_and_more_of_them_begin_with_the_same() -> None:
    space, own = {"w": Uniform(0.0, 1.0), "v": Uniform(0.0, 1.0)}, {"w": 0.1, "v": 0.1}
    few, many = draw(space, own, 3), draw(space, own, 6)
    assert many[:3] == few and draw(space, own, 3) == few
    assert draw(space, own, 3, draw_seed=1)[1:] != few[1:]
    assert few[1]["w"] != few[1]["v"]


def test_a_field_is_drawn_alike_whatever_is_drawn_beside_it() -> None:
    alone = draw({"w": Uniform(0.0, 1.0)}, {"w": 0.0}, 4)
    beside = draw({"v": Uniform(0.0, 1.0), "w": Uniform(0.0, 1.0)}, {"w": 0.0, "v": 0.0}, 4)
    assert [point["w"] for point in alone] == [point["w"] for point in beside]


def test_every_sample_meets_every_combination() -> None:
    points = draw({"a": Grid((1, 2)), "w": Uniform(0.0, 1.0)}, {"w": 0.5}, 2)
    assert [point["a"] for point in points] == [1, 2, 1, 2]
    assert points[0]["w"] == points[1]["w"] == 0.5 and points[2]["w"] == points[3]["w"] != 0.5


@pytest.mark.parametrize(
    ("domain", "samples", "message"),
    [
        (Grid(()), None, "grid of a is empty"),
        (Uniform(1.0, 0.0), None, "range of a is 1 to 0; put the lower first"),
        (Grid((1, 2)), 3, "--samples 3 has nothing to draw"),
        (Uniform(0.0, 1.0), 0, "--samples must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(domain: Grid | Uniform, samples: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw({"a": domain}, {"a": 0}, samples)
