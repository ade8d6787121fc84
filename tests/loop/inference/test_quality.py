"""Selector quality against tables computed by hand: labels, object precision and recall, regions, sources."""

from __future__ import annotations

import itertools

import pytest
import torch

from l2l_ray.loop.inference.quality import Quality, measure_quality, wrong_again
from l2l_ray.selector.reward import truth_ious
from l2l_ray.types import Candidate, Selection

GRID = 8
GUIDED, PRIOR = Candidate.GUIDED, Candidate.PRIOR
PLACES = ("inside", "outside", "boundary", "all")


def _square(top: int = 2, left: int = 2) -> torch.Tensor:
    """A 4 x 4 object in an 8 x 8 grid; in the middle: 4 cells inside, 28 outside, a band of 12 + 20 cells between."""
    mask = torch.zeros(1, GRID, GRID)
    mask[0, top : top + 4, left : left + 4] = 1.0
    return mask


def _selection(
    accepted: torch.Tensor,
    target: torch.Tensor,
    gate: float = 1.0,
    confidence: float = 1.0,
    source: Candidate = GUIDED,
) -> Selection:
    """Return the selection of one or more samples; as always, no cell is accepted where the gate is shut."""
    ones = torch.ones(len(accepted))
    weight = accepted.float() * (gate >= 0.5)
    return Selection((ones * source).to(torch.int8), target, weight, ones * gate, ones * confidence, ones * 0)


def _measured(selection: Selection, mask: torch.Tensor, sent_id: int = 7) -> Quality:
    return measure_quality(selection, mask, [sent_id])


def _everything() -> torch.Tensor:
    return torch.ones(1, GRID, GRID, dtype=torch.bool)


def _nothing() -> torch.Tensor:
    return ~_everything()


def _whole_label(label: torch.Tensor, truth: torch.Tensor, gate: float = 1.0, confidence: float = 1.0) -> Quality:
    return _measured(_selection(_everything(), label > 0.5, gate, confidence), truth)


def test_accepting_the_truth_everywhere_is_perfect() -> None:
    summary = _measured(_selection(_everything(), _square() > 0.5), _square()).summary()
    assert (summary["object_precision"], summary["object_recall"]) == (1.0, 1.0)
    assert summary["accuracy_by_true_region"] == summary["accepted_by_true_region"] == dict.fromkeys(PLACES, 1.0)
    assert summary["labels"] == {
        "num": 1, "num_used": 1, "used_frac": 1.0, "mean_iou": 1.0, "right_frac": 1.0, "poor_outline_frac": 0.0,
        "wrong_object_frac": 0.0, "mean_iou_by_area": 1.0, "mean_confidence": 1.0, "num_right": 1,
        "right_refused_frac": 0.0,
    }  # fmt: skip


def test_the_best_label_is_not_perfect_by_area() -> None:
    truth = _square() * 0.8  # the object covers that much of each of its cells
    labels = _whole_label(truth, truth).summary()["labels"]
    assert labels["mean_iou"] == 1.0 and labels["mean_iou_by_area"] == pytest.approx(0.8)


def test_a_label_on_a_wrong_object_is_seen() -> None:
    wrong = torch.zeros(1, GRID, GRID)
    wrong[0, 0:2, 6:8] = 1.0  # far from the object; the object itself is left undecided
    summary = _measured(_selection(_square() < 0.5, wrong > 0.5, confidence=0.9), _square()).summary()
    assert (summary["object_precision"], summary["object_recall"]) == (0.0, 0.0)
    labels = summary["labels"]
    assert (labels["mean_iou"], labels["right_frac"], labels["wrong_object_frac"]) == (0.0, 0.0, 1.0)
    assert labels["mean_confidence"] == pytest.approx(0.9)
    # Accuracy by true region hardly sees it: 44 of the 48 accepted cells are right.
    assert summary["accuracy_by_true_region"]["all"] == pytest.approx(44 / 48)


def test_accuracy_inside_the_object_cannot_see_cells_of_a_wrong_object() -> None:
    both = _square(2, 0) + _square(2, 4)  # the label covers the object on the left and the one on the right
    summary = _whole_label(both, _square(2, 0)).summary()
    assert summary["accuracy_by_true_region"]["inside"] == 1.0
    assert (summary["object_precision"], summary["object_recall"]) == (0.5, 1.0)
    assert summary["labels"]["mean_iou"] == 0.5


def test_labels_by_hand() -> None:
    truth = _square(2, 2)  # 16 cells
    shifted = _square(2, 4)  # 8 of 24 cells in common
    corner = _square(4, 4).clone()
    corner[0, 4:6, 4:6] = 0.0  # 12 cells, none in common
    total = Quality.empty()
    for label, confidence in ((truth, 0.9), (shifted, 0.6), (corner, 0.3)):
        total += _whole_label(label, truth, confidence=confidence)
    total += _whole_label(truth, truth, gate=0.4)  # not used: dropped by the selector
    total += _whole_label(truth * 0, truth)  # not used: background alone
    assert total.summary()["labels"] == {
        "num": 5,
        "num_used": 3,
        "used_frac": 0.6,
        "mean_iou": pytest.approx((1 + 1 / 3 + 0) / 3),
        "right_frac": pytest.approx(1 / 3),
        "poor_outline_frac": pytest.approx(1 / 3),
        "wrong_object_frac": pytest.approx(1 / 3),
        "mean_iou_by_area": pytest.approx((1 + 1 / 3 + 0) / 3),  # the truth covers whole cells
        "mean_confidence": pytest.approx(0.6),
        "num_right": 2,
        "right_refused_frac": 0.5,
    }
    assert total.summary()["object_precision"] == pytest.approx((16 + 8 + 0) / (16 + 16 + 12))
    assert total.summary()["object_recall"] == pytest.approx((16 + 8 + 0) / (5 * 16))
    assert total.summary()["object_missed"] == pytest.approx(56 / 80)


@pytest.mark.parametrize(
    ("cells", "right", "poor", "wrong"),
    [(8, 1.0, 0.0, 0.0), (7, 0.0, 1.0, 0.0), (2, 0.0, 1.0, 0.0), (1, 0.0, 0.0, 1.0)],
)
def test_the_two_thresholds(cells: int, right: float, poor: float, wrong: float) -> None:
    truth, label = torch.zeros(1, GRID, GRID), torch.zeros(1, GRID, GRID)
    truth[0, :2] = 1.0  # 16 cells
    label[0].view(-1)[:cells] = 1.0  # IoU cells / 16: at 8 just right; 2 / 16 is above one tenth and 1 / 16 below
    labels = _whole_label(label, truth).summary()["labels"]
    names = ("mean_iou", "right_frac", "poor_outline_frac", "wrong_object_frac")
    assert [labels[name] for name in names] == [cells / 16, right, poor, wrong]


def test_a_label_is_used_where_an_accepted_cell_is_of_the_object() -> None:
    target = _square() > 0.5
    cell, beside = _nothing(), _nothing()
    cell[0, 3, 3] = beside[0, 0, 0] = True
    kinds = [(cell, 1.0), (cell, 0.5), (beside, 1.0), (cell, 0.49), (_nothing(), 1.0)]
    found = [_measured(_selection(accepted, target, gate), _square()) for accepted, gate in kinds]
    assert [quality.labels[0, 0] for quality in found] == [1, 1, 0, 0, 0]


def test_used_labels_by_whose_they_are() -> None:
    wrong = _square(4, 4)
    parts = [(_square(), GUIDED, 1.0), (_square(), PRIOR, 1.0), (wrong, GUIDED, 1.0), (_square(), PRIOR, 0.1)]
    total = Quality.empty()
    for label, source, gate in parts:
        total += _measured(_selection(_everything(), label > 0.5, gate, source=source), _square())
    assert total.summary()["sources"] == {
        "guided": {"num_used": 2, "used_frac": pytest.approx(2 / 3), "right_frac": 0.5},
        "prior": {"num_used": 1, "used_frac": pytest.approx(1 / 3), "right_frac": 1.0},
    }


def test_wrong_labels_are_found_again() -> None:
    truth = torch.zeros(1, GRID, GRID)
    truth[0, :, 0] = 1.0  # the object is the first column

    def labels(columns: dict[int, slice], shut: tuple[int, ...] = ()) -> Quality:
        total = Quality.empty()
        for sent_id, part in columns.items():
            target = torch.zeros(1, GRID, GRID, dtype=torch.bool)
            target[0, :, part] = True
            total += _measured(_selection(_everything(), target, 0.1 if sent_id in shut else 1.0), truth, sent_id)
        return total

    right, wrong = slice(0, 1), slice(2, 4)
    before = labels({1: wrong, 2: wrong, 3: wrong, 4: wrong, 5: right}).wrong
    after = labels({1: wrong, 2: slice(1, 3), 3: right, 4: wrong, 5: wrong}, shut=(4,)).wrong
    assert (sorted(before), sorted(after)) == ([1, 2, 3, 4], [1, 2, 5])
    # 1 and 2 are wrong again; of 2 the columns 2, 3 became 1, 2: one third in common
    assert wrong_again(before, after) == {"num": 4, "again_frac": 0.5, "same_mask_frac": 0.25}
    assert wrong_again({}, after) == {"num": 0, "again_frac": None, "same_mask_frac": None}


def test_gate_and_confidence_order_all_labels_used_or_not() -> None:
    total = Quality.empty()
    for label, gate, confidence in ((_square(), 0.1, 0.9), (_square(4, 4), 0.9, 0.2), (_square(), 0.4, 0.5)):
        total += _whole_label(label, _square(), gate, confidence)
    found = total.summary()["ordering"]
    assert (found["gate"]["auc"], found["confidence"]["auc"]) == (0.0, 1.0)


def test_the_iou_is_that_of_the_whole_target_not_of_the_accepted_cells() -> None:
    accepted = _nothing()
    accepted[0, 2, 2] = True  # one right cell; the target as a whole is half right
    labels = _measured(_selection(accepted, _square() > 0.5), _half()).summary()["labels"]
    assert (labels["num_used"], labels["mean_iou"]) == (1, 0.5)


def _half() -> torch.Tensor:
    half = _square()
    half[0, 4:] = 0.0
    return half


def test_precision_recall_and_regions_by_hand() -> None:
    accepted = _nothing()
    accepted[0, 3, 3:5] = True  # 2 of the 4 cells inside, one of them labeled wrong
    accepted[0, 0, :] = True  # 8 of the 28 cells outside, all but two right
    target = torch.zeros(1, GRID, GRID, dtype=torch.bool)
    target[0, 3, 3] = target[0, 0, 0] = target[0, 0, 7] = True
    summary = _measured(_selection(accepted, target), _square()).summary()
    assert summary["object_precision"] == pytest.approx(1 / 3)
    assert summary["object_recall"] == 1 / 16
    assert summary["accuracy_by_true_region"] == {"inside": 0.5, "outside": 0.75, "boundary": None, "all": 0.7}
    assert summary["accepted_by_true_region"] == {"inside": 0.5, "outside": 8 / 28, "boundary": 0.0, "all": 10 / 64}


def test_a_sample_whose_gate_is_off_is_ignored_whole() -> None:
    summary = _whole_label(_square(), _square(), gate=0.4).summary()
    assert (summary["accepted_by_true_region"]["all"], summary["accuracy_by_true_region"]["all"]) == (0.0, None)
    assert (summary["object_precision"], summary["object_recall"]) == (None, 0.0)
    assert (summary["labels"]["num"], summary["labels"]["num_used"], summary["labels"]["mean_iou"]) == (1, 0, None)


def test_no_labels_have_no_figures() -> None:
    summary = Quality.empty().summary()
    labels = summary.pop("labels")
    assert (labels.pop("num"), labels.pop("num_used")) == (0, 0)
    assert (labels.pop("num_right"), summary.pop("sources")) == (0, {})
    ordered = summary.pop("ordering")
    assert len(ordered.pop("coverage")) == 20
    assert summary.pop("reliability") == {"num": 0, "ece": None, "bins": []}
    shares = [*labels.values(), *(summary.pop(f"object_{name}") for name in ("precision", "recall", "missed"))]
    shares += [share for figures in ordered.values() for share in figures.values()]
    assert {*shares, *(share for regions in summary.values() for share in regions.values())} == {None}


@pytest.mark.parametrize(("value", "regions"), [(0.0, [0, 64, 0]), (1.0, [64, 0, 0]), (0.5, [0, 64, 0])])
def test_empty_full_and_half_covered_masks(value: float, regions: list[int]) -> None:
    mask = torch.full((1, GRID, GRID), value)
    quality = _whole_label(mask, mask)
    assert quality.regions[:, 2].tolist() == regions
    assert quality.labels[0, 1] == (value > 0.5), "an empty label is worth nothing, as in the reward"
    assert quality.summary()["reliability"]["num"] == (value == 1)  # without a cell there is nothing to estimate


def test_an_empty_label_of_an_object_below_half_a_cell_is_not_right() -> None:
    truth = torch.zeros(1, GRID, GRID)
    truth[0, 3, 3] = 0.4
    label = _nothing()
    quality = _measured(_selection(_everything(), label), truth)
    assert quality.labels[0, :2].tolist() == [0, 0] and truth_ious(label[:, None], truth > 0.5).tolist() == [[0]]
    labels = quality.summary()["labels"]
    assert (labels["num_right"], labels["right_refused_frac"]) == (0, None), "nobody refused a right label"


def test_regions_are_disjoint_and_cover_the_grid() -> None:
    assert _whole_label(_square(), _square()).regions[:, 2].tolist() == [4, 28, 32]


def test_a_single_cell_object_is_all_boundary() -> None:
    mask = torch.zeros(1, GRID, GRID)
    mask[0, 4, 4] = 1.0
    assert _whole_label(mask, mask).regions[:, 2].tolist() == [0, 64 - 9, 9]


def test_batches_add_up_exactly_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = (torch.rand(6, GRID, GRID, generator=generator) > 0.6).float()
    target = torch.rand(6, GRID, GRID, generator=generator) > 0.5
    gate, confidence = torch.rand(2, 6, generator=generator)
    weight = torch.rand(6, GRID, GRID, generator=generator) * (gate >= 0.5)[:, None, None]
    source = (torch.arange(6) % len(Candidate)).to(torch.int8)

    def part(rows: slice) -> Quality:
        columns = (source, target, weight, gate, confidence, gate)
        return measure_quality(Selection(*(column[rows] for column in columns)), masks[rows], range(6)[rows])

    whole = part(slice(0, 6))
    assert 0 < whole.summary()["labels"]["num_used"] < 6 and len(whole.summary()["sources"]) > 1
    for a, b, c in itertools.permutations([part(slice(0, 1)), part(slice(1, 4)), part(slice(4, 6))]):
        for joined in ((a + b) + c, a + (Quality.empty() + (b + c))):
            assert joined.summary() == whole.summary()
            assert joined.wrong == whole.wrong and joined.wrong
