"""Parses the two files of the REFER layout, `refs(<split_by>).p` and `instances.json`, into compact records.

- The pickle is read by an unpickler that knows no class and no function, only built-in containers and values: a
  downloaded file cannot run code. Strings of Python 2 are taken as latin-1.
- instances.json is parsed once. Annotations are reduced while they are parsed, and only those that refs point to are
  kept; they may lack any key but `id` and `image_id`, or be absent altogether.
"""

from __future__ import annotations

import json
import pickle
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from l2l_ray.errors import DataError


class Ref(NamedTuple):
    """One referred object: which sentences speak of it. `sentences` holds (sent_id, expression) by ascending `sent_id`.

    Example: `Ref(3, 1719310, 581857, "train", ((7, "left man"), (8, "man in red")))`
    """

    ref_id: int
    ann_id: int
    image_id: int
    split: str
    sentences: tuple[tuple[int, str], ...]


class ImageRow(NamedTuple):
    """One row of the image table; a size of None is unknown.

    Example: `ImageRow("COCO_train2014_000000581857.jpg", 640, 427)`
    """

    file_name: str
    width_px: int | None
    height_px: int | None


class Truth(NamedTuple):
    """What an annotation says about its object. Polygons are arrays of doubles, anything else is as it was in the file.

    Example: `Truth([array("d", [10, 10, 50, 10, 50, 60])], 1)`
    """

    segmentation: Any
    category_id: int | None


class Instances(NamedTuple):
    """What is kept of instances.json: image rows by id, truths by annotation id, category names by id.

    Example: `read_instances(Path("/data/refer/refcoco/instances.json"), {1719310})`
    """

    images: dict[int, ImageRow]
    truths: dict[int, Truth]
    categories: dict[int | None, str]


def read_instances(path: Path, ann_ids: set[int]) -> Instances:
    """Parse instances.json.

    Args:
        path: The file.
        ann_ids: Annotations to keep.
    Raises:
        DataError: If the file is no COCO instances file, or an image id repeats.
    """
    truths: dict[int, Truth] = {}

    def keep_wanted(record: dict[str, Any]) -> dict[str, Any] | None:
        # Annotations are reduced as soon as each is parsed: all of RefCOCO's at once would take a gigabyte.
        if "image_id" not in record:
            return record
        if record.get("id") in ann_ids:
            truths[record["id"]] = Truth(_compact(record.get("segmentation")), record.get("category_id"))
        return None

    try:
        content = json.loads(path.read_bytes(), object_hook=keep_wanted)
        images = [(_integer(row["id"]), _image_row(row)) for row in content["images"]]
        categories = {row["id"]: str(row["name"]) for row in content.get("categories") or ()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a COCO instances file: {type(error).__name__}: {error}; expected an object with "
            "'images' of id and file_name (width and height may be null); download or make it again"
        ) from error
    _refuse_repeated("image id", [image_id for image_id, _ in images], path)
    return Instances(dict(images), truths, categories)


def read_refs(path: Path) -> list[Ref]:
    """Read the pickled refs, in file order.

    Raises:
        DataError: If the pickle is damaged or asks for anything but built-in values, a ref is malformed, or an id
        repeats.
    """
    with path.open("rb") as file:
        try:
            records = _PlainUnpickler(file, encoding="latin-1").load()
        # A damaged pickle can raise almost anything, says the documentation of pickle.
        except Exception as error:
            raise DataError(
                f"{path} cannot be read as a plain pickle: {error}; expected a list of dicts of str, bytes, int, "
                "float, bool and None; download it again, or rewrite it with built-in types only"
            ) from error
    if not isinstance(records, list | tuple):
        raise DataError(f"{path} must hold a list of refs, got {type(records).__name__}; download it again")
    refs = [_ref(record, number, path) for number, record in enumerate(records)]
    _refuse_repeated("ref_id", [ref.ref_id for ref in refs], path)
    _refuse_repeated("sent_id", [sent_id for ref in refs for sent_id, _ in ref.sentences], path)
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


class _PlainUnpickler(pickle.Unpickler):
    """Builds built-in containers and values only; a pickle that names any class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which could run code")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to an object outside the file")


def _ref(record: Any, number: int, path: Path) -> Ref:
    try:
        sentences = [(_integer(sentence["sent_id"]), _expression(sentence)) for sentence in record["sentences"]]
        ann_id = _integer(record["ann_id"]) if "ann_id" in record else -1
        ids = _integer(record["ref_id"]), ann_id, _integer(record["image_id"])
        return Ref(*ids, str(record["split"]), tuple(sorted(sentences)))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"ref number {number} of {path} is malformed: {type(error).__name__}: {error}; expected ref_id, image_id, "
            "split, and sentences of sent_id and sent"
        ) from error


def _expression(sentence: dict[str, Any]) -> str:
    text = sentence["sent"] if "sent" in sentence else sentence["raw"]
    if not isinstance(text, str):
        raise TypeError(f"the expression of sent_id {sentence['sent_id']} is {type(text).__name__}, expected str")
    return " ".join(text.split())


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not an integer id")
    return value


def _image_row(row: dict[str, Any]) -> ImageRow:
    name = row["file_name"]
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"file_name {name!r} of image {row['id']} must be a path below the image folder")
    width_px, height_px = (None if row.get(side) is None else _integer(row[side]) for side in ("width", "height"))
    if min(width_px or 1, height_px or 1) < 1:
        raise ValueError(f"image {row['id']} has width {width_px} and height {height_px}, expected null or at least 1")
    return ImageRow(name, width_px, height_px)


def _compact(segmentation: Any) -> Any:
    """Store polygons as arrays of doubles, a fourth of a list's memory; `annotation_rle` judges anything else."""
    if isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation):
        try:
            return [array("d", part) for part in segmentation]
        except TypeError:
            return segmentation
    return segmentation


def _refuse_repeated(what: str, ids: Sequence[int], path: Path) -> None:
    repeated = [i for i, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(
            f"{path}: {what} {repeated[:5]} used more than once ({len(repeated)} in all); each must be unique"
        )
