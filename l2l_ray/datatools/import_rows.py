"""Own data into the REFER layout: rows of JSONL, CSV or Parquet, or a folder of pictures with texts beside them.

A row has `image` and `expression` (a text, or a list of texts), and may have one of `mask`, `rle` and `polygon`, `box`,
`no_target` (true: the image does not show it), `split`, `id`, `category` and `provenance` (who made the truth; an
object that stays with the ref). Rows of one `id` speak of one object: their expressions are collected, and one of them
may hold the truth. A row without `id` is an object of its own. Without truth an item stays unlabeled; a box alone is
kept as a box. Unknown fields are refused, so that a misspelt one is noticed.

A folder holds pictures and, beside each, a text file of the same name with one expression of its object per line. The
object's mask, where there is one, is `<name>_mask.png`, or `<name>.png` when the picture is no PNG. A folder at the top
that is called train, val, test, testA, testB or testC gives the split.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from l2l_ray.data.layout import SPLITS, BadValue, Problem, file_below, short
from l2l_ray.data.pixels import Header, read_header
from l2l_ray.datatools.refer_writer import ReferWriter, sentence
from l2l_ray.datatools.truths import ObjectTruth, read_truth
from l2l_ray.errors import DataError

FIELDS = ("image", "expression", "mask", "rle", "polygon", "box", "no_target", "split", "id", "category", "provenance")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_MAX_CELL = 1 << 27  # a long polygon is longer than the csv module's own bound of 128 KiB

Row = tuple[str, Mapping[str, Any] | Problem]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield (where, row) of a JSONL, CSV or Parquet file; a line that cannot be read comes as a problem.

    Raises:
        DataError: If the file cannot be read at all, or its ending names no known format.
    """
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": parquet_rows}
    if path.suffix.lower() not in readers:
        raise DataError(
            f"{path}: the ending must be one of {', '.join(readers)}, got {path.suffix!r}; rename or convert it"
        )
    if not path.is_file():
        raise DataError(f"{path} not found; check the path")
    yield from readers[path.suffix.lower()](path)


def folder_rows(folder: Path) -> Iterator[Row]:
    """Yield one row per picture that has a text beside it, and a problem for each picture or text that stands alone."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; check the path")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix() for path in files}
    real = {name.lower(): name for name in sorted(names)}  # endings may be in capitals
    pictures = [name for name in sorted(names) if name.lower().endswith(PICTURES) and not _is_mask(name, set(real))]
    for name in pictures:
        stem = name.rpartition(".")[0]
        where = f"{folder.name}/{name}"
        text = real.get(f"{stem}.txt".lower())
        if text is None:
            remedy = "add the text, one expression per line, or remove the picture"
            yield where, Problem(where, "missing text", "no text beside it", f"{stem}.txt", remedy)
            continue
        try:
            lines = file_below(folder, text, "text").read_text(encoding="utf-8-sig").splitlines()
        except BadValue as error:
            yield where, error.at(f"{folder.name}/{text}")
            continue
        except (OSError, ValueError) as error:
            yield where, BadValue("text", error, "UTF-8 text", "save it as UTF-8").at(f"{folder.name}/{text}")
            continue
        row: dict[str, Any] = {"image": name, "expression": [line for line in lines if line.strip()]}
        beside = (real.get(mask.lower()) for mask in (f"{stem}_mask.png", f"{stem}.png"))
        masks = [mask for mask in beside if mask is not None and mask != name]
        if masks:
            row["mask"] = masks[0]
        top = name.partition("/")[0]
        yield where, row | ({"split": top} if top in SPLITS and "/" in name else {})
    stems = {name.rpartition(".")[0].lower() for name in pictures}
    for name in sorted(names):
        if name.lower().endswith(".txt") and name.rpartition(".")[0].lower() not in stems:
            where = f"{folder.name}/{name}"
            yield (
                where,
                Problem(where, "missing image", "no picture beside it", "one of " + " ".join(PICTURES), "add it"),
            )


def import_rows(
    rows: Iterator[Row], image_root: Path, mask_root: Path, writer: ReferWriter, from_viewer: bool = False
) -> list[Problem]:
    """Add every good row to `writer` and return the problems of the others.

    Args:
        rows: From `read_rows` or `folder_rows`.
        image_root: Folder that `image` is relative to; nothing outside it is opened.
        mask_root: Folder that `mask` is relative to; nothing outside it is opened.
        writer: Takes what is good; its notices say what is doubtful.
        from_viewer: The rows come from a tool that shows pictures turned as EXIF says.
    """
    collector = _Collector(image_root, mask_root, writer, from_viewer)
    problems: list[Problem] = []
    for where, row in rows:
        if isinstance(row, Problem):
            problems.append(row)
            continue
        try:
            collector.add(row)
        except BadValue as error:
            problems.append(error.at(where))
    return problems


def parquet_rows(path: Path, columns: tuple[str, ...] | None = None) -> Iterator[Row]:
    """Yield (where, row) of a Parquet file, counted from 0, a few at a time.

    Raises:
        DataError: If the file is no Parquet file, or lacks one of `columns`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        if missing := sorted(set(columns or ()) - set(file.schema_arrow.names)):
            raise DataError(
                f"{path} lacks the columns {missing}; it has {file.schema_arrow.names}; is it another data set's file?"
            )
        number = 0
        for batch in file.iter_batches(batch_size=64, columns=list(columns) if columns else None):
            for row in batch.to_pylist():
                yield f"{path.name} row {number}", {k: v for k, v in row.items() if v is not None}
                number += 1
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}; download or write it again") from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path.name} line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield (
                    where,
                    BadValue("JSON", f"{type(error).__name__}: {error}", "one object per line", "correct it").at(where),
                )
                continue
            if isinstance(row, dict):
                yield where, {k: v for k, v in row.items() if v is not None}
            else:
                yield where, BadValue("JSON", row, "an object with image and expression", "correct it").at(where)


def _csv_rows(path: Path) -> Iterator[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}; save it as UTF-8") from error
    csv.field_size_limit(_MAX_CELL)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            where = f"{path.name} line {reader.line_num}"
            if None in cells or None in cells.values():
                expected = f"{len(reader.fieldnames or ())} cells, as in the first line"
                yield where, BadValue("CSV", list(cells.values()), expected, "quote cells that hold commas").at(where)
            else:
                yield where, {name: cell for name, cell in cells.items() if cell.strip()}
    except csv.Error as error:
        where = f"{path.name} after line {reader.line_num}"
        yield where, BadValue("CSV", error, "quoted cells that end", "correct it; later lines were not read").at(where)


def _is_mask(name: str, names: set[str]) -> bool:
    """Tell whether a PNG is the mask of another picture; `names` are in lower case."""
    stem, _, ending = name.lower().rpartition(".")
    if ending != "png":
        return False
    if stem.endswith("_mask") and any(stem[:-5] + other in names for other in PICTURES):
        return True
    return any(stem + other in names for other in PICTURES if other != ".png")


class _Collector:
    """Turns rows into images, annotations and refs with ids that count from 1."""

    def __init__(self, image_root: Path, mask_root: Path, writer: ReferWriter, from_viewer: bool) -> None:
        self._image_root, self._mask_root, self._writer = image_root, mask_root, writer
        self._from_viewer = from_viewer
        self._image_ids: dict[str, int] = {}
        self._category_ids: dict[str, int] = {}
        self._ref_of_id: dict[str, int] = {}  # place in writer.refs
        self._num_sentences = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Check one row wholly, then add it.

        Raises:
            BadValue: If any of it is unusable; nothing is added then.
        """
        if unknown := sorted(str(name) for name in row if name not in FIELDS):
            raise BadValue("field", ", ".join(unknown), f"one of {', '.join(FIELDS)}", "rename or remove it")
        texts = _expressions(row.get("expression"))
        split = row.get("split", "train")
        if split not in SPLITS:
            raise BadValue("split", split, f"one of {', '.join(SPLITS)}", "use one of these")
        category = row.get("category", "")
        if not isinstance(category, str):
            raise BadValue("category", category, "a word", "write the category's name")
        path = file_below(self._image_root, row.get("image"), "image")
        name = path.relative_to(self._image_root).as_posix()
        header = read_header(path)
        truth = read_truth(row, header, self._mask_root, self._writer.notices, self._from_viewer)
        no_target = _no_target(row, truth)
        provenance = _provenance(row.get("provenance"))
        key = _id(row)
        ref = None if key is None or key not in self._ref_of_id else self._writer.refs[self._ref_of_id[key]]
        if ref is None:
            self._new_ref(key, name, header, path, split, category, truth)
        else:
            self._fits(ref, name, split, category, truth, no_target)
            if truth is not None:
                self._annotate(ref, truth)
        ref = self._writer.refs[-1 if key is None else self._ref_of_id[key]]
        if no_target:
            ref["ann_ids"] = []
        if provenance:
            ref.setdefault("provenance", provenance)
        for text in texts:
            self._num_sentences += 1
            ref["sent_ids"].append(self._num_sentences)
            ref["sentences"].append(sentence(self._num_sentences, text))

    def _new_ref(
        self,
        key: str | None,
        name: str,
        header: Header,
        path: Path,
        split: str,
        category: str,
        truth: ObjectTruth | None,
    ) -> None:
        image_id = self._image_ids.setdefault(name, len(self._image_ids) + 1)
        self._writer.add_picture(image_id, name, path, header)
        ref: dict[str, Any] = {
            "ref_id": len(self._writer.refs) + 1,
            "image_id": image_id,
            "file_name": name,
            "split": split,
        }
        if category:
            ref["category_id"] = self._category_ids.setdefault(category, len(self._category_ids) + 1)
            self._writer.categories[ref["category_id"]] = category
        if key is not None:
            ref["source_id"] = key
            self._ref_of_id[key] = len(self._writer.refs)
        self._writer.add_ref(ref, [])
        if truth is not None:
            self._annotate(self._writer.refs[-1], truth)

    def _fits(
        self,
        ref: Mapping[str, Any],
        name: str,
        split: str,
        category: str,
        truth: ObjectTruth | None,
        no_target: bool,
    ) -> None:
        """Refuse a row whose id is taken by something else."""
        known = self._writer.categories.get(ref.get("category_id", 0), "")
        for what, got, first in (
            ("image", name, ref["file_name"]),
            ("split", split, ref["split"]),
            ("category", category or known, known),
        ):
            if got != first:
                remedy = "rows of one id speak of one object; give it another id"
                raise BadValue(f"{what} of a repeated id", got, f"{first!r} as in the first row of this id", remedy)
        if (truth is not None and "ann_ids" in ref) or (no_target and "ann_id" in ref):
            remedy = "give the row with no_target another id, or remove one of them"
            raise BadValue("no_target of a repeated id", "a truth and no_target", "one of them", remedy)
        if truth is not None and "ann_id" in ref:
            annotation = self._writer.annotations[ref["ann_id"]]
            if (truth.segmentation, truth.bbox_xywh_px) != (annotation["segmentation"], annotation["bbox"]):
                remedy = "one object has one truth; keep one of them, or give this row another id"
                raise BadValue("truth of a repeated id", "another one", "the truth of the first row of this id", remedy)

    def _annotate(self, ref: dict[str, Any], truth: ObjectTruth) -> None:
        if "ann_id" in ref:
            return
        ref["ann_id"] = len(self._writer.annotations) + 1
        self._writer.annotations[ref["ann_id"]] = {
            "id": ref["ann_id"],
            "image_id": ref["image_id"],
            "category_id": ref.get("category_id", 0),
            "bbox": truth.bbox_xywh_px,
            "area": truth.area_px,
            "iscrowd": 0,
            "segmentation": truth.segmentation,
        }


def _expressions(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not texts:
        raise BadValue("expression", value, "a text that is not empty", "say what the object is")
    return [clean_text(text) for text in texts]


def clean_text(text: Any) -> str:
    """Return an expression that has words and can be written as UTF-8.

    Raises:
        BadValue: If it is something else.
    """
    if not isinstance(text, str) or not text.split():
        raise BadValue("expression", text, "a text that is not empty", "say what the object is")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadValue("expression", text, "text that can be written as UTF-8", "correct the characters") from None
    return text


def _no_target(row: Mapping[str, Any], truth: ObjectTruth | None) -> bool:
    """Tell whether a row says that its image does not show what it speaks of."""
    value = row.get("no_target", False)
    value = {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value  # CSV cells
    if not isinstance(value, bool):
        raise BadValue("no_target", value, "true or false", "correct it")
    if value and truth is not None:
        raise BadValue("no_target", "true beside a mask or box", "one of them", "remove the other")
    return value


def _provenance(value: Any) -> dict[str, Any] | None:
    """Return where a truth comes from, as an object that JSON and a plain pickle can hold."""
    expected = 'an object such as {"source": "label_studio"}'
    try:
        found = json.loads(value) if isinstance(value, str) else value
        found = json.loads(json.dumps(found, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadValue("provenance", f"{short(value)} ({type(error).__name__})", expected, "correct it") from None
    if found is not None and not isinstance(found, dict):
        raise BadValue("provenance", value, expected, "correct it")
    return found


def _id(row: Mapping[str, Any]) -> str | None:
    value = row.get("id")
    if value is None:
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise BadValue("id", value, "a text, or an integer below 2**63", "correct it")
    return str(value)
