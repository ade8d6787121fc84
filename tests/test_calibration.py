from pathlib import Path

import numpy as np
import pytest

from l2l_ray import calibration
from l2l_ray.calibration import (
    FILE,
    Calibration,
    Checked,
    Curve,
    by_rank,
    calibrate,
    chances,
    cross_validated,
    expected_iou,
    ranks_of,
    reliability,
)
from l2l_ray.errors import CheckpointError
from l2l_ray.randomness import numpy_generator


def drawn(num_images: int, noise: float = 0.1, per_image: int = 3, seed: int = 0) -> Checked:
    """Labels whose IoU rises with the square of their rank, with noise that the labels of an image share."""
    rng = numpy_generator(seed)
    image_ids = np.repeat(np.arange(num_images), per_image)
    ranks = ranks_of(rng.random(len(image_ids)))
    ious = np.clip(ranks**2 + np.repeat(rng.normal(0, noise, num_images), per_image), 0, 1)
    return Checked(image_ids.tolist(), ranks.tolist(), ious.tolist())


def test_a_curve_is_straight_between_its_knots_and_level_beyond() -> None:
    assert Curve((0.2, 0.6), (0.1, 0.5))([0.0, 0.2, 0.4, 0.9]).tolist() == pytest.approx([0.1, 0.1, 0.3, 0.5])


def test_a_rank_is_the_share_of_lower_scores_and_half_of_equal_ones() -> None:
    assert ranks_of([0.2, 0.9, 0.5, 0.5]).tolist() == [0.125, 0.875, 0.5, 0.5]
    assert ranks_of([]).tolist() == []
    with pytest.raises(ValueError, match="scores must be finite, got nan"):
        ranks_of([0.1, float("nan")])


def test_neighbours_in_rank_are_averaged_and_what_falls_is_made_level() -> None:
    # groups of three: 0.2, 0.1 (falls: together 0.15), 0.9
    checked = Checked([1] * 9, [0.1 * k for k in range(9)], [0.1, 0.3, 0.2, 0, 0.1, 0.2, 0.9, 0.8, 1.0])
    assert by_rank(checked)([0.1, 0.4, 0.55, 0.7]).tolist() == pytest.approx([0.15, 0.15, 0.525, 0.9])


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("num_images", [50, 300])
def test_confidences_are_right_on_new_labels_however_well_ranks_tell_them(num_images: int, noise: float) -> None:
    errors = []
    for seed in range(10):
        others = drawn(2000, noise, seed=100 + seed)
        found = calibrate(drawn(num_images, noise, seed=seed), others.ranks)(others.ranks)
        errors.append(reliability(found, others.ious)["ece"])
    assert np.mean(errors) < (0.05 if num_images < 100 else 0.03)


def test_confidence_rises_strictly_with_the_score_and_stays_a_share() -> None:
    scores = np.linspace(0.1, 0.9, 50)
    found = calibrate(drawn(30), scores)(np.linspace(0, 1, 50))
    assert (np.diff(found) > 0).all()
    assert found.min() >= 0
    assert found.max() <= 1


def test_a_teacher_that_is_surer_of_everything_changes_nothing() -> None:
    checked, scores = drawn(100), numpy_generator(1).random(2000)
    found, surer = calibrate(checked, scores)(scores), calibrate(checked, np.sqrt(scores))(np.sqrt(scores))
    assert surer == pytest.approx(found, abs=0.01)
    assert found.mean() == pytest.approx(np.mean(checked.ious), abs=0.02)


def test_equal_scores_have_the_iou_of_their_middle_rank() -> None:
    checked = Checked(list(range(1000)), np.linspace(0, 1, 1000).tolist(), np.linspace(0, 1, 1000).tolist())
    assert calibrate(checked, [0.5] * 100)([0.5])[0] == pytest.approx(0.5, abs=0.01)
    half = [1.0] * 50 + np.linspace(0, 0.9, 50).tolist()
    assert calibrate(checked, half)([1.0])[0] == pytest.approx(0.75, abs=0.01)


def test_a_calibration_needs_labels_and_scores() -> None:
    for checked, scores in ((Checked([], [], []), [0.5]), (Checked([1], [0.5], [0.6]), [])):
        with pytest.raises(ValueError, match="a calibration needs labels and scores"):
            calibrate(checked, scores)
    assert calibrate(Checked([1], [0.5], [0.6]), [0.4])([0.0, 0.5, 1.0]) == pytest.approx([0.6] * 3, abs=2e-4)


def test_calibration_error_by_hand() -> None:
    # Bins: 0.05 and 0.07 (mean 0.06, IoU 0.5), 0.95 and 1.0, which is in the last bin too (mean 0.975, IoU 0.5).
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
        found = expected_iou(drawn(num, seed=2), others.ranks)
        assert found is not None
        assert found["low"] <= truth <= found["high"]
        widths.append(found["high"] - found["low"])
    assert widths[0] > 1.5 * widths[1]
    assert expected_iou(drawn(20), []) is None
    assert expected_iou(Checked([1, 1], [0.1, 0.2], [0.5, 0.5]), [0.1]) is None


def test_the_interval_of_the_expected_iou_has_the_truth_in_it_as_often_as_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "NUM_RESAMPLES", 200)
    others = drawn(2000, seed=5)
    truth = float(np.mean(others.ious))
    found = [expected_iou(drawn(20, seed=100 + number), others.ranks) for number in range(60)]
    held = sum(one is not None and one["low"] <= truth <= one["high"] for one in found)
    assert 52 <= held  # of 60, 57 are promised
    assert held < 60 or max(one["high"] - one["low"] for one in found if one) < 0.3


def test_labels_of_equal_rank_have_one_confidence_whatever_their_order() -> None:
    ious = [0.0] * 15 + [1.0] * 15
    for order in (ious, ious[::-1]):
        assert by_rank(Checked(list(range(30)), [0.5] * 30, order))([0.2, 0.5, 0.8]) == pytest.approx([0.5] * 3)


def test_the_chance_of_an_iou_is_the_share_that_reaches_it() -> None:
    ranks = np.linspace(0, 1, 200).tolist()
    curve = chances(Checked(list(range(200)), ranks, [0.4] * 90 + [0.6] * 110), 0.5)
    assert curve([0.1, 0.9]).tolist() == [0.0, 1.0]
    assert 0 < curve([90 / 200])[0] < 1


def test_what_was_saved_is_read_again(tmp_path: Path) -> None:
    checked = drawn(5)
    known = Calibration(calibrate(checked, checked.ranks), Curve([0.0, 1.0], [0.2, 0.7]), checked)
    assert Calibration.load(tmp_path) is None
    known.save(tmp_path)
    again = Calibration.load(tmp_path)
    assert again is not None
    assert again.labels([0.1, 0.9]) == pytest.approx(known.labels([0.1, 0.9]))
    assert again.predictions([0.5]) == pytest.approx([0.45])
    assert list(again.checked.image_ids) == list(checked.image_ids)
    for damaged in ('{"labels": {}}', '{"format": 9}', "{"):
        (tmp_path / FILE).write_text(damaged)
        with pytest.raises(CheckpointError, match=r"cannot read .*calibration.json"):
            Calibration.load(tmp_path)
