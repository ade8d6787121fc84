"""What a REFER folder holds, good items and bad ones apart: the loader stops at the first damage, this lists all of it.

`check`, `stats`, `split` and `leaks` look at data through this. Each record is parsed by the loader's own rules
(`data/refer_files.py`, `data/object_masks.py`), and only annotations that refs point to are kept, as there. Files that
cannot be read as a whole are still an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from l2l_ray.data.hints import PixelHint, read_hint
from l2l_ray.data.json_stream import coco_elements
from l2l_ray.data.layout import SPLITS, BadValue, Notice, Problem, Words, image_folder, shown, without_placeholder
from l2l_ray.data.object_masks import annotation_mask, object_mask
from l2l_ray.data.pixels import read_header
from l2l_ray.data.plain_pickle import plain_records
from l2l_ray.data.refer_files import (
    ID_NAMES,
    NO_ANNOTATION,
    ImageRow,
    Once,
    RefParser,
    Truth,
    annotation_id,
    parse_category,
    parse_image,
    parse_truth,
    require_file,
)
from l2l_ray.errors import DataError
from l2l_ray.storage import at_home
from l2l_ray.types import Rle
from l2l_ray.wording import counted


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
    notices: list[Notice] = field(default_factory=list)

    @property
    def dataset(self) -> str:
        """Name of the data set: that of its folder."""
        return self.folder.name

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that have refs, train first."""
        found = dict.fromkeys(item.split for item in self.items)
        return (*(split for split in SPLITS if split in found), *(split for split in found if split not in SPLITS))

    def require_sound(self, before: str) -> None:
        """Refuse malformed records: nothing else here holds them, so what is made of it would lack them.

        Args:
            before: What they are to be corrected for, such as "an update".
        Raises:
            DataError: There are some.
        """
        if self.problems:
            raise DataError(
                f"{self.folder} has {counted(len(self.problems), 'malformed record')}, first: {self.problems[0]}; "
                f"`l2l data check` lists all; correct them before {before}"
            )

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
        found = item.record.get("hint")
        return None if found is None else read_hint(found, *size)

    def size(self, image_id: int) -> tuple[int, int]:
        """Return width and height of an image, px: from the table where it has them, else from the picture.

        Raises:
            BadValue: If the image is not in the table, or the table has no size and there is no readable picture.
        """
        picture = self.pictures.get(image_id)
        if picture is None:
            raise BadValue("missing image row", image_id, "a row in the image table", "add it")
        if picture.width_px is not None and picture.height_px is not None:
            return picture.width_px, picture.height_px
        return read_header(self.path(image_id)).size

    def truth(self, ann_id: int) -> Truth | None:
        """Return what an annotation says as the loader keeps it, None where there is none."""
        row = self.annotations.get(ann_id)
        return None if row is None else parse_truth(row)

    def masks(self, item: Item) -> list[Rle]:
        """Return the masks of a ref's annotations, as the loader judges them.

        Raises:
            BadValue: If one is missing or unusable, or none has a pixel.
        """
        if item.ann_ids is None:
            raise BadValue("missing mask", Words("no annotation"), "an annotation with a mask", "add one")
        size = self.size(item.image_id)
        found = [(ann_id, self.truth(ann_id)) for ann_id in item.ann_ids]
        masks = [annotation_mask(*one, item.image_id, size, "union") for one in found]
        object_mask(masks, [truth.segmentation for _, truth in found if truth], *size)
        return masks

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
    folder = at_home(Path(folder)).absolute()
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the folder of a data set, <root>/<dataset>")
    found = sorted(path.name[5:-3] for path in folder.glob("refs(*).p"))
    if split_by is None and len(found) == 1:
        split_by = found[0]
    if not found:
        raise DataError(f"{folder} is no data set; give a folder with refs(<split_by>).p and instances.json")
    if split_by not in found:
        raise DataError(f"{folder} holds refs of {found}, got --split-by {split_by}; choose one of these")
    require_file(folder / "instances.json", folder.parent, folder.name)
    inventory = Inventory(folder, split_by)
    _read_refs(inventory, folder / f"refs({split_by}).p")
    _read_instances(inventory, folder / "instances.json")
    return inventory


def _read_refs(inventory: Inventory, path: Path) -> None:
    parser = RefParser(path)
    for number, record in enumerate(plain_records(path)):
        try:
            ref = parser.parse(record)
        except BadValue as error:
            inventory.problems.append(error.at(f"{path.name} ref number {number}"))
            continue
        ann_ids = None if ref.ann_ids == NO_ANNOTATION else ref.ann_ids
        inventory.items.append(Item(ref.ref_id, ann_ids, ref.image_id, ref.split, ref.sentences, record))


def _read_instances(inventory: Inventory, path: Path) -> None:
    wanted = {i for item in inventory.items for i in item.ann_ids or ()}
    once = {section: Once(what) for section, what in ID_NAMES.items()}
    for section, number, row in coco_elements(path):
        row_id = row.get("id") if isinstance(row, dict) else None
        kind = {"images": "image", "annotations": "annotation", "categories": "category"}[section]
        where = f"{path.name} {kind} {f'number {number}' if row_id is None else shown(row_id)}"
        try:
            if section == "images":
                image_id, picture = parse_image(row)
                once[section].take([image_id])
                inventory.pictures[image_id] = picture
            elif section == "categories":
                category_id, name = parse_category(row)
                once[section].take([category_id])
                inventory.categories[category_id] = name
            elif (ann_id := annotation_id(row)) is not None and ann_id in wanted:
                once[section].take([ann_id])
                inventory.annotations[ann_id] = without_placeholder(row)
        except BadValue as error:
            inventory.problems.append(error.at(where))
