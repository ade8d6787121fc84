"""Examples of a run as pictures: what the prior, the teacher and the selector did with an expression, step by step.

On disk (`<run>/panels/`): one PNG per map, as `000_image.png`, and `index.json`, a list of

    {"sent_id", "expression", "file", "split", "iou": 0..1 | null, "image": png | null,
     "prior_box_xyxy_frac": [x1, y1, x2, y2] | null, "prior_score": 0..1, "prior_source": "mllm" | "user",
     "confidence": 0..1 | null, "used": true | false | null, "why_unused": "",
     "proposal": png | null, "teacher": png | null, "accepted": png | null, "final": png | null, "truth": png | null}

Split "unlabeled" holds what no truth is known of: labels of the last round, for which `used` says whether training
used them, or masks of a version that labels nothing, for which it is null.

Probabilities and masks are gray PNGs (255 = 1), on the grid or at native size; a grid covers the whole image.
`accepted` is a palette PNG whose indices are `ACCEPTED`. Pictures are read back for the report: tiles for the page and
one sheet for slides and READMEs. An IoU below `FAILURE_IOU` is a failure and is labeled so.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from l2l_ray.files import replacing
from l2l_ray.report.record import is_number
from l2l_ray.storage import local_copy
from l2l_ray.types import BoxFrac, Candidate

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, UInt8

FAILURE_IOU = 0.5
ACCEPTED = (
    *("not accepted", "teacher: object", "teacher: background"),
    *("language model: object", "language model: background"),
)
ACCEPTED_RGB = ((110, 116, 128), (23, 99, 207), (150, 196, 250), (226, 110, 8), (250, 205, 145))
TILES = ("image", "prior", "proposal", "teacher", "accepted", "final", "truth")
CAPTIONS = ("image", "language model", "soft box", "teacher", "accepted", "final mask", "true mask")
MAX_IMAGE_PX = 320  # longest side of a stored image: enough for a tile, small enough for a report
_FINAL_RGB, _TRUTH_RGB, _BOX_RGB = (255, 45, 149), (33, 208, 122), (255, 196, 0)
_SHEET_INK, _SHEET_MUTED, _SHEET_RED = (28, 34, 48), (93, 103, 121), (190, 30, 45)


@dataclass(frozen=True)
class ExamplePanel:
    """One example to show; a map that does not exist is None (an unlabeled item has no truth).

    Example: `ExamplePanel(7, "left man", "val", 0.81, image, (0.1, 0.2, 0.5, 0.9), 0.93, q, p, codes, final, truth)`
    """

    sent_id: int
    expression: str
    split: str
    iou: float | None  # of `final` with the truth, at native size
    image: UInt8[np.ndarray, "H W 3"] | None  # None = the photo could not be opened any more
    prior_box_xyxy_frac: BoxFrac | None
    prior_score: float
    proposal: Float[np.ndarray, "G G"] | None  # in [0, 1]
    teacher: Float[np.ndarray, "G G"] | None  # mask probability
    accepted: UInt8[np.ndarray, "G G"] | None  # indices into ACCEPTED, see `accepted_codes`
    final: Float[np.ndarray, "h w"] | None  # mask probability or 0/1, any size
    truth: Float[np.ndarray, "h w"] | None  # 0/1, any size
    file: str = ""  # name of the photo in its data set
    confidence: float | None = None  # estimated IoU of `final`, see confidence.py
    used: bool | None = None  # whether training used the label; None = it is no label
    why_unused: str = ""  # in words; empty where `used` is not False
    prior_source: str = "mllm"  # whose box it is; "user" = a hint


def accepted_codes(
    source: Candidate, target: Bool[np.ndarray, "G G"], accepted: Bool[np.ndarray, "G G"]
) -> UInt8[np.ndarray, "G G"]:
    """Return the index into `ACCEPTED` of every cell: whose label it is, and whether object or background."""
    first = 3 if source == Candidate.PRIOR else 1
    return np.where(accepted, np.where(target, first, first + 1), 0).astype(np.uint8)


def write_examples(run_dir: Path, items: Sequence[ExamplePanel]) -> Path:
    """Write `panels/` anew: pictures first, `index.json` last.

    Returns:
        The folder.
    """
    folder = run_dir / "panels"
    folder.mkdir(parents=True, exist_ok=True)
    index = [_write_item(folder, f"{number:03d}", item) for number, item in enumerate(items)]
    with replacing(folder / "index.json") as temporary:
        temporary.write_text(json.dumps(index, indent=1), encoding="utf-8")
    named = {name for entry in index for name in entry.values() if isinstance(name, str)}
    for stale in folder.glob("*.png"):
        if stale.name not in named:
            stale.unlink()
    return folder


def score_text(entry: Mapping[str, Any]) -> str:
    """Return what is known of how good an example's mask is: its IoU, else its confidence, in percent."""
    for name, key in (("IoU", "iou"), ("confidence", "confidence")):
        if is_number(entry.get(key)):
            return f"{name} {100 * entry[key]:.1f} %"
    return "IoU not known"


def is_failure(entry: Mapping[str, Any]) -> bool:
    """Whether an example's IoU is known and below `FAILURE_IOU`."""
    return is_number(entry.get("iou")) and entry["iou"] < FAILURE_IOU


def worst_first(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the examples by ascending IoU, those without one last."""
    return sorted(entries, key=lambda entry: entry["iou"] if is_number(entry.get("iou")) else 2.0)


def tiles(run_dir: Path, entry: Mapping[str, Any], width_px: int = 168) -> list[Image.Image | None]:
    """Return the pictures of one example in the order of `TILES`, all of one size; None where one is absent.

    Args:
        run_dir: The run folder.
        entry: One element of index.json.
        width_px: Width of a tile; the height follows the image.
    """
    folder = run_dir / "panels"
    image = _open(folder, entry.get("image"), "RGB")
    height_px = width_px if image is None else round(width_px * min(1.6, max(0.5, image.height / image.width)))
    size = (width_px, height_px)
    base = Image.new("RGB", size, (128, 128, 128)) if image is None else image.resize(size, Image.Resampling.LANCZOS)
    accepted = _open(folder, entry.get("accepted"), None)
    return [
        None if image is None else base,
        _prior_tile(base, entry),
        _heat_tile(_open(folder, entry.get("proposal"), "L"), size),
        _heat_tile(_open(folder, entry.get("teacher"), "L"), size),
        None if accepted is None else _accepted_tile(base, accepted),
        _mask_tile(base, _open(folder, entry.get("final"), "L"), _FINAL_RGB),
        _mask_tile(base, _open(folder, entry.get("truth"), "L"), _TRUTH_RGB),
    ]


def example_sheet(run_dir: Path, entries: Sequence[Mapping[str, Any]], tile_px: int = 128) -> Image.Image:
    """Compose one picture: a row per example, its expression and IoU first, then its tiles under captions."""
    pad, text_px, head_px = 8, 176, 30
    rows = [tiles(run_dir, entry, tile_px) for entry in entries]
    heights = [max((tile.height for tile in row if tile), default=tile_px) for row in rows]
    width = text_px + len(TILES) * (tile_px + pad) + pad
    sheet = Image.new("RGB", (width, head_px + sum(heights) + pad * (len(rows) + 1) + 22), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for column, caption in enumerate(CAPTIONS):
        draw.text((text_px + column * (tile_px + pad), 9), caption, fill=_SHEET_MUTED, font=_font(13))
    top = head_px
    for entry, row, height in zip(entries, rows, heights, strict=True):
        _describe(draw, (pad, top), entry, max_lines=max(2, (height - 24) // 16))
        for column, tile in enumerate(row):
            left = text_px + column * (tile_px + pad)
            if tile is None:
                draw.rectangle((left, top, left + tile_px - 1, top + height - 1), outline=(210, 214, 222))
                draw.text((left + 8, top + 8), "none", fill=_SHEET_MUTED, font=_font(12))
            else:
                sheet.paste(tile, (left, top))
        top += height + pad
    _legend(draw, (text_px, top))
    return sheet


def _write_item(folder: Path, stem: str, item: ExamplePanel) -> dict[str, Any]:
    pictures: dict[str, Image.Image | None] = {"image": None}
    if item.image is not None:
        pictures["image"] = image = Image.fromarray(np.ascontiguousarray(item.image, dtype=np.uint8))
        image.thumbnail((MAX_IMAGE_PX, MAX_IMAGE_PX), Image.Resampling.LANCZOS)
    for name in ("proposal", "teacher", "final", "truth"):
        pictures[name] = _gray(getattr(item, name))
    pictures["accepted"] = None if item.accepted is None else _palette(item.accepted)
    entry: dict[str, Any] = {
        "sent_id": item.sent_id,
        "expression": item.expression,
        "file": item.file,
        "split": item.split,
        "iou": item.iou,
        "prior_box_xyxy_frac": None if item.prior_box_xyxy_frac is None else list(item.prior_box_xyxy_frac),
        "prior_score": item.prior_score,
        "confidence": item.confidence,
        "used": item.used,
        "why_unused": item.why_unused,
        "prior_source": item.prior_source,
    }
    for name, picture in pictures.items():
        entry[name] = None if picture is None else f"{stem}_{name}.png"
        if picture is not None:
            with replacing(folder / entry[name]) as temporary:
                picture.save(temporary, "PNG")
    return entry


def _gray(values: np.ndarray | None) -> Image.Image | None:
    if values is None:
        return None
    return Image.fromarray(np.round(np.clip(np.asarray(values, dtype=np.float32), 0, 1) * 255).astype(np.uint8))


def _palette(codes: np.ndarray) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(codes, dtype=np.uint8)).convert("P")
    picture.putpalette([channel for rgb in ACCEPTED_RGB for channel in rgb])
    return picture


def _open(folder: Path, name: Any, mode: str | None) -> Image.Image | None:
    """Read one picture; None when it is absent, damaged, or not inside the folder."""
    if not isinstance(name, str) or Path(name).name != name:
        return None
    try:
        with Image.open(local_copy(folder / name)) as picture:
            return picture.convert(mode) if mode else picture.copy()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow calls a broken PNG a SyntaxError
        return None


def _prior_tile(base: Image.Image, entry: Mapping[str, Any]) -> Image.Image:
    tile = Image.blend(base, Image.new("RGB", base.size, (20, 24, 32)), 0.45)
    box, draw = entry.get("prior_box_xyxy_frac"), ImageDraw.Draw(tile)
    if not (isinstance(box, (list, tuple)) and len(box) == 4 and all(is_number(side) for side in box)):
        draw.text((6, 5), "no box", fill=(255, 255, 255), font=_font(13))
        return tile
    width, height = base.size
    x1, x2 = sorted(min(width - 1, max(0, round(side * width))) for side in box[::2])
    y1, y2 = sorted(min(height - 1, max(0, round(side * height))) for side in box[1::2])
    tile.paste(base.crop((x1, y1, x2 + 1, y2 + 1)), (x1, y1))
    draw.rectangle((x1, y1, x2, y2), outline=_BOX_RGB, width=2)
    if entry.get("prior_source") == "user":
        _tag(draw, "your box")
    elif is_number(entry.get("prior_score")):
        _tag(draw, f"{entry['prior_score']:.2f}")
    return tile


def _tag(draw: ImageDraw.ImageDraw, text: str) -> None:
    left, top, right, bottom = draw.textbbox((5, 3), text, font=_font(12))
    draw.rectangle((left - 3, top - 2, right + 3, bottom + 2), fill=(20, 24, 32))
    draw.text((5, 3), text, fill=(255, 255, 255), font=_font(12))


def _heat_tile(probs: Image.Image | None, size: tuple[int, int]) -> Image.Image | None:
    """Colour a probability map; nearest neighbour, so that cells stay visible as cells."""
    if probs is None:
        return None
    from matplotlib import colormaps

    values = np.asarray(probs.resize(size, Image.Resampling.NEAREST))
    rgba: np.ndarray = colormaps["magma"](values)
    return Image.fromarray((rgba[..., :3] * 255).astype(np.uint8))


def _accepted_tile(base: Image.Image, accepted: Image.Image) -> Image.Image:
    codes = np.asarray(accepted.resize(base.size, Image.Resampling.NEAREST))
    codes = np.clip(codes, 0, len(ACCEPTED) - 1)
    color = np.array(ACCEPTED_RGB, dtype=np.float32)[codes]
    gray = np.asarray(base.convert("L"), dtype=np.float32)[..., None]
    strength = np.array([0.45, 0.72, 0.62, 0.72, 0.62], dtype=np.float32)[codes][..., None]
    return Image.fromarray((gray * (1 - strength) + color * strength).astype(np.uint8))


def _mask_tile(base: Image.Image, mask: Image.Image | None, rgb: tuple[int, int, int]) -> Image.Image | None:
    """Dim what is outside the mask and draw its outline, two pixels wide."""
    if mask is None:
        return None
    inside = np.asarray(mask.resize(base.size, Image.Resampling.BILINEAR)) >= 128
    core = _eroded(_eroded(inside))
    pixels = np.asarray(base, dtype=np.float32)
    gray = np.asarray(base.convert("L"), dtype=np.float32)[..., None] * 0.45 + 40
    shown = np.where(inside[..., None], pixels, gray)
    shown[inside & ~core] = rgb
    return Image.fromarray(shown.clip(0, 255).astype(np.uint8))


def _eroded(inside: np.ndarray) -> np.ndarray:
    padded = np.pad(inside, 1, mode="edge")
    core: np.ndarray = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return core


def _describe(draw: ImageDraw.ImageDraw, corner: tuple[int, int], entry: Mapping[str, Any], max_lines: int) -> None:
    left, top = corner
    for line in textwrap.wrap(str(entry.get("expression", "")), 22, max_lines=max_lines, placeholder=" ...") or [""]:
        draw.text((left, top), line, fill=_SHEET_INK, font=_font(13))
        top += 16
    text, failed = f"{entry.get('split', '?')}, {score_text(entry)}", is_failure(entry)
    draw.text((left, top + 3), text, fill=_SHEET_MUTED, font=_font(12))
    if failed:
        draw.text((left, top + 18), "failure", fill=_SHEET_RED, font=_font(12))


def _legend(draw: ImageDraw.ImageDraw, corner: tuple[int, int]) -> None:
    left, top = corner
    for name, rgb in zip(ACCEPTED, ACCEPTED_RGB, strict=True):
        draw.rectangle((left, top + 2, left + 11, top + 13), fill=rgb)
        draw.text((left + 16, top), name, fill=_SHEET_MUTED, font=_font(12))
        left += 30 + int(draw.textlength(name, font=_font(12)))


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)
