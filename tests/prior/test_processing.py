"""What sizes pictures are brought to before a processor that takes any size gets them."""

from __future__ import annotations

import pytest
from PIL import Image
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from l2l_ray.errors import ConfigError
from l2l_ray.prior.processing import PatchGrid
from l2l_ray.prior.sent_size import MOST_PIXELS
from tests.prior.processors import PROCESSORS

PHONE = 4032, 3024


def num_tokens(name: str, image: Image.Image) -> int:
    """Return how many tokens a processor makes of a picture."""
    processor = PROCESSORS[name]()
    width, height = image.size
    return int(processor.get_number_of_image_patches(height, width, {})) // processor.merge_size**2


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_photo_of_a_phone_costs_no_more_than_one_that_is_sent_to_a_server(name: str) -> None:
    grid = PatchGrid.of(PROCESSORS[name](), 0, MOST_PIXELS)
    assert grid is not None
    photo = Image.new("RGB", PHONE)
    fitted = grid.fitted(photo)
    assert num_tokens(name, photo) > 2 * num_tokens(name, fitted)
    assert num_tokens(name, fitted) <= 1.05 * MOST_PIXELS / grid.side_px**2
    assert fitted.width / fitted.height == pytest.approx(4 / 3, rel=0.02)
    small = Image.new("RGB", (640, 480))
    assert grid.fitted(small) is small


def test_the_floor_and_the_ceiling_by_hand() -> None:
    grid = PatchGrid(32, 1024)
    assert grid.fitted(Image.new("RGB", (640, 480))).size == (1184, 896)  # 37 x 28 tokens
    # sqrt(2048 * 28 * 28 / (4032 * 3024)) = 0.3629: 1463.2 and 1097.4 px, 45.7 x 34.3 tokens
    assert grid.fitted(Image.new("RGB", PHONE)).size == (1472, 1088)
    assert grid.fitted(Image.new("RGB", (1268, 1267))).size == (1280, 1280)  # 39.6 tokens either way
    more_wanted = PatchGrid(32, 4096)
    assert more_wanted.fitted(Image.new("RGB", (2048, 2048))).size == (2048, 2048), (
        "what is asked for is not taken away"
    )
    assert PatchGrid(32, 0, None).fitted(Image.new("RGB", PHONE)).size == PHONE


def test_a_processor_that_chooses_the_size_itself_is_left_alone() -> None:
    assert PatchGrid.of(SiglipImageProcessorPil(), 0, MOST_PIXELS) is None
    with pytest.raises(ConfigError, match="prior.min_image_tokens is 9, but the Siglip.* set it to 0"):
        PatchGrid.of(SiglipImageProcessorPil(), 9, MOST_PIXELS)
