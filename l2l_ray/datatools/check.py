"""Lists everything that is wrong with a data set, with the place and a remedy; nothing is changed.

Looked at: refs and their sentences, ids, the image table, picture files (header; the whole picture when asked), sizes,
annotations and their masks and boxes, and images that stand in several splits. A train ref that claims no annotation is
unlabeled and no problem; a ref that claims one without a mask is named.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from l2l_ray.data.layout import SPLITS, BadValue, Problem
from l2l_ray.data.pixels import read_header, read_rgb
from l2l_ray.datatools.inventory import Inventory, Item
from l2l_ray.datatools.notices import Notices
from l2l_ray.datatools.truths import finite_numbers, segmentation_rle

_TURNED = "viewers turn this picture as EXIF says; its pixels are used as stored, and masks must be drawn on these"
_ADD_MASK = "add a mask; without one it can only be unlabeled"


def check(inventory: Inventory, decode: bool = False, notices: Notices | None = None) -> list[Problem]:
    """Return every problem of a data set.

    Args:
        inventory: From `take_inventory`; its own problems come first.
        decode: Read every picture to its end, which finds truncated ones and takes minutes for a large set.
        notices: Takes what is no problem but should be known.
    """
    notices = Notices() if notices is None else notices
    problems = list(inventory.problems)
    sizes: dict[int, tuple[int, int] | None] = {}
    for image_id in dict.fromkeys(item.image_id for item in inventory.items):
        sizes[image_id], found = _check_image(inventory, image_id, decode, notices)
        problems += found
    for item in inventory.items:
        problems += _check_sentences(inventory, item)
        problems += _check_truth(inventory, item, sizes[item.image_id])
    return problems + _check_splits(inventory)


def _check_image(
    inventory: Inventory, image_id: int, decode: bool, notices: Notices
) -> tuple[tuple[int, int] | None, list[Problem]]:
    """Return the size in px to judge masks by, where it is known, and the problems of an image."""
    where = f"instances.json image {image_id}"
    picture = inventory.pictures.get(image_id)
    if picture is None:
        return None, [BadValue("missing image row", image_id, "a row in the image table", "add it").at(where)]
    problems = []
    size: tuple[int, int] | None = None
    if picture.width_px is None or picture.height_px is None:
        remedy = "add width and height, in px of the stored picture"
        problems.append(BadValue("missing image size", "null", "width and height", remedy).at(where))
    else:
        size = picture.width_px, picture.height_px
    path = inventory.path(image_id)
    if not path.is_file():
        problems.append(
            BadValue("missing image", picture.file_name, f"a file below {path.parent}", "add the picture").at(where)
        )
        return size, problems
    try:
        header = read_header(path)
        if decode:
            read_rgb(path)
    except BadValue as error:
        return size, [*problems, error.at(where)]
    found = header.size
    if not header.as_shown:
        notices.add(_TURNED, f"{picture.file_name} ({header.orientation})")
    if size is not None and size != found:
        got, expected = f"{size[0]} x {size[1]} px", f"{found[0]} x {found[1]} px as the file has"
        problems.append(
            BadValue("image size", got, expected, "correct the table, or use the original picture").at(where)
        )
    return size or found, problems


def _check_sentences(inventory: Inventory, item: Item) -> list[Problem]:
    where = f"refs({inventory.split_by}).p ref_id {item.ref_id}"
    problems = [
        BadValue("empty expression", f"sent_id {sent_id}", "a text", "write it, or remove the sentence").at(where)
        for sent_id, text in item.sentences
        if not text
    ]
    if item.split not in SPLITS:
        problems.append(BadValue("split", item.split, f"one of {', '.join(SPLITS)}", "rename it").at(where))
    return problems


def _check_truth(inventory: Inventory, item: Item, size: tuple[int, int] | None) -> list[Problem]:
    where = f"refs({inventory.split_by}).p ref_id {item.ref_id}"
    if item.ann_ids is None:
        if item.split == "train":
            return []
        return [
            BadValue("missing mask", "no annotation", f"truth, as {item.split} is evaluated on", "add a mask").at(where)
        ]
    problems = []
    for ann_id in item.ann_ids:
        row = inventory.annotations.get(ann_id)
        place = f"instances.json annotation {ann_id} of ref_id {item.ref_id}"
        if row is None:
            remedy = "add it, or correct ann_id"
            problems.append(BadValue("missing annotation", ann_id, "an annotation of this id", remedy).at(where))
            continue
        if row.get("image_id") != item.image_id:
            got, expected = row.get("image_id"), f"image {item.image_id} as its ref"
            problems.append(BadValue("image of the annotation", got, expected, "correct one of them").at(place))
        try:
            _check_box(row.get("bbox"), size)
            if not row.get("segmentation"):
                raise BadValue("missing mask", row.get("segmentation"), "polygons or an RLE", _ADD_MASK)
            if size is not None:
                segmentation_rle(row["segmentation"], *size, strict=True)
        except BadValue as error:
            problems.append(error.at(place))
    return problems


def _check_box(box: Any, size: tuple[int, int] | None) -> None:
    """Refuse a box that is there and impossible."""
    if box is None:
        return
    expected = "[x, y, width, height] in px, with a positive size, inside the image"
    x, y, width, height, *more = (*finite_numbers(box, "bbox", expected), *[math.nan] * 4)[:5]
    limit_x, limit_y = size or (math.inf, math.inf)
    # 1 px: COCO's boxes are rounded to hundredths and may stand out by a fraction.
    if (
        len(box) != 4
        or width <= 0
        or height <= 0
        or min(x, y) < -1
        or x + width > limit_x + 1
        or y + height > limit_y + 1
    ):
        raise BadValue("bbox", box, expected, "correct it, or remove it")


def _check_splits(inventory: Inventory) -> list[Problem]:
    splits_of: dict[int, set[str]] = defaultdict(set)
    for item in inventory.items:
        splits_of[item.image_id].add(item.split)
    remedy = "put all refs of an image in one split, or choose another split_by"
    return [
        BadValue("image in several splits", ", ".join(sorted(splits)), "one split", remedy).at(f"image {image_id}")
        for image_id, splits in splits_of.items()
        if len(splits) > 1
    ]
