"""A picture as the mask of one object: which of its pixels are the object.

- Two values: what is not 0 (black, transparent) is the object. Where neither is 0, the brighter one is, with a notice.
- More values at the object's border only, as JPEG compression and smooth edges make them: cut at half of the range that
  the file holds, with a notice.
- More values in areas, as in label maps (0, 1, 2, ...) and maps of colors: several objects. One file speaks of one
  object, and nothing says which of them, so the mask is refused by a message that names the values.
- Opacity that varies: transparent pixels are background. Where the opaque ones have one color, or as many as a photo
  (a cut-out), opacity alone is the mask, cut at half.
- Palettes count by their colors, their numbers mean nothing. 16 bits and floats count as 8 bits do.

A mask of the whole picture, and one that holds all corners and more than half of the picture (an inverted mask?), are
taken as they are, with a notice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image, ImageOps

from l2l_ray.data.layout import BadValue, Notice, Words, shown
from l2l_ray.data.masks import encode
from l2l_ray.data.object_masks import REMEDY
from l2l_ray.data.pixels import BadPicture, Header, opened, read_header
from l2l_ray.datatools.orientation import is_drawn_as_shown, turned_mask
from l2l_ray.types import Rle

_NOT_TWO = "mask is not two-valued, cut at half of its range"
_NO_ZERO = "no pixel of the mask is 0, the brighter of its two values is the object"
_CUT_OUT = "mask is a cut-out, what is opaque is the object"
_WHOLE = "mask covers the whole picture"
_INVERTED = "mask holds all corners and most of the picture, so it may be inverted"

_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")
_FEW_VALUES = 16  # more distinct values than this come from compression, smoothing or photos, unless they form areas
_MARGIN = 0.1  # of the range: compression noise around the two values
_AREA_SHARE = 0.25  # of the pixels between the two values that lie in flat areas: more is a label map
_ID_SPAN = 16  # integers that close together are numbers of objects, not brightness
_JUMP = 0.05  # of the range: areas end in steps, smooth masks (heat maps) do not ...
_PEAK, _PEAK_SHARE = 0.02, 0.25  # ... or hold this share of the pixels between within this part of the range
_NUM_NAMED = 8
_MAX_LOOKED_AT = 100_000  # pixels of a picture that may be a mask
_TWO_COLORS = 0.9  # share of a mask's pixels that have its two colors; of a photo no two have so many


def mask_of_file(path: Path, header: Header, notices: list[Notice]) -> Rle:
    """Return the mask in a picture file, on its image as people see it; the rule is the module's.

    Args:
        path: The mask.
        header: Of its image. A mask of a turned image may be drawn on the stored or the shown picture.
        notices: Takes what is doubtful.
    Raises:
        BadValue: If the file is unreadable, has another size than its image, is empty, or shows several objects.
    """
    try:
        own = read_header(path)
        with_image = own.is_turned and own.orientation == header.orientation  # its EXIF was copied from the image
        if own.is_turned and not with_image:
            expected = f"{header.orientation} as its image"
            raise BadValue("EXIF orientation of the mask", own.orientation, expected, "save the mask upright, as PNG")
        if with_image:
            as_shown = is_drawn_as_shown(own.shown, header, "a mask", from_viewer=True)
        else:
            as_shown = is_drawn_as_shown(own.size, header, "a mask")
        with opened(path) as picture:
            lossy = picture.format in _LOSSY
            bands, opacity = _bands(ImageOps.exif_transpose(picture) if with_image else picture)
    except BadPicture as error:
        raise BadValue(
            "mask file", Words(f"{shown(path.name)}: {error.reason}"), "a readable PNG", "write the mask again"
        ) from None
    inside = _object(bands, opacity, lossy, path.name, notices)
    if not inside.any():
        raise BadValue("empty mask", path.name, "a pixel that is not black", REMEDY)
    return encode(inside if as_shown else turned_mask(inside, header.orientation))


def looks_like_a_mask(path: Path, picture: Path) -> bool:
    """Tell whether a picture may be the mask of another: of its size, nearly all of it in two colors, one of them none.

    Files that cannot be read look like none. Edges of a drawn mask may be smooth, so a few pixels may have more colors.
    """
    try:
        header = read_header(picture)
        with opened(path) as mask:
            if mask.size not in (header.shown, header.stored):
                return False
            bands, opacity = _bands(mask)
    except BadPicture:
        return False
    codes = _codes(bands if opacity is None else bands * (opacity > 0)[..., None]).ravel()
    found, counts = np.unique(codes[:: max(1, len(codes) // _MAX_LOOKED_AT)], return_counts=True)
    most = np.argsort(counts)[-2:]
    has_background = bool((found[most] == 0).any())  # transparent or black
    return has_background and bool(counts[most].sum() >= _TWO_COLORS * counts.sum())


def _object(
    bands: Shaped[np.ndarray, "H W C"],
    opacity: Shaped[np.ndarray, "H W"] | None,
    lossy: bool,
    name: str,
    notices: list[Notice],
) -> Bool[np.ndarray, "H W"]:
    """Return which pixels are the object."""
    if not np.isfinite(bands).all():
        raise BadValue(
            "mask values",
            Words(f"{shown(name)}: numbers that are not finite"),
            "finite numbers",
            "write the mask again",
        )
    inside = None
    if opacity is not None and (opacity.min() < opacity.max() or opacity.max() == 0):
        inside, bands = _by_opacity(bands, opacity, name, notices)
    if inside is None:
        is_gray = (bands == bands[..., :1]).all()
        inside = (_of_gray if is_gray else _of_colors)(bands[..., 0] if is_gray else bands, lossy, name, notices)
    if inside.all():
        notices.append(Notice(name, _WHOLE))
    elif inside[0, 0] and inside[0, -1] and inside[-1, 0] and inside[-1, -1] and inside.mean() > 0.5:
        notices.append(Notice(f"{name} ({inside.mean():.0%})", _INVERTED))
    return inside


def _bands(picture: Image.Image) -> tuple[Shaped[np.ndarray, "H W C"], Shaped[np.ndarray, "H W"] | None]:
    """Return gray values or RGB, and opacity where the picture has it."""
    if picture.mode in ("P", "PA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    elif picture.mode == "La":
        picture = picture.convert("LA")
    elif picture.mode in ("CMYK", "YCbCr", "HSV", "RGBX"):
        picture = picture.convert("RGB")
    values = np.asarray(picture)
    values = values.astype(np.uint8) if values.dtype == bool else values
    values = values.reshape(*values.shape[:2], -1)
    has_opacity = values.shape[2] in (2, 4)
    return (values[..., :-1], values[..., -1]) if has_opacity else (values, None)


def _by_opacity(
    bands: np.ndarray, opacity: np.ndarray, name: str, notices: list[Notice]
) -> tuple[Bool[np.ndarray, "H W"] | None, np.ndarray]:
    """Return the object where opacity alone says it; else None, and the bands with transparent pixels made black."""
    opaque = opacity > (int(opacity.min()) + int(opacity.max())) / 2
    colors = np.unique(_codes(bands)[opaque])
    if len(colors) <= 1 or len(colors) > _FEW_VALUES:
        if len(colors) > 1:
            notices.append(Notice(name, _CUT_OUT))
        elif num := int(((opacity > opacity.min()) & (opacity < opacity.max())).sum()):
            notices.append(Notice(f"{name} ({num} px half transparent)", _NOT_TWO))
        return opaque, bands
    return None, bands * opaque[..., None]


def _of_gray(
    values: Shaped[np.ndarray, "H W"], lossy: bool, name: str, notices: list[Notice]
) -> Bool[np.ndarray, "H W"]:
    levels, counts = np.unique(values, return_counts=True)
    low, high = levels[0].item(), levels[-1].item()
    if len(levels) <= 2:
        if len(levels) == 2 and low != 0:
            notices.append(Notice(f"{name} ({low:g} and {high:g})", _NO_ZERO))
        return np.asarray(values == high) if high != 0 or low != 0 else np.zeros(values.shape, bool)
    span = high - low
    noisy = span >= 64 if lossy else span >= 128 and len(levels) > _FEW_VALUES
    margin = _MARGIN * span if noisy else 0
    between = (values > low + margin) & (values < high - margin)
    steps = np.rint((values - low) / margin) if noisy else values
    areas = _is_in_areas(steps, between) and (len(levels) <= _FEW_VALUES or _has_steps(values, between, span))
    if areas or (values.dtype.kind in "iu" and span < _ID_SPAN):
        raise _several(name, [f"{level:g}" for level in levels[counts.argsort()[::-1]].tolist()])
    num = int(((values > low) & (values < high)).sum())
    notices.append(Notice(f"{name} ({num} px between {low:g} and {high:g})", _NOT_TWO))
    return np.asarray(values > (low + high) / 2)


def _of_colors(
    bands: Shaped[np.ndarray, "H W 3"], lossy: bool, name: str, notices: list[Notice]
) -> Bool[np.ndarray, "H W"]:
    codes = _codes(bands)
    colors, counts = np.unique(codes, return_counts=True)
    bright = bands.max(axis=2)
    margin = 255 * _MARGIN if lossy or len(colors) > _FEW_VALUES else 0
    if bright.min() > margin:
        background, remedy = "black for the background and one color for the object", "write the mask again"
        raise BadValue(
            "mask colors", Words(f"{shown(name)}: none is black, there are {_hex(colors[:3])}"), background, remedy
        )
    if len(colors) == 2:
        return np.asarray(bright > 0)
    rgb = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=1)
    shines = rgb.max(axis=1) > max(margin, 0.5 * bright.max())
    main = rgb[shines][counts[shines].argmax()]
    between = (bright > margin) & (np.abs(bands.astype(np.int16) - main).max(axis=2) > margin)
    if _is_in_areas(_codes((bands.astype(np.int16) + 16) >> 5) if margin else codes, between):
        raise _several(name, _hex(colors[counts.argsort()[::-1]]).split(", "))
    half = bright.max() / 2
    num = int(counts[(colors != 0) & (colors != _codes(main))].sum())
    notices.append(Notice(f"{name} ({num} px between black and {_hex([_codes(main)])})", _NOT_TWO))
    return np.asarray(bright > half)


def _codes(bands: np.ndarray) -> np.ndarray:
    """Return one number per color."""
    if bands.shape[-1] == 1:
        return np.asarray(bands[..., 0])
    codes = bands[..., 0].astype(np.int32)
    for band in (bands[..., 1], bands[..., 2]):
        codes = codes << 8 | band
    return np.asarray(codes)


def _is_in_areas(values: Shaped[np.ndarray, "H W"], between: Bool[np.ndarray, "H W"]) -> bool:
    """Tell whether pixels lie in flat areas of 3 x 3 px or more rather than along borders."""
    num = int(between.sum())
    if num == 0 or min(values.shape) < 3:
        return num > 0
    along_x = values[:, 1:] == values[:, :-1]
    rows = along_x[:, 1:] & along_x[:, :-1]
    along_y = values[1:, 1:-1] == values[:-1, 1:-1]
    flat = rows[2:] & rows[1:-1] & rows[:-2] & along_y[1:] & along_y[:-1]  # by its center
    covered = np.zeros(values.shape, bool)
    for dy in range(3):
        for dx in range(3):
            covered[dy : dy + flat.shape[0], dx : dx + flat.shape[1]] |= flat
    return int((covered & between).sum()) >= _AREA_SHARE * num


def _has_steps(values: Shaped[np.ndarray, "H W"], between: Bool[np.ndarray, "H W"], span: float) -> bool:
    """Tell a map of areas from a smooth one: its values change by steps, or a few of them make up much of it."""
    wide = values.astype(np.float64)
    changes = np.concatenate(
        [
            np.abs(np.diff(wide, axis=0))[between[1:] | between[:-1]],
            np.abs(np.diff(wide, axis=1))[between[:, 1:] | between[:, :-1]],
        ]
    )
    changes = changes[changes > 0]
    if changes.size and np.median(changes) > _JUMP * span:
        return True
    counts, _ = np.histogram(wide[between], bins=round(1 / _PEAK), range=(wide.min(), wide.max()))
    return bool(counts.max() >= _PEAK_SHARE * between.sum())


def _several(name: str, values: list[str]) -> BadValue:
    more = len(values) - _NUM_NAMED
    named = ", ".join(values[:_NUM_NAMED]) + (f" and {more} more" if more > 0 else "")
    expected = "two values, 0 and one for the object"
    return BadValue(
        "mask values", Words(f"{named} in {shown(name)}"), expected, "several objects? write one mask for each"
    )


def _hex(codes: Any) -> str:
    return ", ".join(f"#{int(code):06x}" for code in codes[:_NUM_NAMED])
