"""The one record of a mask that every export writes and the importers read back.

| field | meaning |
|---|---|
| `image` | path of the picture below `image_root` of the export |
| `expression` | what the mask shows |
| `rle` | the mask at the image's native size |
| `accepted_rle` | where training believed the label; none for predictions |
| `split` | split of the item in the data set it comes from |
| `id`, `sent_id` | the sentence in that data set, as a text and as a number; rows of one `id` are one object |
| `category` | of labeled items and evaluation splits; "" for unlabeled ones, whose category is hidden |
| `hint` | where the user said that the object is, px (`data/hints.py`); none if nothing was said |
| `confidence`, `gate` | the scores of the label, in [0, 1]; no gate for predictions |
| `provenance` | which run, round, version and draw it comes from |

`columns.py` reads the fields back. A format may write a field in its own way (`mask`, a picture, for `rle`), never
leave one out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2l_ray.data.hints import PixelHint
from l2l_ray.data.layout import BadValue, Notice, Problem
from l2l_ray.errors import DataError
from l2l_ray.storage import StorePath, place
from l2l_ray.types import Example, Rle

# Field and type, as Parquet has them; an rle is a struct of size and counts, a json a text of it.
RECORD = {
    "image": "string",
    "expression": "string",
    "rle": "rle",
    "accepted_rle": "rle",
    "split": "string",
    "id": "string",
    "sent_id": "int64",
    "category": "string",
    "hint": "json",
    "confidence": "float64",
    "gate": "float64",
    "provenance": "json",
}

SCORES = ("confidence", "gate", "accepted_rle")
OF_TRUTH = ("provenance", *SCORES)  # speak of a mask, and come and go with it
KEPT = ("sent_id", *SCORES)  # stay with a ref whose mask people correct
MADE_BY_A_MODEL = ("pseudo_label", "prediction")  # `source` in the provenance of masks that nobody has corrected
NO_CATEGORY = "referent"  # the class of masks without a category, where a format needs one


@dataclass(frozen=True, slots=True)
class ExportedMask:
    """One mask with all that is known of it.

    Example: `ExportedMask(example, rle, accepted_rle, 0.93, 0.8, {"run": "refshapes-l2l-s0", "method": "l2l"})`
    """

    example: Example
    rle: Rle
    accepted_rle: Rle | None  # None for predictions: no selector was asked
    confidence: float  # estimated IoU with the truth, in [0, 1]; see confidence.py
    gate: float | None  # probability that the sample is used; None for predictions
    provenance: Mapping[str, str | int | float]
    split: str = "train"
    category: str = ""


def record(mask: ExportedMask, root: Path, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return the record of a mask; what it does not have is None.

    Args:
        mask: The mask.
        root: Folder that `image` is relative to; it must hold the image.
        without: Fields that the format has its own way for.
    """
    values = (
        image_name(mask.example, root),
        mask.example.expression,
        mask.rle,
        mask.accepted_rle,
        mask.split,
        str(mask.example.sent_id),
        mask.example.sent_id,
        mask.category,
        _hint(mask.example),
        mask.confidence,
        mask.gate,
        dict(mask.provenance),
    )
    return {name: value for name, value in zip(RECORD, values, strict=True) if name not in without}


def _hint(example: Example) -> dict[str, Any] | None:
    if example.hint is None:
        return None
    return PixelHint.of(example.hint, example.width_px, example.height_px).record()


def image_name(example: Example, root: Path) -> str:
    """Return the path of an example's image below a folder, with '/'."""
    return place(example.image_path).relative_to(root).as_posix()


def common_folder(folders: Sequence[Path]) -> Path:
    """Return the deepest folder that holds all of these.

    Raises:
        DataError: They have none in common: some lie in another store, or on this machine.
    """
    if not any(isinstance(folder, StorePath) for folder in folders):
        return Path(os.path.commonpath(folders))
    common = os.path.commonprefix([folder.parts for folder in dict.fromkeys(folders)])  # of tuples: whole names
    if not common:
        raise DataError(
            f"the photos have no folder in common, as {folders[0]} and {folders[-1]}; export those of each place apart"
        )
    return StorePath(*common)


def is_made_by_a_model(provenance: Any) -> bool:
    """Tell whether a mask is a model's, as it was exported, by its provenance."""
    return isinstance(provenance, Mapping) and provenance.get("source") in MADE_BY_A_MODEL


def of_unusable_mask(error: BadValue, where: str, provenance: Any) -> Problem | Notice:
    """Return what to say of a mask that leaves its item unlabeled: an empty one of a model is no fault."""
    if error.args[0] == "empty mask" and is_made_by_a_model(provenance):
        return Notice(where, "a model's mask without a pixel says nothing: its item stays unlabeled")
    return error.at(where)


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, UTF-8; a line with half a character (names of files may have one) is in ASCII."""
    with path.open("wb") as file:
        for row in rows:
            try:
                line = json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                line = json.dumps(row).encode()
            file.write(line + b"\n")
