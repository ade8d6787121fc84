"""How much does the share of labeled images matter, with and without pseudo-labels? Shares by two selectors."""

from __future__ import annotations

from l2l_ray.config import EMBEDDED, RunConfig
from l2l_ray.sweep.space import Grid, Space

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1)
SHARES_OF_FEW = (0.1, 0.2, 0.3, 0.5)  # 0.5 % of a shrunk benchmark is no image
FEW_REFS = 1000


def space(config: RunConfig) -> Space:
    """Return a grid of shares and of the supervised baseline against the config's selector (L2L where that is it)."""
    few = config.data.root == EMBEDDED and config.data.num_train_refs < FEW_REFS
    selector = config.selector.name if config.selector.name != "supervised" else "l2l"
    return {
        "data.labeled_frac": Grid(SHARES_OF_FEW if few else SHARES),
        "selector.name": Grid(("supervised", selector)),
    }
