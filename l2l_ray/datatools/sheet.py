"""A contact sheet of a data set: pictures with the outlined masks and the expressions, as one PNG or one HTML file.

The HTML file holds its pictures and needs no network. Pictures that cannot be shown are shown as the reason why.
"""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw, ImageFont

from l2l_ray.data.layout import BadValue
from l2l_ray.data.masks import decode
from l2l_ray.data.pixels import read_rgb
from l2l_ray.datatools.inventory import Inventory, Item
from l2l_ray.errors import DataError
from l2l_ray.files import replacing, saying_why
from l2l_ray.randomness import sample_key
from l2l_ray.types import Hint

TILE_PX, _TEXT_PX, _COLUMNS, _PAD, _POINT_PX = 224, 52, 4, 8, 4
_MASK_RGB, _BOX_RGB = (255, 45, 149), (255, 196, 0)
_INK, _PAPER, _GRAY = (28, 34, 48), (255, 255, 255), (226, 228, 233)


def pick(items: Sequence[Item], num: int, seed: int) -> list[Item]:
    """Return `num` refs, chosen by `seed`, in the order of the data set."""
    chosen = sorted(items, key=lambda item: (sample_key(seed, "sheet", item.ref_id), item.ref_id))[:num]
    ids = {item.ref_id for item in chosen}
    return [item for item in items if item.ref_id in ids]


def write_sheet(path: Path, inventory: Inventory, items: Sequence[Item]) -> None:
    """Write the sheet; the ending of `path` says which kind.

    Raises:
        DataError: If the ending is neither .png nor .html, or there is nothing to show, or the file cannot be
            written.
    """
    if path.suffix.lower() not in (".png", ".html"):
        raise DataError(f"a sheet is a .png or .html file, got {path}; change the ending")
    if not items:
        raise DataError(f"{inventory.folder} has no refs to show; choose another split")
    tiles = [tile(inventory, item) for item in items]
    with saying_why(path), replacing(path) as temporary:
        if path.suffix.lower() == ".html":
            temporary.write_text(_page(inventory, items, tiles), encoding="utf-8")
        else:
            captions = [f"[{i.split} {i.ref_id}] " + " / ".join(text for _, text in i.sentences) for i in items]
            draw_sheet(captions, tiles).save(temporary, "PNG")


def tile(inventory: Inventory, item: Item) -> Image.Image:
    """Return a ref's picture with its masks (or boxes, or hint) drawn in, at most 224 px on its longer side."""
    try:
        if item.image_id not in inventory.pictures:
            raise BadValue("missing image row", item.image_id, "a row in the image table", "add it")
        base = read_rgb(inventory.path(item.image_id))
    except BadValue as error:
        return _reason(f"no picture: {error}")
    width, height = base.size
    base.thumbnail((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
    try:
        for rle in inventory.masks(item) if item.ann_ids else ():
            base = outlined(base, decode(rle))
    except BadValue:
        draw = ImageDraw.Draw(base)
        for ann_id in item.ann_ids or ():
            if box := inventory.box(ann_id):
                x, y = box[0] * base.width / width, box[1] * base.height / height
                right, bottom = x + abs(box[2]) * base.width / width, y + abs(box[3]) * base.height / height
                draw.rectangle((x, y, right, bottom), outline=_BOX_RGB, width=2)
    with suppress(BadValue):  # `check` names a bad hint
        if not item.ann_ids and (hint := inventory.hint(item, (width, height))):
            _draw_hint(base, hint.fractions(width, height))
    return base


def _draw_hint(base: Image.Image, hint: Hint) -> None:
    draw = ImageDraw.Draw(base)
    if hint.box_xyxy_frac is not None:
        x1, y1, x2, y2 = hint.box_xyxy_frac
        corners = (x1 * base.width, y1 * base.height, x2 * base.width, y2 * base.height)
        draw.rectangle(corners, outline=_BOX_RGB, width=2)
    for x, y in hint.points_xy_frac:
        draw.circle((x * base.width, y * base.height), _POINT_PX, fill=_BOX_RGB)


def outlined(base: Image.Image, mask: Bool[np.ndarray, "H W"]) -> Image.Image:
    """Return a picture with a mask of any size tinted and outlined: it is brought to the picture's."""
    small = Image.fromarray(mask.astype(np.uint8) * 255).resize(base.size, Image.Resampling.BILINEAR)
    inside = np.asarray(small) >= 128
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    pixels = np.array(base)
    pixels[inside] = (0.65 * pixels[inside] + 0.35 * np.array(_MASK_RGB)).astype(np.uint8)
    pixels[inside & ~core] = _MASK_RGB
    return Image.fromarray(pixels)


def _reason(text: str) -> Image.Image:
    blank = Image.new("RGB", (TILE_PX, TILE_PX), _GRAY)
    ImageDraw.Draw(blank).text((8, 8), "\n".join(textwrap.wrap(_printable(text), 30)[:10]), fill=_INK, font=_font(12))
    return blank


def draw_sheet(captions: Sequence[str], tiles: Sequence[Image.Image]) -> Image.Image:
    """Return pictures of at most `TILE_PX` in rows of four, each with up to three lines of text below it."""
    rows = -(-len(tiles) // _COLUMNS)
    step_x, step_y = TILE_PX + _PAD, TILE_PX + _TEXT_PX + _PAD
    sheet = Image.new("RGB", (_COLUMNS * step_x + _PAD, rows * step_y + _PAD), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (text, picture) in enumerate(zip(captions, tiles, strict=True)):
        left, top = _PAD + number % _COLUMNS * step_x, _PAD + number // _COLUMNS * step_y
        sheet.paste(picture, (left, top))
        lines = textwrap.wrap(_printable(text), 34, max_lines=3, placeholder=" ...")
        draw.text((left, top + picture.height + 2), "\n".join(lines), fill=_INK, font=_font(12))
    return sheet


def _page(inventory: Inventory, items: Sequence[Item], tiles: Sequence[Image.Image]) -> str:
    title = html.escape(f"{inventory.dataset} ({inventory.split_by}): {len(items)} of {len(inventory.items)} refs")
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:14px sans-serif}"
        f"figure{{display:inline-block;width:{TILE_PX}px;margin:8px;vertical-align:top}}</style><h1>{title}</h1>"
    ]
    for item, picture in zip(items, tiles, strict=True):
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=85)
        source = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
        sentences = " / ".join(text for _, text in item.sentences)
        caption = html.escape(f"{item.split} {item.ref_id}: {sentences}")
        parts.append(f'<figure><img alt="" src="{source}"><figcaption>{caption}</figcaption></figure>')
    return "\n".join([*parts, "</html>\n"]).encode("utf-8", "replace").decode()


def _printable(text: str) -> str:
    return text.encode("latin-1", "replace").decode("latin-1")  # Pillow's own font has no other letters


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)
