"""Which photos of an update are in the data set already, by their file, content or name."""

from __future__ import annotations

import filecmp
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from l2l_ray.data.layout import BadValue, Problem, image_folder
from l2l_ray.datatools.refer_writer import ReferWriter


def match_photos(
    writer: ReferWriter, images: Mapping[int, Mapping[str, Any]]
) -> tuple[dict[int, int], dict[int, Problem], int]:
    """Return ids in the data set by id in the writer, those with the name of another photo, and how many are back.

    A photo whose file is missing in the data set, as after its folder was moved, is the writer's photo of that name,
    which then takes its place. Other photos that are there already are not placed again.

    Args:
        writer: Has the photos of the update; what need not be placed leaves its `sources`.
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
    image_of: dict[int, int] = {}
    bad: dict[int, Problem] = {}
    back: set[int] = set()
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
            image_of[new_id] = found
            if paths[found].exists():
                writer.sources.pop(name, None)
            elif source is not None:
                back.add(found)
        elif named is not None:
            error = BadValue("photo", name, f"the photo of that name in {folder}", "give this one another name")
            bad[new_id] = error.at(f"image {name}")
    return image_of, bad, len(back)
