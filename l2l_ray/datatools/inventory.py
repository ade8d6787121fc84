"""What a REFER folder holds, good items and bad ones apart: the loader stops at the first damage, this lists all of it.

`check`, `stats`, `split` and `leaks` look at data through this. Only annotations that refs point to are kept, as in the
loader. Files that cannot be read as a whole are still an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from l2l_ray.data.hints import PixelHint, hint_text, read_hint
from l2l_ray.data.layout import SPLITS, BadValue, Problem, image_folder, short
from l2l_ray.data.refer_files import MAX_EXPRESSION_CHARS, ImageRow, plain_records
from l2l_ray.datatools.truths import image_side, segmentation_rle
from l2l_ray.errors import DataError
from l2l_ray.types import Rle


class Item(NamedTuple):
    """One ref. `ann_ids` is None where the ref claims no truth, () where its expression has no target.

    Example: `Item(3, (1719310,), 581857, "train", ((7, "left man"),), {"ref_id": 3, ...})`
    """

    ref_id: int
    ann_ids: tuple[int, ...] | None
    image_id: int
    split: str
    sentences: tuple[tuple[int, str], ...]
    record: dict[str, Any]


@dataclass
class Inventory:
    """One data set in one published split.

    Example: `take_inventory(Path("data/refer/refcoco"), "unc").items`
    """

    folder: Path
    split_by: str
    items: list[Item] = field(default_factory=list)
    pictures: dict[int, ImageRow] = field(default_factory=dict)
    annotations: dict[int, dict[str, Any]] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def dataset(self) -> str:
        """Name of the data set: that of its folder."""
        return self.folder.name

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that have refs, train first."""
        found = dict.fromkeys(item.split for item in self.items)
        return (*(split for split in SPLITS if split in found), *(split for split in found if split not in SPLITS))

    def of(self, splits: Iterable[str]) -> list[Item]:
        """Return the refs of some splits."""
        wanted = set(splits)
        return [item for item in self.items if item.split in wanted]

    def image_ids(self, split: str) -> list[int]:
        """Return the ids of a split's images, in the order in which refs mention them first."""
        return list(dict.fromkeys(item.image_id for item in self.of([split])))

    def path(self, image_id: int) -> Path:
        """Return where an image of the table should be."""
        return image_folder(self.folder.parent, self.dataset) / self.pictures[image_id].file_name

    def category_id(self, item: Item) -> int | None:
        """Return the category of a ref's first annotation, else that of the ref; None where there is none."""
        annotation = self.annotations.get((item.ann_ids or (-1,))[0], {})
        found = annotation.get("category_id", item.record.get("category_id"))
        return found if isinstance(found, int) else None

    def box(self, ann_id: int) -> list[float] | None:
        """Return an annotation's [x, y, width, height] in px as it stands there; None where it is no four numbers."""
        box = self.annotations.get(ann_id, {}).get("bbox")
        usable = isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)
        return box if usable else None

    def hint(self, item: Item, size: tuple[int, int]) -> PixelHint | None:
        """Return where a user says that the object is, None where nothing is said.

        Args:
            item: A ref.
            size: Width and height of its image, px.
        Raises:
            BadValue: If the hint is malformed or does not fit the image.
        """
        text = hint_text(item.record.get("hint"))  # as the loader: what a pickle holds can be too large to be shown
        return read_hint(json.loads(text), *size) if text else None

    def masks(self, item: Item) -> list[Rle]:
        """Return the masks of a ref's annotations.

        Raises:
            BadValue: If one is missing or unusable.
        """
        picture = self.pictures.get(item.image_id)
        if item.ann_ids is None:
            raise BadValue("missing mask", "no annotation", "an annotation with a mask", "add one")
        rles = []
        for ann_id in item.ann_ids:
            row = self.annotations.get(ann_id)
            if row is None:
                raise BadValue(
                    "missing annotation", ann_id, "an annotation of instances.json", "add it, or correct ann_id"
                )
            if not row.get("segmentation"):
                raise BadValue(
                    "missing mask",
                    row.get("segmentation"),
                    "polygons or an RLE",
                    "add a mask; without one it is unlabeled",
                )
            if picture is None or picture.width_px is None or picture.height_px is None:
                raise BadValue(
                    "missing image size", "null", "width and height of its image", "add them to instances.json"
                )
            rles.append(segmentation_rle(row["segmentation"], picture.width_px, picture.height_px))
        return rles

    def has_truth(self, item: Item) -> bool:
        """Tell whether a ref has a mask, or says that it has no target; the mask itself is not looked at."""
        ids = item.ann_ids
        return ids is not None and all(self.annotations.get(i, {}).get("segmentation") for i in ids)


def take_inventory(folder: Path, split_by: str | None = None) -> Inventory:
    """Read one data set.

    Args:
        folder: `<root>/<dataset>`.
        split_by: Which `refs(<split_by>).p`; None where there is only one.
    Raises:
        DataError: If a file is missing or cannot be read as a whole.
    """
    folder = Path(folder).expanduser().absolute()
    found = sorted(path.name[5:-3] for path in folder.glob("refs(*).p"))
    if split_by is None and len(found) == 1:
        split_by = found[0]
    if split_by not in found:
        raise DataError(
            f"{folder} holds refs of {found}, got --split-by {split_by}; "
            + ("choose one of these" if found else "give a folder with refs(<split_by>).p and instances.json")
        )
    inventory = Inventory(folder, split_by)
    _read_refs(inventory, folder / f"refs({split_by}).p")
    _read_instances(inventory, folder / "instances.json")
    return inventory


def _read_refs(inventory: Inventory, path: Path) -> None:
    records = plain_records(path)
    ref_ids: set[int] = set()
    sent_ids: set[int] = set()
    num_left = path.stat().st_size  # a list that stands once in the file may be shared by every ref of it
    for number, record in enumerate(records):
        where = f"{path.name} ref number {number}"
        try:
            item = _item(record, num_left)
            num_left -= len(item.sentences)
            if item.ref_id in ref_ids:
                raise BadValue("ref_id", item.ref_id, "an id used once", "correct the ids")
            if repeated := sorted(sent_ids & {i for i, _ in item.sentences}):
                raise BadValue("sent_id", repeated, "ids used once", "correct the ids")
        except BadValue as error:
            inventory.problems.append(error.at(where))
            continue
        ref_ids.add(item.ref_id)
        sent_ids.update(i for i, _ in item.sentences)
        inventory.items.append(item)


def _item(record: Any, max_sentences: int) -> Item:
    if not isinstance(record, dict):
        raise BadValue("ref", record, "a dict", "import the data set again")
    ids = [_integer(record.get(name), name) for name in ("ref_id", "image_id")]
    ann_ids = None
    if "ann_ids" in record or "ann_id" in record:
        given = record.get("ann_ids", record.get("ann_id"))
        if "ann_ids" in record and not isinstance(given, list | tuple):
            raise BadValue("ann_ids", given, "a list of annotation ids", "correct it")
        ann_ids = tuple(_integer(i, "ann_id") for i in (given if isinstance(given, list | tuple) else [given]))
    split, rows = record.get("split"), record.get("sentences")
    if not isinstance(split, str):
        raise BadValue("split", split, "a name", "correct it")
    if not isinstance(rows, list | tuple) or not rows:
        raise BadValue("sentences", rows, "a list of sentences", "add one, or remove the ref")
    if len(rows) > max_sentences:
        raise BadValue(
            "sentences", f"{len(rows)} more", "no more sentences than bytes in the file", "download it again"
        )
    sentences = []
    for row in rows:
        row = row if isinstance(row, dict) else {}
        text = row.get("sent", row.get("raw"))
        if not isinstance(text, str) or len(text) > MAX_EXPRESSION_CHARS:
            raise BadValue("sentence", text, "a dict with sent_id and sent", "correct it")
        sentences.append((_integer(row.get("sent_id"), "sent_id"), " ".join(text.split())))
    return Item(ids[0], ann_ids, ids[1], split, tuple(sentences), record)


def _read_instances(inventory: Inventory, path: Path) -> None:
    wanted = {i for item in inventory.items for i in item.ann_ids or ()}
    repeated: set[int] = set()

    def keep(record: dict[str, Any]) -> dict[str, Any] | None:
        if "image_id" not in record:
            return record
        ann_id = record.get("id")
        if isinstance(ann_id, int) and ann_id in wanted:
            if ann_id in inventory.annotations:
                repeated.add(ann_id)
            inventory.annotations[ann_id] = record
        return None

    try:
        content = json.loads(path.read_bytes(), object_hook=keep)
        images, categories = content["images"], content.get("categories") or ()
        if not isinstance(images, list):
            raise TypeError(f"'images' is {type(images).__name__}, not a list")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} is not a COCO instances file: {type(error).__name__}: {error}; make it again"
        ) from error
    for number, row in enumerate(images):
        where = f"instances.json image {row.get('id') if isinstance(row, dict) else f'number {number}'}"
        try:
            image_id, picture = _picture(row)
            if image_id in inventory.pictures:
                raise BadValue("image id", image_id, "an id used once", "correct the ids")
        except BadValue as error:
            inventory.problems.append(error.at(where))
            continue
        inventory.pictures[image_id] = picture
    for row in categories:
        if isinstance(row, dict) and isinstance(row.get("id"), int):
            inventory.categories[row["id"]] = short(row.get("name", ""))
    for ann_id in sorted(repeated):
        where = f"instances.json annotation {ann_id}"
        inventory.problems.append(BadValue("annotation id", ann_id, "an id used once", "correct the ids").at(where))


def _picture(row: Any) -> tuple[int, ImageRow]:
    if not isinstance(row, dict):
        raise BadValue("image", row, "an object with id, file_name, width and height", "correct it")
    name = row.get("file_name")
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise BadValue("file_name", name, "a path below the image folder", "write a relative path without '..'")
    sides = [None if row.get(side) is None else image_side(row[side]) for side in ("width", "height")]
    return _integer(row.get("id"), "image id"), ImageRow(name, *sides)


def _integer(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValue(what, value, "an integer", "correct it")
    return value
