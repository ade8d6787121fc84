"""Rows of own data from a file: JSONL, CSV or Parquet, each with its place; what cannot be read comes as a problem."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from l2l_ray.data.json_stream import unique_keys
from l2l_ray.data.layout import BadValue, Notice, Problem, shown
from l2l_ray.datatools.columns import column_of, missing_columns
from l2l_ray.errors import DataError

_EXCEL = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)  # Excel's first line
_SEPARATORS = (",", ";", "\t", "|")

_MAX_CELL = 1 << 27  # a long polygon is longer than the csv module's own bound of 128 KiB

Row = tuple[str, Mapping[str, Any] | Problem | Notice]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield (where, row) of a JSONL, CSV or Parquet file; a line that cannot be read comes as a problem.

    Raises:
        DataError: If the file cannot be read at all, or its ending names no known format.
    """
    if path.suffix.lower() not in TABLES:
        raise DataError(
            f"{path}: the ending must be one of {', '.join(TABLES)}, got {path.suffix!r}; rename or convert it"
        )
    if not path.is_file():
        raise DataError(f"{path} not found; check the path")
    yield from _READERS[path.suffix.lower()](path)


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


def _own_parquet_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of own data without the index that pandas wrote with them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        index = (schema.pandas_metadata or {}).get("index_columns") or []
    except (OSError, ValueError, AttributeError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}; download or write it again") from error
    unused = [name for name in index if isinstance(name, str) and column_of(name) is None]
    used = [name for name in schema.names if name not in unused]
    if (problem := missing_columns(used, f"{path.name} columns")) is not None:
        yield path.name, problem
        return
    if unused:
        yield path.name, Notice(path.name, f"the index of pandas ({', '.join(map(shown, unused))}) is not used")
    yield from parquet_rows(path, tuple(used))


def read_json(path: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: If it cannot be read.
    """

    def made(pairs: list[tuple[str, Any]]) -> Any:
        record = unique_keys(pairs)
        return record if hook is None else hook(record)

    try:
        return json.loads(path.read_bytes(), object_pairs_hook=made)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {shown(error)}; check the file") from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    remedy = "write one object per line"
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            where = f"{path.name} line {number}"
            if not line.strip():
                continue
            if number == 1:
                _refuse_utf16(path, line)
                if line.strip() == b"[" or line.lstrip().startswith((b"[{", b"[ {")):
                    raise DataError(f"{path} holds one JSON list, expected one object per line; {remedy}")
            try:
                row = json.loads(line, object_pairs_hook=unique_keys)
            except (ValueError, RecursionError) as error:
                yield where, BadValue("JSON", error, "one object per line", "correct it").at(where)
                continue
            if isinstance(row, dict):
                yield where, {k: v for k, v in row.items() if v is not None}
            else:
                yield where, BadValue("JSON", row, "an object with image and expression", "correct it").at(where)


def _csv_rows(path: Path) -> Iterator[Row]:
    with _opened(path) as file:
        content = file.read()
    _refuse_utf16(path, content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} line {line}: got the byte {content[error.start]:#x}, expected UTF-8 text; save it as UTF-8 (now "
            "it may be Windows-1252 or Latin-1)"
        ) from None
    csv.field_size_limit(_MAX_CELL)
    excel = _EXCEL.match(text)
    text = text[excel.end() :] if excel else text
    separator = excel[1] if excel else _separator(text)
    num_before = 1 if excel else 0
    with_blanks = next((name for name in _head(text, separator) if name[:1] == " "), None)
    lines = io.StringIO(text, newline="")
    reader = csv.DictReader(lines, strict=True, delimiter=separator, skipinitialspace=with_blanks is not None)
    where = f"{path.name} line {1 + num_before}"
    try:
        if (problem := missing_columns(reader.fieldnames or (), where)) is not None:
            yield where, problem
            return
        if separator != ",":
            yield where, Notice(where, f"the cells are separated by {separator!r}")
        if with_blanks is not None:
            yield where, Notice(where, f"blanks around cells are left out, as those of the column {with_blanks!r}")
        for cells in reader:
            where = f"{path.name} line {reader.line_num + num_before}"
            if None in cells or None in cells.values():
                expected = f"{len(reader.fieldnames or ())} cells, as in the first line"
                remedy = f"put cells that hold {separator!r} in double quotes"
                yield where, BadValue("CSV", list(cells.values()), expected, remedy).at(where)
            else:
                kept = {name: cell for name, cell in cells.items() if cell.strip()}
                if kept:  # tables end in lines of empty cells
                    yield where, kept if with_blanks is None else {name: cell.strip() for name, cell in kept.items()}
    except csv.Error as error:
        where = f"{path.name} after line {reader.line_num + num_before}"
        yield where, BadValue("CSV", error, "quoted cells that end", "correct it; later lines were not read").at(where)


def _separator(text: str) -> str:
    """Return what separates the cells: what gives the most known columns in the first line, a comma if none does."""
    return max(_SEPARATORS, key=lambda one: sum(column_of(name) is not None for name in _head(text, one)))


def _head(text: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
    except csv.Error:
        return []


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check its rights") from error
    with file:
        yield file


def _refuse_utf16(path: Path, begin: bytes) -> None:
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in begin[:256]:
        raise DataError(f"{path} is no UTF-8 text, by its first bytes it may be UTF-16; save it as UTF-8")


_READERS = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _own_parquet_rows}
TABLES = tuple(_READERS)  # endings of the files that rows are read from
