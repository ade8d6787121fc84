"""Every kind of picture becomes the same RGB pixels, upright where asked, and every kind of damage one clear error."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import l2l_ray
from l2l_ray.data.layout import BadValue
from l2l_ray.data.pixels import MAX_PIXELS, BadPicture, Header, opened, read_gray, read_header, read_rgb, upright_copy

GRAY = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
COLOR = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def saved(path: Path, picture: Image.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def pixels(path: Path, **options: Any) -> np.ndarray:
    return np.asarray(read_rgb(path, **options))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def gray_files(folder: Path) -> list[Path]:
    deep = GRAY.astype(np.uint16) * 257
    return [
        saved(folder / "8.png", Image.fromarray(GRAY)),
        saved(folder / "16.png", Image.fromarray(deep)),
        saved(folder / "16.tif", Image.fromarray(deep)),
        saved(folder / "16.pgm", Image.fromarray(deep)),
        saved(folder / "32_of_16_bits.tif", Image.fromarray(deep.astype(np.int32))),
        saved(folder / "32_of_8_bits.tif", Image.fromarray(GRAY.astype(np.int32))),
        saved(folder / "float.tif", Image.fromarray(GRAY.astype(np.float32) / 255)),
        saved(folder / "float_of_8_bits.tif", Image.fromarray(GRAY.astype(np.float32))),
        saved(folder / "gray_alpha.png", Image.merge("LA", (Image.fromarray(GRAY), Image.new("L", (6, 4), 3)))),
        saved(folder / "palette.png", Image.fromarray(GRAY).convert("P")),
        saved(folder / "palette.gif", Image.fromarray(GRAY), transparency=0),
    ]


def test_colors_without_a_conversion_are_refused_before_pixels_are_read(tmp_path: Path) -> None:
    Image.new("LAB", (8, 6)).save(tmp_path / "lab.tif")
    for read in (read_header, read_rgb):
        with pytest.raises(BadPicture, match="its colors are CIE"):
            read(tmp_path / "lab.tif")


def test_gray_of_every_depth_is_the_same_picture(tmp_path: Path) -> None:
    expected = np.repeat(GRAY[..., None], 3, axis=2)
    for path in gray_files(tmp_path):
        np.testing.assert_array_equal(pixels(path), expected, err_msg=path.name)
        np.testing.assert_array_equal(np.asarray(read_gray(path, 1)), GRAY, err_msg=path.name)


def test_numbers_without_a_white_are_refused(tmp_path: Path) -> None:
    for name, values in {
        "big.tif": np.array([[0, 70_000]], np.int32),
        "negative.tif": np.array([[-1, 5]], np.int32),
        "nan.tif": np.array([[np.nan, 0.5]], np.float32),
        "inf.tif": np.array([[np.inf, 0.5]], np.float32),
    }.items():
        with pytest.raises(BadPicture, match=rf"{name} cannot be read: its gray values .*expected 8 or 16 bits"):
            read_rgb(saved(tmp_path / name, Image.fromarray(values)))


def test_colors_of_every_mode(tmp_path: Path) -> None:
    color = Image.fromarray(COLOR)
    clear = color.convert("RGBA")
    clear.putalpha(0)  # transparency is dropped, not composed: colors stand as they are stored
    bits = COLOR[..., 0] > 128
    for path, expected in (
        (saved(tmp_path / "rgba.png", clear), COLOR),
        (saved(tmp_path / "rgb.webp", color, lossless=True), COLOR),
        (saved(tmp_path / "alpha.webp", clear, lossless=True, exact=True), COLOR),
        (saved(tmp_path / "cmyk.tif", color.convert("CMYK")), COLOR),
        (saved(tmp_path / "bits.png", Image.fromarray(bits)), np.repeat(bits[..., None], 3, axis=2) * 255),
    ):
        np.testing.assert_array_equal(pixels(path), expected, err_msg=path.name)
    red = Image.new("RGB", (16, 16), (200, 40, 10)).convert("CMYK")
    found = pixels(saved(tmp_path / "cmyk.jpg", red, quality=100))  # Pillow writes Adobe's inverted CMYK
    assert np.abs(found.astype(int) - (200, 40, 10)).max() < 5
    lab = saved(tmp_path / "lab.tif", Image.new("LAB", (4, 4)))
    with pytest.raises(BadPicture, match="CIE L"):
        read_rgb(lab)


@pytest.mark.parametrize(("name", "kind"), [("a.gif", "GIF"), ("a.webp", "WEBP"), ("a.png", "PNG"), ("a.tif", "TIFF")])
def test_of_several_pictures_the_first_counts(tmp_path: Path, name: str, kind: str) -> None:
    frames = [Image.new("RGB", (6, 4), color) for color in ("#ff0000", "#00ff00")]
    frames[0].save(
        tmp_path / name, kind, save_all=True, append_images=frames[1:], **{"WEBP": {"lossless": True}}.get(kind, {})
    )
    assert (pixels(tmp_path / name) == (255, 0, 0)).all()


def test_a_burst_of_a_camera_is_its_first_picture(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (16, 16), "#800000"), Image.new("RGB", (16, 16), "#008000")
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second], exif=exif(3))
    assert np.abs(pixels(tmp_path / "a.jpg").astype(int) - (128, 0, 0)).max() < 3
    assert read_header(tmp_path / "a.jpg") == Header((16, 16), 3, False)
    assert Image.open(io.BytesIO(upright_copy(tmp_path / "a.jpg"))).format == "JPEG"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_every_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    stored = Image.fromarray(np.kron(COLOR, np.ones((8, 8, 1), np.uint8)))
    plain = saved(tmp_path / "plain", stored, format=kind, **({"lossless": True} if kind == "WEBP" else {}))
    path = saved(
        tmp_path / "turned",
        stored,
        format=kind,
        exif=exif(orientation),
        **({"lossless": True} if kind == "WEBP" else {}),
    )
    expected = np.asarray(ImageOps.exif_transpose(saved_with(Image.open(plain).convert("RGB"), orientation)))
    np.testing.assert_array_equal(pixels(path, upright=True), expected)
    header = read_header(path)
    assert (header.orientation, header.stored, header.shown) == (orientation, (48, 32), expected.shape[1::-1])
    assert header.size == read_rgb(path).size and header.is_turned == (orientation > 1)
    if kind != "TIFF":
        np.testing.assert_array_equal(pixels(path), np.asarray(Image.open(plain).convert("RGB")))

    copy = tmp_path / "copy"
    copy.write_bytes(upright_copy(path))
    assert copy.read_bytes() == upright_copy(path)
    with opened(copy) as picture:
        assert picture.format == kind and 0x0112 not in picture.getexif()
    np.testing.assert_allclose(pixels(copy).astype(int), expected.astype(int), atol=12 if kind == "JPEG" else 0)
    assert read_header(copy) == Header(expected.shape[1::-1], 1, True)


def saved_with(picture: Image.Image, orientation: int) -> Image.Image:
    """Return a lossless copy of a picture that carries an orientation."""
    content = io.BytesIO()
    picture.save(content, "PNG", exif=exif(orientation))
    return Image.open(content)


def test_exif_behind_the_pixels_of_a_png_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(COLOR), exif=exif(6))
    data = path.read_bytes()
    at = data.index(b"eXIf") - 4
    chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4])]
    end = data.index(b"IEND") - 4
    path.write_bytes(data[:at] + data[at + len(chunk) : end] + chunk + data[end:])
    assert read_header(path) == Header((6, 4), 6, False)
    assert read_rgb(path, upright=True).size == (4, 6)


def test_an_upright_copy_keeps_depth_transparency_and_color_profile(tmp_path: Path) -> None:
    deep = saved(tmp_path / "deep.png", Image.fromarray(GRAY.astype(np.uint16) * 257), exif=exif(6), icc_profile=b"icc")
    with opened(upright_copy(deep)) as picture:
        assert picture.mode == "I;16" and picture.info["icc_profile"] == b"icc"
    palette = Image.fromarray(GRAY).convert("P")
    with opened(upright_copy(saved(tmp_path / "p.png", palette, exif=exif(3), transparency=5))) as picture:
        assert picture.mode == "P" and picture.info["transparency"] == 5


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_impossible_or_damaged_orientation_is_upright(tmp_path: Path, value: int) -> None:
    assert read_header(saved(tmp_path / "a.jpg", Image.fromarray(COLOR), exif=exif(value))).orientation == 1
    torn = saved(tmp_path / "b.jpg", Image.fromarray(COLOR), exif=b"Exif\0\0nonsense")
    assert read_header(torn).orientation == 1 and read_rgb(torn, upright=True).size == (6, 4)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    assert 20_000 * 10_000 > MAX_PIXELS
    path = saved(tmp_path / "bomb.png", Image.new("1", (20_000, 10_000)))
    for read in (read_rgb, read_header, upright_copy):
        with pytest.raises(BadPicture, match=r"bomb\.png cannot be read: it claims more than 179 million pixels"):
            read(path)


def test_the_largest_photos_of_phones_are_read_without_a_word(tmp_path: Path) -> None:
    path = saved(tmp_path / "large.png", Image.new("1", (12_000, 9_000), 1))
    read = (
        "import sys; from pathlib import Path; from l2l_ray.data.pixels import read_gray; "
        "print(read_gray(Path(sys.argv[1]), 72).size)"
    )
    done = subprocess.run([sys.executable, "-c", read, str(path)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(12000, 9000)\n", "")


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.png", Image.fromarray(np.kron(COLOR, np.ones((50, 50, 1), np.uint8)))).read_bytes()
    for name, content in {"empty.png": b"", "text.png": b"no picture", "torn.png": whole[: len(whole) // 2]}.items():
        (tmp_path / name).write_bytes(content)
    for name, reason, what in (
        ("gone.png", "image file not found", "missing image"),
        ("", "it is a folder", "unreadable image"),
        ("empty.png", "the file is empty", "unreadable image"),
        ("text.png", "it is no picture", "unreadable image"),
        ("torn.png", "OSError", "truncated image"),
        ("nul\0.png", "ValueError", "unreadable image"),
    ):
        with pytest.raises(BadPicture, match=reason) as error:
            read_rgb(tmp_path / name)
        assert error.value.args[0] == what
        assert str(error.value).startswith(" ".join(str(tmp_path / name).split()))
        assert error.value.kind == ("missing_image" if what == "missing image" else "truncated_image")
    with pytest.raises(BadPicture, match=r"x\.jpg cannot be read: the file is empty"):
        read_rgb(b"", "x.jpg")


def test_an_error_survives_pickle_and_becomes_a_problem() -> None:
    error = BadPicture("truncated image", "/a/b.jpg", "it ends early", "a whole picture", "restore it")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, BadPicture) and isinstance(again, BadValue)
    assert str(again) == "/a/b.jpg cannot be read: it ends early; expected a whole picture; restore it"
    assert str(again.at("row 3")) == (
        "row 3: truncated image: got 'b.jpg': it ends early; expected a whole picture; restore it"
    )


def test_an_error_of_our_own_passes_through(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(COLOR))
    with pytest.raises(BadValue, match="mine"), opened(path):
        raise BadValue("mine", 1, "2", "3")


def test_nobody_else_opens_a_picture_of_a_user() -> None:
    package = Path(l2l_ray.__file__).parent
    opens = {str(path.relative_to(package)) for path in package.rglob("*.py") if "Image.open(" in path.read_text()}
    # A report reads the pictures that its run wrote, a prior's masks are of this package's own making.
    assert opens == {"data/pixels.py", "report/panels.py", "prior/masks.py"}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_any_mutation_of_a_picture_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    if not (files := sorted(tmp_path.glob("*"))):
        files = gray_files(tmp_path)
        files += [saved(tmp_path / f"c.{end}", Image.fromarray(COLOR), exif=exif(6)) for end in ("jpg", "webp", "png")]
    content = bytearray(data.draw(st.sampled_from(files)).read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[at] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    for read in (read_header, read_rgb, upright_copy):
        try:
            read(bytes(content), "fuzz")
        except BadPicture as error:
            assert str(error).startswith("fuzz cannot be read: ") and "\n" not in str(error)
