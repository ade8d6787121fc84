"""How much does the share of labeled images matter, with and without pseudo-labels? Two shares by two selectors."""

from __future__ import annotations

from typing import Any

from ray import tune


def space() -> dict[str, Any]:
    """Return 2 x 2 grid points."""
    return {
        "data.labeled_frac": tune.grid_search([0.05, 0.1]),
        "selector.name": tune.grid_search(["supervised", "l2l"]),
    }
