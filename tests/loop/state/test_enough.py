"""Whether a run would have enough, told without opening a picture."""

from __future__ import annotations

from dataclasses import replace

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.loop.state.enough import candidates_of, num_images, num_labeled_needed, num_val_images, training_labeled
from tests.whole_run import changed


@pytest.mark.parametrize(("methods", "needed"), [(["supervised", "pwa"], 1), (["supervised", "l2l"], 2)])
def test_a_learner_needs_two_labeled_images(methods: list[str], needed: int) -> None:
    assert num_labeled_needed(methods) == needed


def test_val_is_the_data_sets_own_or_held_out_of_the_labeled_images(smoke: RunConfig) -> None:
    found = candidates_of(smoke)
    assert num_val_images(smoke, found) == num_images(found.splits["val"])
    bare = replace(found, splits={})
    assert num_val_images(smoke, bare) == num_images(found.labeled) // 4  # data.val_from_labeled is 0.25
    assert num_val_images(changed(smoke, data={"val_from_labeled": 0.0}), bare) == 0


def test_what_becomes_val_is_not_left_for_training(smoke: RunConfig) -> None:
    found = candidates_of(smoke)
    assert training_labeled(smoke, found) == found.labeled
    bare = replace(found, splits={})
    left = training_labeled(smoke, bare)
    assert num_images(left) + num_val_images(smoke, bare) == num_images(bare.labeled) > num_images(left)
