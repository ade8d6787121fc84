"""Which selector is best, all else being equal? Every built-in one, from the same burn-in; best with several seeds."""

from __future__ import annotations

from l2l_ray.config import RunConfig
from l2l_ray.selector.registry import selectors
from l2l_ray.sweep.space import Grid, Space


def space(config: RunConfig) -> Space:
    """Return a grid of the built-in selectors, and the config's own if it is none of them."""
    names = dict.fromkeys([*(spec.name for spec in selectors()), config.selector.name])
    return {"selector.name": Grid(tuple(names))}
