"""How good a selector's decisions are where the truth is known: precision and coverage, by region.

Regions are disjoint and defined by the truth on the grid: the *boundary* band (cells within one cell of the object's
outline), the *foreground* and the *background* away from it. In a region, coverage is the share of its cells that are
accepted and precision the share of the accepted ones whose label is right.

A rule that accepts less is more precise for free, so rules are also compared at equal coverage: each selector ranks all
cells, and the ranking is cut where its coverage equals the compared selector's. Rankings are kept as histograms, which
add up exactly over batches and processes.

Used by evaluation alone; nothing here reaches training, labelling or a reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import max_pool2d

from l2l_ray.types import Action, Selection

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

REGIONS = ("foreground", "background", "boundary")
NUM_BINS = 1000

Ranking = tuple["Float[Tensor, 'B G G']", "Bool[Tensor, 'B G G']"]  # score in [0, 1], label


@dataclass(frozen=True)
class Quality:
    """Counts of cells; add two to join two batches.

    Example: `Quality(np.array([[90, 100, 200], ...]), {"l2l": np.zeros((3, 2, 1000))})`
    """

    counts: Int[np.ndarray, "3 3"]  # region x (right among accepted, accepted, all)
    histograms: dict[str, Int[np.ndarray, "3 2 N"]]  # selector -> region x (wrong, right) x score bin

    def __add__(self, other: Quality) -> Quality:
        names = sorted({*self.histograms, *other.histograms})
        nothing = np.zeros((len(REGIONS), 2, NUM_BINS), np.int64)
        joined = {n: self.histograms.get(n, nothing) + other.histograms.get(n, nothing) for n in names}
        return Quality(self.counts + other.counts, joined)

    def summary(self) -> dict[str, dict[str, float | None]]:
        """Return {"precision": {region: ...}, "coverage": {region: ...}} with "all" added; None where undefined."""
        counts = np.vstack([self.counts, self.counts.sum(0)])
        return {
            "precision": {r: _ratio(c[0], c[1]) for r, c in zip((*REGIONS, "all"), counts, strict=True)},
            "coverage": {r: _ratio(c[1], c[2]) for r, c in zip((*REGIONS, "all"), counts, strict=True)},
        }

    def at_equal_coverage(self) -> list[dict[str, float | str | None]]:
        """Return, per ranked selector and region, its precision at the coverage the selector itself chose."""
        rows: list[dict[str, float | str | None]] = []
        for index, region in enumerate(REGIONS):
            right, accepted, total = self.counts[index]
            chosen = {"region": region, "coverage": _ratio(accepted, total)}
            rows.append({"rule": "as chosen", **chosen, "precision": _ratio(right, accepted)})
            for name, histogram in self.histograms.items():
                rows.append({"rule": name, **chosen, "precision": _precision_at(histogram[index], accepted)})
        return rows


def measure_quality(selection: Selection, mask: Float[Tensor, "B G G"], rankings: dict[str, Ranking]) -> Quality:
    """Compare a selection, and other selectors' rankings, with the truth.

    Args:
        selection: The selection to judge; gated-off samples count as ignored.
        mask: Truth on the grid, covered area in [0, 1]; a cell is foreground above 0.5.
        rankings: Selector name -> (score in [0, 1], label) per cell.
    """
    truth = mask > 0.5
    regions = _regions(truth)
    gate = (selection.gate >= 0.5)[:, None, None]
    accepted = (selection.action != Action.IGNORE) & gate
    right = accepted & (selection.target == truth)
    counts = [[int((region & cells).sum()) for cells in (right, accepted)] + [int(region.sum())] for region in regions]
    histograms = {
        name: np.stack([_histogram(score, label == truth, region) for region in regions])
        for name, (score, label) in rankings.items()
    }
    return Quality(np.array(counts), histograms)


def _regions(truth: Bool[Tensor, "B G G"]) -> tuple[Tensor, Tensor, Tensor]:
    """Split the grid into foreground, background and the band between."""
    solid = truth.float()[:, None]
    dilated = max_pool2d(solid, 3, 1, 1)[:, 0] > 0
    eroded = max_pool2d(1 - solid, 3, 1, 1)[:, 0] == 0
    return eroded, ~dilated, dilated & ~eroded


def _histogram(score: Tensor, right: Tensor, region: Tensor) -> Int[np.ndarray, "2 N"]:
    bins = (score[region].clamp(0, 1) * (NUM_BINS - 1)).round().long()
    index = bins + NUM_BINS * right[region].long()
    return torch.bincount(index, minlength=2 * NUM_BINS).reshape(2, NUM_BINS).cpu().numpy()


def _precision_at(histogram: Int[np.ndarray, "2 N"], num_accepted: int) -> float | None:
    """Accept bins from the best score down until `num_accepted` cells; the last bin counts in part."""
    wrong, right = (np.concatenate([[0], np.cumsum(row[::-1])]) for row in histogram)
    if num_accepted == 0 or wrong[-1] + right[-1] == 0:
        return None
    return _ratio(float(np.interp(num_accepted, wrong + right, right)), num_accepted)


def _ratio(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None
