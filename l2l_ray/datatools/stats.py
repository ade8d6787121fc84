"""Counts of a data set: refs, sentences, images, share with truth, lengths, object sizes, categories, by split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from l2l_ray.data.hints import PixelHint
from l2l_ray.data.layout import BadValue
from l2l_ray.data.masks import mask_area_px
from l2l_ray.datatools.inventory import Inventory, Item
from l2l_ray.wording import counted

_SMALL_PX, _LARGE_PX = 32**2, 96**2  # COCO's bounds of small and large objects
_MOST_CATEGORIES = 10


def statistics(inventory: Inventory) -> list[str]:
    """Return the lines of a report on a data set.

    Boxes stand in for areas where masks are missing; objects without either are not counted among the sizes.
    """
    lines = [f"{inventory.dataset} ({inventory.split_by}) in {inventory.folder}", ""]
    lines.append(
        f"{'split':<10}{'images':>8}{'refs':>8}{'sentences':>11}{'with mask':>11}{'box only':>10}{'no target':>11}"
    )
    for split in (*inventory.splits, "all"):
        items = inventory.items if split == "all" else inventory.of([split])
        lines.append(_split_line(inventory, split, items))
    words = [len(text.split()) for item in inventory.items for _, text in item.sentences]
    lines += ["", f"words per sentence: {_spread(words)}"]
    areas = [area for item in inventory.items if (area := _area_px(inventory, item)) is not None]
    if areas:
        small = sum(area < _SMALL_PX for area in areas) / len(areas)
        large = sum(area >= _LARGE_PX for area in areas) / len(areas)
        lines.append(
            f"object area, px: {_spread(areas)}; {small:.1%} small (below 32 x 32), "
            f"{1 - small - large:.1%} medium, {large:.1%} large (from 96 x 96)"
        )
    counts = Counter(category_of(inventory, item) or "(none)" for item in inventory.items)
    listed = ", ".join(f"{name} {count}" for name, count in counts.most_common(_MOST_CATEGORIES))
    lines.append(f"categories: {len(counts)}; most frequent: {listed}" if counts else "categories: 0")
    sources = Counter(
        str(made.get("source", "?"))
        for item in inventory.items
        if inventory.has_truth(item) and isinstance(made := item.record.get("provenance"), dict)
    )
    if hints := _hints(inventory):
        num_boxes = sum(hint.box_xywh_px is not None for hint in hints)
        lines.append(f"hints: {num_boxes} with a box, {len(hints) - num_boxes} of points alone")
    if sources:
        lines.append("truth with provenance: " + ", ".join(f"{count} {name}" for name, count in sources.most_common()))
    if inventory.problems:
        malformed = counted(len(inventory.problems), "malformed record")
        lines.append(f"not counted: {malformed}; `l2l data check` names what is wrong")
    return lines


def _hints(inventory: Inventory) -> list[PixelHint]:
    """Return the hints that the loader would use, of images whose size is in the table."""
    found = []
    for item in inventory.items:
        picture = inventory.pictures.get(item.image_id)
        if picture is not None and picture.width_px and picture.height_px:
            with suppress(BadValue):  # `check` names it
                found.append(inventory.hint(item, (picture.width_px, picture.height_px)))
    return [hint for hint in found if hint is not None]


def category_of(inventory: Inventory, item: Item) -> str:
    """Return the category of a ref's first annotation, "" where there is none."""
    category_id = inventory.category_id(item)
    return "" if category_id is None else inventory.categories.get(category_id, "")


def _split_line(inventory: Inventory, split: str, items: Sequence[Item]) -> str:
    num_images = len({item.image_id for item in items})
    no_target = sum(item.ann_ids == () for item in items)
    with_mask = sum(inventory.has_truth(item) for item in items) - no_target
    box_only = sum(
        bool(item.ann_ids) and not inventory.has_truth(item) and _annotated_area_px(inventory, item) is not None
        for item in items
    )
    share = f"{with_mask / len(items):.1%}" if items else "-"
    num_sentences = sum(len(item.sentences) for item in items)
    return f"{split:<10}{num_images:>8}{len(items):>8}{num_sentences:>11}{share:>11}{box_only:>10}{no_target:>11}"


def _area_px(inventory: Inventory, item: Item) -> float | None:
    """Return the area of a ref's masks, or of its boxes; None where neither is usable."""
    try:
        return float(sum(map(mask_area_px, inventory.masks(item)))) if item.ann_ids else None
    except BadValue:
        return _annotated_area_px(inventory, item)


def _annotated_area_px(inventory: Inventory, item: Item) -> float | None:
    total = 0.0
    for ann_id in item.ann_ids or ():
        box = inventory.box(ann_id)
        if box is None or not (box[2] > 0 and box[3] > 0):
            return None
        total += box[2] * box[3]
    return total


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "none"
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2]
    return f"mean {sum(ordered) / len(ordered):.1f}, median {middle:.0f}, from {ordered[0]:.0f} to {ordered[-1]:.0f}"
