"""The one place that opens a picture: its pixels, size and EXIF orientation, and one error for all that goes wrong.

Whoever reads a picture sees the same 8-bit RGB pixels:
- The first picture of a file: of an animation, of a burst (MPO), of several pages.
- 16 bits keep their upper eight. Numbers of 32 bits have no stated white, so their range decides: floats up to 1 are
  shares of white, values up to 255 are 8 bits, values up to 65,535 are 16 bits, anything else is refused.
- Transparency is dropped: the colors below it count as they are stored.
- CMYK (also Adobe's inverted one), palettes and others by Pillow's conversion; color profiles are not applied.

Orientation: a camera may store a picture lying on its side and say in EXIF how to turn it. Pixels come as stored unless
`upright` is asked for. Files of REFER are read as stored, because published masks are drawn on the stored pixels; own
data is turned once, on import (`datatools.orientation`); a picture to predict on is turned. Pillow itself turns TIFFs
when it reads them, so these are upright either way.

A file of more than `MAX_PIXELS` is refused before its pixels are made: a few kilobytes can claim gigabytes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from l2l_ray.data.layout import BadValue, Words, shown
from l2l_ray.errors import L2LError
from l2l_ray.storage import local_copy, place

Source = Path | str | bytes

# Pillow's own bound, 512 MiB of RGB: the largest sensors of phones have 108 or 200 million pixels, of which they save
# at most 108 unless asked for more.
MAX_PIXELS = 178_956_970
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True, "exact": True},
}
_TAIL_BYTES = 1 << 17  # a PNG may carry its EXIF behind the pixels; this much of its end is searched for it
_LATE_EXIF = (b"eXIf", b"Raw profile type exif")
_TURNED_BY_PILLOW = "TIFF"

# It comes at half of `MAX_PIXELS`, of pictures that are read all the same.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BadPicture(BadValue):
    """A picture that cannot be used; its text is one line with the file's name.

    Args:
        what: "missing image", "unreadable image" (no picture at all) or "truncated image" (its pixels end early or are
            damaged).
        path: The file, as it was given.
        reason: What is wrong.
        expected: What would do.
        remedy: What to do.
    """

    def __init__(self, what: str, path: str, reason: str, expected: str, remedy: str) -> None:
        super().__init__(what, Words(f"{shown(Path(path).name)}: {reason}"), expected, remedy)
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments of this class, not of its base."""
        what, _, expected, remedy = self.args
        return BadPicture, (what, self.path, self.reason, expected, remedy)

    @property
    def kind(self) -> str:
        """The kind of `Skip` it makes."""
        return "missing_image" if self.args[0] == "missing image" else "truncated_image"

    def __str__(self) -> str:
        line = f"{self.path} cannot be read: {self.reason}; expected {self.args[2]}; {self.args[3]}"
        return " ".join(line.encode("utf-8", "backslashreplace").decode().split())


class Header(NamedTuple):
    """What a picture says of itself before its pixels are read.

    Example: `Header((160, 120), 6, False)`, which people see as 120 x 160 px
    """

    size: tuple[int, int]  # width and height of what `read_rgb` gives, px
    orientation: int  # EXIF, 1 to 8; 1 = upright
    as_shown: bool  # `read_rgb` gives what people see

    @property
    def is_turned(self) -> bool:
        """Whether people see it otherwise than it is stored."""
        return self.orientation != 1

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height as people see it, px."""
        return self.size if self.as_shown else self._swapped()

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height in the file, px."""
        return self._swapped() if self.as_shown else self.size

    def _swapped(self) -> tuple[int, int]:
        return self.size[::-1] if self.orientation >= 5 else self.size


@contextmanager
def opened(source: Source, name: str = "") -> Iterator[Image.Image]:
    """Open a picture as Pillow does; whatever is raised, also inside the context, becomes a `BadPicture`.

    So decode inside the context, and work on the pixels outside.

    Args:
        source: A file, or its content.
        name: What errors call it; the path if not given.
    Raises:
        BadPicture: The file is missing, no picture, damaged, or of more than `MAX_PIXELS`.
    """
    where = name or ("picture" if isinstance(source, bytes) else str(source))
    what = "unreadable image"
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else _file(source)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            what = "truncated image"
            yield picture
    except L2LError:
        raise
    # Pillow's decoders raise SyntaxError, ValueError, struct.error and others on damaged data, besides OSError.
    except Exception as error:
        raise _explained(what, where, source, error) from error


def read_header(source: Source, name: str = "") -> Header:
    """Return size and orientation of a picture; its pixels are not decoded.

    Raises:
        BadPicture: As `opened`.
    """
    with opened(source, name) as picture:
        return _header(picture, source)


def read_rgb(source: Source, name: str = "", upright: bool = False) -> Image.Image:
    """Return the pixels of a picture, mode RGB.

    Args:
        source: A file, or its content.
        name: What errors call it; the path if not given.
        upright: Turn it as EXIF says, which is how people see it.
    Raises:
        BadPicture: As `opened`, or its numbers have no stated white.
    """
    with opened(source, name) as picture:
        turned = upright and not _header(picture, source).as_shown
        return _rgb(ImageOps.exif_transpose(picture) if turned else picture, name or str(source))


def read_gray(path: Path, at_least_px: int) -> Image.Image:
    """Return the brightness of a picture as stored, mode L.

    A JPEG is decoded at a smaller size of at least `at_least_px` per side, many times faster.

    Raises:
        BadPicture: As `read_rgb`.
    """
    with opened(path) as picture:
        picture.draft("L", (at_least_px, at_least_px))
        return _rgb(picture, str(path)).convert("L")


def upright_copy(source: Source, name: str = "") -> bytes:
    """Return a picture file of the same format, turned as EXIF says and without EXIF.

    JPEG and AVIF are compressed anew, at quality 95 without chroma subsampling; other formats lose nothing. The color
    profile is kept. The same source gives the same bytes.

    Raises:
        BadPicture: As `opened`.
    """
    with opened(source, name) as picture:
        kind = "JPEG" if picture.format == "MPO" else str(picture.format)
        kind = kind if kind in Image.SAVE else "PNG"
        options: dict[str, Any] = dict(_SAVE_OPTIONS.get(kind, {}))
        if profile := picture.info.get("icc_profile"):
            options["icc_profile"] = profile
        upright = ImageOps.exif_transpose(picture)
        upright.info = {key: value for key, value in picture.info.items() if key == "transparency"}
        content = io.BytesIO()
        upright.save(content, kind, **options)
        return content.getvalue()


def _explained(what: str, where: str, source: Source, error: Exception) -> BadPicture:
    """Return what an error of Pillow or the operating system means."""
    expected, remedy = "a whole picture file", "restore the file, or leave it out"
    if isinstance(error, FileNotFoundError):
        return BadPicture("missing image", where, "image file not found", expected, remedy)
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        reason = f"it claims more than {MAX_PIXELS / 1e6:.0f} million pixels"
        return BadPicture("unreadable image", where, reason, "a picture of at most that many", "make it smaller")
    if isinstance(error, IsADirectoryError):
        return BadPicture("unreadable image", where, "it is a folder", "a picture file", "name a file in it")
    if isinstance(error, PermissionError):
        return BadPicture(what, where, "it may not be read", "a file that you may read", "change its permissions")
    if isinstance(error, UnidentifiedImageError):
        empty = not source if isinstance(source, bytes) else _file(source).stat().st_size == 0
        reason = "the file is empty" if empty else "it is no picture, or damaged at its beginning"
        return BadPicture(what, where, reason, "a picture such as JPEG or PNG", remedy)
    return BadPicture(what, where, f"{type(error).__name__}: {error}", expected, remedy)


def _header(picture: Image.Image, source: Source) -> Header:
    """Return the header of a picture whose pixels are not loaded yet."""
    _require_rgb(picture, "picture" if isinstance(source, bytes) else str(source))
    orientation = _orientation(picture, source)
    return Header(picture.size, orientation, orientation == 1 or picture.format == _TURNED_BY_PILLOW)


def _orientation(picture: Image.Image, source: Source) -> int:
    """Return the EXIF orientation, 1 where there is none or it makes no sense."""
    if picture.format == "PNG" and "exif" not in picture.info and any(mark in _tail(source) for mark in _LATE_EXIF):
        picture.load()
    try:
        # Not `PngImageFile.getexif`, which decodes every PNG without EXIF.
        value = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF; the pixels may be fine
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _tail(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source[-_TAIL_BYTES:]
    with open(path := _file(source), "rb") as file:
        file.seek(-min(_TAIL_BYTES, path.stat().st_size), io.SEEK_END)
        return file.read()


def _file(source: Path | str) -> Path:
    """Return the file of this machine to open: of a picture in an object store, a copy."""
    return local_copy(place(source))


def _rgb(picture: Image.Image, where: str) -> Image.Image:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(picture, where)).convert("RGB")
    _require_rgb(picture, where)
    if picture.mode in ("La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
    return picture.convert("RGB")


def _require_rgb(picture: Image.Image, where: str) -> None:
    if picture.mode == "LAB":
        raise BadPicture("unreadable image", where, "its colors are CIE L*a*b*", "RGB, gray or CMYK", "convert it")


def _eight_bits(picture: Image.Image, where: str) -> UInt8[np.ndarray, "H W"]:
    """Return gray values of more than 8 bits as bytes; Pillow's own conversion would clip instead of scale."""
    values = np.asarray(picture)
    if picture.mode.startswith("I;16"):
        upper: UInt8[np.ndarray, "H W"] = (values >> 8).astype(np.uint8)
        return upper
    low, high = float(values.min()), float(values.max())
    scaled: UInt8[np.ndarray, "H W"] | None = None
    if picture.mode == "F" and low >= 0 and high <= 1:
        scaled = np.rint(values * 255).astype(np.uint8)
    elif low >= 0 and high <= 255 and picture.format not in ("PNG", "PPM"):  # in these, 32 bits hold what was 16
        scaled = values.astype(np.uint8)
    elif low >= 0 and high <= 65_535:
        scaled = (values.astype(np.uint32) >> 8).astype(np.uint8)
    if scaled is not None:
        return scaled
    reason = f"its gray values go from {low:g} to {high:g}"
    expected = "8 or 16 bits, or floats from 0 to 1"
    raise BadPicture("unreadable image", where, reason, expected, "save it with 8 bits")
