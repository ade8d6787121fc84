"""Committed labels at the image's size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from l2l_ray.data.masks import mask_area_px
from l2l_ray.loop.evaluation.committed import has_pixel, native_mask, pseudo_mask
from l2l_ray.loop.state.example_files import read_examples
from l2l_ray.loop.state.ledger import Ledger, read_shard
from l2l_ray.loop.state.run_folder import RunFolder


def test_masks_reach_the_image_as_in_evaluation() -> None:
    logits = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    assert native_mask(logits, 2, 2).tolist() == [[True, False], [False, False]]
    assert native_mask(logits.abs(), 5, 7).all()


@pytest.mark.parametrize(("per_cell", "left"), [(0.5, "none"), (0.75, "some"), (2, "all"), (7, "all")])
def test_a_lone_cell_may_be_lost_between_the_pixels_of_a_small_photo(
    whole_run: RunFolder, per_cell: float, left: str
) -> None:
    """At half a pixel a cell, every pixel's centre lies where four cells meet, of which three are background."""
    entry = Ledger(whole_run.ledger_path).entries("l2l", 0)[0]
    label = next(iter(read_shard(whole_run.path / entry.path)))
    example = read_examples(whole_run.examples_path("unlabeled"))[0]
    side = round(per_cell * label.grid)
    photo = replace(example, height_px=side, width_px=3 * label.grid)
    found = []
    for row in range(label.grid):
        target = np.zeros_like(label.target)
        target[row, 1] = True
        mask = pseudo_mask(photo, replace(label, target=target, confidence=0.9), {})
        found.append(has_pixel(photo, replace(label, target=target)))
        assert (mask_area_px(mask.rle) > 0) == found[-1]
        assert mask.confidence == (0.9 if found[-1] else 0.0)
    assert ("all" if all(found) else "some" if any(found) else "none") == left
    assert not has_pixel(photo, replace(label, target=np.zeros_like(label.target)))
