"""Which reward terms help? Each weight is drawn apart; correctness stays at 1, because only ratios matter.

Ranges: 0 switches a term off; 1 makes it as strong as correctness. Source: ours.
"""

from __future__ import annotations

from typing import Any

from ray import tune


def space() -> dict[str, Any]:
    """Return a domain per reward weight; `--samples` says how many points are drawn."""
    return {
        "selector.reward.agreement": tune.uniform(0.0, 1.0),
        "selector.reward.consistency": tune.uniform(0.0, 1.0),
        "selector.reward.coverage": tune.uniform(0.0, 0.5),
        "selector.reward.utility": tune.uniform(0.0, 0.5),
    }
