"""Rows of own data from a folder of pictures with texts beside them.

Beside each picture lies a text file of the same name with one expression of its object per line. The object's mask,
where there is one, is `<name>_mask.png`, or of another ending that pictures have; or `<name>.png` when the picture is
no PNG, if that looks like a mask: of the picture's size, and nearly all of it in two colors, of which one is black or
transparent. Two pictures or masks of one name are refused, as nothing says which of them is meant. A folder at the top
that is called train, val, test, testA, testB or testC gives the split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from l2l_ray.data.layout import SPLITS, BadValue, Problem, Words, file_below
from l2l_ray.datatools.mask_files import looks_like_a_mask
from l2l_ray.datatools.row_files import Row
from l2l_ray.errors import DataError

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def folder_rows(folder: Path) -> Iterator[Row]:
    """Yield one row per picture that has a text beside it, and a problem for each picture or text that stands alone.

    Raises:
        DataError: If there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; check the path")
    names = _names(folder)
    beside = _Beside(folder, names)
    for name in beside.pictures:
        yield f"{folder.resolve().name}/{name}", _row(folder, name, beside)
    for name in names:
        if name.lower().endswith(".txt") and name not in beside.used:
            where, expected = f"{folder.resolve().name}/{name}", "one of " + " ".join(PICTURES)
            yield where, Problem(where, "missing image", "no picture beside it", expected, "add it")


def pictures_in(folder: Path) -> list[str]:
    """Return the names of the pictures in a folder and below, masks of others left out.

    Raises:
        DataError: If the folder cannot be read.
    """
    return _Beside(folder, _names(folder)).pictures


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error}; check its rights") from error


class _Beside:
    """Which files of a folder belong together, by their names without ending; capitals count where they must."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._folder, self._names = folder, frozenset(names)
        self._alike: dict[str, list[str]] = defaultdict(list)
        for name in names:
            self._alike[name.lower()].append(name)
        self.pictures = [name for name in names if name.lower().endswith(PICTURES) and not self._is_mask(name)]
        self.used: set[str] = set()
        self._stems: dict[str, list[str]] = defaultdict(list)
        for name in self.pictures:
            self._stems[_stem(name)].append(name)

    def find(self, picture: str, ending: str) -> str | None:
        """Return the file with a picture's name and another ending, which may be in capitals."""
        wanted = _stem(picture) + ending
        alike = [
            name
            for name in self._alike.get(wanted.lower(), ())
            if name != picture and (_stem(name) == wanted[: len(_stem(name))] or not self._stems.get(_stem(name)))
        ]
        found = wanted if wanted in self._names and wanted != picture else alike[0] if len(alike) == 1 else None
        if found is not None:
            self.used.add(found)
        return found

    def of_one_name(self, picture: str) -> list[str]:
        """Return the pictures that have this one's name, itself among them."""
        return self._stems[_stem(picture)]

    def _is_mask(self, name: str) -> bool:
        stem, _, ending = name.rpartition(".")
        if stem.lower().endswith("_mask") and self._pictures_of(stem[:-5], PICTURES):
            return True
        if ending.lower() != "png":
            return False
        others = self._pictures_of(stem, [other for other in PICTURES if other != ".png"])
        return bool(others) and looks_like_a_mask(self._folder / name, self._folder / others[0])

    def _pictures_of(self, stem: str, endings: Any) -> list[str]:
        return [name for ending in endings for name in self._alike.get((stem + ending).lower(), ())]


def _row(folder: Path, name: str, beside: _Beside) -> dict[str, Any] | Problem:
    where = f"{folder.resolve().name}/{name}"
    text = beside.find(name, ".txt")
    if len(same := beside.of_one_name(name)) > 1:
        expected = "one picture of this name; a mask has the picture's size and two colors, one of them black"
        remedy = "give each picture a name and a text of its own; call a mask <name>_mask.png"
        return BadValue("pictures of one name", Words(" and ".join(same)), expected, remedy).at(where)
    if text is None:
        remedy = "add the text, one expression per line, or remove the picture"
        return Problem(where, "missing text", "no text beside it", f"{_stem(name)}.txt", remedy)
    try:
        lines = file_below(folder, text, "text", follow_links=False).read_text(encoding="utf-8-sig").splitlines()
    except BadValue as error:
        return error.at(f"{folder.resolve().name}/{text}")
    except (OSError, ValueError) as error:
        return BadValue("text", error, "UTF-8 text", "save it as UTF-8").at(f"{folder.resolve().name}/{text}")
    row: dict[str, Any] = {"image": name, "expression": [line for line in lines if line.strip()]}
    masks = [mask for ending in PICTURES if (mask := beside.find(name, f"_mask{ending}")) is not None]
    if len(masks) > 1:
        got = Words(" and ".join(masks))
        return BadValue("masks of one name", got, "one mask of this name", "keep one of them").at(where)
    if mask := masks[0] if masks else beside.find(name, ".png"):
        row["mask"] = mask
    top = name.partition("/")[0]
    return row | ({"split": top} if top in SPLITS and "/" in name else {})


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
