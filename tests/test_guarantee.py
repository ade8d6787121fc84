import re

import numpy as np
import pytest

from l2l_ray.calibration import Checked
from l2l_ray.errors import ConfigError
from l2l_ray.guarantee import Guarantee, Promise, fewest_images, find_guarantee, require_guarantee
from l2l_ray.randomness import numpy_generator

PROMISE = Promise(0.5, 0.8, 0.9)


def test_a_promise_is_read_and_said_alike() -> None:
    assert Promise.parse("iou>=0.7 for 90% at 95%") == Promise(0.7, 0.9, 0.95)
    assert Promise.parse(" IoU >= .5 for 80 % at 90 % ") == Promise(0.5, 0.8, 0.9)
    assert str(Promise.parse("iou>=0.7 for 90% at 95%")) == "iou>=0.7 for 90% at 95%"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "iou>0.7 for 90% at 95%",
        "iou>=1.5 for 90% at 95%",
        "iou>=0.7 for 100% at 95%",
        "iou>=0 for 9% at 5%",
        "iou>=0.5 for 90% at 99.9999999999%",
    ],
)
def test_what_is_no_promise_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write e.g. 'iou>=0.7 for 90% at 95%'"):
        Promise.parse(text)


def test_the_fewest_images_by_hand() -> None:
    assert fewest_images(Promise(0.5, 0.1, 0.9)) == 1  # 1 - 0.1 = 0.9
    assert fewest_images(PROMISE) == 11  # 0.8 ** 10 = 0.107, 0.8 ** 11 = 0.086
    assert fewest_images(Promise(0.5, 0.9, 0.95)) == 29  # 0.9 ** 28 = 0.052, 0.9 ** 29 = 0.047


def falling(num_good: int, num_bad: int) -> Checked:
    """Labels of as many images, the good ones surest."""
    num = num_good + num_bad
    return Checked(list(range(num)), np.linspace(1, 0, num).tolist(), [0.9] * num_good + [0.1] * num_bad)


def test_it_goes_down_to_where_too_many_are_bad() -> None:
    # P(Binomial(65, 0.2) <= 5) = 0.01, P(Binomial(70, 0.2) <= 10) = 0.15 > 0.1: it ends at 65 of 100.
    assert find_guarantee(PROMISE, falling(60, 40)) == Guarantee(PROMISE, 0.65, 65, 5)
    # P(Binomial(70, 0.2) <= 7) = 0.02, P(Binomial(75, 0.2) <= 12) = 0.24: at 70
    assert find_guarantee(PROMISE, falling(63, 37)) == Guarantee(PROMISE, 0.7, 70, 7)


def test_too_few_images_cannot_promise_even_if_all_are_good() -> None:
    assert find_guarantee(PROMISE, falling(10, 0)) is None  # 0.8 ** 10 = 0.107 > 0.1
    assert find_guarantee(PROMISE, falling(11, 0)) == Guarantee(PROMISE, 1.0, 11, 0)
    assert find_guarantee(PROMISE, Checked([], [], [])) is None


def test_one_bad_label_among_the_surest_does_not_end_it_all() -> None:
    good = falling(100, 0)
    ious = [0.1, *good.ious[1:]]
    assert find_guarantee(PROMISE, Checked(good.image_ids, good.ranks, ious)) == Guarantee(PROMISE, 1.0, 100, 1)


def test_labels_of_one_image_count_once() -> None:
    many = falling(200, 0)
    assert find_guarantee(PROMISE, many) is not None
    assert find_guarantee(PROMISE, Checked([image // 40 for image in many.image_ids], many.ranks, many.ious)) is None


def test_it_is_about_the_surest_labels_and_about_no_part_of_equal_ones() -> None:
    half = Guarantee(PROMISE, 0.5, 20, 0)
    assert half.kept(np.array([0.1, 0.9, 0.8, 0.2])).tolist() == [False, True, True, False]
    assert half.kept(np.array([0.9, 0.5, 0.5, 0.5])).tolist() == [True, False, False, False]
    assert not half.kept(np.array([0.5] * 4)).any()
    assert Guarantee(PROMISE, 1.0, 20, 0).kept(np.array([0.5, 0.0], np.float32)).all()


def test_where_it_begins_does_not_depend_on_what_is_good() -> None:
    """Were it chosen by truth, a promise at even odds would be kept by luck: of 1,000 draws without any order."""
    rng, promise = numpy_generator(3), Promise(0.5, 0.5, 0.9)
    given = 0
    for _ in range(1000):
        good = rng.random(60) < 0.5
        given += find_guarantee(promise, Checked(list(range(60)), rng.random(60).tolist(), good.tolist())) is not None
    assert given / 1000 < 0.1 + 3 * (0.1 * 0.9 / 1000) ** 0.5


def test_what_cannot_be_given_says_what_can_and_what_it_would_take() -> None:
    with pytest.raises(ConfigError) as told:
        require_guarantee(Promise(0.5, 0.95, 0.95), falling(50, 50))
    assert "iou>=0.5 for 95% at 95% cannot be given: by 100 labeled images that were checked" in str(told.value)
    # It begins at twice 59 images, where all must be good: 118 of 45 % of 1.1 ** 10 times 100
    assert "it would take about 160 more" in str(told.value)
    # At a tenth of the error: 0.85 ** 60 is more than small enough, but 10 bad of 60 are not; 0.8 ** 50 = 0.00001.
    assert "'iou>=0.5 for 80% at 99.5%' can, so much surer because it was picked out of up to 10" in str(told.value)
    with pytest.raises(
        ConfigError, match="help; nor can a lower share down to 50% of labels with an IoU of 0.5 at 99%"
    ):
        require_guarantee(PROMISE, falling(0, 50))
    with pytest.raises(ConfigError, match="would not help; ask for a lower IoU"):  # there is no lower share to try
        require_guarantee(Promise(0.5, 0.5, 0.9), falling(0, 50))
    with pytest.raises(ConfigError, match="nothing is known of the others"):
        require_guarantee(PROMISE, Checked([], [], []))
    with pytest.raises(ConfigError, match="it would take about 2 more"):
        require_guarantee(PROMISE, falling(10, 0))


def test_what_is_offered_is_given_when_it_is_asked_for_and_errs_no_more_often_than_what_was_asked() -> None:
    """Labels of which at most 78 % are good, whatever their rank; 90 % are asked for, and then what is offered."""
    rng, asked, broken = numpy_generator(5), Promise(0.5, 0.9, 0.8), 0
    for _ in range(500):
        good = rng.random(200) < 0.78
        checked = Checked(list(range(200)), rng.random(200).tolist(), good.astype(float).tolist())
        try:
            broken += require_guarantee(asked, checked).promise.share > 0.78
        except ConfigError as error:
            if offered := re.search(r"'(iou.*)' can", str(error)):
                found = find_guarantee(Promise.parse(offered[1]), checked)
                assert found is not None and found.promise.certainty == 0.98
                broken += found.promise.share > 0.78
    assert broken / 500 < 0.2 + 3 * (0.2 * 0.8 / 500) ** 0.5


def test_of_few_photos_it_says_how_far_chance_goes() -> None:
    # two standard deviations: 2 * sqrt(0.9 * 0.1 / 36) = 0.1
    assert "among those of 36 photos alone, chance makes it up to 10 points" in Promise(0.7, 0.9, 0.95).by_chance(36)
    assert Promise(0.7, 0.9, 0.95).by_chance(300) == ""


@pytest.mark.parametrize(("steepness", "least", "most"), [(6.0, 0.02, 0.12), (1000.0, 0.14, 0.26)])
def test_how_often_luck_at_the_cut_breaks_a_promise(steepness: float, least: float, most: float) -> None:
    """Labels whose chance falls with their rank, gently as here (AUC .9) or at once; a promise false from 0.6 on."""
    rng, share, certainty, broken = numpy_generator(11), 0.9, 0.9, 0
    ranks = np.linspace(0.5 / 2000, 1 - 0.5 / 2000, 2000)  # of all labels, by coverage: 0 = the surest
    surest, shares = ranks[ranks < 0.6], np.linspace(0, 1, 2001)
    middle = max(at for at in shares.tolist() if _good(surest, steepness, at).mean() < share)
    for _ in range(400):
        coverage = rng.random(300)
        good = rng.random(300) < _good(coverage, steepness, middle)
        images = list(range(300))
        found = find_guarantee(Promise(0.5, share, certainty), Checked(images, (1 - coverage).tolist(), good.tolist()))
        if found is not None:
            broken += _good(ranks[ranks < found.coverage], steepness, middle).mean() < share
    assert least < broken / 400 < most


def _good(coverage: np.ndarray, steepness: float, middle: float) -> np.ndarray:
    return 1 / (1 + np.exp(np.clip(steepness * (coverage - middle), -50, 50)))


def test_a_promise_is_broken_no_more_often_than_promised_and_not_absurdly_seldom() -> None:
    """Labels that are good with the probability of their confidence; 1,000 draws of 300 labeled images."""
    rng, broken, given = numpy_generator(7), 0, 0
    for _ in range(1000):
        ranks = rng.random(300)
        good = rng.random(300) < ranks
        found = find_guarantee(PROMISE, Checked(list(range(300)), ranks.tolist(), good.astype(float).tolist()))
        if found is not None:
            given += 1
            broken += 1 - found.coverage / 2 < PROMISE.share  # the mean chance of the surest so many
    assert given > 800
    error = 3 * (0.1 * 0.9 / 1000) ** 0.5
    assert 0.01 < broken / 1000 < 0.1 + error
