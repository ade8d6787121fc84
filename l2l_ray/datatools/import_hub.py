"""The Parquet forms of RefCOCO, RefCOCO+ and RefCOCOg that people share on the Hugging Face hub, from local files.

`jxu124/refcoco`, `jxu124/refcocoplus`, `jxu124/refcocog`: all splits, no pictures. One row per ref, with the columns
`ref_id`, `ann_id`, `image_id`, `split`, `sentences` (a list of raw, sent, sent_id, tokens), and JSON texts: `raw_anns`
(the COCO annotation, bbox in x, y, width, height) and `raw_image_info` (the row of the image table). The column `bbox`
is x1, y1, x2, y2 and is not read. The split comes from the column: the files call val "validation" and testA "test".
Source: the hub's dataset cards (`dataset_info`); a sample row printed in the Hugging Face cookbook "Fine tuning a VLM
for Object Detection Grounding using TRL".

`lmms-lab/RefCOCO`, `lmms-lab/RefCOCOplus`, `lmms-lab/RefCOCOg`: pictures, no train split. One row per ref, with
`question_id`, `image` (bytes and path), `question`, `answer` (all its expressions), `segmentation` (one flat list x0,
y0, x1, y1, ...), `bbox` (x, y, width, height), `iscrowd` and `file_name`. The split is the first word of the Parquet
file's name. Source: the dataset cards; how lmms-eval reads a row (`lmms_eval/tasks/refcoco/utils.py`). Traps, told as
notices:
- val of RefCOCO has 8,811 rows, which is 3,811 (UNC's val) + 5,000 (Google's); val of RefCOCOg has 7,573, which is
  2,573 (UMD's) + 5,000 (Google's). That they are joined in this way is inferred from these sums. No column says which
  is which, and Google's val pictures are train pictures elsewhere. So figures on it are not those of the published val,
  and a train set must be compared with it (`l2l data leaks`).
- test of RefCOCO, 5,000 rows, is none of UNC's testA and testB.
- One flat list can hold one polygon only, so an object of several parts cannot be whole: masks that end well inside
  their box are counted.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l2l_ray.data.layout import SPLITS, BadValue, Notice, Problem, Words, coco_number, finite_numbers, shown
from l2l_ray.data.masks import box_of_mask
from l2l_ray.data.object_masks import segmentation_rle
from l2l_ray.data.pixels import read_header
from l2l_ray.data.refer_files import Once
from l2l_ray.datatools.coco_tables import add_coco_image, coco_annotation
from l2l_ray.datatools.columns import clean_text
from l2l_ray.datatools.import_coco import refer_record
from l2l_ray.datatools.refer_writer import UNUSABLE, ReferWriter, sentence
from l2l_ray.datatools.row_files import parquet_rows
from l2l_ray.errors import DataError

_JXU124_COLUMNS = ("ref_id", "ann_id", "image_id", "split", "sentences", "raw_anns", "raw_image_info")
_LMMS_COLUMNS = ("question_id", "image", "answer", "segmentation", "bbox", "iscrowd", "file_name")
# Rows of a split that were made by joining two published ones: (rows of the UNC or UMD split, rows of Google's).
_JOINED = {8811: ("UNC", 3811, 5000), 7573: ("UMD", 2573, 5000)}
_OTHER_PART_PX = 3.0  # a polygon that ends this far inside its box has a part missing
# Pictures whose name holds no COCO number are counted from here, beyond every number of COCO.
_FIRST_OWN_ID = 10**9

_COCO_CATEGORIES = (
    "1 person,2 bicycle,3 car,4 motorcycle,5 airplane,6 bus,7 train,8 truck,9 boat,10 traffic light,"
    "11 fire hydrant,13 stop sign,14 parking meter,15 bench,16 bird,17 cat,18 dog,19 horse,20 sheep,"
    "21 cow,22 elephant,23 bear,24 zebra,25 giraffe,27 backpack,28 umbrella,31 handbag,32 tie,33 suitcase,"
    "34 frisbee,35 skis,36 snowboard,37 sports ball,38 kite,39 baseball bat,40 baseball glove,41 skateboard,"
    "42 surfboard,43 tennis racket,44 bottle,46 wine glass,47 cup,48 fork,49 knife,50 spoon,51 bowl,"
    "52 banana,53 apple,54 sandwich,55 orange,56 broccoli,57 carrot,58 hot dog,59 pizza,60 donut,61 cake,"
    "62 chair,63 couch,64 potted plant,65 bed,67 dining table,70 toilet,72 tv,73 laptop,74 mouse,"
    "75 remote,76 keyboard,77 cell phone,78 microwave,79 oven,80 toaster,81 sink,82 refrigerator,84 book,"
    "85 clock,86 vase,87 scissors,88 teddy bear,89 hair drier,90 toothbrush"
)
COCO_CATEGORIES = {int(number): name for number, _, name in (c.partition(" ") for c in _COCO_CATEGORIES.split(","))}


def import_jxu124(files: Sequence[Path], image_root: Path | None, writer: ReferWriter) -> list[Problem]:
    """Add every ref of the files to `writer`; return the problems of those left out.

    Args:
        files: Parquet files, all splits of one data set.
        image_root: COCO's train2014; None = the pictures will be put into the image folder by hand.
        writer: Takes what is good.
    Raises:
        DataError: If a file is not of this form.
    """
    problems: list[Problem] = []
    ref_ids, sent_ids = Once("ref_id"), Once("sent_id")
    writer.categories.update(COCO_CATEGORIES)
    writer.is_published = True
    for path in files:
        for where, row in parquet_rows(path, _JXU124_COLUMNS):
            assert isinstance(row, Mapping)  # Parquet rows are read or the file is not
            try:
                ref, sentences = refer_record(row)
                info = _object(row.get("raw_image_info"), "raw_image_info")
                if info.get("id") != ref["image_id"]:
                    raise BadValue("raw_image_info", info.get("id"), f"image {ref['image_id']}", "download it again")
                size = add_coco_image(writer, info, image_root)
                ref_ids.take([ref["ref_id"]])
                sent_ids.take(s["sent_id"] for s in sentences)
            except BadValue as error:
                problems.append(error.at(where))
                continue
            try:
                annotation, told = _jxu124_annotation(row, ref["image_id"], size, where)
                writer.annotations[annotation["id"]] = annotation
                writer.notices += told
                category = {"category_id": annotation["category_id"]} if "category_id" in annotation else {}
                ref |= {"ann_id": annotation["id"], **category}
            except BadValue as error:  # of its truth: the item stays, unlabeled
                problems.append(error.at(where))
                ref[UNUSABLE] = str(problems[-1])
            writer.add_ref(ref, sentences)
    return problems


def is_refcocog(files: Sequence[Path]) -> bool:
    """Tell whether files of jxu124 are RefCOCOg's, split by UMD: it alone has a split called test.

    Raises:
        DataError: If a file is not of this form.
    """
    rows = (row for path in files for _, row in parquet_rows(path, ("split",)))
    return any(isinstance(row, Mapping) and row.get("split") == "test" for row in rows)


def _jxu124_annotation(
    row: Mapping[str, Any], image_id: int, size: tuple[int, int], where: str
) -> tuple[dict[str, Any], list[Notice]]:
    raw = _object(row.get("raw_anns"), "raw_anns")
    if raw.get("id") != row.get("ann_id") or raw.get("image_id") != image_id:
        got = Words(f"annotation {shown(raw.get('id'))} of image {shown(raw.get('image_id'))}")
        expected = f"annotation {row.get('ann_id')} of image {image_id}"
        raise BadValue("raw_anns", got, expected, "download it again")
    return coco_annotation(raw, *size, where)


def import_lmms(files: Sequence[Path], writer: ReferWriter) -> list[Problem]:
    """Add every ref of the files to `writer`; return the problems of those left out.

    Notices about the splits go to `writer.notices`.

    Args:
        files: Parquet files as they are named on the hub: `val-00000-of-00004.parquet`, ...
        writer: Takes what is good; pictures are written as they are in the files.
    Raises:
        DataError: If a file is not of this form, or its name does not begin with a split.
    """
    problems: list[Problem] = []
    rows_of: Counter[str] = Counter()
    image_ids: dict[str, int] = {}
    times: Counter[str] = Counter()  # of each question_id: that a row comes again must not make it another object
    partial = num_sentences = 0
    writer.is_published = True
    for path in files:
        split = _split_of_name(path)
        for where, row in parquet_rows(path, _LMMS_COLUMNS):
            assert isinstance(row, Mapping)  # Parquet rows are read or the file is not
            rows_of[split] += 1
            try:
                texts = [clean_text(text) for text in _list(row.get("answer"), "answer")]
                image_id, size = _embedded_image(writer, row, image_ids)
            except BadValue as error:
                problems.append(error.at(where))
                continue
            ref: dict[str, Any] = {"ref_id": len(writer.refs) + 1, "image_id": image_id, "split": split}
            try:
                annotation, is_partial = _lmms_annotation(row, ref["ref_id"], image_id, size)
                partial += is_partial
                writer.annotations[annotation["id"]] = annotation
                ref["ann_id"] = annotation["id"]
            except BadValue as error:  # of its truth: the item stays, unlabeled
                problems.append(error.at(where))
                ref[UNUSABLE] = str(problems[-1])
            sentences = [sentence(num_sentences + k, text) for k, text in enumerate(texts)]
            question = str(row.get("question_id"))
            times[question] += 1
            own_id = question if times[question] == 1 else f"{question} ({times[question]})"
            writer.add_ref({**ref, "source_id": own_id}, sentences)
            num_sentences += len(texts)
    about_splits = lmms_notices(rows_of, partial, len(writer.refs))
    writer.notices += [Notice("these files", text) for text in about_splits]
    return problems


def lmms_notices(rows_of: Mapping[str, int], partial: int, num_refs: int) -> list[str]:
    """Return what is to be known of splits that these files join, lack or cut.

    Args:
        rows_of: Rows of each split that was read.
        partial: Masks that end well inside their box.
        num_refs: Refs that were read.
    """
    notices = []
    for split, num_rows in rows_of.items():
        if num_rows in _JOINED:
            by, published, google = _JOINED[num_rows]
            notices.append(
                f"{split} has {num_rows} rows: as many as the {by} split's {published} and Google's {google} together, "
                f"and no column tells them apart; do not compare its figures with those of the published {split}, and "
                "look for its pictures in your train set by `l2l data leaks`"
            )
    if rows_of.get("test") == 5000:
        notices.append("test has 5000 rows: it is neither testA nor testB of the UNC split")
    if "train" not in rows_of:
        notices.append("there is no train split in these files: one can evaluate on this data set, not train on it")
    if partial:
        notices.append(
            f"{partial} of {num_refs} masks end well inside their box: these files keep one polygon per object, so "
            "objects of several parts are not whole here; take masks from COCO where that matters"
        )
    return notices


def _lmms_annotation(
    row: Mapping[str, Any], ann_id: int, image_id: int, size: tuple[int, int]
) -> tuple[dict[str, Any], bool]:
    """Return the annotation of a row, and whether its mask leaves much of the box out."""
    polygon = finite_numbers(row.get("segmentation"), "segmentation", "a flat list x0, y0, x1, y1, ...")
    rle = segmentation_rle([polygon], *size, strict=True)
    fields = {"id": ann_id, "image_id": image_id, "bbox": row.get("bbox"), "segmentation": [polygon]}
    annotation, _ = coco_annotation({**fields, "iscrowd": row.get("iscrowd")}, *size, "")
    if "bbox" not in annotation:
        return {**annotation, "bbox": box_of_mask(rle)}, False
    x, y, width, height = annotation["bbox"]
    ends = min(polygon[::2]) - x, min(polygon[1::2]) - y, x + width - max(polygon[::2]), y + height - max(polygon[1::2])
    return annotation, max(ends) > _OTHER_PART_PX


def _embedded_image(
    writer: ReferWriter, row: Mapping[str, Any], image_ids: dict[str, int]
) -> tuple[int, tuple[int, int]]:
    """Add the picture inside a row; its id is COCO's number where the name holds one."""
    name, image = row.get("file_name"), row.get("image")
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", "..") or "\\" in name or "\0" in name:
        raise BadValue("file_name", name, "a file name without folders", "download the file again")
    number = coco_number(name)
    image_id = image_ids.setdefault(name, _FIRST_OWN_ID + len(image_ids) if number is None else number)
    if image_id in writer.images:
        known = writer.images[image_id]
        return image_id, (known["width"], known["height"])
    content = image.get("bytes") if isinstance(image, Mapping) else None
    if not isinstance(content, bytes):
        raise BadValue("image", image, "the bytes of a picture", "download the file again")
    header = read_header(content, name)
    size = header.size
    if not header.as_shown:
        writer.notices.append(Notice(name, "viewers turn it as EXIF says; pixels and masks are taken as stored"))
    writer.add_image(image_id, name if number is None else f"COCO_train2014_{number:012d}.jpg", size, content)
    return image_id, size


def _split_of_name(path: Path) -> str:
    split = re.split(r"[-.]", path.name)[0].replace("validation", "val")
    if split not in SPLITS:
        raise DataError(
            f"{path.name} does not begin with a split; expected a name as on the hub, such as "
            "val-00000-of-00004.parquet; rename it"
        )
    return split


def _object(text: Any, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadValue(
            what, Words(f"{shown(text)} ({shown(error)})"), "a JSON object", "download the file again"
        ) from None
    if not isinstance(value, dict):
        raise BadValue(what, value, "a JSON object", "download the file again")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise BadValue(what, value, "a list that is not empty", "download the file again")
    return value
