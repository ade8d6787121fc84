"""Parquet files of examples and priors: how the driver tells other processes what there is.

The file of unlabeled examples has no truth column, so a labeler or trainer that reads these files alone cannot reach
hidden truth.

Rows lie in groups of whole shards, and `ExampleTable` and `PriorTable` read a group when one of its rows is asked for:
a process holds what it works on, and a few integers of each row. Files of older versions, one group each, are read
alike.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from l2l_ray.errors import HEALS, DataError, run_remedy
from l2l_ray.files import replacing
from l2l_ray.loop.state.digests import Digest
from l2l_ray.storage import local_copy
from l2l_ray.types import Example, Hint, LabeledExample, Prior, Rle

if TYPE_CHECKING:
    from jaxtyping import Int32, Int64

    Integers = Int32[np.ndarray, " N"] | Int64[np.ndarray, " N"]

GROUP_ROWS = 1024  # least rows of a group: of smaller ones, Parquet's own notes would outweigh the rows
KEPT_ROWS = 2**14  # how many rows of a file stay in memory; 0.2 kB an example, 0.5 kB a prior, 2 kB with SAM's mask

_EXAMPLE = {"sent_id": pa.int64(), "ref_id": pa.int64(), "image_id": pa.int64(), "image_path": pa.string()} | {
    "width_px": pa.int64(), "height_px": pa.int64(), "expression": pa.string()
}  # fmt: skip
_TRUTH = {"mask_rle": pa.string(), "category": pa.string()}
_REVIEWED = {"is_reviewed": pa.bool_()}
_HINT = {"hint": pa.string()}
_PRIOR = {"sent_id": pa.int64(), "prior": pa.string()}


def write_examples(
    path: Path, examples: Sequence[Example], shard_size: int = 1, expected: Digest | None = None
) -> None:
    """Write examples of one type, atomically.

    Args:
        path: The file.
        examples: Its rows.
        shard_size: Rows that are read together.
        expected: What the file was before, where it is written again; None = it is new.
    Raises:
        DataError: The file could not be written, or is not as before; an earlier one keeps its name.
    """
    columns = dict(_EXAMPLE)
    labeled = [example for example in examples if isinstance(example, LabeledExample)]
    if labeled:
        columns |= _TRUTH
    if any(example.is_reviewed for example in labeled):  # no column where it says nothing
        columns |= _REVIEWED
    if any(example.hint for example in examples):
        columns |= _HINT
    _write(path, columns, map(_row, examples), shard_size, expected)


def read_examples(path: Path) -> list[Example]:
    """Read all examples, as `LabeledExample` where the file holds masks.

    Raises:
        DataError: The file is missing or not such a file.
    """
    return list(ExampleTable(path))


def write_priors(path: Path, priors: Iterable[tuple[int, Prior]], shard_size: int = 1) -> None:
    """Write (sent_id, prior) pairs, atomically; `shard_size` of them are read together."""
    rows = ({"sent_id": sent_id, "prior": prior.to_json()} for sent_id, prior in priors)
    _write(path, _PRIOR, rows, shard_size)


def read_priors(path: Path) -> dict[int, Prior]:
    """Read sent_id -> prior, all of them."""
    return dict(PriorTable(path).items())


class ExampleTable(Sequence[Example]):
    """The examples of a file, read as they are asked for: `LabeledExample`s where it holds masks.

    Example: `ExampleTable(run.examples_path("unlabeled"))[7]`

    Raises:
        DataError: The file is missing, damaged or not such a file, now or when a row is read.
    """

    def __init__(self, path: Path) -> None:
        self._rows = _Rows(path, _EXAMPLE, "examples")
        self.has_truth = "mask_rle" in self._rows.names

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return _example(self._rows.row(range(len(self))[index]))

    def __iter__(self) -> Iterator[Example]:
        return map(_example, self._rows.all())

    def column(self, name: str) -> Integers:
        """Return an integer column of all rows."""
        return self._rows.column(name)

    def texts(self, name: str) -> list[str]:
        """Return a text column of all rows; equal texts are one object."""
        return self._rows.texts(name)


class PriorTable(Mapping[int, Prior]):
    """The priors of a file by sent_id, read as they are asked for.

    Example: `PriorTable(run.priors_path("unlabeled")).get(7)`

    Raises:
        DataError: As for an `ExampleTable`.
    """

    def __init__(self, path: Path) -> None:
        self._rows = _Rows(path, _PRIOR, "priors")

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows.column("sent_id").tolist())

    def __getitem__(self, sent_id: int) -> Prior:
        return Prior.from_json(self._rows.row(self._by_id.row(sent_id))["prior"])

    @cached_property
    def _by_id(self) -> RowsById:
        return RowsById(self._rows.column("sent_id"))


class RowsById:
    """Finds rows by an id, such as that of their image; 8 bytes a row where ids are small, else 12.

    Args:
        ids: Of each row.
    """

    def __init__(self, ids: Integers) -> None:
        order = np.argsort(ids, kind="stable")
        self._ids = ids[order]
        self._order = small(order)

    def rows(self, wanted: int) -> Integers:
        """Return all rows with an id, in their order."""
        # As a value of the array's own type: numpy would widen the whole array for it.
        value = self._ids.dtype.type(wanted) if -(2**31) <= wanted < 2**31 else wanted
        first, last = (int(np.searchsorted(self._ids, value, side)) for side in ("left", "right"))
        return self._order[first:last]

    def row(self, wanted: int) -> int:
        """Return the only row with an id.

        Raises:
            KeyError: There is none.
        """
        found = self.rows(wanted)
        if not len(found):
            raise KeyError(wanted)
        return int(found[0])


def integers(examples: Sequence[Example], name: str) -> Integers:
    """Return an integer field of all examples; of a table, without reading the rest."""
    if isinstance(examples, ExampleTable):
        return examples.column(name)
    return small(np.array([getattr(example, name) for example in examples], np.int64))


def small(values: Int64[np.ndarray, " N"]) -> Integers:
    """Return integers in 4 bytes each, where all of them fit: there may be very many."""
    fit = not len(values) or (values.min() >= -(2**31) and values.max() < 2**31)
    return values.astype(np.int32) if fit else values


class _Rows:
    """The rows of a Parquet file, read group by group; the groups used last stay in memory."""

    def __init__(self, path: Path, columns: Mapping[str, pa.DataType], what: str) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(local_copy(path), page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error
        metadata = self._file.metadata
        self._starts: list[int] = [
            0,
            *accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)),
        ]
        self._groups: OrderedDict[int, dict[str, pa.Array]] = OrderedDict()
        self.names = self._file.schema_arrow.names
        if len(self) and (missing := columns.keys() - set(self.names)):
            raise DataError(f"{path} holds no {what}: {', '.join(sorted(missing))} missing; {HEALS}")

    def __len__(self) -> int:
        return self._starts[-1]

    def row(self, index: int) -> dict[str, Any]:
        group = bisect_right(self._starts, index) - 1
        at = index - self._starts[group]
        return {name: values[at].as_py() for name, values in self._group(group).items()}

    def all(self) -> Iterator[dict[str, Any]]:
        for group in range(len(self._starts) - 1):
            yield from self._read(group).to_pylist()

    def column(self, name: str) -> Integers:
        try:
            if not len(self):
                return np.zeros(0, np.int32)
            found = self._file.read([name], use_threads=False)[name].combine_chunks()
            return small(np.from_dlpack(found))  # `to_numpy` would import pandas
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    def texts(self, name: str) -> list[str]:
        try:
            found = self._file.read([name], use_threads=False)[name].combine_chunks().dictionary_encode()
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error
        known = found.dictionary.to_pylist()
        return [known[i] for i in found.indices.to_pylist()]

    def _group(self, group: int) -> dict[str, pa.Array]:
        if group not in self._groups:
            table = self._read(group)
            self._groups[group] = {name: table[name].combine_chunks() for name in self.names}
            while len(self._groups) > 1 and sum(self._size(kept) for kept in self._groups) > KEPT_ROWS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        return self._groups[group]

    def _size(self, group: int) -> int:
        return self._starts[group + 1] - self._starts[group]

    def _read(self, group: int) -> pa.Table:
        try:
            return self._file.read_row_group(group, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(f"{self._path} cannot be read: {error}; {HEALS}")


def _row(example: Example) -> dict[str, Any]:
    row = {field.name: getattr(example, field.name) for field in fields(example)}
    row["hint"] = example.hint.to_json() if example.hint else None
    if isinstance(example, LabeledExample):
        row["mask_rle"] = json.dumps(example.mask_rle)
    return row


def _example(row: dict[str, Any]) -> Example:
    text = row.get("hint")
    row["hint"] = None if text is None else Hint.from_json(text)
    if "mask_rle" not in row:
        return Example(**row)
    record = json.loads(row["mask_rle"])
    return LabeledExample(**{**row, "mask_rle": Rle(size=record["size"], counts=record["counts"])})


def _write(
    path: Path,
    columns: Mapping[str, pa.DataType],
    rows: Iterator[dict[str, Any]],
    shard_size: int,
    expected: Digest | None = None,
) -> None:
    schema, size = pa.schema(list(columns.items())), shard_size * -(-GROUP_ROWS // shard_size)
    try:
        with replacing(path, durable=True) as temporary:
            with pq.ParquetWriter(temporary, schema, write_page_checksum=True) as file:
                while group := list(islice(rows, size)):
                    file.write_table(pa.Table.from_pylist(group, schema), size)
            if expected is not None and expected.problem(temporary):
                raise DataError(
                    f"{path} was lost and cannot be made again as it was: the data or this program have changed since "
                    "the run began; put the data back as they were, or start under another --name"
                )
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}; {run_remedy(error)}") from error
