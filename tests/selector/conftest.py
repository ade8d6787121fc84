"""A synthetic world for selectors: the teacher follows its prior; only evidence from outside tells when it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from l2l_ray.types import Candidate, Evidence

Bandit = Callable[..., tuple[Evidence, Tensor]]
Maker = Callable[..., Evidence]


def _squares(batch: int, grid: int, generator: torch.Generator) -> Tensor:
    side = torch.randint(grid // 4, grid // 3 + 1, (batch, 2), generator=generator)
    corner = (torch.rand((batch, 2), generator=generator) * (grid - side)).long()
    y, x = torch.arange(grid)[None, :, None], torch.arange(grid)[None, None, :]
    top, left = corner[:, 0, None, None], corner[:, 1, None, None]
    bottom, right = top + side[:, 0, None, None], left + side[:, 1, None, None]
    return ((y >= top) & (y < bottom) & (x >= left) & (x < right)).float()


def make_bandit(
    batch: int,
    grid: int = 16,
    seed: int = 0,
    prior_right: float = 0.55,
    unguided_right: float = 0.75,
    sure: float = 1.5,
) -> tuple[Evidence, Tensor]:
    """Return evidence and truth [B, G, G].

    The prior boxes the right object in `prior_right` of the samples. The guided prediction is sure of whatever the
    prior boxed; the unguided one, with logits of `sure` at most on average, finds the right object in `unguided_right`
    of them.
    """
    generator = torch.Generator().manual_seed(seed)
    truth, other, third = (_squares(batch, grid, generator) for _ in range(3))

    def pick(first: Tensor, second: Tensor, probability: float) -> Tensor:
        return torch.where(torch.rand(batch, generator=generator)[:, None, None] < probability, first, second)

    def soften(mask: Tensor, logit: float) -> Tensor:
        return torch.sigmoid((2 * mask - 1) * logit + torch.randn(mask.shape, generator=generator))

    box, seen = pick(truth, other, prior_right), pick(truth, third, unguided_right)
    evidence = Evidence(
        mask_probs=soften(box, 3.5),
        mask_probs_unguided=soften(seen, sure),
        mask_probs_flipped=soften(seen, sure),
        proposal=0.05 + 0.9 * box,
        prior_score=torch.full((batch,), 0.8),
        has_prior=torch.rand(batch, generator=generator) < 0.9,
        rival_iou=torch.zeros(batch, len(Candidate)),
    )
    return evidence, truth


def make_evidence(mask_probs: Tensor, **given: Tensor) -> Evidence:
    """Return evidence of which only some maps are given; the others repeat `mask_probs`, and there is a prior."""
    batch = len(mask_probs)
    others = ("unguided", "flipped")
    maps = {f"mask_probs_{name}": given.get(name, mask_probs) for name in others}
    return Evidence(
        mask_probs=mask_probs,
        proposal=given.get("proposal", mask_probs),
        prior_score=given.get("prior_score", torch.ones(batch)),
        has_prior=given.get("has_prior", torch.ones(batch, dtype=torch.bool)),
        rival_iou=given.get("rival_iou", torch.zeros(batch, len(Candidate))),
        **maps,
    )


def take_rows(evidence: Evidence, rows: Sequence[int]) -> Evidence:
    """Return some samples."""
    return Evidence(**{field.name: getattr(evidence, field.name)[list(rows)] for field in fields(Evidence)})


@pytest.fixture
def bandit() -> Bandit:
    """Return the maker of synthetic evidence and truth."""
    return make_bandit


@pytest.fixture
def evidence_of() -> Maker:
    """Return the maker of hand-written evidence."""
    return make_evidence


@pytest.fixture
def rows_of() -> Callable[..., Evidence]:
    """Return the function that picks samples."""
    return take_rows


@pytest.fixture
def worlds(bandit: Bandit) -> list[tuple[Evidence, Tensor, Evidence]]:
    """Return ten batches to learn from: images with truth, and as many without."""
    return [(*bandit(8, seed=10 + k), bandit(8, seed=50 + k)[0]) for k in range(10)]
