"""What is sent for answers in pixels is what the server's model sees: its own processor leaves the size as it is."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from l2l_ray.config import PriorConfig
from l2l_ray.errors import ConfigError
from l2l_ray.prior.coordinates import COORDINATES
from l2l_ray.prior.sent_size import MOST_PIXELS, SentSize
from tests.prior.processors import PROCESSORS


@pytest.mark.parametrize("model_type", PROCESSORS)
@given(size=st.tuples(*[st.integers(1, 3000)] * 2), min_image_tokens=st.sampled_from([0, 100, 1568]))
def test_the_models_processor_keeps_the_size(model_type: str, size: tuple[int, int], min_image_tokens: int) -> None:
    assume(max(size) <= 50 * min(size))
    processor = PROCESSORS[model_type]()
    sizes = SentSize.for_model(model_type, "auto", COORDINATES["pixels"], min_image_tokens)
    width, height = sizes.of(*size)
    num_patches = processor.get_number_of_image_patches(height, width, {})
    assert num_patches * processor.patch_size**2 == width * height
    assert width % sizes.side_px == height % sizes.side_px == 0


def test_a_small_picture_comes_out_of_the_processor_as_it_was_sent() -> None:
    sizes = SentSize.for_model("qwen2_5_vl", "auto", COORDINATES["pixels"], 0)
    assert sizes.of(40, 30) == (84, 56) and sizes.of(640, 480) == (644, 476) and sizes.of(1, 1) == (56, 56)
    seen = PROCESSORS["qwen2_5_vl"]()(Image.new("RGB", sizes.of(40, 30)))["image_grid_thw"]
    assert [int(side) * 14 for side in seen[0]][1:] == [56, 84]


def test_a_name_that_says_nothing_takes_the_grid_of_the_family_that_is_named() -> None:
    unit = COORDINATES["pixels"]
    assert SentSize.for_model("my-model", "glm", unit, 0) == SentSize.for_model("glm4v", "auto", unit, 0)
    assert SentSize.for_model("my-model", "Where is {expression}?", unit, 0).side_px == 28


def test_other_units_keep_the_shape() -> None:
    sizes = SentSize.for_model("qwen2_5_vl", "auto", COORDINATES["thousandths"], 0)
    assert sizes.of(9, 5) == (9, 5) and sizes.of(3001, 20) == (3001, 20)
    width, height = sizes.of(4000, 3000)
    assert width * height == pytest.approx(MOST_PIXELS, rel=0.01) and width / height == pytest.approx(4 / 3, rel=0.01)


def test_a_floor_above_what_is_sent_is_refused_with_the_largest() -> None:
    unit = COORDINATES["thousandths"]
    width, height = SentSize.for_model("qwen3_vl", "auto", unit, 1568).of(640, 480)
    assert width * height == pytest.approx(1568 * 32**2, rel=0.01)
    with pytest.raises(ConfigError, match="min_image_tokens is 1569, .* at most 1568 image tokens; set it to 1568 or"):
        SentSize.for_model("qwen3_vl", "auto", unit, 1569)
    assert "at most 1568" in str(PriorConfig.model_fields["min_image_tokens"].description)
