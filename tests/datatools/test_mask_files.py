"""Pictures as masks: what is the object, what is doubtful and said, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from l2l_ray.data.layout import BadValue, Notice, listed
from l2l_ray.data.masks import decode
from l2l_ray.data.pixels import Header
from l2l_ray.datatools.mask_files import mask_of_file

SIZE = (160, 120)
Y, X = np.mgrid[:120, :160]
DISC = (X - 80) ** 2 + (Y - 60) ** 2 < 26**2
OTHER = (X - 130) ** 2 + (Y - 30) ** 2 < 12**2
LARGE = Image.fromarray(DISC.astype(np.uint8) * 255).resize((640, 480), Image.Resampling.NEAREST)


def gray(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8))


def colored(
    *areas: tuple[np.ndarray, tuple[int, int, int]], background: tuple[int, int, int] = (0, 0, 0)
) -> Image.Image:
    pixels = np.empty((120, 160, 3), np.uint8)
    pixels[:] = background
    for inside, color in areas:
        pixels[inside] = color
    return Image.fromarray(pixels)


def with_opacity(colors: Image.Image, opacity: np.ndarray) -> Image.Image:
    picture = colors.convert("RGBA")
    picture.putalpha(gray(opacity))
    return picture


def numbered(values: np.ndarray, *colors: int) -> Image.Image:
    picture = Image.fromarray(values.astype(np.uint8), "L").convert("P")
    picture.putpalette(colors)
    return picture


def read(path: Path, picture: Image.Image, **options: Any) -> tuple[np.ndarray, list[str]]:
    picture.save(path, **options)
    notices: list[Notice] = []
    mask = decode(mask_of_file(path, Header(picture.size, 1, True), notices))
    return mask, listed(notices)


TWO_VALUES = {
    "bits": Image.fromarray(DISC),
    "0 and 1": gray(DISC),
    "0 and 255": gray(DISC * 255),
    "0 and 3 of 16 bits": Image.fromarray(DISC.astype(np.uint16) * 3),
    "0 and 65535": Image.fromarray(DISC.astype(np.uint16) * 65_535),
    "black and red": colored((DISC, (255, 0, 0))),
    "black and dark red": colored((DISC, (1, 0, 0))),
    "palette of VOC": numbered(DISC, 0, 0, 0, 128, 0, 0, 0, 128, 0),
    "palette with white first": numbered(~DISC, 255, 255, 255, 0, 0, 0),
    "black, opaque inside": with_opacity(colored(), DISC * 255),
    "white, opaque inside": with_opacity(colored((DISC, (255, 255, 255))), DISC * 255),
    "white on half transparent black": with_opacity(colored((DISC, (255, 255, 255))), DISC * 127 + 128),
    "opaque": with_opacity(colored((DISC, (255, 255, 255))), DISC * 0 + 255),
    "gray, opaque inside": Image.merge("LA", (Image.new("L", SIZE, 9), gray(DISC * 255))),
}


@pytest.mark.parametrize("name", TWO_VALUES)
def test_two_values_are_the_mask_and_nothing_is_said(tmp_path: Path, name: str) -> None:
    mask, notices = read(tmp_path / "m.png", TWO_VALUES[name])
    np.testing.assert_array_equal(mask, DISC)
    assert notices == []


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_two_values_of_32_bits(tmp_path: Path, dtype: type) -> None:
    mask, notices = read(tmp_path / "m.tif", Image.fromarray(DISC.astype(dtype)))
    np.testing.assert_array_equal(mask, DISC)
    assert notices == []


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 95])
@pytest.mark.parametrize("picture", [gray(DISC * 255), colored((DISC, (255, 0, 0)))], ids=["white", "red"])
@pytest.mark.parametrize("ending", ["jpg", "webp", "png"])
def test_compression_noise_is_cut_at_half_and_said(
    tmp_path: Path, picture: Image.Image, ending: str, quality: int
) -> None:
    if ending == "png":  # compressed once, then saved without loss
        picture.save(tmp_path / "first.jpg", quality=quality)
        with Image.open(tmp_path / "first.jpg") as noisy:
            mask, notices = read(tmp_path / "m.png", noisy.copy())
    else:
        mask, notices = read(tmp_path / f"m.{ending}", picture, quality=quality)
    assert (mask != DISC).sum() < 0.02 * DISC.sum()
    assert len(notices) == 1 and notices[0].startswith(f"m.{ending} (")
    assert notices[0].endswith("mask is not two-valued, cut at half of its range")


def test_smooth_borders_are_cut_at_half_and_said(tmp_path: Path) -> None:
    small = LARGE.resize(SIZE, Image.Resampling.BILINEAR)
    deep = Image.fromarray(np.asarray(small).astype(np.uint16) * 257)
    for picture in (small, deep, with_opacity(colored(), np.asarray(small))):
        mask, notices = read(tmp_path / "m.png", picture)
        np.testing.assert_array_equal(mask, DISC)
        assert len(notices) == 1 and "not two-valued" in notices[0] and "408 px" in notices[0]
    blurred = gray(DISC * 255).filter(ImageFilter.GaussianBlur(4))
    assert (read(tmp_path / "m.png", blurred)[0] != DISC).sum() < 0.05 * DISC.sum()


def test_a_heat_map_is_cut_at_half_of_its_own_range(tmp_path: Path) -> None:
    heat = 200 * np.exp(-((X - 80) ** 2 + (Y - 60) ** 2) / 800)
    mask, notices = read(tmp_path / "m.png", gray(heat))
    np.testing.assert_array_equal(mask, heat.astype(np.uint8) > 100)
    assert "between 0 and 200" in notices[0]


TILES = np.kron(np.arange(1, 41).reshape(5, 8), np.pad(np.ones((15, 15), int), ((2, 7), (2, 3))))[:120, :160]
SEVERAL: dict[str, tuple[Image.Image, str]] = {
    "numbers": (gray(DISC + OTHER * 2), "0, 1, 2"),
    "numbers of thin objects": (gray((X == 5) * 1 + (X == 9) * 2), "0, 2, 1|0, 1, 2"),
    "a border of VOC": (gray(np.where(OTHER, 255, DISC)), "0, 1, 255"),
    "a trimap": (gray(np.where(DISC, 255, np.where((X - 80) ** 2 + (Y - 60) ** 2 < 900, 128, 0))), "0, 255, 128"),
    "forty numbers": (gray(TILES), "0, .* and 33 more"),
    "forty numbers, spread": (gray(TILES * 6), "0, .* and 33 more"),
    "forty numbers of 16 bits": (Image.fromarray((TILES * 30).astype(np.uint16)), "0, .* and 33 more"),
    "palette of VOC": (numbered(np.where(OTHER, 2, DISC), 0, 0, 0, 128, 0, 0, 0, 128, 0), "#000000, #800000, #008000"),
    "colors": (colored((DISC, (255, 0, 0)), (OTHER, (0, 255, 0))), "#000000, #ff0000, #00ff00"),
    "colors on transparent": (
        with_opacity(colored((DISC, (255, 0, 0)), (OTHER, (0, 255, 0))), (DISC | OTHER) * 255),
        "#000000, #ff0000, #00ff00",
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_objects_in_one_mask_are_refused_by_their_values(tmp_path: Path, name: str) -> None:
    picture, values = SEVERAL[name]
    with pytest.raises(BadValue, match=rf"mask values: got ({values}) in 'm\.png'; expected two .*several objects"):
        read(tmp_path / "m.png", picture)


@pytest.mark.parametrize("ending", ["jpg", "webp"])
@pytest.mark.parametrize(
    "picture",
    [gray(DISC * 128 + OTHER * 255), colored((DISC, (255, 0, 0)), (OTHER, (0, 255, 0)))],
    ids=["gray", "colors"],
)
def test_several_objects_are_seen_through_compression(tmp_path: Path, picture: Image.Image, ending: str) -> None:
    with pytest.raises(BadValue, match="several objects"):
        read(tmp_path / f"m.{ending}", picture)


def test_a_cut_out_is_what_is_opaque(tmp_path: Path) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))
    mask, notices = read(tmp_path / "m.png", with_opacity(photo, DISC * 255))
    np.testing.assert_array_equal(mask, DISC)
    assert notices == ["m.png: mask is a cut-out, what is opaque is the object"]


def test_doubtful_masks_are_taken_and_said(tmp_path: Path) -> None:
    for picture, expected, words in (
        (
            gray(~DISC * 255),
            ~DISC,
            "m.png (89%): mask holds all corners and most of the picture, so it may be inverted",
        ),
        (gray(DISC * 0 + 7), DISC | True, "m.png: mask covers the whole picture"),
        (
            gray(DISC + 1),
            DISC,
            "m.png (1 and 2): no pixel of the mask is 0, the brighter of its two values is the object",
        ),
    ):
        mask, notices = read(tmp_path / "m.png", picture)
        np.testing.assert_array_equal(mask, expected)
        assert len(notices) == 1 and words in notices[0]


def test_empty_unreadable_and_unclear_masks_are_refused(tmp_path: Path) -> None:
    Image.new("L", (161, 120), 1).save(tmp_path / "wide.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "wide.png").read_bytes()[:40])
    (tmp_path / "none.png").write_bytes(b"")
    header = Header(SIZE, 1, True)
    for name, words in {
        "wide.png": "got 161 x 120 px; expected 160 x 120 px",
        "torn.png": "expected a readable PNG",
        "none.png": "'none.png': the file is empty",
    }.items():
        with pytest.raises(BadValue, match=words):
            mask_of_file(tmp_path / name, header, [])
    transparent = with_opacity(colored((DISC, (255, 0, 0))), DISC * 0)
    not_finite = Image.fromarray(np.full((120, 160), np.nan, np.float32))
    for ending, picture, words in (
        ("png", gray(DISC * 0), "empty mask"),
        ("png", transparent, "empty mask"),
        ("png", colored((DISC, (255, 0, 0)), background=(255, 255, 255)), "none is black"),
        ("jpg", colored((DISC, (255, 0, 0)), background=(255, 255, 255)), "none is black"),
        ("tif", not_finite, "not finite"),
    ):
        with pytest.raises(BadValue, match=words):
            read(tmp_path / f"m.{ending}", picture)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_picture_is_a_mask_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    mode = data.draw(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]))
    width, height = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    size = width * height * {"LA": 2, "RGB": 3, "RGBA": 4, "I;16": 2}.get(mode, 1)
    content = bytes(data.draw(st.lists(st.sampled_from([0, 0, 1, 2, 128, 254, 255]), min_size=size, max_size=size)))
    picture = Image.frombytes(mode, (width, height), content if mode != "1" else content[: -(-width // 8) * height])
    if mode == "P":
        picture.putpalette(data.draw(st.binary(min_size=768, max_size=768)))
    try:
        mask, _ = read(tmp_path / "m.png", picture)
    except BadValue as error:
        assert "m.png" in str(error)
    else:
        assert mask.shape == (height, width) and mask.any()
