"""What a run says of its labels without looking at their truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from l2l_ray.calibration import FILE, Calibration
from l2l_ray.loop.evaluation.trust import expected_quality
from l2l_ray.loop.state.example_files import ExampleTable
from l2l_ray.loop.state.ledger import Ledger, is_used, read_shard
from l2l_ray.loop.state.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")


def test_it_rests_on_every_labeled_image_and_on_no_other(whole_run: RunFolder) -> None:
    found = expected_quality(whole_run.config, whole_run)
    assert set(found) == {"l2l"}, "a fixed rule has no labels that were checked"
    labeled = ExampleTable(whole_run.examples_path("labeled"))
    assert found["l2l"]["labeled"] == {"images": len({row.image_id for row in labeled}), "texts": len(labeled)}
    for version in whole_run.published("l2l"):
        checked = Calibration.load(whole_run.version_dir("l2l", version))
        assert checked is not None
        assert set(checked.checked.image_ids) == {row.image_id for row in labeled}


def test_the_expected_iou_is_about_that_of_the_confidences(whole_run: RunFolder) -> None:
    last = whole_run.config.loop.rounds - 1
    entries = Ledger(whole_run.ledger_path).entries("l2l", last)
    labels = [label for entry in entries for label in read_shard(whole_run.path / entry.path)]
    found = expected_quality(whole_run.config, whole_run)["l2l"]
    for name, part in (("all", labels), ("used", [label for label in labels if is_used(label)])):
        expected = found[name]
        assert (expected["low"], expected["high"]) == (None, None), "the run has fewer labeled images than it takes"
        # both are isotonic fits to the same labeled images, one of them on the fitted values of the other
        assert expected["mean"] == pytest.approx(np.mean([label.confidence for label in part]), abs=0.05)


def test_a_version_that_knows_nothing_of_its_scores_says_nothing(copied: Callable[..., RunFolder]) -> None:
    run = copied()
    for version in run.published("l2l"):
        (run.version_dir("l2l", version) / FILE).unlink()
    assert expected_quality(run.config, run) == {}
