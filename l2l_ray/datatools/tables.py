"""The tables of a data set that an update changes: refs, images, annotations, categories, and which ids come next."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l2l_ray.data.hints import PixelHint, read_hint
from l2l_ray.data.layout import BadValue, Problem, Words, without_placeholder
from l2l_ray.data.masks import annotation_rle, union_rle
from l2l_ray.data.object_masks import mask_stays
from l2l_ray.datatools.inventory import take_inventory
from l2l_ray.datatools.known_photos import in_px, size_in
from l2l_ray.datatools.ref_records import (
    Ref,
    accounts,
    annotation_ids,
    category_name,
    claims_truth,
    names_annotations,
    rows_by_id,
    text_of,
)
from l2l_ray.datatools.refer_writer import UNUSABLE, ReferWriter
from l2l_ray.datatools.row_files import read_json
from l2l_ray.datatools.texts_beside import FORMER
from l2l_ray.errors import DataError
from l2l_ray.types import Rle


class Tables:
    """A data set's tables, to be changed in memory; nothing is written.

    Args:
        folder: `<root>/<dataset>`.
        split_by: Which `refs(<split_by>).p`.
    Raises:
        DataError: They cannot be read, or have malformed records.
    """

    def __init__(self, folder: Path, split_by: str) -> None:
        inventory = take_inventory(folder, split_by)
        inventory.require_sound("an update")
        path = folder / "instances.json"
        content = read_json(path)
        self.refs: list[Ref] = [dict(item.record) for item in inventory.items]
        self.images = rows_by_id(content, "images", path)
        self.annotations = {i: without_placeholder(row) for i, row in rows_by_id(content, "annotations", path).items()}
        self.categories = {i: str(row.get("name", "")) for i, row in rows_by_id(content, "categories", path).items()}
        self.solved: set[str] = set()  # problems with a truth that are none any more
        self.splits_of: dict[int, set[str]] = defaultdict(set)  # by id of the photo
        for ref in self.refs:
            self.splits_of[ref["image_id"]].add(ref["split"])
        self._category_ids = {name: number for number, name in reversed(self.categories.items())}  # the first of a name
        self.next_ref = max((ref["ref_id"] for ref in self.refs), default=0) + 1
        self.old_sizes: dict[int, tuple[int, int] | None] = {}  # of photos that were given another size, px
        self.lifted: list[Ref] = []  # refs whose rejection was of such a photo as it was before
        self._old_hints: set[int] = set()  # ids of the refs that had a hint about such a photo
        sentences = (s for ref in self.refs for s in (*ref["sentences"], *ref.get(FORMER, ())))
        self._next_sentence = max((s["sent_id"] for s in sentences), default=0) + 1
        self._next_category = max(self.categories, default=0) + 1
        self._next_annotation = max(self.annotations, default=0) + 1

    def has_truth(self, ref: Ref) -> bool:
        """Tell whether a ref has a mask or says that it has no target."""
        return claims_truth(ref, self.annotations)

    def mask(self, ref: Ref) -> Rle | str:
        """Return the mask of a ref that has a truth; see `mask_of`."""
        if "of_size" in ref:
            return f"no target in an earlier photo of {ref['of_size']} px"
        return mask_of(ref, self.images, self.annotations)

    def replaced_masks(self, ref: Ref) -> list[Any]:
        """Return the readable masks that a ref had before the one that it has, and those of labels that were wrong."""
        masks: list[Any] = []
        for made in accounts(ref):
            older = made.get("replaced")
            if isinstance(older, dict) and names_annotations(older, self.annotations) and self.has_truth(older):
                masks.append(self.mask({**older, "image_id": ref["image_id"]}))
            masks.append(made.get("wrong_rle"))
        return [mask for mask in masks if isinstance(mask, dict)]

    def add_sentence(self, ref: Ref, sentence: Mapping[str, Any]) -> None:
        """Give a ref one more sentence, under an id of its own."""
        ref["sentences"] = [*ref["sentences"], {**sentence, "sent_id": self._next_sentence}]
        ref["sent_ids"] = [s["sent_id"] for s in ref["sentences"]]
        self._next_sentence += 1

    def take_truth(self, writer: ReferWriter, other: Ref, image_id: int) -> Ref:
        """Return what a ref of a writer says about its object, in ids of these tables; adds its annotations."""
        category = category_name(other, writer.categories)
        found: Ref = {"category_id": self.category(category)} if category else {}
        ids = []
        for ann_id in annotation_ids(other):
            row = {**writer.annotations[ann_id], "id": self._next_annotation, "image_id": image_id}
            named = category_name(row, writer.categories)
            row.pop("category_id", None)  # a number without a name would get that of the data set's own number
            self.annotations[row["id"]] = row | ({"category_id": self.category(named)} if named else {})
            ids.append(row["id"])
            self._next_annotation += 1
        if "ann_ids" in other:
            return {**found, "ann_ids": ids}
        return {**found, "ann_id": ids[0]} if ids else found

    def category(self, name: str) -> int:
        """Return the number of a category, which is added where it is new."""
        if name not in self._category_ids:
            self._category_ids[name] = self._next_category
            self.categories[self._next_category] = name
            self._next_category += 1
        return self._category_ids[name]

    def category_of(self, ref: Ref) -> str:
        """Return what a ref is called, by its first annotation if that says it; "" if nothing does."""
        rows = [self.annotations.get(ann_id, {}) for ann_id in annotation_ids(ref)[:1]] + [ref]
        return category_name(next((row for row in rows if "category_id" in row), {}), self.categories)

    def note_unusable(self, ref: Ref, group: Sequence[Ref]) -> None:
        """Keep with a ref what the newest word on it says is wrong with its truth, and forget older ones."""
        before = ref.pop(UNUSABLE, None)
        if found := [other[UNUSABLE] for other in group if UNUSABLE in other]:
            ref[UNUSABLE] = mask_stays(found[-1]) if self.has_truth(ref) else found[-1]
        self.solved |= {before} - {None, ref.get(UNUSABLE)}

    def resize(self, sizes: Mapping[int, tuple[int, int]]) -> None:
        """Give photos that were replaced by others their new size.

        What was drawn on the earlier ones becomes RLEs of the earlier size, which do not fit the new ones; "no target"
        gets the earlier size beside it; hints, which cannot say what size they are of, are taken away. `unfit_photos`
        then tells where something new is lacking. Rejections are `lifted`: nobody has seen the new photo's labels.

        Args:
            sizes: Width and height by image id, px.
        """
        for image_id, (width, height) in sizes.items():
            self.old_sizes[image_id] = size_in(self.images[image_id])
            self.images[image_id] = {**self.images[image_id], "width": width, "height": height}
        for ann_id, row in self.annotations.items():
            if (size := self.old_sizes.get(row.get("image_id", -1))) and row.get("segmentation"):
                mask = _mask_or_words([row], size)
                self.annotations[ann_id] = row if isinstance(mask, str) else {**row, "segmentation": mask}
        for ref in self.refs:
            if ref["image_id"] not in sizes:
                continue
            if ref.pop("hint", None) is not None:
                self._old_hints.add(ref["ref_id"])
            for said in (ref, *(made.get("replaced") for made in accounts(ref))):
                if isinstance(said, dict) and said.get("ann_ids") == []:
                    said.setdefault("of_size", self.old_sizes[ref["image_id"]])
            if "rejected" in ref:
                ref["lifted"] = ref.pop("rejected")
                self.lifted.append(ref)

    def unfit_photos(self) -> dict[int, Problem]:
        """Return, by id, the photos of another size of which a truth or hint of before was not given anew."""
        lacking: dict[int, list[str]] = defaultdict(list)
        for ref in self.refs:
            if ref["image_id"] in self.old_sizes:
                is_old = self.has_truth(ref) and isinstance(self.mask(ref), str)
                has_lost = ref["ref_id"] in self._old_hints and "hint" not in ref and ref.get("ann_ids") != []
                truth = "no_target" if ref.get("ann_ids") == [] else "mask"
                for what in [truth] * is_old + ["hint"] * has_lost:
                    lacking[ref["image_id"]].append(f"{what} of {text_of(ref['sentences'][0])!r}")
        return {image_id: self._unfit(image_id, texts) for image_id, texts in lacking.items()}

    def _unfit(self, image_id: int, lacking: list[str]) -> Problem:
        row = self.images[image_id]
        got = f"{in_px(size_in(row))}, without a new {', a new '.join(lacking)}"
        expected = f"{in_px(self.old_sizes[image_id])} as before, or every mask and hint of it anew"
        remedy = "bring the earlier photo back, or give them all in one update; nothing about this photo was changed"
        return BadValue("photo of another size", Words(got), expected, remedy).at(f"image {row['file_name']}")


def hint_of(ref: Ref, images: Mapping[int, Mapping[str, Any]]) -> Any:
    """Return a hint as an export of it says it, cut at the borders and to a millionth; a bad one as it is."""
    row = images[ref["image_id"]]
    size = row["width"], row["height"]
    try:
        return PixelHint.of(read_hint(ref.get("hint"), *size).fractions(*size), *size)
    except (BadValue, TypeError):  # TypeError: the table has no size
        return ref.get("hint")


def box_of(ref: Ref, annotations: Mapping[int, Any]) -> list[float] | None:
    """Return the box of a ref's hint, else that of its annotation, to a tenth of a px; None where there is neither."""
    hint = ref.get("hint") or {}
    box = hint.get("box") or next((annotations[ann_id].get("bbox") for ann_id in annotation_ids(ref)), None)
    return [round(side, 1) for side in box] if box else None


def mask_of(ref: Ref, images: Mapping[int, Mapping[str, Any]], annotations: Mapping[int, Any]) -> Rle | str:
    """Return the mask of a ref that claims a truth; what cannot be read is its own words, equal to nothing else."""
    return _mask_or_words([annotations[ann_id] for ann_id in annotation_ids(ref)], size_in(images[ref["image_id"]]))


def _mask_or_words(rows: list[Any], size: tuple[int, int] | None) -> Rle | str:
    if size is None:
        return f"{[row['id'] for row in rows]}: the table has no size of its photo"
    width, height = size
    try:
        return union_rle([annotation_rle(row["segmentation"], height, width) for row in rows], height, width)
    except DataError as error:
        return f"{[row['id'] for row in rows]}: {error}"
