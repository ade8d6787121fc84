"""Rows of own data from a folder of pictures with texts beside them.

Beside each picture lies a text file of the same name with one expression of its object per line. The object's mask,
where there is one, is `<name>_mask.png`, or of another ending that pictures have; or `<name>.png` when the picture is
no PNG, if that looks like a mask: of the picture's size, and nearly all of it in two colors, of which one is black or
transparent. A picture without a text that may be a mask is named with what it should be called. Two pictures or masks
of one name are refused, as nothing says which of them is meant. A folder at the top that is called train, val, test,
testA, testB or testC gives the split; pictures in one called Test or validation are refused, as they would become train
data. Hidden files are not used, links to folders are not followed, and both is said.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from l2l_ray.data.layout import SPLITS, BadValue, Notice, Problem, Words, file_below
from l2l_ray.datatools.mask_files import looks_like_a_mask
from l2l_ray.datatools.row_files import Row, read_rows
from l2l_ray.errors import DataError

PICTURES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif")
_PAINTED = (".png", ".bmp", ".gif", ".tif", ".tiff")  # a mask of another name is looked for in these
_INDEX_OF_ANSWERS = "predictions.jsonl"
_KNOWN = (".txt", *PICTURES)
_OF_SYSTEMS = ("thumbs.db", "desktop.ini")
_LIKE_SPLITS = ("training", "validation", "valid", "dev", "eval", "testing")


class _Listing(NamedTuple):
    """The files of a folder and below, by names with '/', as one walk finds them."""

    folder: Path
    every: list[str]  # files and links
    names: list[str]  # without what hides by a dot and the answers of `l2l predict`
    errors: list[OSError]  # of folders whose files are not seen

    def where(self, name: str) -> str:
        """Return what messages call a file."""
        return f"{self.folder.resolve().name}/{name}"


def folder_rows(folder: Path) -> Iterator[Row]:
    """Yield one row per picture that has a text beside it, and a problem for each picture or text that stands alone.

    Raises:
        DataError: If there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; check the path")
    listing = _listed(folder)
    beside = _Beside(folder, listing.names)
    for name in beside.pictures:
        yield listing.where(name), _row(listing, name, beside)
    alone = [name for name in listing.names if name.lower().endswith(".txt") and name not in beside.used]
    problems = [_without_picture(name, beside).at(listing.where(name)) for name in alone]
    yield from _unused(listing, beside)
    yield from ((problem.where, problem) for problem in problems)


def pictures_in(folder: Path) -> tuple[list[str], list[Problem]]:
    """Return the names of the pictures in a folder and below, masks of others left out, and what cannot be looked at.

    Raises:
        DataError: If the folder cannot be read.
    """
    listing = _listed(folder)
    return _Beside(folder, listing.names).pictures, [problem for _, problem in _unusable(listing)]


def _listed(folder: Path) -> _Listing:
    errors: list[OSError] = []
    try:
        below = [
            Path(place, name) for place, *names in os.walk(folder, onerror=errors.append) for name in chain(*names)
        ]
        every = sorted(path.relative_to(folder).as_posix() for path in below if path.is_symlink() or path.is_file())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error}; check its rights") from error
    names = [name for name in every if not _is_hidden(name)]
    answers = {answer for name in names for answer in _answers(folder, name)}
    return _Listing(folder, every, [name for name in names if name not in answers], errors)


def _answers(folder: Path, name: str) -> Iterator[str]:
    """Yield the pictures that an index of `l2l predict` names; nothing of other files."""
    place, _, file_name = name.rpartition("/")
    if file_name != _INDEX_OF_ANSWERS:
        return
    for _, row in read_rows(folder / name):
        if isinstance(row, Mapping):
            yield from (f"{place}/{row[kind]}".lstrip("/") for kind in ("mask", "overlay") if kind in row)


def _is_hidden(name: str) -> bool:
    """Tell whether a file hides by a dot, as `.DS_Store` and the `._photo.jpg` of macOS, or lies in such a folder."""
    return any(part.startswith(".") for part in name.split("/"))


def _unusable(listing: _Listing) -> Iterator[tuple[str, Problem]]:
    """Yield a problem for each folder that cannot be read, link to a folder, which is not followed, and dead link."""
    for error in listing.errors:
        name = Path(error.filename).relative_to(listing.folder).as_posix()
        if not _is_hidden(name) or name == ".":
            where = listing.where(name).removesuffix("/.")
            remedy = "correct its rights, or move it elsewhere"
            yield where, BadValue("folder", error.strerror, "a folder that can be read", remedy).at(where)
    for name in listing.names:
        path, where = listing.folder / name, listing.where(name)
        if path.is_dir():
            expected = "a folder, as links are not entered"
            remedy = "copy the folder there, or import it as a data set of its own"
            yield where, Problem(where, "linked folder", "a link to a folder", expected, remedy)
        elif not path.is_file():
            yield where, Problem(where, "broken link", "a link to nothing", "a link to a file", "correct or remove it")


def _unused(listing: _Listing, beside: _Beside) -> Iterator[Row]:
    """Yield what is to be said of what cannot be read or followed, and of the files that are neither photo nor text."""
    bad = list(_unusable(listing))
    yield from bad
    for name in listing.every:
        is_of_macos = name.rpartition("/")[2].startswith("._")
        if _is_hidden(name) and not is_of_macos and name.lower().endswith(_KNOWN):
            where = listing.where(name)
            yield where, Notice(where, "it is hidden by a dot in its name, not used")
    known = {where for where, _ in bad}
    for name in listing.names:
        where, is_known = listing.where(name), name.lower().endswith(_KNOWN)
        if not (is_known or name in beside.used or where in known or Path(name).name.lower() in _OF_SYSTEMS):
            text = f"by its ending no text and no picture ({' '.join(PICTURES)}), not used"
            yield where, Notice(where, text)


def _names_a_split(top: str) -> bool:
    """Tell whether somebody may mean a split by a folder's name that is none."""
    return top.lower() in {*_LIKE_SPLITS, *(split.lower() for split in SPLITS)} and top not in SPLITS


class _Beside:
    """Which files of a folder belong together, by their names without ending; capitals count where they must."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._folder, self._names = folder, frozenset(names)
        self._alike: dict[str, list[str]] = defaultdict(list)
        for name in names:
            self._alike[name.lower()].append(name)
        pictures = [name for name in names if name.lower().endswith(PICTURES) and (folder / name).is_file()]
        self.pictures = [name for name in pictures if not self._is_mask(name)]
        self.used: set[str] = set()
        self._stems: dict[str, list[str]] = defaultdict(list)
        for name in self.pictures:
            self._stems[_stem(name)].append(name)
        self._others: dict[str, list[str]] = defaultdict(list)
        for name in names:
            if not name.lower().endswith(_KNOWN):
                self._others[_stem(name)].append(name)

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

    def others(self, text: str) -> list[str]:
        """Return the files that have a text's name and another ending than texts and pictures."""
        self.used.update(found := self._others.get(_stem(text), []))
        return found

    def mask_of(self, text: str) -> tuple[str, str] | None:
        """Return the mask that has a text's name, and the picture that it is taken as the mask of."""
        for mask in filter(self._is_mask, self._pictures_of(_stem(text), PICTURES)):
            owners = self._pictures_of(_stem(mask).lower().removesuffix("_mask"), PICTURES)
            return mask, next(owner for owner in owners if owner != mask)
        return None

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


def _row(listing: _Listing, name: str, beside: _Beside) -> dict[str, Any] | Problem:
    where = listing.where(name)
    text = beside.find(name, ".txt")
    if len(same := beside.of_one_name(name)) > 1:
        expected = "one picture of this name; a mask has the picture's size and two colors, one of them black"
        remedy = "give each picture a name and a text of its own; call a mask <name>_mask.png"
        return BadValue("pictures of one name", Words(" and ".join(same)), expected, remedy).at(where)
    if text is None:
        remedy = "add the text, one expression per line, or remove the picture"
        if _may_be_a_mask(listing.folder, name):
            remedy = f"if it is a mask, call it <name>_mask{Path(name).suffix}, beside its photo <name>; else {remedy}"
        return Problem(where, "missing text", "no text beside it", f"{_stem(name)}.txt", remedy)
    try:
        path = file_below(listing.folder, text, "text", follow_links=False)
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # `splitlines` ends a line at U+0085, too
    except BadValue as error:
        return error.at(listing.where(text))
    except (OSError, ValueError) as error:
        return BadValue("text", error, "UTF-8 text", "save it as UTF-8").at(listing.where(text))
    row: dict[str, Any] = {"image": name, "expression": [line for line in lines if line.strip()]}
    masks = [mask for ending in PICTURES if (mask := beside.find(name, f"_mask{ending}")) is not None]
    if len(masks) > 1:
        got = Words(" and ".join(masks))
        return BadValue("masks of one name", got, "one mask of this name", "keep one of them").at(where)
    if mask := masks[0] if masks else beside.find(name, ".png"):
        row["mask"] = mask
    top = name.partition("/")[0]
    if "/" in name and _names_a_split(top):
        return BadValue("split", top, f"one of {', '.join(SPLITS)}", "rename the folder").at(where)
    return row | ({"split": top} if top in SPLITS and "/" in name else {})


def _may_be_a_mask(folder: Path, name: str) -> bool:
    """Tell whether a picture without a text looks like a mask, by its name or folder, or by its colors."""
    path = folder / name
    return "mask" in name.lower() or (name.lower().endswith(_PAINTED) and looks_like_a_mask(path, path))


def _without_picture(text: str, beside: _Beside) -> BadValue:
    """Return what is wrong with a text that has no picture."""
    what, expected = "missing image", "one of " + " ".join(PICTURES)
    if pair := beside.mask_of(text):
        got = Words(f"{Path(pair[0]).name}, which is taken as the mask of {Path(pair[1]).name}")
        return BadValue(what, got, expected, "if it is a photo, rename it and its text; else remove the text")
    if others := beside.others(text):
        got = Words(f"{' and '.join(Path(other).name for other in others)}, whose ending is not read from folders")
        return BadValue(what, got, expected, "if that is the picture, save it as JPEG")
    return BadValue(what, Words("no picture beside it"), expected, "add it")


def _stem(name: str) -> str:
    return name.rpartition(".")[0]
