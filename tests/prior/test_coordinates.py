"""A box that is written in a unit is read back to the same place, whatever the picture's size and shape."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2l_ray.prior.coordinates import BY_HAND, COORDINATES
from l2l_ray.prior.parse import parse_reply
from l2l_ray.prior.prompt import FLORENCE_BOX, PALIGEMMA, QWEN_RELATIVE
from l2l_ray.prior.reply import MllmIdentity, Reply, make_prior

SIDES = st.integers(16, 6000)
CORNERS = st.tuples(*[st.integers(0, 400)] * 2, *[st.integers(500, 1000)] * 2)


@pytest.mark.parametrize("name", BY_HAND)
@given(box=CORNERS, photo=st.tuples(SIDES, SIDES), seen=st.tuples(SIDES, SIDES))
def test_numbers_map_back_exactly(name: str, box, photo, seen) -> None:
    fmt = replace(QWEN_RELATIVE, coordinates=name)
    truth = tuple(value / 1000 for value in box)
    width, height = fmt.unit.scale(*(photo if fmt.unit.of_photo else seen))
    written = fmt.answer((truth[0] * width, truth[1] * height, truth[2] * width, truth[3] * height), "cup")
    prior = make_prior("k", Reply((written,), (-0.1,), *seen), MllmIdentity("f", fmt), *photo)
    assert prior.boxes_xyxy_frac == (pytest.approx(truth, abs=1e-9),)


@pytest.mark.parametrize("fmt", [FLORENCE_BOX, PALIGEMMA])
@given(box=CORNERS)
def test_location_tokens_map_back_to_their_bin(fmt, box) -> None:
    bins = fmt.unit.num_bins
    tokens = tuple(min(int(value / 1000 * bins), bins - 1) for value in box)
    (read,) = parse_reply(fmt.answer(tokens, "cup"), fmt, 1, 1).boxes_xyxy_frac
    assert read == pytest.approx(tuple(value / 1000 for value in box), abs=1 / bins)


def test_percent_signs_are_read_where_the_unit_is_percent() -> None:
    reply = '{"bbox_2d": ["10%", "20%", "50%", "60%"]}'
    fmt = replace(QWEN_RELATIVE, coordinates="percent")
    assert parse_reply(reply, fmt, 1, 1).boxes_xyxy_frac == ((0.1, 0.2, 0.5, 0.6),)


def test_every_unit_says_what_it_is() -> None:
    assert len({unit.words for unit in COORDINATES.values()}) == len(COORDINATES)
