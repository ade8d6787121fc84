"""Parquet files of examples and priors: how the driver tells other processes what there is.

The file of unlabeled examples has no truth column, so a labeler or trainer that reads these files alone cannot reach
hidden truth.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from l2l_ray.errors import FREE_SPACE, HEALS, DataError
from l2l_ray.files import replacing
from l2l_ray.loop.state.digests import Digest
from l2l_ray.storage import local_copy
from l2l_ray.types import Example, Hint, LabeledExample, Prior, Rle


def write_examples(path: Path, examples: Sequence[Example], expected: Digest | None = None) -> None:
    """Write examples of one type, atomically.

    Args:
        path: The file.
        examples: Its rows.
        expected: What the file was before, where it is written again; None = it is new.
    Raises:
        DataError: The file could not be written, or is not as before; an earlier one keeps its name.
    """
    rows = []
    hinted = any(example.hint for example in examples)
    for example in examples:
        row = asdict(example)
        del row["hint"]
        if hinted:  # no column where no example has one
            row["hint"] = example.hint.to_json() if example.hint else None
        if isinstance(example, LabeledExample):
            row["mask_rle"] = json.dumps(row["mask_rle"])
        rows.append(row)
    _write(path, rows, expected)


def read_examples(path: Path) -> list[Example]:
    """Read examples back, as `LabeledExample` where the file holds masks.

    Raises:
        DataError: The file is missing or not such a file.
    """
    rows = _read(path)
    try:
        if rows and "mask_rle" in rows[0]:
            return [LabeledExample(**{**row, "mask_rle": _rle(row["mask_rle"]), **_hint(row)}) for row in rows]
        return [Example(**{**row, **_hint(row)}) for row in rows]
    except TypeError as error:
        raise DataError(f"{path} holds no examples: {error}; {HEALS}") from error


def write_priors(path: Path, priors: Iterable[tuple[int, Prior]]) -> None:
    """Write (sent_id, prior) pairs, atomically."""
    _write(path, [{"sent_id": sent_id, "prior": prior.to_json()} for sent_id, prior in priors])


def read_priors(path: Path) -> dict[int, Prior]:
    """Read sent_id -> prior."""
    return {row["sent_id"]: Prior.from_json(row["prior"]) for row in _read(path)}


def _hint(row: dict[str, Any]) -> dict[str, Hint | None]:
    text = row.get("hint")
    return {"hint": None if text is None else Hint.from_json(text)}


def _rle(text: str) -> Rle:
    record = json.loads(text)
    return Rle(size=record["size"], counts=record["counts"])


def _write(path: Path, rows: list[dict[str, Any]], expected: Digest | None = None) -> None:
    try:
        with replacing(path, durable=True) as temporary:
            pq.write_table(pa.Table.from_pylist(rows), temporary, write_page_checksum=True)
            if expected is not None and expected.problem(temporary):
                raise DataError(
                    f"{path} was lost and cannot be made again as it was: the data or this program have changed since "
                    "the run began; put the data back as they were, or start under another --name"
                )
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}; {FREE_SPACE}") from error


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(local_copy(path), page_checksum_verification=True).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}; {HEALS}") from error
    return rows
