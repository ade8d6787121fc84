"""Which reward terms help? Each weight is drawn apart; correctness stays as it is, because only ratios matter.

0 switches a term off; as much as correctness' weight (1 by default) makes it as strong. Source: ours.
"""

from __future__ import annotations

from l2l_ray.config import RunConfig
from l2l_ray.sweep.space import Space, Uniform

# The fields of RewardConfig that are weights, correctness left out, with the largest value that is tried.
WEIGHTS = {"agreement": 1.0, "consistency": 1.0, "coverage": 0.5, "utility": 0.5}


def space(config: RunConfig) -> Space:
    """Return a range per reward weight; `--samples` says how many points are drawn."""
    return {f"selector.reward.{name}": Uniform(0.0, most) for name, most in WEIGHTS.items()}
