"""Selector quality against tables computed by hand: regions, precision, coverage, and equal-coverage comparison."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from l2l_ray.loop.inference.quality import NUM_BINS, Quality, measure_quality
from l2l_ray.types import Action, Selection

GRID = 8
IGNORE, TEACHER, PRIOR = Action.IGNORE, Action.TEACHER, Action.PRIOR


def _square() -> torch.Tensor:
    """One 4 x 4 object in an 8 x 8 grid: 4 cells inside, 28 far outside, and a band of 12 + 20 cells between."""
    mask = torch.zeros(1, GRID, GRID)
    mask[0, 2:6, 2:6] = 1.0
    return mask


def _selection(action: torch.Tensor, target: torch.Tensor, gate: float = 1.0) -> Selection:
    ones = torch.ones(len(action))
    return Selection(action.to(torch.int8), target, (action != IGNORE).float(), ones * gate, ones, ones * 0)


def _everything(action: Action = TEACHER) -> torch.Tensor:
    return torch.full((1, GRID, GRID), int(action))


def test_regions_are_disjoint_and_cover_the_grid() -> None:
    quality = measure_quality(_selection(_everything(), _square() > 0.5), _square(), {})
    assert quality.counts[:, 2].tolist() == [4, 28, 32]
    assert quality.counts[:, 2].sum() == GRID * GRID


def test_accepting_the_truth_everywhere_is_perfect() -> None:
    summary = measure_quality(_selection(_everything(PRIOR), _square() > 0.5), _square(), {}).summary()
    assert summary["precision"] == dict.fromkeys(("foreground", "background", "boundary", "all"), 1.0)
    assert summary["coverage"] == dict.fromkeys(("foreground", "background", "boundary", "all"), 1.0)


def test_precision_and_coverage_by_region() -> None:
    action = _everything(IGNORE)
    action[0, 3, 3:5] = TEACHER  # 2 of the 4 inner cells, one of them labeled wrong
    action[0, 0, :] = PRIOR  # 8 of the 28 far cells, all right
    target = torch.zeros(1, GRID, GRID, dtype=torch.bool)
    target[0, 3, 3] = True
    summary = measure_quality(_selection(action, target), _square(), {}).summary()
    assert summary["precision"] == {"foreground": 0.5, "background": 1.0, "boundary": None, "all": 0.9}
    assert summary["coverage"] == {"foreground": 0.5, "background": 8 / 28, "boundary": 0.0, "all": 10 / 64}


def test_a_sample_whose_gate_is_off_is_ignored_whole() -> None:
    summary = measure_quality(_selection(_everything(), _square() > 0.5, gate=0.4), _square(), {}).summary()
    assert summary["coverage"]["all"] == 0.0
    assert summary["precision"]["all"] is None


@pytest.mark.parametrize(("value", "regions"), [(0.0, [0, 64, 0]), (1.0, [64, 0, 0]), (0.5, [0, 64, 0])])
def test_empty_full_and_half_covered_masks(value: float, regions: list[int]) -> None:
    mask = torch.full((1, GRID, GRID), value)
    quality = measure_quality(_selection(_everything(), mask > 0.5), mask, {})
    assert quality.counts[:, 2].tolist() == regions


def test_a_single_cell_object_is_all_band() -> None:
    mask = torch.zeros(1, GRID, GRID)
    mask[0, 4, 4] = 1.0
    quality = measure_quality(_selection(_everything(), mask > 0.5), mask, {})
    assert quality.counts[:, 2].tolist() == [0, 64 - 9, 9]


def _at(quality: Quality, rule: str, region: str) -> float | str | None:
    rows = [r for r in quality.at_equal_coverage() if (r["rule"], r["region"]) == (rule, region)]
    assert len(rows) == 1
    return rows[0]["precision"]


def test_rankings_are_cut_at_the_coverage_the_selector_chose() -> None:
    truth = _square() > 0.5
    action = _everything(IGNORE)
    action[0, 0, :] = TEACHER  # 8 far cells
    wrong = torch.zeros_like(truth)
    wrong[0, 0, :4] = True  # the selector labels 4 of its 8 wrong
    score = torch.zeros(1, GRID, GRID)
    score[0, 7, :] = 0.9  # a ranking that likes 8 other far cells best,
    score[0, 0, :] = 0.5
    judged = truth.clone()
    judged[0, 7, :2] = True  # of which it labels 2 wrong
    quality = measure_quality(_selection(action, wrong), _square(), {"rule": (score, judged)})
    assert _at(quality, "as chosen", "background") == 0.5
    assert _at(quality, "rule", "background") == 0.75
    assert _at(quality, "rule", "foreground") is None  # the selector accepted nothing there


def test_cells_of_equal_score_count_in_part() -> None:
    truth = _square() > 0.5
    action = _everything(IGNORE)
    action[0, 0, :7] = TEACHER
    judged = truth.clone()
    judged[0, 7, :] = True  # 8 of the 28 far cells wrong, all scored alike
    flat = torch.full((1, GRID, GRID), 0.3)
    quality = measure_quality(_selection(action, truth), _square(), {"flat": (flat, judged)})
    assert _at(quality, "flat", "background") == pytest.approx(20 / 28)


def test_batches_add_up_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = []
    masks = (torch.rand(6, GRID, GRID, generator=generator) > 0.6).float()
    action = torch.randint(0, 3, (6, GRID, GRID), generator=generator)
    target = torch.rand(6, GRID, GRID, generator=generator) > 0.5
    score = torch.rand(6, GRID, GRID, generator=generator)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        selection = _selection(action[rows], target[rows])
        parts.append(measure_quality(selection, masks[rows], {"rule": (score[rows], target[rows])}))
    whole = measure_quality(_selection(action, target), masks, {"rule": (score, target)})
    for joined in (parts[0] + parts[1] + parts[2], parts[2] + (parts[0] + parts[1])):
        assert np.array_equal(joined.counts, whole.counts)
        assert np.array_equal(joined.histograms["rule"], whole.histograms["rule"])
        assert joined.at_equal_coverage() == whole.at_equal_coverage()


def test_ranking_a_selector_by_its_own_choice_gives_its_own_precision() -> None:
    generator = torch.Generator().manual_seed(1)
    truth = _square() > 0.5
    action = torch.randint(0, 2, (1, GRID, GRID), generator=generator)
    target = torch.rand(1, GRID, GRID, generator=generator) > 0.5
    quality = measure_quality(_selection(action, target), truth.float(), {"self": (action.float(), target)})
    for region in ("foreground", "background", "boundary"):
        assert _at(quality, "self", region) == pytest.approx(_at(quality, "as chosen", region))


def test_scores_outside_the_unit_interval_fall_into_the_last_bins() -> None:
    score = torch.linspace(-1, 2, GRID * GRID).reshape(1, GRID, GRID)
    quality = measure_quality(_selection(_everything(), _square() > 0.5), _square(), {"r": (score, _square() > 0.5)})
    assert quality.histograms["r"].shape == (3, 2, NUM_BINS)
    assert quality.histograms["r"].sum() == GRID * GRID
