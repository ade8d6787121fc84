"""Over images: zero where nothing differs, the analytic interval, images and not sentences. Over seeds: Student's t."""

import numpy as np
import pytest

from l2l_ray.errors import DataError
from l2l_ray.intervals import (
    BootstrapInterval,
    difference_intervals,
    holm,
    percentiles,
    ratio_intervals,
    redrawn_means,
    seed_interval,
    seed_p_value,
    verdict,
)
from l2l_ray.metrics import IouMeter, compare_figures


def meter(*rows: tuple[int, int, int, int]) -> IouMeter:
    filled = IouMeter()
    for row in rows:
        filled.add(*row)
    return filled


def compare(first: IouMeter, second: IouMeter, num_resamples: int = 10_000, seed: int = 0) -> BootstrapInterval:
    return compare_figures(first, second, num_resamples, seed)["mean_iou"]


def test_bootstrap_of_equal_methods_is_zero() -> None:
    rows = [(i, i // 2, i, 100) for i in range(40)]
    assert compare(meter(*rows), meter(*rows)) == BootstrapInterval(0.0, 0.0, 0.0)


def test_bootstrap_of_a_constant_difference_has_no_width() -> None:
    first = meter(*((i, i // 2, 75, 100) for i in range(40)))
    second = meter(*((i, i // 2, 50, 100) for i in range(40)))
    assert compare(first, second) == pytest.approx((0.25, 0.25, 0.25))
    assert compare(second, first) == pytest.approx((-0.25, -0.25, -0.25))


def test_bootstrap_matches_the_analytic_interval() -> None:
    rng = np.random.default_rng(0)
    ious = rng.integers(0, 1001, size=400)
    first = meter(*((i, i, int(iou), 1000) for i, iou in enumerate(ious)))
    second = meter(*((i, i, 0, 1000) for i in range(400)))
    diff, low, high = compare(first, second)
    error = ious.std() / 1000 / 20
    assert diff == pytest.approx(ious.mean() / 1000)
    assert low == pytest.approx(diff - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(diff + 1.96 * error, abs=0.1 * error)


def test_bootstrap_resamples_images_not_sentences() -> None:
    # 10 images of 40 sentences that agree within an image: the interval must be that of 10 values, not of 400.
    better = [100 if image % 2 else 0 for image in range(10)]
    first = meter(*((i, i // 40, better[i // 40], 100) for i in range(400)))
    second = meter(*((i, i // 40, 50, 100) for i in range(400)))
    by_image = compare(first, second)
    by_sentence = compare(
        meter(*((i, i, better[i // 40], 100) for i in range(400))), meter(*((i, i, 50, 100) for i in range(400)))
    )
    assert by_image.diff == by_sentence.diff == 0
    assert by_image.high > 5 * by_sentence.high


def test_bootstrap_is_seeded_and_checks_its_input() -> None:
    first, second = meter((1, 1, 1, 3), (2, 2, 2, 3), (3, 3, 3, 3)), meter((1, 1, 0, 3), (2, 2, 2, 3), (3, 3, 1, 3))
    assert compare(first, second, 700, seed=1) == compare(first, second, 700, seed=1)
    with pytest.raises(DataError, match=r"same sentences.*first ids: \[3\]"):
        compare(first, meter((1, 1, 0, 3), (2, 2, 2, 3)))
    with pytest.raises(DataError, match="without rows; evaluate at least one sentence"):
        compare(IouMeter(), IouMeter())


def test_figures_are_ratios_of_resampled_sums() -> None:
    # Drawn k times, the first image gives k / (5 + k). Of 5 images the ends are at 0.1 and 99.9 %, not at 2.5 and 97.5:
    # k > 4 comes in 0.03 % of the draws, k > 3 in 0.7 %.
    one = [1, 0, 0, 0, 0]
    (low, high), none = ratio_intervals([(one, [2, 1, 1, 1, 1]), ([0] * 5, [0] * 5)], ["a", "b", "c", "d", "e"], 10_000)
    assert (low, high) == pytest.approx((0.0, 4 / 9))
    assert none == (None, None)


def test_a_difference_of_ratios_shares_its_draws() -> None:
    # 1 of 2 and four times 0 of 8, against 0 of 2 and four times 2 of 8. The first, drawn k times, gives
    # (3k - 10) / (40 - 6k).
    ids, below = [1, 2, 3, 4, 5], [2, 8, 8, 8, 8]
    ((low, high),) = difference_intervals([([1, 0, 0, 0, 0], below)], [([0, 2, 2, 2, 2], below)], ids, 10_000)
    assert (low, high) == pytest.approx((-0.25, 2 / 16))
    # A constant difference has no width, however the two vary: drawn apart they would differ.
    ious = np.array([0.1, 0.9, 0.4, 0.7, 0.2])
    ones = np.ones(5)
    ((low, high),) = difference_intervals([(ious + 0.05, ones)], [(ious, ones)], [1, 2, 3, 4, 5], 500)
    assert low == pytest.approx(0.05) and high == pytest.approx(0.05)
    assert difference_intervals([([0], [0])], [([1], [1])], [1], 50) == [(None, None)]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.03, "ahead"),
        (-0.03, -0.01, "behind"),
        (-0.01, 0.03, "undecided"),
        (0.0, 0.03, "undecided"),
        (0.02, 0.02, "undecided"),
        (0.1, 0.1 + 2e-17, "undecided"),
        (0.3 - 2e-16, 0.1 + 0.2, "undecided"),  # a width of rounding alone
        (None, None, "undecided"),
    ],
)
def test_what_an_interval_says(low: float | None, high: float | None, said: str) -> None:
    assert verdict(low, high) == said


def test_draws_without_a_denominator_are_left_out() -> None:
    informed = np.arange(60) < 5  # in 1 of 180 draws there is none of them
    assert ratio_intervals([(informed, informed)], range(60), 2000) == [(1.0, 1.0)]


def test_images_that_say_nothing_of_a_figure_do_not_count() -> None:
    few, enough = np.arange(60) < 4, np.arange(60) < 5
    assert ratio_intervals([(few, few), (enough, enough)], range(60), 100) == [(None, None), (1.0, 1.0)]
    found = difference_intervals([(few, few), (enough, enough)], [(enough, enough)] * 2, range(60), 100)
    assert found == [(None, None), (0.0, 0.0)]


def test_few_images_have_no_interval_and_some_more_a_wider_one() -> None:
    values = [0.1, 0.5, 0.9, 0.4]
    assert ratio_intervals([(values, np.ones(4))], [1, 2, 3, 4], 100) == [(None, None)]
    ones = np.ones(4)
    assert difference_intervals([(values, ones)], [(ones, ones)], [1, 2, 3, 4], 100) == [(None, None)]
    low, high = percentiles(np.linspace(0, 1, 100_001), 10, 0.95)  # by Student's t with 9 degrees of freedom, 2.262
    assert (low, high) == pytest.approx((0.00855, 0.99145), abs=1e-4)


def test_interval_over_seeds_by_hand() -> None:
    # Mean 2, standard deviation 1, standard error 1 / sqrt(3), times 4.303.
    assert seed_interval([1.0, 2.0, 3.0]) == pytest.approx(
        (2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6
    )
    assert seed_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)
    mean, low, high = seed_interval([0.0, 1.0], level=0.5)  # one degree of freedom: the Cauchy quartile is 1
    assert (mean, low, high) == pytest.approx((0.5, 0.0, 1.0))


@pytest.mark.parametrize("value", [0.1, 0.5, 0.7, 1 / 3, -0.1])
@pytest.mark.parametrize("num", range(2, 8))
def test_equal_values_have_no_spread(value: float, num: int) -> None:
    # 3 * 0.1 is 0.30000000000000004, and its third is not 0.1; nor may values that differ in the last digit decide.
    for values in ([value] * num, [value] * (num - 1) + [value * (1 + 4e-16)]):
        mean, low, high = seed_interval(values)
        assert low == mean == high == pytest.approx(value)
        assert verdict(low, high) == "undecided" and seed_p_value(values) is None


def test_differences_of_rounding_alone_are_none() -> None:
    values = [1.1e-17, 1.3e-17, 1.2e-17, 1.0e-17, 1.25e-17]  # all above 0, and by Student's t far from it
    mean, low, high = seed_interval(values)
    assert low == mean == high and verdict(low, high) == "undecided" and seed_p_value(values) == 1.0
    assert verdict(1e-17, 3e-17) == "undecided" and verdict(1e-6, 3e-6) == "ahead"


def test_interval_over_seeds_covers_the_mean_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(0).normal(3.0, 2.0, size=(4000, 3))
    inside = [low <= 3.0 <= high for _, low, high in map(seed_interval, drawn.tolist())]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.01)


def test_interval_over_seeds_checks_its_input() -> None:
    with pytest.raises(DataError, match="at least 2 seeds, got 1"):
        seed_interval([0.3])
    with pytest.raises(ValueError, match="level"):
        seed_interval([0.3, 0.4], level=95)


def test_p_value_over_seeds_by_hand() -> None:
    # One degree of freedom is the Cauchy distribution: mean 1.5, standard error 0.5, t = 3, p = 1 - 2/pi * arctan(3).
    assert seed_p_value([1.0, 2.0]) == pytest.approx(1 - 2 / np.pi * np.arctan(3))
    assert seed_p_value([-1.0, -2.0]) == seed_p_value([1.0, 2.0])
    assert seed_p_value([0.5, 0.5, 0.5]) is None and seed_p_value([0.0, 0.0]) == 1.0
    # An interval that ends at 0 has the p-value of its level.
    values = [0.1, 0.4, 0.5, 0.9]
    found = seed_interval(values, 0.9)
    assert seed_p_value([value - found.low for value in values]) == pytest.approx(0.1)
    with pytest.raises(DataError, match="at least 2 seeds, got 1"):
        seed_p_value([0.3])


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .5 times 4 3 2 1 = .04 .06 .06 .5: the third may not be below the second.
    assert holm([0.03, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_redrawn_means_by_hand() -> None:
    # One image, so only seeds vary: 2 seeds with means 0.25 and 0.75 give 0.25, 0.5 and 0.75, a quarter, half, quarter.
    drawn = redrawn_means(np.array([[[1.0], [3.0]]]), np.array([4]), 4000)[:, 0]
    values, times = np.unique(drawn, return_counts=True)
    assert values == pytest.approx([0.25, 0.5, 0.75])
    assert times / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    # One seed, so only images vary: both images, twice the first (1 of 1) or twice the second (0 of 3).
    drawn = redrawn_means(np.array([[[1.0, 0.0]]]), np.array([1, 3]), 4000)[:, 0]
    assert np.unique(drawn) == pytest.approx([0.0, 0.25, 1.0])


def test_redrawn_means_share_images_between_seeds_and_draws_between_methods() -> None:
    # 30 seeds that agree: the spread must be that of 10 images, not of 300.
    ious = np.array([float(image % 2) for image in range(10)])
    sums = np.stack([np.tile(ious, (30, 1)), np.tile(ious - 0.25, (30, 1))])
    drawn = redrawn_means(sums, np.ones(10, int), 4000)
    assert drawn[:, 0].std() == pytest.approx(0.5 / 10**0.5, rel=0.05)
    assert drawn[:, 0] - drawn[:, 1] == pytest.approx(np.full(4000, 0.25))
    with pytest.raises(DataError, match=r"shapes \(1, 0, 3\) and \(3,\)"):
        redrawn_means(np.zeros((1, 0, 3)), np.ones(3, int))


@pytest.mark.parametrize(("num_seeds", "seed_sd", "least"), [(5, 0.02, 0.92), (3, 0.02, 0.88), (5, 0.0, 0.95)])
def test_the_interval_over_both_covers_where_seeds_are_few(num_seeds: int, seed_sd: float, least: float) -> None:
    # A difference of 0, by seed and by seed and image. Plain percentiles cover 87 % of 5 seeds, 74 % of 3; where images
    # alone decide, the rule may only be wider than need be.
    inside = []
    for trial in range(300):
        rng = np.random.default_rng(trial)
        sums = (rng.normal(0, seed_sd, (num_seeds, 1)) + rng.normal(0, 0.02, (num_seeds, 20)))[None]
        drawn = redrawn_means(sums, np.ones(20, int), 400, seed=trial)[:, 0]
        low, high = percentiles(drawn, min(sums.shape[1:]), 0.95)
        inside.append(low <= 0 <= high)
    assert np.mean(inside) >= least
