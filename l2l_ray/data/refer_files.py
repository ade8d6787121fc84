"""Parses the two files of the REFER layout, `refs(<split_by>).p` and `instances.json`, into compact records.

Both come from the internet, so neither is trusted:
- The pickle is read by an unpickler that knows no class and no function, only built-in containers and values: a
  downloaded file cannot run code. It is the one of the standard library written in Python, because the one in C sets
  aside memory for a memo number it has merely read. Keys are text, so that no key takes long to hash. Strings of
  Python 2 are taken as latin-1.
- instances.json is read as a stream, one element at a time. Annotations are reduced while they are parsed, and only
  those that refs point to are kept; they may lack any key but `id` and `image_id`, or be absent altogether.
- Whatever is damaged, of a wrong type, cyclic, or nested too deeply ends as a `DataError`.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import reprlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TextIO

from l2l_ray.data.hints import hint_text
from l2l_ray.errors import DataError

CHUNK_CHARS = 2**20
_SPACE = re.compile(r"[ \t\n\r]*+")
LOOKAHEAD_CHARS = 2**16  # more than any number is long: a number is never taken before all of it is in the buffer
_MAX_ID = 2**63 - 1
MAX_EXPRESSION_CHARS = 100_000  # longer is no expression; one text may be shared by every sentence of a pickle
_MAX_IMAGE_PX = 2**28  # a mask of this many pixels takes 256 MB; a larger size is damage


class Ref(NamedTuple):
    """What is referred to: which sentences speak of it. `sentences` holds (sent_id, expression) by ascending `sent_id`.

    `ann_ids` are one annotation in RefCOCO, any number in gRefCOCO; none says that the image does not show it.
    `hint` is what the user says about its place, as JSON; see hints.py.

    Example: `Ref(3, (1719310,), 581857, "train", ((7, "left man"), (8, "man in red")))`
    """

    ref_id: int
    ann_ids: tuple[int, ...]
    image_id: int
    split: str
    sentences: tuple[tuple[int, str], ...]
    hint: str = ""


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
    images: list[tuple[int, ImageRow]] = []
    truths: dict[int, Truth] = {}
    categories: dict[int | None, str] = {}
    try:
        with path.open("rb") as file:
            encoding = json.detect_encoding(file.read(4))
        with path.open(encoding=encoding, errors="surrogatepass", newline="") as text:
            for section, item in _elements(text):
                if section == "images":
                    images.append((_integer(item["id"]), _image_row(item)))
                elif section == "categories":
                    categories[_integer(item["id"])] = str(item["name"])
                elif isinstance(item, dict) and type(ann_id := item.get("id")) is int and ann_id in ann_ids:
                    truths[ann_id] = _truth(item)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} is not a COCO instances file: {type(error).__name__}: {error}; expected an object with "
            "'images' of id and file_name (width and height may be null); download or make it again"
        ) from error
    _refuse_repeated("image id", [image_id for image_id, _ in images], path)
    return Instances(dict(images), truths, categories)


def plain_records(path: Path) -> Sequence[Any]:
    """Return the unchecked items of a pickled list that holds built-in values only.

    Raises:
        DataError: If the pickle is damaged, asks for anything but built-in values, or is no list.
    """
    try:
        records = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin-1").load()
    # A damaged pickle can raise almost anything, says the documentation of pickle.
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as a plain pickle: {error}; expected a list of dicts of str, bytes, int, "
            "float, bool and None; download it again, or rewrite it with built-in types only"
        ) from error
    if not isinstance(records, list | tuple):
        raise DataError(f"{path} must hold a list of refs, got {type(records).__name__}; download it again")
    return records


def read_refs(path: Path) -> list[Ref]:
    """Read the pickled refs, in file order.

    Raises:
        DataError: If the pickle is damaged or asks for anything but built-in values, a ref is malformed, or an id
        repeats.
    """
    records = plain_records(path)
    refs: list[Ref] = []
    num_left = path.stat().st_size
    for number, record in enumerate(records):
        refs.append(_ref(record, number, path, num_left))
        num_left -= len(refs[-1].sentences) + len(refs[-1].ann_ids)
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


# Everything else builds sets or objects, or calls something. Names and outside objects are let through to the two
# methods below, which refuse them by name.
_PLAIN_OPCODES = b"".join(
    (
        *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.DUP),
        *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.FLOAT, pickle.BINFLOAT),
        *(pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG, pickle.LONG1, pickle.LONG4),
        *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING),
        *(pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE8),
        *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8),
        *(pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS),
        *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
        *(pickle.EMPTY_DICT, pickle.DICT, pickle.SETITEM, pickle.SETITEMS),
        *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
        *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
        *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.PERSID, pickle.BINPERSID),
    )
)


_LOADERS: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch


class _PlainUnpickler(pickle._Unpickler):
    """Builds built-in containers and values only; a pickle that names any class or function is refused."""

    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which could run code")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to an object outside the file")

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("it builds sets or objects")

    def _set_item(self) -> None:
        self._require_text(self.stack[-2:-1])
        _LOADERS[pickle.SETITEM[0]](self)

    def _set_items(self) -> None:
        self._require_text(self.stack[::2])
        _LOADERS[pickle.SETITEMS[0]](self)

    def _dict(self) -> None:
        self._require_text(self.stack[::2])
        _LOADERS[pickle.DICT[0]](self)

    def _require_text(self, keys: list[Any]) -> None:
        # Nested tuples that share their parts, and integers chosen to collide, take time without bound as keys.
        if not all(isinstance(key, str | bytes) for key in keys):
            raise pickle.UnpicklingError("a dict has a key that is not text")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **dict.fromkeys(range(256), _refuse),
        **{opcode: _LOADERS[opcode] for opcode in _PLAIN_OPCODES},
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _dict,
    }


def _elements(file: TextIO) -> Iterator[tuple[str, Any]]:
    """Yield (section, element) of the arrays of a COCO file, one element in memory at a time."""
    reader = _JsonReader(file)
    seen: set[str] = set()
    more = reader.take("{") and not reader.has("}")
    while more:
        section = reader.value()
        if not isinstance(section, str) or not reader.take(":"):
            break
        if section not in ("images", "annotations", "categories"):
            reader.value()
        elif section in seen:
            raise ValueError(f"{section!r} is there twice")
        elif reader.take("["):
            seen.add(section)
            another = not reader.has("]")
            while another:
                yield section, reader.value()
                another = reader.take(",")
            reader.require("]")
        elif reader.value() is not None:
            raise TypeError(f"{section!r} must be an array")
        more = reader.take(",")
    reader.require("}")
    reader.require("")
    if "images" not in seen:
        raise KeyError("images")


class _JsonReader:
    """Walks through a JSON text that need not fit in memory.

    Example: `reader.take("["); reader.value(); reader.take(",")`
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text, self._at, self._num_passed = "", 0, 0
        self._scan = json.JSONDecoder().raw_decode

    def value(self) -> Any:
        """Return the value that comes next and go behind it."""
        self._skip_space()
        if len(self._text) - self._at < LOOKAHEAD_CHARS:
            self._read_on()
        while True:
            try:
                value, self._at = self._scan(self._text, self._at)
                return value
            except json.JSONDecodeError as error:
                message, at = error.msg, error.pos
            # The buffer grows by its own size, so a value is scanned few times, however long it is.
            if not self._read_on():
                raise ValueError(f"{message} at character {self._num_passed + at}")

    def has(self, char: str) -> bool:
        """Tell whether this comes next, white space aside; "" is the end of the text."""
        self._skip_space()
        return self._text[self._at : self._at + 1] == char

    def take(self, char: str) -> bool:
        """Go behind this character if it comes next; tell whether it did."""
        found = self.has(char)
        self._at += found
        return found

    def require(self, char: str) -> None:
        """Go behind this character, or raise `ValueError` if it does not come next."""
        if not self.take(char):
            raise ValueError(f"expected {char or 'the end'!r} at character {self._num_passed + self._at}")

    def _skip_space(self) -> None:
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space  # the empty string matches
            self._at = space.end()
            if self._at < len(self._text) or not self._read_on():
                return

    def _read_on(self) -> bool:
        kept = self._text[self._at :]
        more = self._file.read(max(CHUNK_CHARS, len(kept)))
        self._num_passed += self._at
        self._text, self._at = kept + more, 0
        return bool(more)


def _ref(record: Any, number: int, path: Path, max_items: int) -> Ref:
    try:
        if len(record["sentences"]) + len(record.get("ann_ids", ())) > max_items:
            # Lists that stand once in the file may be shared by every ref of it.
            raise ValueError("there are more sentences than bytes in the file")
        sentences = [(_integer(sentence["sent_id"]), _expression(sentence)) for sentence in record["sentences"]]
        ids = _integer(record["ref_id"]), _ann_ids(record), _integer(record["image_id"])
        if not isinstance(record["split"], str):
            raise TypeError(f"split is {type(record['split']).__name__}, expected str")
        return Ref(*ids, record["split"], tuple(sorted(sentences)), hint_text(record.get("hint")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"ref number {number} of {path} is malformed: {type(error).__name__}: {error}; expected ref_id, image_id, "
            "split, and sentences of sent_id and sent"
        ) from error


def _ann_ids(record: dict[str, Any]) -> tuple[int, ...]:
    """Return which annotations a ref points to; (-1,), which no annotation has, where it says nothing about that."""
    if "ann_ids" not in record:
        return (_integer(record.get("ann_id", -1)),)
    if not isinstance(record["ann_ids"], list | tuple):
        raise TypeError(f"ann_ids is {type(record['ann_ids']).__name__}, expected a list of integer ids")
    return tuple(_integer(ann_id) for ann_id in record["ann_ids"])


def _expression(sentence: dict[str, Any]) -> str:
    text = sentence["sent"] if "sent" in sentence else sentence["raw"]
    if not isinstance(text, str):
        raise TypeError(f"the expression of sent_id {sentence['sent_id']} is {type(text).__name__}, expected str")
    if len(text) > MAX_EXPRESSION_CHARS:
        raise ValueError(f"the expression of sent_id {sentence['sent_id']} has {len(text)} characters")
    clean = " ".join(text.split())
    return text if clean == text else clean  # one object for many sentences stays one object


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MAX_ID:
        raise TypeError(f"{reprlib.repr(value)} is not an integer id")
    return value


def _image_row(row: dict[str, Any]) -> ImageRow:
    name = row["file_name"]
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"file_name {reprlib.repr(name)} of image {row['id']} must be a path below the image folder")
    width_px, height_px = (None if row.get(side) is None else _integer(row[side]) for side in ("width", "height"))
    if min(width_px or 1, height_px or 1) < 1:
        raise ValueError(f"image {row['id']} has width {width_px} and height {height_px}, expected null or at least 1")
    if (width_px or 1) * (height_px or 1) > _MAX_IMAGE_PX:
        raise ValueError(f"image {row['id']} has {width_px} x {height_px} px, expected at most 2^28")
    return ImageRow(name, width_px, height_px)


def _truth(annotation: dict[str, Any]) -> Truth:
    category_id = annotation.get("category_id")
    return Truth(_compact(annotation.get("segmentation")), category_id if type(category_id) is int else None)


def _compact(segmentation: Any) -> Any:
    """Store polygons as arrays of doubles, a fourth of a list's memory; `annotation_rle` judges anything else."""
    if isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation):
        try:
            return [array("d", part) for part in segmentation]
        except (TypeError, OverflowError):
            return segmentation
    return segmentation


def _refuse_repeated(what: str, ids: Sequence[int], path: Path) -> None:
    repeated = [i for i, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(
            f"{path}: {what} {repeated[:5]} used more than once ({len(repeated)} in all); each must be unique"
        )
