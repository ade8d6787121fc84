"""Photos and texts to look for in them, as a person has them: one photo, a folder, or a table.

The same folder and the same table that `l2l data import` takes. Of a table's columns those count here that say what to
look for and where: image, expression and hints; the others are not looked at. Nothing outside of the folder is opened.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from l2l_ray.data.layout import BadValue, Notice, Problem, file_below
from l2l_ray.data.pixels import read_header
from l2l_ray.datatools.columns import Names, expressions, said
from l2l_ray.datatools.import_folder import PICTURES, folder_rows, pictures_in
from l2l_ray.datatools.row_files import TABLES, Row, read_rows
from l2l_ray.datatools.truths import HINT_FIELDS, read_row_hint
from l2l_ray.errors import DataError
from l2l_ray.types import PhotoText

_PLACES = (*HINT_FIELDS, "box")
_LOOKED_AT = ("image", "expression", *_PLACES)  # beside a mask's column, too, a box is a hint here


def photos_and_texts(source: Path, text: str | None = None, images: Path | None = None) -> list[PhotoText | Problem]:
    """Return what a source asks, in its order, and a problem for each part of it that cannot be used.

    Args:
        source: A photo; a folder of photos, each with a text of the same name beside it; or rows of image, expression
            and perhaps a hint as CSV, JSONL or Parquet.
        text: What to look for in the photo, or in every photo of the folder, whose own texts then rest.
        images: Folder that the rows' `image` is relative to; that of the file if not given.
    Raises:
        DataError: There is no such source, a text is missing, or one is given for rows, which bring their own.
    """
    if source.is_dir():
        if text is not None:
            names, problems = pictures_in(source)
            found: list[PhotoText | Problem] = [*(PhotoText(source / name, text) for name in names), *problems]
        else:
            found = list(_asked(folder_rows(source), source))
    elif source.suffix.lower() in TABLES:
        if text is not None:
            raise DataError(f"{source} brings its own texts, got also {text!r}; leave the text out")
        found = list(_asked(read_rows(source), images or source.parent))
    elif not source.exists():
        raise DataError(
            f"there is no {source}; give a photo, a folder of photos, or a CSV or JSONL of image,expression"
        )
    elif text is None:
        command = shlex.join(["l2l", "predict", str(source), "the left cup"])
        raise DataError(f"no text for the photo {source}; say what to look for, e.g. {command}")
    else:
        found = [PhotoText(source, text)]
    if not found:
        raise DataError(
            f"{source} holds nothing to look at; expected photos ({' '.join(PICTURES)}) with texts of the same name "
            "beside them, or rows of image and expression"
        )
    return list({repr(item): item for item in found}.values())  # a hint has no hash


def _asked(rows: Iterator[Row], images: Path) -> Iterator[PhotoText | Problem]:
    names = Names()
    for where, row in rows:
        if isinstance(row, Problem):
            yield row
        elif not isinstance(row, Notice):
            try:
                values = {name: value for name, value in said(names.known(row, where)).items() if name in _LOOKED_AT}
                path = file_below(images, values.get("image"), "image")
                texts = expressions(values.get("expression"))
            except BadValue as error:
                yield error.at(where)
                continue
            hint = None
            try:
                hint = _hint(values, path)
            except BadValue as error:  # the item stays, without a hint
                yield error.at(where)
            yield from (PhotoText(path, text, hint) for text in texts)


def _hint(values: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """Return where a row says that the object is, as `PhotoText` takes it.

    Raises:
        BadValue: If it does not fit the photo.
    """
    if not any(values.get(name) is not None for name in _PLACES):
        return None  # the photo is not opened for it: one that cannot be is named when it is asked
    hint = read_row_hint(values, read_header(path))
    return None if hint is None else hint.record()
