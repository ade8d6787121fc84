"""Masks of a prior as short texts: they come back as they were, and are short."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from l2l_ray.errors import DataError
from l2l_ray.prior.masks import mask_on_grid, read_mask, write_mask


@settings(max_examples=25)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 9), share=st.floats(0, 1))
def test_any_mask_comes_back(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    found = read_mask(write_mask(mask))
    assert found.dtype == bool and np.array_equal(found, mask)


def test_a_mask_of_an_object_is_about_a_kilobyte() -> None:
    y, x = np.mgrid[:256, :256] / 256
    arms = 0.2 + 0.12 * np.cos(9 * np.arctan2(y - 0.5, x - 0.4))  # a star with nine arms
    mask = np.hypot(x - 0.4, y - 0.5) < arms
    assert 0.05 < mask.mean() < 0.5 and len(write_mask(mask)) < 1500


def test_cells_hold_the_covered_share() -> None:
    mask = np.zeros((8, 16), dtype=bool)
    mask[:4, :2] = True  # a mask of the image: rows and columns need not be as many
    expected = torch.zeros(4, 4)
    expected[:2, 0] = 0.5
    assert torch.equal(mask_on_grid(mask, 4), expected)
    fine = mask_on_grid(np.ones((3, 5), dtype=bool), 8)
    assert torch.equal(fine, torch.ones(8, 8))


@pytest.mark.parametrize("text", ["", "no base64!", "AAAA", write_mask(np.ones((9, 9), dtype=bool))[:40]])
def test_what_is_no_mask_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"a prior's mask cannot be read: .*expected a PNG in base64; start again"):
        read_mask(text)


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (2_000, 2)])
def test_a_small_text_does_not_become_a_huge_mask(width: int, height: int) -> None:
    content = io.BytesIO()
    Image.new("1", (width, height)).save(content, "PNG")
    with pytest.raises(DataError, match="a prior's mask cannot be read: "):
        read_mask(base64.b64encode(content.getvalue()).decode())


def test_other_pictures_are_no_masks() -> None:
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    with pytest.raises(DataError, match="pixels of kind RGB"):
        read_mask(base64.b64encode(content.getvalue()).decode())
