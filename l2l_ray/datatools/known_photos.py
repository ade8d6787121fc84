"""Which photos of an update are in the data set already, by their file, content or name, and which changed their size.

A data set links to its pictures, so a photo that is replaced by another under its name is replaced here, too. Another
size shows it: the masks and hints of before do not fit it then. A photo of the same size cannot be told apart. A copy
(`--copy`, or of a photo that EXIF turns) is never overwritten: the message says how it is replaced.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l2l_ray.data.layout import BadValue, Problem, Words, image_folder
from l2l_ray.data.pixels import BadPicture, read_header
from l2l_ray.data.plain_pickle import plain_records
from l2l_ray.datatools.refer_writer import ReferWriter

_Rows = Mapping[int, Mapping[str, Any]]


@dataclass
class KnownPhotos:
    """The photos of an update as the data set knows them.

    Example: `match_photos(writer, images).image_of[1]`
    """

    image_of: dict[int, int] = field(default_factory=dict)  # id in the writer: id in the data set
    new_ids: dict[int, list[int]] = field(default_factory=dict)  # id in the data set: its ids in the writer
    bad: dict[int, Problem] = field(default_factory=dict)  # by id in the writer: what has another photo's name or size
    back: set[int] = field(default_factory=set)  # ids in the data set of photos whose files are there again
    there: set[int] = field(default_factory=set)  # ids in the writer of photos whose files are there, too
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)  # ids in the data set: width and height by now, px
    same_file: dict[int, list[int]] = field(default_factory=dict)  # by id in `sizes`: the ids of that file

    def refuse(self, image_id: int, problem: Problem) -> None:
        """Leave a photo of the data set as it is under all its ids, with all that the update says of it."""
        ids = {image_id, *self.same_file.get(image_id, ())}
        for known in ids:
            self.sizes.pop(known, None)
            self.back.discard(known)
        for known in ids:
            for new_id in self.new_ids.get(known, ()):
                self.bad[new_id] = problem if known == image_id else self.bad.get(new_id, problem)


class _Contents:
    """Finds pictures by their content, which is read only where their sizes in bytes are the same."""

    def __init__(self, paths: Mapping[int, Path]) -> None:
        self._paths = paths
        self._sizes: dict[int, list[int]] = defaultdict(list)
        for image_id, path in paths.items():
            if path.is_file():
                self._sizes[path.stat().st_size].append(image_id)
        self._hashes: dict[int, dict[bytes, list[int]]] = {}  # by size, of those sizes that were asked for

    def of(self, source: Path) -> list[int]:
        """Return the ids of the pictures that have the content of a file."""
        size = source.stat().st_size
        if size not in self._hashes:
            self._hashes[size] = defaultdict(list)
            for image_id in self._sizes.get(size, ()):
                self._hashes[size][sha256_of_file(self._paths[image_id])].append(image_id)
        return self._hashes[size].get(sha256_of_file(source), []) if self._hashes[size] else []


def sha256_of_file(path: Path) -> bytes:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def match_photos(writer: ReferWriter, images: _Rows) -> KnownPhotos:
    """Return what the data set knows of an update's photos; neither of the two is changed.

    A photo whose file is missing in the data set, as after its folder was moved, is the writer's photo of that name,
    which then takes its place. Other photos that are there already are not placed again.

    Args:
        writer: Has the photos of the update.
        images: The image rows of the data set, by id.
    """
    folder = image_folder(writer.root, writer.dataset)
    by_name = {row["file_name"]: image_id for image_id, row in images.items()}
    paths = {image_id: folder / row["file_name"] for image_id, row in images.items()}
    by_file: dict[Path, list[int]] = defaultdict(list)  # a file may have several names and ids
    for image_id, path in paths.items():
        by_file[path.resolve()].append(image_id)
    contents = _Contents(paths)
    photos = KnownPhotos()
    for new_id, row in writer.images.items():
        name = row["file_name"]
        source = writer.sources.get(name)
        named = by_name.get(name)
        same = by_file.get(source, []) if source is not None else []
        found = named if source is None or named in same else next(iter(same), None)
        if source is not None and found is None:
            alike = contents.of(source)
            found = named if named in alike or (named is not None and not paths[named].exists()) else None
            found = alike[0] if found is None and alike else found
        if found is not None:
            photos.image_of[new_id] = found
            photos.new_ids.setdefault(found, []).append(new_id)
            if paths[found].exists():
                photos.there.add(new_id)
            elif source is not None:
                photos.back.add(found)
            file = paths[found] if paths[found].exists() else source
            same_file = [i for i in by_file[paths[found].resolve()] if paths[i] == paths[found] or paths[i].exists()]
            _compare_sizes(photos, new_id, row, images, file, same_file)
        elif named is not None:
            remedy = "give this one another name"
            if size_in(row) != size_in(images[named]):
                remedy += f"; if it replaces that one, move {paths[named]} away first, and give all its masks anew"
            error = BadValue("photo", name, f"the photo of that name in {folder}", remedy)
            photos.bad[new_id] = error.at(f"image {name}")
    _refuse_shared(photos, writer, images)
    return photos


def _compare_sizes(
    photos: KnownPhotos, new_id: int, row: Mapping[str, Any], images: _Rows, file: Path | None, same_file: list[int]
) -> None:
    """Note the size of a photo that is another one in the update than in the data set, if its file has it.

    All ids of the data set that are of the same file get it.
    """
    known = images[photos.image_of[new_id]]
    new, old = size_in(row), size_in(known)
    if new is None or old is None or new == old:
        return
    try:
        is_so = file is not None and read_header(file).size == new
    except BadPicture:
        is_so = False
    if is_so:
        resized = [image_id for image_id in same_file if size_in(images[image_id]) != new]
        photos.sizes |= dict.fromkeys(resized, new)
        photos.same_file |= dict.fromkeys(resized, resized)
    else:
        expected = f"{in_px(old)} as in the data set, whose picture has no other"
        error = BadValue("photo size", Words(in_px(new)), expected, "correct the size, or give it another name")
        photos.refuse(photos.image_of[new_id], error.at(f"image {row['file_name']}"))


def _refuse_shared(photos: KnownPhotos, writer: ReferWriter, images: _Rows) -> None:
    """Refuse another size where another split file of the data set has masks, hints or decisions of that photo, too."""
    own = writer.folder / f"refs({writer.split_by}).p"
    others = [path for path in sorted(writer.folder.glob("refs(*).p")) if path != own] if photos.sizes else []
    for other in others:
        sizes = dict(photos.sizes)
        refs = [record for record in plain_records(other) if isinstance(record, dict)]
        shared = [ref.get("image_id") for ref in refs]
        for image_id in sorted(sizes.keys() & {i for i in shared if isinstance(i, int)}):
            got = Words(f"{in_px(sizes[image_id])}, while {other.name} has it, too")
            expected = f"{in_px(size_in(images[image_id]))} as before, where several split files share a photo"
            remedy = "bring the earlier photo back, or import the new one under another name or --dataset"
            error = BadValue("photo of another size", got, expected, remedy)
            photos.refuse(image_id, error.at(f"image {images[image_id]['file_name']}"))


def size_in(row: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return width and height of an image row, px; None where the table has none."""
    width, height = row.get("width"), row.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def in_px(size: tuple[int, int] | None) -> str:
    """Return a width and height in words."""
    return "no size" if size is None else f"{size[0]} x {size[1]} px"
