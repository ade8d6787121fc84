"""One prior's proposal, for tests that need a proposal and no batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from l2l_ray.config import PriorConfig
from l2l_ray.prior.proposal import Proposer
from l2l_ray.types import BoxFrac, Prior


def box_proposal(boxes_xyxy_frac: Sequence[BoxFrac], scores: Sequence[float], grid: int, softness: float) -> Tensor:
    """Return the proposal (grid, grid) of a prior with these boxes."""
    prior = Prior("key", tuple(boxes_xyxy_frac), tuple(scores), (), "thing", 0.8, "", "")
    return Proposer(PriorConfig(box_softness=softness)).proposals([prior], grid).proposal[0]
