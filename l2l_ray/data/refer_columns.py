"""What a REFER data set holds, as columns: refs with their sentences and images, and, apart from these, truth.

`RefColumns` holds refs, sentences and images. `TruthColumns` holds masks and categories. Neither knows the other, so
each can be kept in a file of its own (`refer_cache.py`).

A column is a little-endian numpy array. Texts are one array of UTF-8 bytes and one of the ends, each text stored once.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice, pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from l2l_ray.data.refer_files import ImageRow, Instances, Ref, Truth
from l2l_ray.errors import DataError

Columns = dict[str, np.ndarray]

_ROWS_AT_ONCE = 4096  # refs made of columns at once: what is needed only meanwhile stays below 5 MB
_NO_ID = -(2**63)


class RefColumns:
    """Refs, their sentences and the images; no truth.

    Example: `refs.take(refs.rows("val"))`
    """

    def __init__(self, columns: Columns) -> None:
        """Take over columns made by `ref_columns`."""
        self._columns = columns
        self._expressions = _Texts(columns, "expression")
        self._file_names = _Texts(columns, "file_name")
        self._hints = _Texts(columns, "hint")
        self.splits = tuple(_Texts(columns, "split").all())

    def rows(self, split: str, image_ids: Iterable[int] | None = None) -> Int64[np.ndarray, " R"]:
        """Return which refs are of a split, and of these images if ids are given, in file order."""
        if split not in self.splits:
            return np.empty(0, dtype=np.int64)
        chosen: Bool[np.ndarray, " all"] = self._columns["ref_split"] == self.splits.index(split)
        if image_ids is not None:
            chosen &= np.isin(self._columns["ref_image_id"], np.fromiter(image_ids, dtype=np.int64))
        return np.flatnonzero(chosen)

    def image_ids(self, rows: Int64[np.ndarray, " R"]) -> list[int]:
        """Return the images of these refs, each once, in the order in which refs mention them first."""
        return list(dict.fromkeys(self._columns["ref_image_id"][rows].tolist()))

    def take(self, rows: Int64[np.ndarray, " R"] | None = None) -> Iterator[Ref]:
        """Yield these refs; None = all."""
        rows = np.arange(len(self._columns["ref_id"])) if rows is None else rows
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            yield from self._some_refs(rows[start : start + _ROWS_AT_ONCE])

    def _some_refs(self, rows: Int64[np.ndarray, " R"]) -> Iterator[Ref]:
        columns = self._columns
        sent_at, num_sents = _members(columns["ref_sentences"], rows)
        ann_at, num_anns = _members(columns["ref_anns"], rows)
        used, which = np.unique(columns["sent_expression"][sent_at], return_inverse=True)
        texts = self._expressions.take(used)
        sentences = zip(columns["sent_id"][sent_at].tolist(), (texts[i] for i in which.tolist()), strict=True)
        ann_ids = iter(columns["ann_id"][ann_at].tolist())
        refs = (columns[name][rows].tolist() for name in ("ref_id", "ref_image_id", "ref_split"))
        counts = num_sents.tolist(), num_anns.tolist()
        said = (columns[name][rows].astype(bool).tolist() for name in ("ref_rejected", "ref_reviewed"))
        more = self._hints.take(rows), *said
        for ref_id, image_id, split, sents, anns, *rest in zip(*refs, *counts, *more, strict=True):
            of_ref = tuple(islice(ann_ids, anns)), image_id, self.splits[split], tuple(islice(sentences, sents))
            yield Ref(ref_id, *of_ref, *rest)

    def image(self, image_id: int) -> ImageRow | None:
        """Return the row of an image, None if the image table has none."""
        i = self._image_rows.get(image_id)
        if i is None:
            return None
        width_px, height_px = self._columns["image_size"][2 * i : 2 * i + 2].tolist()
        return ImageRow(self._file_names[i], width_px or None, height_px or None)

    @cached_property
    def _image_rows(self) -> dict[int, int]:
        return {image_id: i for i, image_id in enumerate(self._columns["image_id"].tolist())}


class TruthColumns:
    """Masks and categories of the annotations that refs point to.

    Example: `truths.truth(1719310).segmentation`
    """

    def __init__(self, columns: Columns) -> None:
        """Take over columns made by `truth_columns`."""
        self._columns = columns
        self._json = _Texts(columns, "json")
        names = _Texts(columns, "category_name").all()
        self._categories = dict(zip(columns["category_id"].tolist(), names, strict=True))

    def truth(self, ann_id: int) -> Truth | None:
        """Return what an annotation says, None if there is none."""
        i = _find(self._columns["ann_id"], ann_id)
        if i is None:
            return None
        category_id, image_id = (int(self._columns[name][i]) for name in ("ann_category_id", "ann_image_id"))
        return Truth(
            self._segmentation(i),
            None if category_id == _NO_ID else category_id,
            None if image_id == _NO_ID else image_id,
        )

    def has_segmentation(self, ann_id: int) -> bool:
        """Tell whether an annotation is there and has a segmentation; the segmentation itself is not looked at."""
        i = _find(self._columns["ann_id"], ann_id)
        if i is None:
            return False
        first, last = self._columns["ann_parts"][i : i + 2].tolist()
        return bool(self._columns["ann_json"][i] >= 0 or last > first)

    def category(self, category_id: int | None) -> str:
        """Return the name of a category, "" if it has none."""
        return self._categories.get(category_id, "") if category_id is not None else ""

    def _segmentation(self, i: int) -> Any:
        if (text := int(self._columns["ann_json"][i])) >= 0:
            return json.loads(self._json[text])
        first, last = self._columns["ann_parts"][i : i + 2].tolist()
        ends = self._columns["part_ends"][first : last + 1].tolist()
        return [self._columns["coordinate"][start:end] for start, end in pairwise(ends)] or None


def ref_columns(refs: Sequence[Ref], instances: Instances) -> Columns:
    """Return the columns of `RefColumns`."""
    splits = list(dict.fromkeys(ref.split for ref in refs))
    number = {split: i for i, split in enumerate(splits)}
    sentences = [sentence for ref in refs for sentence in ref.sentences]
    expressions = {text: i for i, text in enumerate(dict.fromkeys(text for _, text in sentences))}
    images = sorted(instances.images.items())
    return {
        "ref_id": _integers(ref.ref_id for ref in refs),
        "ref_image_id": _integers(ref.image_id for ref in refs),
        "ref_rejected": _integers(ref.is_rejected for ref in refs),
        "ref_reviewed": _integers(ref.is_reviewed for ref in refs),
        "ref_split": _integers(number[ref.split] for ref in refs),
        "ref_sentences": _ends(len(ref.sentences) for ref in refs),
        "ref_anns": _ends(len(ref.ann_ids) for ref in refs),
        "ann_id": _integers(ann_id for ref in refs for ann_id in ref.ann_ids),
        "sent_id": _integers(sent_id for sent_id, _ in sentences),
        "sent_expression": _integers(expressions[text] for _, text in sentences),
        "image_id": _integers(image_id for image_id, _ in images),
        "image_size": _integers(side or 0 for _, row in images for side in (row.width_px, row.height_px)),
        **_texts("hint", [ref.hint for ref in refs]),
        **_texts("split", splits),
        **_texts("expression", expressions),
        **_texts("file_name", [row.file_name for _, row in images]),
    }


def truth_columns(instances: Instances) -> Columns:
    """Return the columns of `TruthColumns`.

    Raises:
        DataError: If a segmentation is nested too deeply to be written.
    """
    truths = sorted(instances.truths.items())
    found = [truth.segmentation for _, truth in truths]
    polygons = [s if s and isinstance(s, list) and all(isinstance(part, array) for part in s) else [] for s in found]
    others = [None if made else s for s, made in zip(found, polygons, strict=True)]
    texts = [_json_text(s) for s in others if s]
    numbers = iter(range(len(texts)))
    categories = sorted((i, name) for i, name in instances.categories.items() if i is not None)
    return {
        "ann_id": _integers(ann_id for ann_id, _ in truths),
        "ann_category_id": _integers(_NO_ID if t.category_id is None else t.category_id for _, t in truths),
        "ann_image_id": _integers(_NO_ID if t.image_id is None else t.image_id for _, t in truths),
        "ann_parts": _ends(len(parts) for parts in polygons),
        "ann_json": _integers(next(numbers) if s else -1 for s in others),
        "part_ends": _ends(len(part) for parts in polygons for part in parts),
        "coordinate": np.concatenate([np.empty(0), *(np.frombuffer(p) for parts in polygons for p in parts if p)]),
        "category_id": _integers(i for i, _ in categories),
        **_texts("category_name", [name for _, name in categories]),
        **_texts("json", texts),
    }


class _Texts:
    """The texts of one column, decoded when they are asked for."""

    def __init__(self, columns: Columns, name: str) -> None:
        self._ends, self._bytes = columns[f"{name}_ends"], columns[f"{name}_bytes"]

    def __getitem__(self, i: int) -> str:
        start, end = self._ends[i : i + 2].tolist()
        return str(self._bytes.data[start:end], "utf-8", "surrogatepass")

    def take(self, at: Int64[np.ndarray, " N"]) -> list[str]:
        """Return the texts at these positions."""
        data = self._bytes.data
        bounds = zip(self._ends[at].tolist(), self._ends[at + 1].tolist(), strict=True)
        return [str(data[start:end], "utf-8", "surrogatepass") for start, end in bounds]

    def all(self) -> list[str]:
        """Return all texts."""
        return self.take(np.arange(len(self._ends) - 1))


def _texts(name: str, texts: Iterable[str]) -> Columns:
    # A pickle may hold half a surrogate pair; it goes through unchanged.
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return {
        f"{name}_ends": _ends(len(text) for text in encoded),
        f"{name}_bytes": np.frombuffer(b"".join(encoded), dtype=np.uint8),
    }


def _integers(values: Iterable[int]) -> Int64[np.ndarray, " N"]:
    return np.fromiter(values, dtype="<i8")


def _ends(lengths: Iterable[int]) -> Int64[np.ndarray, " N"]:
    """Return 0 and the running sums: item i lies between positions i and i + 1."""
    return np.concatenate(([0], np.cumsum(_integers(lengths)))).astype("<i8")


def _members(
    ends: Int64[np.ndarray, " N"], rows: Int64[np.ndarray, " R"]
) -> tuple[Int64[np.ndarray, " M"], Int64[np.ndarray, " R"]]:
    """Return the positions of the items of these rows, row after row, and how many each row has."""
    lengths = ends[rows + 1] - ends[rows]
    shifts = ends[rows] - (np.cumsum(lengths) - lengths)
    return np.repeat(shifts, lengths) + np.arange(lengths.sum()), lengths


def _find(ids: Int64[np.ndarray, " N"], wanted: int) -> int | None:
    """Return the position of an id in ascending ids."""
    i = int(np.searchsorted(ids, wanted))
    return i if i < len(ids) and ids[i] == wanted else None


def _json_text(segmentation: Any) -> str:
    try:
        return json.dumps(segmentation)
    except RecursionError as error:
        raise DataError("a segmentation in instances.json is nested too deeply; download the file again") from error
