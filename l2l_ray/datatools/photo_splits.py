"""Keeps photos that are learned from apart from those that are evaluated on, also where one lies in two places."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from l2l_ray.data.layout import BadValue, Words, shown
from l2l_ray.datatools.known_photos import sha256_of_file


class PhotoSplits:
    """The split of each photo of own data, as it was found first.

    A photo is known by its file, whatever links lead to it, and by its content, which is read only of files in other
    splits that have as many bytes.

    Example: `splits.require_apart("val/a.png", Path("photos/val/a.png"), "val")`
    """

    def __init__(self) -> None:
        self._found: dict[Path, tuple[str, str]] = {}  # by file: name of the photo, and its split
        self._by_size: dict[int, list[Path]] = defaultdict(list)  # by number of bytes
        self._hashes: dict[Path, bytes] = {}

    def require_apart(self, name: str, path: Path | None, split: str) -> None:
        """Refuse an item whose photo is learned from in one split and evaluated on in another.

        Args:
            name: The photo, for the message.
            path: Its file; None = it is not at hand, and known by its name.
            split: The item's split.
        Raises:
            BadValue: One of them is train, the other is not.
        """
        first_name, first = self._first(name, split, path)
        if split != first and "train" in (split, first):
            of_it = "an earlier item of this photo" if name == first_name else f"{shown(first_name)}, the same photo,"
            remedy = "what is learned from must not be evaluated on; give all items of a photo one split"
            got = Words(f"{split} for {shown(name)}")
            raise BadValue("split of a photo", got, Words(f"{first}, as {of_it} has"), remedy)

    def take(self, name: str, path: Path | None, split: str) -> str:
        """Note the split of an item's photo; return the one in which the photo was found first."""
        file = _known_as(name, path)
        if file not in self._found:
            self._found[file] = name, split
            if path is not None:
                self._by_size[path.stat().st_size].append(file)
        return self._found[file][1]

    def _first(self, name: str, split: str, path: Path | None) -> tuple[str, str]:
        """Return the name and the split under which a photo was found first; its own where it is new."""
        file = _known_as(name, path)
        if file in self._found:
            return self._found[file]
        for other in self._by_size.get(path.stat().st_size, ()) if path is not None else ():
            found = self._found[other]
            if found[1] != split and "train" in (found[1], split) and self._hash(other) == self._hash(file):
                return found
        return name, split

    def _hash(self, file: Path) -> bytes:
        if file not in self._hashes:
            self._hashes[file] = sha256_of_file(file)
        return self._hashes[file]


def _known_as(name: str, path: Path | None) -> Path:
    return Path(name) if path is None else path.resolve()
