from pathlib import Path

import numpy as np
import pytest

from l2l_ray.calibration import (
    FILE,
    Calibration,
    Checked,
    Curve,
    calibrate,
    chances,
    cross_validated,
    expected_iou,
    read,
    reliability,
)
from l2l_ray.errors import CheckpointError
from l2l_ray.randomness import numpy_generator


def drawn(num_images: int, per_image: int = 3, seed: int = 0) -> Checked:
    """Labels whose IoU rises with the square of their score, with noise that the labels of an image share."""
    rng = numpy_generator(seed)
    image_ids = np.repeat(np.arange(num_images), per_image)
    scores = rng.random(len(image_ids))
    ious = np.clip(scores**2 + np.repeat(rng.normal(0, 0.1, num_images), per_image), 0, 1)
    return Checked(image_ids.tolist(), scores.tolist(), ious.tolist())


def test_a_curve_is_straight_between_its_knots_and_level_beyond() -> None:
    assert Curve((0.2, 0.6), (0.1, 0.5))([0.0, 0.2, 0.4, 0.9]).tolist() == pytest.approx([0.1, 0.1, 0.3, 0.5])


def test_an_estimate_nobody_knows_the_meaning_of_stays_as_it_is() -> None:
    assert read(None, 0.3) == 0.3
    assert read(Curve((0.0, 1.0), (0.0, 0.5)), 0.3) == pytest.approx(0.15)


def test_a_step_of_the_curve_is_mixed_with_labels_of_average_iou() -> None:
    # One step (IoU falls with the score): five labels, mean 0.4; mixed with two of 0.4 it is 0.4 everywhere.
    level = calibrate(Checked([1] * 5, [0.1, 0.2, 0.3, 0.4, 0.5], [0.8, 0.6, 0.4, 0.2, 0.0]), [])
    assert level([0.1, 0.3, 0.5]) == pytest.approx([0.4] * 3, abs=2e-4)
    # Two steps of two labels, IoU 0 and 1, mean 0.5: (2 * 0 + 2 * 0.5) / 4 and (2 * 1 + 2 * 0.5) / 4 at 0.25 and 0.75.
    steep = calibrate(Checked([1] * 4, [0.2, 0.3, 0.7, 0.8], [0, 0, 1, 1]), [])
    assert steep([0.2, 0.5, 0.8]) == pytest.approx([0.25, 0.5, 0.75], abs=2e-2)


def test_confidence_rises_strictly_with_the_score_and_stays_a_share() -> None:
    curve = calibrate(drawn(30), [])
    found = curve(np.linspace(0, 1, 50))
    assert (np.diff(found) > 0).all()
    assert found.min() >= 0
    assert found.max() <= 1


def test_scores_of_unlabeled_images_are_read_by_their_rank() -> None:
    checked = drawn(400)
    surer = np.sqrt(numpy_generator(1).random(2000))  # the same labels, by a teacher that is surer of everything
    found = calibrate(checked, surer)(surer)
    assert found.mean() == pytest.approx(np.mean(checked.ious), abs=0.02)
    as_it_was = calibrate(checked, [])(surer)
    assert as_it_was.mean() > found.mean() + 0.1  # what would have been said without


def test_a_calibration_needs_a_label() -> None:
    with pytest.raises(ValueError, match="at least one label whose truth is known"):
        calibrate(Checked([], [], []), [0.5])


def test_one_label_says_its_own_iou() -> None:
    assert calibrate(Checked([1], [0.9], [0.6]), [])([0.0, 0.5, 1.0]) == pytest.approx([0.6] * 3, abs=2e-4)


def test_calibration_error_by_hand() -> None:
    # Bins: 0.05 and 0.07 (mean 0.06, IoU 0.5), 0.95 (IoU 1), 1.0 in the last bin too (mean 0.975, IoU 0.5).
    found = reliability([0.05, 0.07, 0.95, 1.0], [0.0, 1.0, 1.0, 0.0])
    assert [one["num"] for one in found["bins"]] == [2, 2]
    assert found["ece"] == pytest.approx((2 * 0.44 + 2 * 0.475) / 4)
    assert reliability([], []) == {"num": 0, "ece": None, "bins": []}


def test_what_is_wrong_on_images_that_were_not_seen_shows() -> None:
    good = cross_validated(drawn(300))
    assert good is not None
    assert good["num"] == 900
    assert good["ece"] < 0.05
    rng = numpy_generator(0)
    noise = cross_validated(Checked(list(range(20)), rng.random(20).tolist(), rng.integers(0, 2, 20).tolist()))
    assert noise is not None
    assert noise["ece"] > 0.1  # twenty labels without any order say little, and cross-validation says so
    assert cross_validated(Checked([1, 1], [0.1, 0.9], [0.0, 1.0])) is None


def test_the_expected_iou_has_the_truth_in_its_interval_and_is_wide_where_little_is_known() -> None:
    others = drawn(2000, seed=5)
    truth = float(np.mean(others.ious))
    widths = []
    for num in (20, 200):
        checked = drawn(num, seed=2)
        found = expected_iou(checked, others.estimates)
        assert found is not None
        assert found["low"] <= truth <= found["high"]
        widths.append(found["high"] - found["low"])
    assert widths[0] > 1.5 * widths[1]
    assert expected_iou(drawn(20), []) is None
    assert expected_iou(Checked([1, 1], [0.1, 0.2], [0.5, 0.5]), [0.1]) is None


def test_the_chance_of_an_iou_is_the_share_that_reaches_it() -> None:
    checked = Checked(list(range(200)), [0.2] * 100 + [0.8] * 100, [0.4] * 90 + [0.6] * 110)
    curve = chances(checked, 0.5)
    # 10 of 100 and 100 of 100, each mixed with two of the average, 0.55
    assert curve([0.2, 0.8]) == pytest.approx([11.1 / 102, 101.1 / 102])


def test_what_was_saved_is_read_again(tmp_path: Path) -> None:
    checked = drawn(5)
    known = Calibration(calibrate(checked, []), Curve([0.0, 1.0], [0.2, 0.7]), checked)
    assert Calibration.load(tmp_path) is None
    known.save(tmp_path)
    again = Calibration.load(tmp_path)
    assert again is not None
    assert again.labels([0.1, 0.9]) == pytest.approx(known.labels([0.1, 0.9]))
    assert again.predictions([0.5]) == pytest.approx([0.45])
    assert list(again.checked.image_ids) == list(checked.image_ids)
    (tmp_path / FILE).write_text('{"labels": {}}')
    with pytest.raises(CheckpointError, match=r"cannot read .*calibration.json"):
        Calibration.load(tmp_path)
