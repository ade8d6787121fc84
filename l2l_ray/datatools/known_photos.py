"""Which photos of an update are in the data set already, by their file, content or name, and which changed their size.

A data set links to its pictures, so a photo that is replaced by another under its name is replaced here, too. Another
size shows it: the masks and hints of before do not fit it then. A photo of the same size cannot be told apart.
"""

from __future__ import annotations

import filecmp
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l2l_ray.data.layout import BadValue, Problem, Words, image_folder
from l2l_ray.data.pixels import BadPicture, read_header
from l2l_ray.datatools.refer_writer import ReferWriter

_Rows = Mapping[int, Mapping[str, Any]]


@dataclass
class KnownPhotos:
    """The photos of an update as the data set knows them.

    Example: `match_photos(writer, images).image_of[1]`
    """

    image_of: dict[int, int] = field(default_factory=dict)  # id in the writer: id in the data set
    bad: dict[int, Problem] = field(default_factory=dict)  # by id in the writer: what has another photo's name or size
    back: set[int] = field(default_factory=set)  # ids in the data set of photos whose files are there again
    there: set[int] = field(default_factory=set)  # ids in the writer of photos whose files are there, too
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)  # ids in the data set: width and height by now, px

    def refuse(self, image_id: int, problem: Problem) -> None:
        """Leave a photo of the data set as it is, with all that the update says of it."""
        self.sizes.pop(image_id, None)
        self.back.discard(image_id)
        for new_id, known in self.image_of.items():
            if known == image_id:
                self.bad[new_id] = problem


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
    by_file = {path.resolve(): image_id for image_id, path in paths.items()}
    by_size: dict[int, list[int]] = defaultdict(list)
    for image_id, path in paths.items():
        if path.is_file():
            by_size[path.stat().st_size].append(image_id)
    photos = KnownPhotos()
    for new_id, row in writer.images.items():
        name = row["file_name"]
        source = writer.sources.get(name)
        named = by_name.get(name)
        found = named if source is None else by_file.get(source)
        if source is not None and found is None:
            alike = [i for i in by_size[source.stat().st_size] if filecmp.cmp(source, paths[i], shallow=False)]
            found = named if named in alike or (named is not None and not paths[named].exists()) else None
            found = alike[0] if found is None and alike else found
        if found is not None:
            photos.image_of[new_id] = found
            if paths[found].exists():
                photos.there.add(new_id)
            elif source is not None:
                photos.back.add(found)
            _compare_sizes(photos, new_id, row, images, paths[found] if paths[found].exists() else source)
        elif named is not None:
            error = BadValue("photo", name, f"the photo of that name in {folder}", "give this one another name")
            photos.bad[new_id] = error.at(f"image {name}")
    return photos


def _compare_sizes(photos: KnownPhotos, new_id: int, row: Mapping[str, Any], images: _Rows, file: Path | None) -> None:
    """Note the size of a photo that is another one in the update than in the data set, if its file has it."""
    known = images[photos.image_of[new_id]]
    new, old = size_in(row), size_in(known)
    if new is None or old is None or new == old:
        return
    try:
        is_so = file is not None and read_header(file).size == new
    except BadPicture:
        is_so = False
    if is_so:
        same_file = [i for i, other in images.items() if other["file_name"] == known["file_name"]]
        photos.sizes |= dict.fromkeys(same_file, new)
    else:
        expected = f"{in_px(old)} as in the data set, whose picture has no other"
        error = BadValue("photo size", Words(in_px(new)), expected, "correct the size, or give it another name")
        photos.refuse(photos.image_of[new_id], error.at(f"image {row['file_name']}"))


def size_in(row: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return width and height of an image row, px; None where the table has none."""
    width, height = row.get("width"), row.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def in_px(size: tuple[int, int] | None) -> str:
    """Return a width and height in words."""
    return "no size" if size is None else f"{size[0]} x {size[1]} px"
