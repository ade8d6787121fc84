"""COCO annotations with expressions, and gRefCOCO, into the REFER layout.

- COCO: an instances file (`images`, `annotations`, `categories`) whose annotations carry `expression`, `expressions`,
  `caption` or `captions`, or a second JSON file with the expressions by annotation id: `{"17": "left man", ...}`, or a
  list (also under `annotations`) of objects with `ann_id` (or `annotation_id`, `id`) and one of those four fields.
  The box of an annotation that has no segmentation is a hint (`data/hints.py`): this form is for own data, in which a
  person gives what there is. The boxes of published benchmarks, here and in `import_hub.py`, stay with the truth.
- gRefCOCO: `grefs(unc).json`, a list of REFER's refs in which `ann_id` is a list of annotations, and `no_target` is
  true (with `ann_id` [-1]) where the expression speaks of nothing in the image; beside it an instances file of the same
  ids. Its refs are written with `ann_ids`, a list that is empty where there is no target.
  Source: github.com/henghuiding/ReLA, `gres_model/data/datasets/grefcoco.py`; github.com/henghuiding/gRefCOCO.

Annotations are taken over with the fields that the loader knows. A ref whose image is missing is left out, by name; one
whose mask is malformed, lies outside its image or its own box, or covers no pixel stays, unlabeled. Several targets
must cover a pixel together.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l2l_ray.data.layout import SPLITS, BadValue, Notice, Problem, Words
from l2l_ray.data.object_masks import object_mask, parts_mask
from l2l_ray.data.refer_files import ID_NAMES, Once, annotation_id, integer_id
from l2l_ray.datatools.coco_tables import CocoTables, is_id
from l2l_ray.datatools.columns import clean_text, read_columns
from l2l_ray.datatools.photo_splits import PhotoSplits
from l2l_ray.datatools.record import KEPT, OF_TRUTH, of_unusable_mask
from l2l_ray.datatools.refer_writer import UNUSABLE, ReferWriter, sentence
from l2l_ray.datatools.row_files import read_json
from l2l_ray.datatools.truths import is_hint_alone
from l2l_ray.errors import DataError

_TEXT_FIELDS = ("expression", "expressions", "caption", "captions")
_ID_FIELDS = ("ann_id", "annotation_id", "id")
# Keys of an annotation that stay with its ref, and their columns; the first two are names of earlier exports.
_EXPORTED = {"score": "confidence", "accepted": "accepted_rle", **{name: name for name in (*KEPT, "provenance")}}


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
    problems += tables.problems
    used, once, splits = set[str](), Once(ID_NAMES["annotations"]), PhotoSplits()
    num_sentences = 0
    for where, row in tables.annotations:
        used.add(str(row.get("id")))
        try:
            found = texts[str(row.get("id"))] if str(row.get("id")) in texts else _own_texts(row)
            cleaned = [clean_text(text) for text in (found if isinstance(found, list) and found else [found])]
            kept, bad = _exported(row, where)
            if (name := row.get("split", kept.get("provenance", {}).get("split", split))) not in SPLITS:
                raise BadValue("split", name, f"one of {', '.join(SPLITS)}", "use one of these")
            image_id = tables.image_of(row)
            photo = writer.images[image_id]["file_name"]
            splits.require_apart(photo, writer.sources.get(photo), name)
            splits.take(photo, writer.sources.get(photo), name)
            ref = {"ref_id": len(writer.refs) + 1, "image_id": image_id, "split": name, **kept}
        except BadValue as error:
            problems.append(error.at(where))
            continue
        problems += bad
        try:
            once.take([ann_id := integer_id(row.get("id"), "annotation id")])
            ref["coco_id"] = ann_id  # ids of another file may count anew, so it only tells objects of one text apart
            if is_hint_alone(row):
                annotation = dict(row)
            else:
                annotation = tables.checked(row, where)
                writer.annotations[annotation["id"]] = annotation
                ref["ann_id"] = annotation["id"]
        except BadValue as error:  # of its mask: the item stays, unlabeled
            said = of_unusable_mask(error, where, kept.get("provenance"))
            if isinstance(said, Notice):
                writer.notices.append(said)
            else:
                problems.append(said)
                ref = {name: value for name, value in ref.items() if name not in OF_TRUTH} | {UNUSABLE: str(said)}
            annotation = dict(row)
        try:
            if hint := tables.hint_of(row, where):
                ref["hint"] = hint.record()
        except BadValue as error:  # the item stays, without a hint
            problems.append(error.at(where))
        if "sent_id" in kept:
            ref["source_id"] = str(kept["sent_id"])
        try:
            # "" is an export's own word for none; COCO needs a category_id
            category_id = None if row.get("category") == "" else tables.category_of(row)
        except BadValue as error:  # the item stays, without a category
            problems.append(error.at(where))
            category_id = None
        if category_id is None:
            annotation.pop("category_id", None)
        else:
            ref["category_id"] = category_id
        writer.add_ref(ref, [sentence(num_sentences + k, text) for k, text in enumerate(cleaned)])
        num_sentences += len(cleaned)
    if tables.num_unwanted:
        carry, are = ("carries", "is") if tables.num_unwanted == 1 else ("carry", "are")
        text = f"{tables.num_unwanted} of the annotations {carry} no expression and {are} left out"
        writer.notices.append(Notice(instances.name, text))
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
    tables = CocoTables(instances, image_root, writer, lambda row: annotation_id(row) in wanted)
    by_id = {annotation_id(row): row for _, row in tables.annotations}
    problems = tables.problems
    writer.is_published = True
    sent_ids, ref_ids = Once("sent_id"), Once("ref_id")
    for number, record in enumerate(records):
        where = f"{refs.name} ref number {number}"
        try:
            ref, sentences = refer_record(record)
            where = f"{refs.name} ref_id {ref['ref_id']}"
            size = tables.add_image(ref["image_id"])
            ref_ids.take([ref["ref_id"]])
            sent_ids.take(s["sent_id"] for s in sentences)
        except BadValue as error:
            problems.append(error.at(where))
            continue
        try:
            ann_ids = [integer_id(i, "ann_id") for i in _ann_ids(record)]
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
                annotations[ann_id] = tables.checked(by_id[ann_id], where, is_part=True)
                if annotations[ann_id]["image_id"] != ref["image_id"]:
                    raise BadValue(
                        "image of the annotation", ann_id, f"image {ref['image_id']} as the ref", "correct it"
                    )
            segmentations = [row["segmentation"] for row in annotations.values()]
            if all(segmentations):  # one of them may be a box alone
                object_mask([parts_mask(one, *size) for one in segmentations], segmentations, *size)  # as the loader
            writer.annotations.update(annotations)
            writer.add_ref({**ref, "ann_ids": ann_ids, "no_target": not ann_ids}, sentences)
        except BadValue as error:  # of its truth: the item stays, unlabeled
            problems.append(error.at(where))
            writer.add_ref({**ref, UNUSABLE: str(problems[-1])}, sentences)
    return problems


def refer_record(record: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the ids and split of one of REFER's refs, and its sentences, both checked.

    Raises:
        BadValue: If a field is missing or malformed.
    """
    if not isinstance(record, Mapping):
        raise BadValue("ref", record, "an object with ref_id, image_id, split and sentences", "correct it")
    ref: dict[str, Any] = {name: integer_id(record.get(name), name) for name in ("ref_id", "image_id")}
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
        kept = sentence(integer_id(row.get("sent_id"), "sent_id"), "" if text == "" else clean_text(text))
        sentences.append(kept | ({"raw": raw} if isinstance(raw, str) and raw.isprintable() else {}))
    if len({kept["sent_id"] for kept in sentences}) < len(sentences):
        raise BadValue("sent_id", [kept["sent_id"] for kept in sentences], "ids used once", "correct the ids")
    if not any(kept["sent"] for kept in sentences):
        raise BadValue("expression", Words("only empty sentences"), "a sentence that says something", "remove the ref")
    return ref, sentences


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
        if not is_id(key) or text is None:
            problems.append(BadValue("expression", row, "an object with ann_id and expression", "correct it").at(where))
        elif "image_id" in row and not {"ann_id", "annotation_id"} & row.keys():  # COCO's own, with ids of their own
            remedy = "a caption of a whole image is no referring expression; name the annotation"
            problems.append(BadValue("caption of an image", row["image_id"], "ann_id", remedy).at(where))
        else:
            texts.setdefault(str(key), []).extend(text if isinstance(text, list) else [text])
    return texts


def _own_texts(row: Mapping[str, Any]) -> Any:
    """Return what an annotation's own field of texts holds.

    Raises:
        BadValue: If there are several such fields.
    """
    given = [name for name in _TEXT_FIELDS if row.get(name) is not None]
    if len(given) > 1:
        raise BadValue("expression", Words(" and ".join(given)), "one of them", "put all texts in `expressions`")
    return row[given[0]] if given else None


def _exported(row: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[Problem]]:
    """Return what an annotation of an export says besides its mask, and a problem for each value that is unusable."""
    kept: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, field in _EXPORTED.items():
        if row.get(name) is not None:
            try:
                kept |= read_columns({field: row[name]})
            except BadValue as error:
                problems.append(error.at(where))
    return kept, problems


def _ann_ids(record: Mapping[str, Any]) -> list[Any]:
    """Return the annotations of a ref of gRefCOCO; [-1] and a single -1 mean none."""
    ann_ids = record.get("ann_id")
    ann_ids = ann_ids if isinstance(ann_ids, list) else [ann_ids]
    return [] if ann_ids == [-1] else ann_ids
