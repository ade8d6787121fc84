"""A synthetic world for selectors: the teacher follows its prior, and only evidence from outside tells when that is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from l2l_ray.types import TeacherViews

Bandit = Callable[..., tuple[TeacherViews, Tensor]]


def _squares(batch: int, grid: int, generator: torch.Generator) -> Tensor:
    side = torch.randint(grid // 4, grid // 3 + 1, (batch, 2), generator=generator)
    corner = (torch.rand((batch, 2), generator=generator) * (grid - side)).long()
    y, x = torch.arange(grid)[None, :, None], torch.arange(grid)[None, None, :]
    top, left = corner[:, 0, None, None], corner[:, 1, None, None]
    bottom, right = top + side[:, 0, None, None], left + side[:, 1, None, None]
    return ((y >= top) & (y < bottom) & (x >= left) & (x < right)).float()


def make_bandit(
    batch: int, grid: int = 16, seed: int = 0, prior_right: float = 0.55, unguided_right: float = 0.75, width: int = 8
) -> tuple[TeacherViews, Tensor]:
    """Return views and truth [B, G, G].

    The prior boxes the right object in `prior_right` of the samples. The guided prediction is sure of whatever the prior boxed;
    the unguided one, less sure, finds the right object in `unguided_right` of the samples, independently.
    """
    generator = torch.Generator().manual_seed(seed)
    truth, other = _squares(batch, grid, generator), _squares(batch, grid, generator)
    third = _squares(batch, grid, generator)

    def pick(first: Tensor, second: Tensor, probability: float) -> Tensor:
        return torch.where(torch.rand(batch, generator=generator)[:, None, None] < probability, first, second)

    def soften(mask: Tensor, logit: float, noise: float) -> Tensor:
        return torch.sigmoid((2 * mask - 1) * logit + noise * torch.randn(mask.shape, generator=generator))

    box = pick(truth, other, prior_right)
    seen = pick(truth, third, unguided_right)
    views = TeacherViews(
        mask_probs=soften(box, 3.5, 1.0),
        mask_probs_unguided=soften(seen, 1.5, 1.0),
        mask_probs_flipped=soften(seen, 1.5, 1.0),
        mask_probs_perturbed=soften(box, 2.5, 1.0),
        mask_probs_previous=soften(box, 3.0, 1.0),
        proposal=0.05 + 0.9 * box,
        prior_score=torch.full((batch,), 0.8),
        has_prior=torch.rand(batch, generator=generator) < 0.9,
        features=torch.randn((batch, width, grid, grid), generator=generator),
        last_features=torch.randn((batch, width, grid, grid), generator=generator),
    )
    return views, truth


@pytest.fixture
def bandit() -> Bandit:
    """Return the maker of synthetic views and truth."""
    return make_bandit
