"""Own data into the REFER layout, row by row.

A row has `image` and `expression`, and may have the other columns of `columns.py`; at most one of `mask`, `rle` and
`polygon`. Rows of one `id` speak of one object: their expressions are collected, and one of them may hold the truth. A
row without `id` is an object of its own, unless an earlier one says the same. Who made a truth, and its scores, are
taken from the row that brings it. Without truth an item stays unlabeled,
also where the truth is unusable: that is a problem, which leaves the item there; so does an unusable hint. A box alone
is a hint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from l2l_ray.data.hints import PixelHint
from l2l_ray.data.layout import BadValue, Notice, Problem, Words, file_below
from l2l_ray.data.object_masks import cut_at_border
from l2l_ray.data.pixels import Header, read_header
from l2l_ray.datatools.columns import COLUMNS, Names, read_columns
from l2l_ray.datatools.photo_splits import PhotoSplits
from l2l_ray.datatools.record import OF_TRUTH, of_unusable_mask
from l2l_ray.datatools.ref_records import category_name, text_of
from l2l_ray.datatools.refer_writer import UNUSABLE, ReferWriter, sentence
from l2l_ray.datatools.row_files import Row
from l2l_ray.datatools.truths import ObjectTruth, read_row_hint, read_truth


def import_rows(
    rows: Iterator[Row], image_root: Path, mask_root: Path, writer: ReferWriter, from_viewer: bool = False
) -> list[Problem]:
    """Add every good row to `writer` and return the problems; notices go to `writer.notices`.

    Args:
        rows: From `read_rows` or `folder_rows`.
        image_root: Folder that `image` is relative to; nothing outside it is opened.
        mask_root: Folder that `mask` is relative to; nothing outside it is opened.
        writer: Takes what is good.
        from_viewer: The rows come from a tool that shows pictures turned as EXIF says.
    """
    collector = _Collector(image_root, mask_root, writer, from_viewer)
    names = Names()
    problems: list[Problem] = []
    for where, row in rows:
        if isinstance(row, Problem):
            problems.append(row)
            continue
        if isinstance(row, Notice):
            writer.notices.append(row)
            continue
        try:
            problems += collector.add(names.known(row, where), where)
        except BadValue as error:
            problems.append(error.at(where))
    writer.notices += names.notices()
    return problems + names.problems()


class _Collector:
    """Turns rows into images, annotations and refs with ids that count from 1."""

    def __init__(self, image_root: Path, mask_root: Path, writer: ReferWriter, from_viewer: bool) -> None:
        self._image_root, self._mask_root, self._writer = image_root, mask_root, writer
        self._from_viewer = from_viewer
        self._image_ids: dict[str, int] = {}
        self._category_ids: dict[str, int] = {}
        self._ref_of_id: dict[str, int] = {}  # place in writer.refs
        self._num_sentences = 0
        self._asked: set[tuple[str, str]] = set()  # photo and expression of the items
        self._rows: set[bytes] = set()  # digests of the rows without an id
        self._splits = PhotoSplits()

    def add(self, row: Mapping[str, Any], where: str) -> list[Problem]:
        """Check one row wholly, then add it; return what is wrong with its truth or hint, which is then left out.

        Raises:
            BadValue: If anything else of it is unusable; nothing is added then.
        """
        values = read_columns(row)
        if "expression" not in values:
            raise BadValue("expression", None, "a text that is not empty", "say what the object is")
        split, category, key = values.get("split", "train"), values.get("category", ""), values.get("id")
        digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).digest()
        if key is None and digest in self._rows:
            self._writer.notices.append(Notice(where, "it says the same as an earlier row, and is not used"))
            return []
        path = file_below(self._image_root, values.get("image"), "image")
        name = path.relative_to(self._image_root).as_posix()
        self._splits.require_apart(name, path, split)
        header = read_header(path)
        problems: list[Problem] = []
        notices: list[Notice] = []
        no_target, truth, hint = False, None, None
        about_truth = {column: values.pop(column) for column in OF_TRUTH if column in values}
        try:
            hint = read_row_hint(values, header)
            notices += [] if hint is None else cut_at_border(hint.corners(), header.shown, where, "hint box")
        except BadValue as error:
            problems.append(error.at(where))
        try:
            truth = read_truth(values, where, header, self._mask_root, notices, self._from_viewer)
            no_target = values.get("no_target", False)
            if no_target and (truth or hint):
                truth, hint, no_target = None, None, False
                raise BadValue(
                    "no_target", Words("true beside a mask, box or point"), "one of them", "remove the other"
                )
        except BadValue as error:
            said = of_unusable_mask(error, where, about_truth.get("provenance"))
            if isinstance(said, Notice):
                notices.append(said)
            else:
                problems.append(said)
                about_truth = {UNUSABLE: str(said)}
        ref = None if key is None or key not in self._ref_of_id else self._writer.refs[self._ref_of_id[key]]
        had_truth = ref is not None and bool(ref.keys() & {"ann_id", "ann_ids"})
        if ref is None:
            self._new_ref(key, name, header, path, split, category, truth)
        else:
            self._fits(ref, name, split, category, truth, hint, no_target)
            if truth is not None:
                self._annotate(ref, truth)
        ref = self._writer.refs[-1 if key is None else self._ref_of_id[key]]
        if no_target:
            ref["ann_ids"] = []
        if hint is not None:
            ref["hint"] = hint.record()
        if not had_truth:  # else it is that row's truth which the ref has
            if truth is not None or no_target:
                for column in (*OF_TRUTH, UNUSABLE):
                    ref.pop(column, None)  # an earlier row's, without a truth
            ref |= {column: value for column, value in about_truth.items() if column not in ref}
        for kept in (column for column in values if COLUMNS[column].stays):
            ref.setdefault(kept, values[kept])
        if (first := self._splits.take(name, path, split)) != split:
            notices.append(Notice(f"{where} ({name}: {first} and {split})", "its photo is in another split, too"))
        here = {text_of(known) for known in ref["sentences"]}
        for text in values["expression"]:
            if (words := " ".join(text.split())) in here:
                continue
            if (name, words) in self._asked:
                notices.append(Notice(where, "an earlier row has the same photo and expression"))
            here.add(words)
            self._asked.add((name, words))
            self._num_sentences += 1
            ref["sent_ids"].append(self._num_sentences)
            ref["sentences"].append(sentence(self._num_sentences, text))
        self._writer.notices += notices
        self._rows |= {digest} if key is None else set()
        return problems

    def _new_ref(
        self,
        key: str | None,
        name: str,
        header: Header,
        path: Path,
        split: str,
        category: str,
        truth: ObjectTruth | None,
    ) -> None:
        image_id = self._image_ids.setdefault(name, len(self._image_ids) + 1)
        self._writer.add_picture(image_id, name, path, header)
        ref: dict[str, Any] = {
            "ref_id": len(self._writer.refs) + 1,
            "image_id": image_id,
            "file_name": name,
            "split": split,
        }
        if category:
            ref["category_id"] = self._category_ids.setdefault(category, len(self._category_ids) + 1)
            self._writer.categories[ref["category_id"]] = category
        if key is not None:
            ref["source_id"] = key
            self._ref_of_id[key] = len(self._writer.refs)
        self._writer.add_ref(ref, [])
        if truth is not None:
            self._annotate(self._writer.refs[-1], truth)

    def _fits(
        self,
        ref: Mapping[str, Any],
        name: str,
        split: str,
        category: str,
        truth: ObjectTruth | None,
        hint: PixelHint | None,
        no_target: bool,
    ) -> None:
        """Refuse a row whose id is taken by something else."""
        known = category_name(ref, self._writer.categories)
        for what, got, first in (
            ("image", name, ref["file_name"]),
            ("split", split, ref["split"]),
            ("category", category or known, known),
        ):
            if got != first:
                remedy = "rows of one id speak of one object; give it another id"
                raise BadValue(f"{what} of a repeated id", got, f"{first!r} as in the first row of this id", remedy)
        if hint is not None and ref.get("hint", hint.record()) != hint.record():
            remedy = "one object has one hint; keep one of them, or give this row another id"
            raise BadValue("hint of a repeated id", hint.record(), f"{ref['hint']} as in an earlier row", remedy)
        if ((truth or hint) and "ann_ids" in ref) or (no_target and ref.keys() & {"ann_id", "hint"}):
            remedy = "give the row with no_target another id, or remove one of them"
            raise BadValue("no_target of a repeated id", Words("a place and no_target"), "one of them", remedy)
        if truth is not None and "ann_id" in ref:
            annotation = self._writer.annotations[ref["ann_id"]]
            if (truth.segmentation, truth.bbox_xywh_px) != (annotation["segmentation"], annotation["bbox"]):
                remedy = "one object has one truth; keep one of them, or give this row another id"
                raise BadValue(
                    "truth of a repeated id", Words("another one"), "the truth of the first row of this id", remedy
                )

    def _annotate(self, ref: dict[str, Any], truth: ObjectTruth) -> None:
        if "ann_id" in ref:
            return
        ref["ann_id"] = len(self._writer.annotations) + 1
        self._writer.annotations[ref["ann_id"]] = {
            "id": ref["ann_id"],
            "image_id": ref["image_id"],
            **({"category_id": ref["category_id"]} if "category_id" in ref else {}),
            "bbox": truth.bbox_xywh_px,
            "area": truth.area_px,
            "iscrowd": 0,
            "segmentation": truth.segmentation,
        }
