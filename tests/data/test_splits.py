"""The labeled split and the folds: counts, nesting, order independence."""

import pytest

from l2l_ray.data.splits import folds, hold_out, num_labeled, split_labeled
from l2l_ray.errors import ConfigError, DataError

IDS = list(range(1000, 17994))  # as many as RefCOCO train has images


@pytest.mark.parametrize(
    ("frac", "num"), [(0.001, 16), (0.005, 84), (0.01, 169), (0.02, 339), (0.05, 849), (0.1, 1699), (1.0, 16994)]
)
def test_counts_are_those_of_the_published_ratios(frac: float, num: int) -> None:
    labeled, unlabeled = split_labeled(IDS, frac, seed=0)
    assert len(labeled) == num
    assert sorted(labeled + unlabeled) == IDS


def test_smaller_fraction_lies_inside_a_larger_one() -> None:
    one, five, ten = (set(split_labeled(IDS, frac, seed=3)[0]) for frac in (0.01, 0.05, 0.1))
    assert one < five < ten


def test_choice_depends_on_the_set_and_the_seed_only() -> None:
    labeled, _ = split_labeled(IDS, 0.01, seed=0)
    backwards, _ = split_labeled(IDS[::-1], 0.01, seed=0)
    assert backwards == labeled[::-1]
    assert set(split_labeled(IDS, 0.01, seed=1)[0]) != set(labeled)


def test_count_survives_binary_fractions() -> None:
    assert len(split_labeled(range(100), 0.29, seed=0)[0]) == 29
    assert len(split_labeled(range(3), 1 / 3, seed=0)[0]) == 1


def test_no_labeled_image_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"labeled_frac gives 0 labeled images: 0.001 of 500 .* use at least 0.002"):
        split_labeled(range(500), 0.001, seed=0)
    with pytest.raises(ConfigError, match="labeled_frac gives 0 labeled images"):
        split_labeled([], 0.5, seed=0)
    for frac in (0.0, -0.1, 1.5):
        with pytest.raises(ConfigError, match=r"must be in \(0, 1\], got"):
            split_labeled(IDS, frac, seed=0)


def test_where_truth_is_partial_the_share_of_all_is_drawn_from_those_that_have_it() -> None:
    with_truth = set(range(0, 100, 4))
    ten, twenty = (split_labeled(range(100), frac, 3, with_truth)[0] for frac in (0.1, 0.2))
    assert len(ten) == 10 and set(ten) < set(twenty) < with_truth
    assert split_labeled(range(100), 0.25, 3, with_truth)[0] == sorted(with_truth)
    assert split_labeled(range(100), 0.2, 3, range(100)) == split_labeled(range(100), 0.2, 3)
    with pytest.raises(ConfigError, match=r"0\.26 of 100 train images .* that is 26, but only 25 have a mask"):
        split_labeled(range(100), 0.26, 3, with_truth)


def test_an_amount_is_a_share_or_a_number() -> None:
    assert [num_labeled(amount, 100, 100) for amount in (0.29, 7, 1.0, 1)] == [29, 7, 100, 1]
    for amount in (0, -1, 101):
        with pytest.raises(ConfigError):
            num_labeled(amount, 100, 100)


@pytest.mark.parametrize(
    ("num", "share", "needed", "num_held_out"),
    [
        (12, 0.25, 2, 3),
        (4, 0.25, 2, 1),
        (3, 0.25, 2, 0),
        (4, 0.9, 2, 2),
        (2, 0.9, 2, 0),
        (1, 0.9, 2, 0),
        (9, 0.0, 1, 0),
    ],
)
def test_a_share_is_held_out_as_far_as_it_can_be_spared(num: int, share: float, needed: int, num_held_out: int) -> None:
    kept, held_out = hold_out(range(num), share, needed, seed=0)
    assert (len(held_out), sorted(kept + held_out)) == (num_held_out, list(range(num)))


def test_what_is_held_out_depends_on_the_set_the_share_and_the_seed_only() -> None:
    _, quarter = hold_out(range(40), 0.25, 2, seed=1)
    assert set(quarter) < set(hold_out(range(40), 0.5, 2, seed=1)[1])
    assert hold_out(range(39, -1, -1), 0.25, 2, seed=1)[1] == quarter[::-1]
    assert hold_out(range(40), 0.25, 2, seed=2)[1] != quarter


def test_repeated_ids_are_an_error() -> None:
    with pytest.raises(DataError, match=r"more than once: \[2\]"):
        split_labeled([1, 2, 2], 0.5, seed=0)


@pytest.mark.parametrize("num_folds", [2, 3, 7])
def test_folds_partition_evenly(num_folds: int) -> None:
    ids = IDS[:100]
    parts = folds(ids, num_folds, seed=0)
    assert sorted(i for part in parts for i in part) == ids
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert parts == folds(ids[::-1], num_folds, seed=0)
    assert parts != folds(ids, num_folds, seed=1)


def test_folds_need_enough_images() -> None:
    assert sorted(folds([4, 5], 2, seed=0)) == [[4], [5]]
    for ids, num_folds in (([4], 2), ([4, 5, 6], 1)):
        with pytest.raises(ConfigError, match="num_folds must be from 2"):
            folds(ids, num_folds, seed=0)
