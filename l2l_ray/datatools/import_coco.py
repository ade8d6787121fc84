"""COCO annotations with expressions, and gRefCOCO, into the REFER layout.

- COCO: an instances file (`images`, `annotations`, `categories`) whose annotations carry `expression`, `expressions`,
  `caption` or `captions`, or a second JSON file with the expressions by annotation id: `{"17": "left man", ...}`, or a
  list (also under `annotations`) of objects with `ann_id` (or `annotation_id`, `id`) and one of those four fields.
- gRefCOCO: `grefs(unc).json`, a list of REFER's refs in which `ann_id` is a list of annotations, and `no_target` is
  true (with `ann_id` [-1]) where the expression speaks of nothing in the image; beside it an instances file of the same
  ids. Its refs are written with `ann_ids`, a list that is empty where there is no target.
  Source: github.com/henghuiding/ReLA, `gres_model/data/datasets/grefcoco.py`; github.com/henghuiding/gRefCOCO.

Annotations are taken over with the fields that the loader knows. What the loader would leave out is left out here, by
name: a ref whose image is missing, whose mask is malformed, lies outside its image or covers no pixel.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from l2l_ray.data.layout import SPLITS, BadValue, Problem, file_below
from l2l_ray.data.pixels import Header, read_header
from l2l_ray.datatools.import_rows import clean_text
from l2l_ray.datatools.orientation import is_drawn_as_shown, turned_annotation
from l2l_ray.datatools.refer_writer import ReferWriter, sentence
from l2l_ray.datatools.truths import finite_numbers, image_side, segmentation_rle
from l2l_ray.errors import DataError

_TEXT_FIELDS = ("expression", "expressions", "caption", "captions")
_ID_FIELDS = ("ann_id", "annotation_id", "id")


def import_coco(
    instances: Path, captions: Path | None, image_root: Path | None, split: str, writer: ReferWriter
) -> list[Problem]:
    """Add every annotation that has expressions to `writer`, one ref each; return the problems of the others.

    Args:
        instances: COCO instances file.
        captions: File of expressions by annotation id; None = the annotations carry them.
        image_root: Folder of the pictures; None = they will be put into the image folder by hand.
        split: Split of annotations that name none.
        writer: Takes what is good.
    Raises:
        DataError: If a file is not what it should be.
    """
    problems: list[Problem] = []
    texts = {} if captions is None else _captions(captions, problems)

    def has_texts(row: dict[str, Any]) -> bool:
        return str(row.get("id")) in texts or any(name in row for name in _TEXT_FIELDS)

    tables = CocoTables(instances, image_root, writer, has_texts, upright=True)
    used: set[str] = set()
    num_sentences = 0
    for where, row in tables.annotations:
        used.add(str(row.get("id")))
        try:
            found = texts.get(str(row.get("id")), next((row[name] for name in _TEXT_FIELDS if name in row), None))
            cleaned = [clean_text(text) for text in (found if isinstance(found, list) and found else [found])]
            if (name := row.get("split", split)) not in SPLITS:
                raise BadValue("split", name, f"one of {', '.join(SPLITS)}", "use one of these")
            annotation = tables.checked(row)
            if annotation["id"] in writer.annotations:
                raise BadValue("annotation id", annotation["id"], "an id used once", "correct the ids")
        except BadValue as error:
            problems.append(error.at(where))
            continue
        writer.annotations[annotation["id"]] = annotation
        ref = {
            "ref_id": len(writer.refs) + 1,
            "ann_id": annotation["id"],
            "image_id": annotation["image_id"],
            "split": name,
        }
        if "category_id" in annotation:
            ref["category_id"] = annotation["category_id"]
        writer.add_ref(ref, [sentence(num_sentences + k, text) for k, text in enumerate(cleaned)])
        num_sentences += len(cleaned)
    expected = f"an annotation of {instances.name}"
    for key in sorted(texts.keys() - used):
        where = f"{(captions or instances).name} annotation {key}"
        problems.append(BadValue("missing annotation", key, expected, "correct the id").at(where))
    return problems


def import_grefcoco(refs: Path, instances: Path, image_root: Path | None, writer: ReferWriter) -> list[Problem]:
    """Add every ref of gRefCOCO to `writer`; return the problems of those left out.

    Args:
        refs: `grefs(unc).json`.
        instances: The instances file beside it.
        image_root: Folder of the pictures; None = they will be put into the image folder by hand.
        writer: Takes what is good.
    Raises:
        DataError: If a file is not what it should be.
    """
    records = read_json(refs)
    if not isinstance(records, list):
        raise DataError(f"{refs} must hold a list of refs, got {type(records).__name__}; is it grefs(unc).json?")
    wanted = {i for record in records if isinstance(record, dict) for i in _ann_ids(record) if isinstance(i, int)}
    tables = CocoTables(instances, image_root, writer, lambda row: row.get("id") in wanted)
    by_id = {row["id"]: row for _, row in tables.annotations if isinstance(row.get("id"), int)}
    problems: list[Problem] = []
    seen: set[int] = set()
    ref_ids: set[int] = set()
    for number, record in enumerate(records):
        where = f"{refs.name} ref number {number}"
        try:
            ref, sentences = refer_record(record)
            where = f"{refs.name} ref_id {ref['ref_id']}"
            if clash := seen & {s["sent_id"] for s in sentences}:
                raise BadValue("sent_id", sorted(clash), "ids used once", "correct the ids")
            if ref["ref_id"] in ref_ids:
                raise BadValue("ref_id", ref["ref_id"], "an id used once", "correct the ids")
            ann_ids = [_integer(i, "ann_id") for i in _ann_ids(record)]
            if bool(record.get("no_target")) != (not ann_ids):
                raise BadValue("no_target", record.get("no_target"), "true exactly where ann_id is [-1]", "correct it")
            annotations = {}
            for ann_id in ann_ids:
                if ann_id not in by_id:
                    raise BadValue(
                        "missing annotation",
                        ann_id,
                        f"an annotation of {instances.name}",
                        "take the files of one release",
                    )
                annotations[ann_id] = tables.checked(by_id[ann_id])
                if annotations[ann_id]["image_id"] != ref["image_id"]:
                    raise BadValue(
                        "image of the annotation", ann_id, f"image {ref['image_id']} as the ref", "correct it"
                    )
            tables.add_image(ref["image_id"])
        except BadValue as error:
            problems.append(error.at(where))
            continue
        seen.update(s["sent_id"] for s in sentences)
        ref_ids.add(ref["ref_id"])
        writer.annotations.update(annotations)
        writer.add_ref({**ref, "ann_ids": ann_ids, "no_target": not ann_ids}, sentences)
    return problems


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
        def keep(record: dict[str, Any]) -> dict[str, Any] | None:
            return None if "image_id" in record and not wanted(record) else record

        content = read_json(path, keep)
        if not isinstance(content, dict) or not all(
            isinstance(content.get(t), list) for t in ("images", "annotations")
        ):
            raise DataError(
                f"{path} is no COCO instances file; expected an object with lists of images and annotations"
            )
        self._path, self._image_root, self._writer = path, image_root, writer
        self._turned: dict[int, Header] | None = {} if upright else None
        self._rows = [row for row in content["annotations"] if row is not None]
        self._images = {row["id"]: row for row in content["images"] if isinstance(row, dict) and _is_id(row.get("id"))}
        for row in content.get("categories") or ():
            if isinstance(row, dict) and _is_id(row.get("id")) and isinstance(row.get("name"), str):
                writer.categories[row["id"]] = row["name"]

    @property
    def annotations(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Where each kept annotation is, and the annotation; anything but an object comes as an empty one."""
        for number, row in enumerate(self._rows):
            row = row if isinstance(row, dict) else {}
            yield f"{self._path.name} annotation {row.get('id', f'number {number}')}", row

    def checked(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return an annotation with the fields the loader knows, and add its image.

        Raises:
            BadValue: If it or its image cannot be used.
        """
        image_id = _integer(row.get("image_id"), "image_id")
        width, height = self.add_image(image_id)
        annotation = coco_annotation(row, width, height)
        header = (self._turned or {}).get(image_id)
        if header is None or is_drawn_as_shown((width, height), header, "an annotation"):
            return annotation
        segmentation = annotation["segmentation"]
        rle = segmentation_rle(segmentation, width, height) if segmentation else None
        return turned_annotation(annotation, rle, header)

    def add_image(self, image_id: int) -> tuple[int, int]:
        """Add an image to the writer and return its width and height, px.

        Raises:
            BadValue: If it is not in the table, its row is malformed, or its file is missing or of another size.
        """
        row = self._images.get(image_id)
        if row is None:
            raise BadValue("missing image", image_id, f"an image of {self._path.name}", "correct image_id")
        return add_coco_image(self._writer, row, self._image_root, self._turned)


def coco_annotation(row: Mapping[str, Any], width: int, height: int) -> dict[str, Any]:
    """Return the known fields of a COCO annotation whose mask was checked.

    Raises:
        BadValue: If the segmentation is there but unusable, or neither it nor a box is there.
    """
    kept: dict[str, Any] = {"id": _integer(row.get("id"), "annotation id"), "image_id": row["image_id"]}
    if _is_id(row.get("category_id")):
        kept["category_id"] = row["category_id"]
    box = row.get("bbox")
    if box is not None:
        kept["bbox"] = finite_numbers(box, "bbox", "[x, y, width, height] in px")
        if len(kept["bbox"]) != 4 or min(kept["bbox"][2:]) < 0:
            raise BadValue("bbox", box, "[x, y, width, height] in px, sizes not negative", "correct the annotation")
    segmentation = row.get("segmentation")
    if segmentation in (None, []) and box is not None:
        return {**kept, "iscrowd": 0, "segmentation": []}
    rle = segmentation_rle(segmentation, width, height)
    is_polygons = isinstance(segmentation, list) and not any(isinstance(part, dict) for part in segmentation)
    kept["segmentation"] = segmentation if is_polygons else rle
    area = row.get("area")
    if isinstance(area, int | float) and 0 <= area <= width * height:
        kept["area"] = area
    return {**kept, "iscrowd": int(row.get("iscrowd") in (1, True))}


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
    image_id = _integer(row.get("id"), "image id")
    known = writer.images.get(image_id)
    if known is not None and image_id not in (turned or ()):
        return known["width"], known["height"]
    size = image_side(row.get("width")), image_side(row.get("height"))
    if known is not None:
        return size
    name = row.get("file_name")
    if image_root is None:
        if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadValue("image", name, "a file name below the image folder", "correct the image table")
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
        raise BadValue(
            "image size", f"{found[0]} x {found[1]} px", expected, "use the original picture, or correct the table"
        )
    writer.add_image(image_id, name, size, path)
    return size


def refer_record(record: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the ids and split of one of REFER's refs, and its sentences, both checked.

    Raises:
        BadValue: If a field is missing or malformed.
    """
    if not isinstance(record, Mapping):
        raise BadValue("ref", record, "an object with ref_id, image_id, split and sentences", "correct it")
    ref: dict[str, Any] = {name: _integer(record.get(name), name) for name in ("ref_id", "image_id")}
    if (split := record.get("split")) not in SPLITS:
        raise BadValue("split", split, f"one of {', '.join(SPLITS)}", "use one of these")
    ref["split"] = split
    rows = record.get("sentences")
    if not isinstance(rows, list) or not rows:
        raise BadValue("sentences", rows, "a list of sentences", "add a sentence, or remove the ref")
    sentences = []
    for row in rows:
        row = row if isinstance(row, Mapping) else {}
        text, raw = row.get("sent", row.get("raw")), row.get("raw")
        # A published ref may have an empty sentence among others; the loader leaves that one out, by name.
        kept = sentence(_integer(row.get("sent_id"), "sent_id"), "" if text == "" else clean_text(text))
        sentences.append(kept | ({"raw": raw} if isinstance(raw, str) and raw.isprintable() else {}))
    if len({kept["sent_id"] for kept in sentences}) < len(sentences):
        raise BadValue("sent_id", [kept["sent_id"] for kept in sentences], "ids used once", "correct the ids")
    if not any(kept["sent"] for kept in sentences):
        raise BadValue("expression", "only empty sentences", "a sentence that says something", "remove the ref")
    return ref, sentences


def read_json(path: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return the content of a JSON file.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        return json.loads(path.read_bytes(), object_hook=hook)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {type(error).__name__}: {error}; check the file") from error


def _captions(path: Path, problems: list[Problem]) -> dict[str, Any]:
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = content["annotations"]
    if isinstance(content, dict):
        return {str(key): text for key, text in content.items()}
    if not isinstance(content, list):
        raise DataError(
            f"{path} must hold an object of expressions by annotation id, or a list; got {type(content).__name__}"
        )
    texts: dict[str, list[Any]] = {}
    for number, row in enumerate(content):
        where = f"{path.name} row {number}"
        key = next((row[n] for n in _ID_FIELDS if n in row), None) if isinstance(row, dict) else None
        text = next((row[n] for n in _TEXT_FIELDS if n in row), None) if isinstance(row, dict) else None
        if not _is_id(key) or text is None:
            problems.append(BadValue("expression", row, "an object with ann_id and expression", "correct it").at(where))
        elif "image_id" in row and not {"ann_id", "annotation_id"} & row.keys():  # COCO's own, with ids of their own
            remedy = "a caption of a whole image is no referring expression; name the annotation"
            problems.append(BadValue("caption of an image", row["image_id"], "ann_id", remedy).at(where))
        else:
            texts.setdefault(str(key), []).extend(text if isinstance(text, list) else [text])
    return texts


def _ann_ids(record: Mapping[str, Any]) -> list[Any]:
    """Return the annotations of a ref of gRefCOCO; [-1] and a single -1 mean none."""
    ann_ids = record.get("ann_id")
    ann_ids = ann_ids if isinstance(ann_ids, list) else [ann_ids]
    return [] if ann_ids == [-1] else ann_ids


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _integer(value: Any, what: str) -> int:
    if not _is_id(value):
        raise BadValue(what, value, "an integer", "correct it")
    return int(value)
