"""Lists everything that is wrong with a data set, with the place and a remedy; nothing is changed.

Looked at: refs and their sentences, ids, the image table, picture files (header; the whole picture when asked), sizes,
annotations and their masks and boxes, hints, and images that stand in several splits. A train ref that claims no
annotation is unlabeled and no problem, with a hint or without; a ref that claims one without a mask is named. Whatever
the loader refuses or leaves out is a problem here, by the same rules; beyond that come pictures that are missing or of
another size, boxes, unknown splits, and images in several splits.
"""

from __future__ import annotations

from collections import defaultdict

from l2l_ray.data.layout import MAX_SIDE_PX, SPLITS, BadValue, Notice, Problem, Words
from l2l_ray.data.masks import mask_area_px
from l2l_ray.data.object_masks import annotation_mask, compare_with_box, object_mask, require_segmentation, usable_box
from l2l_ray.data.pixels import read_header, read_rgb
from l2l_ray.data.refer_files import ImageRow
from l2l_ray.datatools.inventory import Inventory, Item
from l2l_ray.types import Rle

_TURNED = "viewers turn it as EXIF says; its pixels are used as stored, and masks must be drawn on these"


def check(inventory: Inventory, decode: bool = False) -> list[Problem]:
    """Return every problem of a data set; what is worth knowing and no fault goes to `inventory.notices`.

    Args:
        inventory: From `take_inventory`; its own problems come first.
        decode: Read every picture to its end, which finds truncated ones and takes minutes for a large set.
    """
    problems = list(inventory.problems)
    for image_id in dict.fromkeys(item.image_id for item in inventory.items):
        problems += _check_image(inventory, image_id, decode)
    for item in inventory.items:
        problems += _check_sentences(inventory, item)
        problems += _check_hint(inventory, item)
        problems += _check_truth(inventory, item)
    return problems + _check_splits(inventory) + _check_files(inventory)


def _check_image(inventory: Inventory, image_id: int, decode: bool) -> list[Problem]:
    where = f"instances.json image {image_id}"
    picture = inventory.pictures.get(image_id)
    if picture is None:
        return [BadValue("missing image row", image_id, "a row in the image table", "add it").at(where)]
    path = inventory.path(image_id)
    size = picture.width_px, picture.height_px
    if not path.is_file():
        expected = f"a file below {path.parent}"
        return [BadValue("missing image", picture.file_name, expected, "add the picture").at(where)]
    try:
        header = read_header(path)
        if decode:
            read_rgb(path)
    except BadValue as error:
        return [error.at(where)]
    if not header.as_shown:
        inventory.notices.append(Notice(f"{picture.file_name} ({header.orientation})", _TURNED))
    found = header.size
    if None in size:
        inventory.notices.append(Notice(where, "the table has no size for it; it is asked of the picture each time"))
    elif size != found:
        got, expected = Words(f"{size[0]} x {size[1]} px"), f"{found[0]} x {found[1]} px as the file has"
        return [BadValue("image size", got, expected, "correct the table, or use the original picture").at(where)]
    return []


def _check_sentences(inventory: Inventory, item: Item) -> list[Problem]:
    where = f"refs({inventory.split_by}).p ref_id {item.ref_id}"
    remedy = "write it, or remove the sentence"
    problems = [
        BadValue("empty expression", Words(f"sent_id {sent_id}"), "a text", remedy).at(where)
        for sent_id, text in item.sentences
        if not text
    ]
    if not item.sentences:
        problems.append(BadValue("sentences", [], "a sentence", "add one, or remove the ref").at(where))
    if item.split not in SPLITS:
        problems.append(BadValue("split", item.split, f"one of {', '.join(SPLITS)}", "rename it").at(where))
    return problems


def _check_hint(inventory: Inventory, item: Item) -> list[Problem]:
    try:
        size = inventory.size(item.image_id)
    except BadValue:  # a problem of the image, named there
        size = MAX_SIDE_PX, MAX_SIDE_PX
    try:
        inventory.hint(item, size)
    except BadValue as error:
        return [error.at(f"refs({inventory.split_by}).p ref_id {item.ref_id}")]
    return []


def _check_truth(inventory: Inventory, item: Item) -> list[Problem]:
    where = f"refs({inventory.split_by}).p ref_id {item.ref_id}"
    if item.ann_ids is None:
        if item.split == "train":
            return []
        expected = f"truth, as {item.split} is evaluated on"
        return [BadValue("missing mask", Words("no annotation"), expected, "add a mask").at(where)]
    try:
        size = inventory.size(item.image_id)
    except BadValue:  # a problem of the image, named there
        size = None
    problems: list[Problem] = []
    masks: list[Rle] = []
    truths = [(ann_id, inventory.truth(ann_id)) for ann_id in item.ann_ids]
    for ann_id, truth in truths:
        place = where if truth is None else f"instances.json annotation {ann_id} of ref_id {item.ref_id}"
        mask = None
        try:
            require_segmentation(ann_id, truth, item.image_id)
            if size is not None:
                mask = annotation_mask(ann_id, truth, item.image_id, size, "union")
                masks.append(mask)
        except BadValue as error:
            problems.append(error.at(place))
        try:
            given = inventory.annotations.get(ann_id, {}).get("bbox")
            box = None if given is None else usable_box(given, size)
            if box and mask and mask_area_px(mask):
                inventory.notices += compare_with_box(mask, box, place)
        except BadValue as error:
            problems.append(error.at(place))
    if size is not None and len(masks) == len(truths):
        try:
            object_mask(masks, [truth.segmentation for _, truth in truths if truth], *size)
        except BadValue as error:
            ids = ", ".join(map(str, item.ann_ids))
            problems.append(error.at(f"instances.json annotation {ids} of ref_id {item.ref_id}"))
    return problems


def _check_splits(inventory: Inventory) -> list[Problem]:
    splits_of: dict[int, set[str]] = defaultdict(set)
    for item in inventory.items:
        splits_of[item.image_id].add(item.split)
    remedy = "put all refs of an image in one split, or choose another split_by"
    return [
        BadValue("image in several splits", Words(", ".join(sorted(splits))), "one split", remedy).at(
            f"image {image_id}"
        )
        for image_id, splits in splits_of.items()
        if len(splits) > 1
    ]


def _check_files(inventory: Inventory) -> list[Problem]:
    """Name the files that stand in the image table under several ids, and with several sizes."""
    rows_of: dict[str, dict[int, ImageRow]] = defaultdict(dict)
    for image_id, row in inventory.pictures.items():
        rows_of[row.file_name][image_id] = row
    problems = []
    for name, rows in rows_of.items():
        ids = ", ".join(map(str, rows))
        if len(set(rows.values())) > 1:
            got = Words(" and ".join(f"{row.width_px} x {row.height_px} px" for row in dict.fromkeys(rows.values())))
            remedy = "one of the rows is of another picture; correct its file_name"
            problems.append(BadValue("file of several ids", got, f"one size of {name}", remedy).at(f"image {ids}"))
        elif len(rows) > 1:
            inventory.notices.append(Notice(f"instances.json image {ids} ({name})", "they are one file"))
    return problems
