"""What a sweep tries: domains of config fields, and the points drawn from them, all known before anything starts.

Draws are keyed by seed, field and number, so the same command gives the same points, and more draws begin with the
same ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from l2l_ray.errors import ConfigError
from l2l_ray.randomness import keyed_uniform, sample_key

DEFAULT_SAMPLES = 8  # points of a space with something to draw, the config's own among them (ours)
_STEPS = 4  # a drawn value has so many decimals more than its range's width: enough to tell draws apart, and to read


@dataclass(frozen=True)
class Grid:
    """Every one of these values.

    Example: `Grid((0.01, 0.05))`
    """

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Uniform:
    """A number drawn between two bounds, rounded to a ten-thousandth of their distance or less.

    Example: `Uniform(0.0, 1.0)`
    """

    low: float
    high: float


Space = Mapping[str, Grid | Uniform]  # config field -> domain
Values = dict[str, Any]  # config field -> value


def checked_space(space: object) -> Space:
    """Return a space that somebody wrote.

    Raises:
        ConfigError: It is none.
    """
    expected = "a dict of config field -> Grid((0.01, 0.05)) or Uniform(0.0, 1.0)"
    if not isinstance(space, Mapping) or not space:
        raise ConfigError(f"the sweep's space is {space!r}; expected {expected}")
    for field, domain in space.items():
        is_grid = isinstance(domain, Grid) and isinstance(domain.values, tuple | list)
        if not is_grid and not isinstance(domain, Uniform):
            raise ConfigError(f"the sweep's domain of {field} is {domain!r}; expected {expected}")
    return space


def draw(space: Space, own: Mapping[str, Any], num_samples: int | None = None, draw_seed: int = 0) -> list[Values]:
    """Return the points of a space: every combination of its grids, with each sample of what is drawn.

    The first sample is the config's own values, so that every other is compared with what there is. The first grid
    changes fastest: neighbours then tend to need different burn-ins, and need not wait for one another.

    Args:
        space: Config field -> domain.
        own: Value of each drawn field in the config.
        num_samples: Samples of the drawn fields; None = `DEFAULT_SAMPLES`, or 1 where nothing is drawn.
        draw_seed: Seed of the draws.
    Raises:
        ConfigError: A domain is empty or upside down, or samples are asked for where nothing is drawn.
    """
    for field, domain in space.items():
        if isinstance(domain, Grid) and not domain.values:
            raise ConfigError(f"the sweep's grid of {field} is empty; give it at least one value")
        if isinstance(domain, Uniform) and not domain.low < domain.high:
            raise ConfigError(f"the sweep's range of {field} is {domain.low:g} to {domain.high:g}; put the lower first")
    drawn = {field: domain for field, domain in space.items() if isinstance(domain, Uniform)}
    if num_samples is None:
        num_samples = DEFAULT_SAMPLES if drawn else 1
    if num_samples < 1:
        raise ConfigError(f"--samples must be at least 1, got {num_samples}")
    if num_samples > 1 and not drawn:
        raise ConfigError(
            f"--samples {num_samples} has nothing to draw: the space is a fixed grid; leave it out, or repeat the grid "
            "with --seeds 0 1 2"
        )
    samples: list[Values] = [{field: own[field] for field in drawn}]
    for number in range(1, num_samples):
        samples.append({field: _drawn(domain, draw_seed, field, number) for field, domain in drawn.items()})
    grids = [[(field, value) for value in d.values] for field, d in space.items() if isinstance(d, Grid)]
    combinations = [dict(reversed(pairs)) for pairs in itertools.product(*reversed(grids))]
    return [{**combination, **sample} for sample in samples for combination in combinations]


def _drawn(domain: Uniform, draw_seed: int, field: str, number: int) -> float:
    share = float(keyed_uniform([sample_key(draw_seed, "sweep", field, number)], 1, "sweep")[0, 0])
    width = domain.high - domain.low
    drawn = round(domain.low + share * width, _STEPS - min(0, math.floor(math.log10(width))))
    return min(max(drawn, domain.low), domain.high)
