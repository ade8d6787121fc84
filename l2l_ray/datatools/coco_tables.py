"""The tables of a COCO instances file, checked row by row, and what of them goes into a data set.

A picture of own data that EXIF turns goes there upright, and its annotations and hints with it; the image table tells
by the size whether they speak of the stored or of the shown picture. Published data stays as it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from l2l_ray.data.hints import PixelHint
from l2l_ray.data.layout import BadValue, Notice, Problem, Words, file_below, finite_numbers, shown, without_placeholder
from l2l_ray.data.masks import mask_area_px
from l2l_ray.data.object_masks import (
    compare_with_box,
    cut_at_border,
    outline_points,
    parts_mask,
    segmentation_rle,
)
from l2l_ray.data.pixels import Header, read_header
from l2l_ray.data.refer_files import ID_NAMES, Once, image_size, integer_id, parse_category
from l2l_ray.datatools.orientation import is_drawn_as_shown, turned_annotation, turned_hint
from l2l_ray.datatools.refer_writer import ReferWriter
from l2l_ray.datatools.row_files import read_json
from l2l_ray.datatools.truths import box_beside_mask, read_annotation_hint
from l2l_ray.errors import DataError


class CocoTables:
    """The tables of an instances file, of which only what is asked for goes to the writer.

    Args:
        path: The file.
        image_root: Folder of the pictures, or None.
        writer: Takes images and annotations.
        wanted: Which annotations to keep; a whole COCO file would fill gigabytes.
        upright: Own data: images that EXIF turns become upright, and their annotations with them.
    Raises:
        DataError: If it is no instances file.
    """

    def __init__(
        self,
        path: Path,
        image_root: Path | None,
        writer: ReferWriter,
        wanted: Callable[[dict[str, Any]], bool],
        upright: bool = False,
    ) -> None:
        unwanted = object()

        def keep(record: dict[str, Any]) -> Any:
            return unwanted if "image_id" in record and not wanted(record) else record

        content = read_json(path, keep)
        self.problems: list[Problem] = []  # of the tables themselves
        if not isinstance(content, dict) or not all(
            isinstance(content.get(t), list) for t in ("images", "annotations")
        ):
            raise DataError(
                f"{path} is no COCO instances file; expected an object with lists of images and annotations"
            )
        self._path, self._image_root, self._writer = path, image_root, writer
        self._turned: dict[int, Header] | None = {} if upright else None
        self._ids: dict[str, int] = {}  # own data: the first id of each file
        self._rows = [without_placeholder(row) for row in content["annotations"] if isinstance(row, dict)]
        self._images: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for number, row in enumerate(content["images"]):
            try:
                self._images[integer_id(_object(row, "image").get("id"), "image id")].append(row)
            except BadValue as error:
                self.problems.append(error.at(f"{path.name} images number {number}"))
        for number, row in enumerate(content["annotations"]):
            if row is not unwanted and not isinstance(row, dict):
                bad = BadValue("annotation", row, "an object with id and image_id", "correct or remove it")
                self.problems.append(bad.at(f"{path.name} annotations number {number}"))
        self.num_unwanted = sum(row is unwanted for row in content["annotations"])
        once = Once(ID_NAMES["categories"])
        for row in content.get("categories") or ():
            try:
                category_id, name = parse_category(row)
                once.take([category_id])
                writer.categories[category_id] = name
            except BadValue as error:
                self.problems.append(error.at(f"{path.name} categories"))

    @property
    def annotations(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Where each kept annotation is, and the annotation."""
        for number, row in enumerate(self._rows):
            yield f"{self._path.name} annotation {row.get('id', f'number {number}')}", row

    def category_of(self, row: Mapping[str, Any]) -> int | None:
        """Return the category of an annotation, None where it names none.

        Raises:
            BadValue: If it is no id, or the file has categories, but not this one.
        """
        if (found := row.get("category_id")) is None:
            return None
        category_id = integer_id(found, "category_id")
        if self._writer.categories and category_id not in self._writer.categories:
            raise BadValue("missing category", found, f"a category of {self._path.name}", "correct category_id")
        return category_id

    def image_of(self, row: Mapping[str, Any]) -> int:
        """Return the id of an annotation's image, and add that image; own data: the first id of that file.

        Raises:
            BadValue: If there is no such image, or it cannot be used.
        """
        image_id = integer_id(row.get("image_id"), "image_id")
        self.add_image(image_id)
        return (
            image_id
            if self._turned is None
            else self._ids.setdefault(self._writer.images[image_id]["file_name"], image_id)
        )

    def checked(self, row: Mapping[str, Any], where: str, is_part: bool = False) -> dict[str, Any]:
        """Return an annotation with the fields the loader knows, and add its image; a notice goes to the writer.

        Args:
            row: The annotation.
            where: Its place.
            is_part: Of an object of several annotations: it may have no pixel, as the object is judged whole.
        Raises:
            BadValue: If it or its image cannot be used.
        """
        photo_id, image_id = self.image_of(row), row["image_id"]
        width, height = self.add_image(image_id)
        told: list[Notice] = []
        if self._turned is not None and row.get("bbox") is not None:  # own data, and all of it must pass `check`
            row = {**row, "bbox": box_beside_mask(row["bbox"], (width, height), where, told)}
        annotation, unlike = coco_annotation({**row, "image_id": photo_id}, width, height, where, is_part)
        told += unlike + cut_at_border(outline_points(row.get("segmentation")), (width, height), where, "polygon")
        if (header := self._stored_frame(image_id, "an annotation")) is not None:
            segmentation = annotation["segmentation"]
            rle = segmentation_rle(segmentation, width, height) if segmentation else None
            annotation = turned_annotation(annotation, rle, header)
        self._writer.notices += told
        return annotation

    def hint_of(self, row: Mapping[str, Any], where: str) -> PixelHint | None:
        """Return the hint of an annotation of own data, and add its image; a notice goes to the writer.

        Raises:
            BadValue: If it or its image cannot be used.
        """
        self.image_of(row)
        image_id = row["image_id"]
        size = self.add_image(image_id)
        hint = read_annotation_hint(row, size)
        self._writer.notices += [] if hint is None else cut_at_border(hint.corners(), size, where, "hint box")
        header = None if hint is None else self._stored_frame(image_id, "a hint")
        return hint if hint is None or header is None else turned_hint(hint, header)

    def _stored_frame(self, image_id: int, what: str) -> Header | None:
        """Return the header of an image that is turned while its table speaks of the stored pixels, else None."""
        header = (self._turned or {}).get(image_id)
        if header is None or is_drawn_as_shown(self.add_image(image_id), header, what):
            return None
        return header

    def add_image(self, image_id: int) -> tuple[int, int]:
        """Add an image to the writer and return its width and height, px.

        Raises:
            BadValue: If it is not in the table, its row is malformed, or its file is missing or of another size.
        """
        rows = self._images.get(image_id, [])
        if not rows:
            raise BadValue("missing image", image_id, f"an image of {self._path.name}", "correct image_id")
        if len(rows) > 1:
            names = Words(f"{image_id} for {' and '.join(shown(row.get('file_name')) for row in rows)}")
            raise BadValue(ID_NAMES["images"], names, "an id that is used once", "give each image an id of its own")
        return add_coco_image(self._writer, rows[0], self._image_root, self._turned)


def coco_annotation(
    row: Mapping[str, Any], width: int, height: int, where: str, is_part: bool = False
) -> tuple[dict[str, Any], list[Notice]]:
    """Return the known fields of a COCO annotation whose mask was checked, and what a person should know of it.

    Args:
        row: The annotation.
        width: Of its image, px.
        height: Of its image, px.
        where: Its place.
        is_part: As in `CocoTables.checked`.
    Raises:
        BadValue: If the segmentation is there but unusable, or neither it nor a box is there, or they do not meet.
    """
    kept: dict[str, Any] = {"id": integer_id(row.get("id"), "annotation id"), "image_id": row["image_id"]}
    if is_id(row.get("category_id")):
        kept["category_id"] = row["category_id"]
    box = row.get("bbox")
    if box is not None:
        kept["bbox"] = finite_numbers(box, "bbox", "[x, y, width, height] in px")
        if len(kept["bbox"]) != 4 or min(kept["bbox"][2:]) < 0:
            raise BadValue("bbox", box, "[x, y, width, height] in px, sizes not negative", "correct the annotation")
    segmentation = row.get("segmentation")
    if segmentation in (None, []) and box is not None:
        return {**kept, "iscrowd": 0, "segmentation": []}, []
    rle = (parts_mask if is_part else segmentation_rle)(segmentation, width, height)
    is_polygons = isinstance(segmentation, list) and not any(isinstance(part, dict) for part in segmentation)
    kept["segmentation"] = segmentation if is_polygons else rle
    area = row.get("area")
    if isinstance(area, int | float) and 0 <= area <= width * height:
        kept["area"] = area
    told = compare_with_box(rle, kept["bbox"], where) if "bbox" in kept and mask_area_px(rle) else []
    return {**kept, "iscrowd": int(row.get("iscrowd") in (1, True))}, told


def add_coco_image(
    writer: ReferWriter, row: Mapping[str, Any], image_root: Path | None, turned: dict[int, Header] | None = None
) -> tuple[int, int]:
    """Add an image by its row of a COCO table and return its width and height there, px.

    Args:
        writer: Takes the image.
        row: The row.
        image_root: Folder of the pictures, or None.
        turned: Own data: an image that EXIF turns is added upright, and its header kept here by id. None: images are
            taken as stored.

    Raises:
        BadValue: If the row is malformed, or the file is missing or of another size.
    """
    image_id = integer_id(row.get("id"), "image id")
    known = writer.images.get(image_id)
    if known is not None and image_id not in (turned or ()):
        return known["width"], known["height"]
    size = image_size(row.get("width"), row.get("height"))
    if known is not None:
        return size
    name = row.get("file_name")
    if image_root is None:
        if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadValue("image", name, "a file name below the image folder", "correct the image table")
        if (other := writer.size_of(name)) not in (None, size):
            got, expected = (
                Words(f"{size[0]} x {size[1]} px for {shown(name)}"),
                f"{other} (width, height) as under its other id",
            )
            raise BadValue("image size", got, expected, "correct the image table")
        writer.add_image(image_id, name, size, None)
        return size
    path = file_below(image_root, name, "image")
    name, header = path.relative_to(image_root).as_posix(), read_header(path)
    if turned is not None and header.is_turned and size in (header.shown, header.stored):
        writer.add_picture(image_id, name, path, header)
        turned[image_id] = header
        return size
    if (found := header.size) != size:
        expected = f"{size[0]} x {size[1]} px as in the image table"
        got, remedy = Words(f"{found[0]} x {found[1]} px"), "use the original picture, or correct the table"
        raise BadValue("image size", got, expected, remedy)
    writer.add_image(image_id, name, size, path)
    return size


def _object(row: Any, what: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise BadValue(what, row, "an object with id and file_name", "correct or remove it")
    return row


def is_id(value: Any) -> bool:
    """Tell whether a value can be an id."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
