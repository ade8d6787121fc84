"""How should labels be rewarded? Each setting of the reward is drawn apart.

`unlabeled` is the weight of images without truth (0 switches them off), `gate_margin` how much better than average a
label must be, `wrong_cost`, where `selector.cells` is on, what keeping a wrong pixel costs where a right one earns 1.
Source: ours.
"""

from __future__ import annotations

from l2l_ray.config import RunConfig
from l2l_ray.sweep.space import Space, Uniform

# Fields of RewardConfig, each with the smallest and the largest value that is tried.
RANGES = {"unlabeled": (0.0, 1.0), "gate_margin": (-0.2, 0.2), "wrong_cost": (1.0, 9.0)}


def space(config: RunConfig) -> Space:
    """Return a range per setting of the reward; `--samples` says how many points are drawn."""
    names = [name for name in RANGES if name != "wrong_cost" or config.selector.cells]
    return {f"selector.reward.{name}": Uniform(*RANGES[name]) for name in names}
