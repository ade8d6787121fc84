"""The two files of the REFER layout, `refs(<split_by>).p` and `instances.json`: what each record must be.

The rules stand here once, a `parse_` function for each kind of record: the loader stops at the first record that breaks
one (`read_refs`, `read_instances`), `datatools/inventory.py` lists them all. Both files come from the internet, so
neither is trusted:
- The pickle is read by `plain_pickle.py`, which builds built-in values only.
- instances.json is read as a stream, one element at a time (`json_stream.py`). Annotations are reduced while they are
  parsed, and only those that refs point to are kept; they may lack any key but `id` and `image_id`, or be absent
  altogether.
- Ids are used once: of images, categories, refs and sentences, and of the annotations that refs point to.
- Whatever is damaged, of a wrong type, cyclic, or nested too deeply ends as a `DataError`.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from l2l_ray.data.hints import hint_text
from l2l_ray.data.json_stream import coco_elements
from l2l_ray.data.layout import MAX_SIDE_PX, BadValue, Words
from l2l_ray.data.plain_pickle import plain_records
from l2l_ray.errors import DataError

NO_ANNOTATION = (-1,)  # `Ref.ann_ids` of a ref that says nothing about annotations; no annotation has this id
MAX_EXPRESSION_CHARS = 100_000  # longer is no expression; one text may be shared by every sentence of a pickle
_MAX_ID = 2**63 - 1
_MAX_IMAGE_PX = 2**28  # a mask of this many pixels takes 256 MB; a larger size is damage


class Ref(NamedTuple):
    """What is referred to: which sentences speak of it. `sentences` holds (sent_id, expression) by ascending `sent_id`.

    `ann_ids` are one annotation in RefCOCO, any number in gRefCOCO; none says that the image does not show it.
    `hint` is what the user says about its place, as JSON; see hints.py. `is_rejected` = a person said that a model's
    label of it is wrong, and gave no other: it is not to be labeled again. `is_reviewed` = its mask began as a model's
    label, which a person confirmed or corrected.

    Example: `Ref(3, (1719310,), 581857, "train", ((7, "left man"), (8, "man in red")))`
    """

    ref_id: int
    ann_ids: tuple[int, ...]
    image_id: int
    split: str
    sentences: tuple[tuple[int, str], ...]
    hint: str = ""
    is_rejected: bool = False
    is_reviewed: bool = False


class ImageRow(NamedTuple):
    """One row of the image table; a size of None is unknown.

    Example: `ImageRow("COCO_train2014_000000581857.jpg", 640, 427)`
    """

    file_name: str
    width_px: int | None
    height_px: int | None


class Truth(NamedTuple):
    """What an annotation says about its object. Polygons are arrays of doubles, anything else is as it was in the file.

    Example: `Truth([array("d", [10, 10, 50, 10, 50, 60])], 1, 581857)`
    """

    segmentation: Any
    category_id: int | None
    image_id: int | None


class Instances(NamedTuple):
    """What is kept of instances.json: image rows by id, truths by annotation id, category names by id.

    Example: `read_instances(Path("/data/refer/refcoco/instances.json"), {1719310})`
    """

    images: dict[int, ImageRow]
    truths: dict[int, Truth]
    categories: dict[int | None, str]


class Once:
    """Refuses ids that come a second time.

    Example: `Once("ref_id").take([3, 4])`

    Args:
        what: What the ids are called.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._seen: set[Hashable] = set()

    def take(self, ids: Iterable[Hashable]) -> None:
        """Note ids; all or, where one comes a second time, none.

        Raises:
            BadValue: If one was there before, or comes twice in `ids`.
        """
        counts = Counter(ids)
        if twice := [i for i, count in counts.items() if count > 1 or i in self._seen]:
            got = twice if len(twice) > 1 else twice[0]
            raise BadValue(self._what, got, "an id that is used once", "give it an id of its own")
        self._seen |= counts.keys()


def read_instances(path: Path, ann_ids: set[int]) -> Instances:
    """Parse instances.json.

    Args:
        path: The file.
        ann_ids: Annotations to keep.
    Raises:
        DataError: If the file is no COCO instances file, a row of it is malformed, or an id repeats.
    """
    images: dict[int, ImageRow] = {}
    truths: dict[int, Truth] = {}
    categories: dict[int | None, str] = {}
    once = {name: Once(what) for name, what in ID_NAMES.items()}
    for section, number, item in coco_elements(path):
        try:
            if section == "images":
                image_id, images[image_id] = parse_image(item)
                once[section].take([image_id])
            elif section == "categories":
                category_id, categories[category_id] = parse_category(item)
                once[section].take([category_id])
            elif (ann_id := annotation_id(item)) is not None and ann_id in ann_ids:
                once[section].take([ann_id])
                truths[ann_id] = parse_truth(item)
        except BadValue as error:
            raise DataError(f"{path}: {section} number {number}: {error}; `l2l data check` lists the others") from error
    return Instances(images, truths, categories)


ID_NAMES = {"images": "image id", "annotations": "annotation id", "categories": "category id"}


def read_refs(path: Path) -> list[Ref]:
    """Read the pickled refs, in file order.

    Raises:
        DataError: If the pickle is damaged or asks for anything but built-in values, a ref is malformed, or an id
        repeats.
    """
    refs: list[Ref] = []
    parser = RefParser(path)
    for number, record in enumerate(plain_records(path)):
        try:
            refs.append(parser.parse(record))
        except BadValue as error:
            raise DataError(f"{path}: ref number {number}: {error}; `l2l data check` lists the others") from error
    return refs


def require_file(path: Path, root: Path, dataset: str) -> None:
    """Check that a file of a data set exists.

    Raises:
        DataError: If it does not; the message lists what is there instead.
    """
    if path.is_file():
        return
    if path.parent.is_dir():
        there = sorted(item.name for item in path.parent.iterdir())
        hint = f"{path.parent} holds {there[:20]}; check split_by, or complete the folder"
    elif root.is_dir():
        there = sorted(item.parent.name for item in root.glob("*/refs(*).p"))
        hint = f"{root} holds the data sets {sorted(set(there))}; check dataset and root"
    else:
        hint = f"the folder {root} does not exist; check root"
    raise DataError(f"{dataset}: {path} not found; {hint}")


class RefParser:
    """Parses the records of one pickle, whose ids must be used once.

    Example: `RefParser(path).parse({"ref_id": 3, "ann_id": 1719310, "image_id": 581857, "split": "train", ...})`

    Args:
        path: The pickle; lists that stand once in it may be shared by every ref, which its size bounds.
    """

    def __init__(self, path: Path) -> None:
        self._num_left = path.stat().st_size
        self._ref_ids, self._sent_ids = Once("ref_id"), Once("sent_id")

    def parse(self, record: Any) -> Ref:
        """Return one ref.

        Raises:
            BadValue: If a field is missing or malformed, or an id was there before.
        """
        if not isinstance(record, dict):
            raise BadValue("ref", record, "a dict of ref_id, image_id, split and sentences", "make the file again")
        rows, ann_ids = record.get("sentences"), record.get("ann_ids", ())
        if not isinstance(rows, list | tuple):
            raise BadValue("sentences", rows, "a list of sentences", "add one, or remove the ref")
        if not isinstance(ann_ids, list | tuple):
            raise BadValue("ann_ids", ann_ids, "a list of annotation ids", "correct it")
        if len(rows) + len(ann_ids) > self._num_left:
            got, expected = Words(f"{len(rows)} more"), "no more sentences than bytes in the file"
            raise BadValue("sentences", got, expected, "make the file again")
        self._num_left -= len(rows) + len(ann_ids)
        ref_id, image_id = integer_id(record.get("ref_id"), "ref_id"), integer_id(record.get("image_id"), "image_id")
        if not isinstance(split := record.get("split"), str):
            raise BadValue("split", split, "a split's name", "correct it")
        if "ann_ids" in record:
            found = tuple(integer_id(ann_id, "ann_id") for ann_id in ann_ids)
        else:
            found = (integer_id(record["ann_id"], "ann_id"),) if "ann_id" in record else NO_ANNOTATION
        sentences = sorted(_sentence(row) for row in rows)
        self._sent_ids.take(sent_id for sent_id, _ in sentences)
        self._ref_ids.take([ref_id])
        hint, is_rejected = hint_text(record.get("hint")), isinstance(record.get("rejected"), dict)
        is_reviewed = _is_reviewed(record.get("provenance"))
        return Ref(ref_id, found, image_id, split, tuple(sentences), hint, is_rejected, is_reviewed)


def _is_reviewed(provenance: Any) -> bool:
    if not isinstance(provenance, dict):
        return False
    return any(isinstance(provenance.get(name), dict) for name in ("confirmed_from", "corrected_from"))


def parse_image(row: Any) -> tuple[int, ImageRow]:
    """Return an image's id and its row.

    Raises:
        BadValue: If a field is missing or malformed, the name leads out of the image folder, or no image has this size.
    """
    if not isinstance(row, dict):
        raise BadValue("image", row, "an object with id, file_name, width and height", "correct it")
    image_id, name = integer_id(row.get("id"), "image id"), row.get("file_name")
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise BadValue("file_name", name, "a path below the image folder", "write a relative path without '..'")
    width, height = row.get("width"), row.get("height")
    if width is not None and height is not None:
        return image_id, ImageRow(name, *image_size(width, height))
    sides = (None if side is None else image_side(side) for side in (width, height))
    return image_id, ImageRow(name, *sides)


def image_size(width: Any, height: Any) -> tuple[int, int]:
    """Return a width and height that an image can have, px.

    Raises:
        BadValue: If one is no integer from 1 to 65,535, or a mask of this size would fill the memory.
    """
    size = image_side(width), image_side(height)
    if size[0] * size[1] > _MAX_IMAGE_PX:
        got, expected = Words(f"{width} x {height} px"), f"at most {_MAX_IMAGE_PX} px in all"
        raise BadValue("image size", got, expected, "correct the size")
    return size


def image_side(value: Any, what: str = "image size") -> int:
    """Return a width or height that is an integer from 1 to 65,535 px.

    Raises:
        BadValue: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIDE_PX:
        raise BadValue(what, value, f"an integer from 1 to {MAX_SIDE_PX} px", "correct the size")
    return value


def parse_category(row: Any) -> tuple[int, str]:
    """Return a category's id and name.

    Raises:
        BadValue: If one is missing or malformed.
    """
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        raise BadValue("category", row, "an object with id and name", "correct it")
    return integer_id(row.get("id"), "category id"), row["name"]


def annotation_id(row: Any) -> int | None:
    """Return the id of an annotation, None where it has none that a ref could point to."""
    found = row.get("id") if isinstance(row, dict) else None
    return found if type(found) is int and found not in NO_ANNOTATION else None


def parse_truth(annotation: dict[str, Any]) -> Truth:
    """Return what an annotation says about its object; whether that makes a mask is judged by `object_masks.py`."""
    category_id, image_id = annotation.get("category_id"), annotation.get("image_id")
    return Truth(_compact(annotation.get("segmentation")), *(_known(found) for found in (category_id, image_id)))


def integer_id(value: Any, what: str) -> int:
    """Return an id, an integer of 64 bits.

    Raises:
        BadValue: If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MAX_ID:
        raise BadValue(what, value, "an integer of 64 bits", "correct it")
    return value


def _sentence(row: Any) -> tuple[int, str]:
    row = row if isinstance(row, dict) else {}
    text = row["sent"] if "sent" in row else row.get("raw")
    if not isinstance(text, str) or len(text) > MAX_EXPRESSION_CHARS:
        expected = f"a dict with sent_id and sent, a text of at most {MAX_EXPRESSION_CHARS} characters"
        raise BadValue("sentence", text, expected, "correct it")
    clean = " ".join(text.split())
    # One object for many sentences stays one object.
    return integer_id(row.get("sent_id"), "sent_id"), text if clean == text else clean


def _known(value: Any) -> int | None:
    return value if type(value) is int and abs(value) <= _MAX_ID else None


def _compact(segmentation: Any) -> Any:
    """Store polygons as arrays of doubles, a fourth of a list's memory; anything else is judged as it is."""
    if isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation):
        if all(set(map(type, part)) <= {int, float} for part in segmentation):
            try:
                return [array("d", part) for part in segmentation]
            except OverflowError:  # an integer beyond every float
                return segmentation
    return segmentation
