"""Rows of own data from a folder of pictures with texts beside them.

Beside each picture lies a text file of the same name with one expression of its object per line. The object's mask,
where there is one, is `<name>_mask.png`, or `<name>.png` when the picture is no PNG. A folder at the top that is called
train, val, test, testA, testB or testC gives the split.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from l2l_ray.data.layout import SPLITS, BadValue, Problem, file_below
from l2l_ray.datatools.row_files import Row
from l2l_ray.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


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
            lines = file_below(folder, text, "text", follow_links=False).read_text(encoding="utf-8-sig").splitlines()
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


def _is_mask(name: str, names: set[str]) -> bool:
    """Tell whether a PNG is the mask of another picture; `names` are in lower case."""
    stem, _, ending = name.lower().rpartition(".")
    if ending != "png":
        return False
    if stem.endswith("_mask") and any(stem[:-5] + other in names for other in PICTURES):
        return True
    return any(stem + other in names for other in PICTURES if other != ".png")
