"""Rows of own data from a file: JSONL, CSV or Parquet, each with its place; what cannot be read comes as a problem."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from l2l_ray.data.layout import BadValue, Notice, Problem
from l2l_ray.errors import DataError

_MAX_CELL = 1 << 27  # a long polygon is longer than the csv module's own bound of 128 KiB

Row = tuple[str, Mapping[str, Any] | Problem | Notice]


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
