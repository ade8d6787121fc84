"""Adds what an importer read to a data set that is there: corrections, masks, texts and photos.

The ids of the data set's refs, sentences and images never change, and neither does their split. But a text that is said
to have no object, or no label, while its object has other texts, becomes a ref of its own. A new item is an item of the
data set when

- it says which sentence it was (`sent_id`, from an export of this data set) and photo and expression are that
  sentence's (`cut_texts.py`); or it has the `id` of one of its objects;
- else, when its photo and one of its expressions are that of exactly one object that is no other by its id
  (`known_ids.py`); of several, that one is meant which has its annotation id in COCO, else one which has its very mask.
  Photos are the same when they are one file, or two files of the same content;
- else, when it is a folder's, and its texts were changed in the same file (`texts_beside.py`).

Everything else is new and gets new ids. A mask replaces the one that was there; the earlier annotation stays in
`instances.json`, and the ref's `provenance` says under `replaced` which it was and where it came from; when its source
comes once more, it stays replaced. What a model made (an export's own mask) never replaces a mask that a model did not
make; where a person confirmed it as it is, it is that person's from then on. A hint or a category that is said anew
takes the place of the old one. What a person rejected has no mask any more, and says so until another one comes: the
rejected mask, and those before it, do not come back. A mask that no model made stays, but for one of the review page,
which its later decisions replace. Two different masks, hints or categories for one object, or an expression that stands
for several, are problems by name, and change nothing.

A photo that was replaced by one of another size gets that size when the update brings all its masks, "no target" and
hints anew, for what was said of the earlier photo does not fit it; else that is a problem, and nothing about this photo
changes. So does it where another split file has the photo, too. Rejections end with the earlier photo, for good.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from l2l_ray.data.layout import BadValue, Notice, Problem, Words
from l2l_ray.datatools import notices
from l2l_ray.datatools.cut_texts import with_whole_texts
from l2l_ray.datatools.known_ids import KnownIds
from l2l_ray.datatools.known_photos import in_px, match_photos, size_in
from l2l_ray.datatools.record import SCORES, is_made_by_a_model
from l2l_ray.datatools.ref_records import (
    SAID,
    TRUTH,
    Ref,
    annotation_ids,
    brings_nothing,
    category_name,
    claims_truth,
    gives_way,
    is_later_review,
    is_of_an_earlier_photo,
    is_same_rejection,
    says_something_else,
    text_of,
    texts_apart,
)
from l2l_ray.datatools.refer_writer import UNUSABLE, ReferWriter
from l2l_ray.datatools.tables import Tables, box_of, hint_of, mask_of
from l2l_ray.datatools.texts_beside import (
    BESIDE,
    OF_A_FILE,
    TextsBeside,
    is_known,
    is_of_former,
    may_change,
    still_holds,
    take_texts,
)
from l2l_ray.datatools.update import Update
from l2l_ray.types import Rle

_NOT_APART = ("source_id", "sent_id", *OF_A_FILE)  # fields of a ref that texts set apart from it do not get


def merge(writer: ReferWriter) -> Update:
    """Make a writer hold the data set that is in its folder, with what it has collected added to it.

    Args:
        writer: Made with `update`; its `write` then replaces the data set.
    Raises:
        DataError: The data set cannot be read, or has malformed records.
    """
    refused: dict[int, Problem] = {}
    while True:
        merger = _Merger(writer, refused)
        groups, new = merger.match_refs()
        merger.set_apart(groups)
        for place, group in groups.items():
            merger.change(merger.refs[place], group)
        for ref in new:
            merger.add(ref)
        if not (unfit := merger.unfit_photos()):
            merger.hand_over(len(groups))
            return merger.update
        refused |= unfit  # begun anew without these


class _Merger(Tables):
    """A data set as it is and becomes by what a writer has collected."""

    def __init__(self, writer: ReferWriter, refused: Mapping[int, Problem]) -> None:
        super().__init__(writer.folder, writer.split_by)
        self.writer, self.update = writer, Update()
        self._apart: dict[int, set[str]] = {}  # texts that stand apart from the ref of an id
        self._added: dict[int, int] = {}  # id in the writer: id here; of photos that are new
        self._next_image = max(self.images, default=0) + 1
        self._notices: list[Notice] = []
        self._photos = match_photos(writer, self.images)
        for image_id, problem in refused.items():
            self._photos.refuse(image_id, problem)
        self._beside, self._ids = TextsBeside(self.refs), KnownIds(self.refs, writer.folder.name, self._is_same_place)
        self.resize(self._photos.sizes)

    def match_refs(self) -> tuple[dict[int, list[Ref]], list[Ref]]:
        """Return the writer's refs by the place of the ref that they speak of, and those that are new."""
        by_text: dict[tuple[int | None, str], list[int]] = defaultdict(list)
        for place, ref in enumerate(self.refs):
            for sentence in ref["sentences"]:
                by_text[ref["image_id"], text_of(sentence)].append(place)
        groups: dict[int, list[Ref]] = defaultdict(list)
        new, told = list[Ref](), set[Problem]()
        for ref in with_whole_texts(self.writer.refs, self.refs, self._photos.image_of, self._ids.counts_here):
            if bad := self._photos.bad.get(ref["image_id"]):
                self.update.problems += [] if bad in told else [bad]
                told.add(bad)
                continue
            image_id = self._photos.image_of.get(ref["image_id"])
            texts = [text_of(sentence) for sentence in ref["sentences"]]
            alike = sorted({place for text in texts for place in by_text.get((image_id, text), ())})
            alike = self._ids.without_others(ref, alike)
            former = self._beside.former(ref, image_id)
            places = self._ids.places(ref, texts, alike, former)
            if former is not None and former not in places:
                if not still_holds(self.refs[former], ref, claims_truth(ref, self.writer.annotations)):
                    if not is_known(self.refs[former], ref):
                        self._notice(ref, notices.EARLIER_TEXT)
                    continue
                places, alike = [former], []
            if len(places) > 1:
                places = self._meant(ref, places)
            if not places and (known := self._beside.meant(ref, image_id)) is not None:
                places = [known] if self._may_change(self.refs[known], ref) else []
                if not places:
                    del self.refs[known][BESIDE]  # the file speaks of a new object from now on
            if len(places) > 1 and brings_nothing(ref, self.writer.annotations):
                continue
            if len(places) > 1:
                found = Words(f"refs {[self.refs[place]['ref_id'] for place in places]}")
                self._problem(ref, "expression of several objects", found, "one object", self._ids.remedy(ref, places))
            elif places and self.refs[places[0]]["image_id"] != image_id:
                expected = f"the photo of ref {self.refs[places[0]]['ref_id']}, which has this id"
                self._problem(ref, "photo of a known id", self._photo(ref), expected, "give it another id")
            elif places and is_of_an_earlier_photo(self.refs[places[0]], ref, self._size_of(places[0])):
                self._notice(ref, notices.EARLIER_PHOTO)
            elif places:
                for place in (places[0], *self._rejected_parts(places[0], alike, ref)):
                    groups[place].append(ref)
            else:
                new.append(ref)
        return groups, new

    def _may_change(self, ref: Ref, other: Ref) -> bool:
        return may_change(ref, other, self.has_truth(ref), claims_truth(other, self.writer.annotations))

    def _size_of(self, place: int) -> tuple[int, int] | None:
        return size_in(self.images[self.refs[place]["image_id"]])

    def _rejected_parts(self, place: int, alike: list[int], ref: Ref) -> list[int]:
        """Return which refs of a row's texts were set apart by a rejection, which the row's mask may end."""
        parts = [p for p in alike if self.refs[p].get("apart_from") == self.refs[place]["ref_id"]]
        return [p for p in parts if "rejected" in self.refs[p] and claims_truth(ref, self.writer.annotations)]

    def _meant(self, ref: Ref, places: list[int]) -> list[int]:
        """Return, of places with a row's text, that with the row's annotation id in COCO, else one with its mask."""
        named = [p for p in places if ref.get("coco_id", "") == self.refs[p].get("coco_id")]
        if named or not claims_truth(ref, self.writer.annotations):
            return named or places
        mask = self._new_mask(ref)
        has_mask = [p for p in places if self.has_truth(self.refs[p])]
        return [p for p in has_mask if self.mask(self.refs[p]) == mask][:1] or places

    def _is_same_place(self, ref: Ref, other: Ref) -> bool:
        """Tell whether a ref has, or had, the mask of a row, or the hint or box where one of them has no mask."""
        if claims_truth(other, self.writer.annotations):
            masks = [*self.replaced_masks(ref), *([self.mask(ref)] if self.has_truth(ref) else [])]
            if self.has_truth(ref) or self._new_mask(other) in masks:
                return self._new_mask(other) in masks
        elif "hint" in ref and "hint" in other:
            return bool(hint_of(ref, self.images) == hint_of(other, self.writer.images))
        boxes = [box_of(ref, self.annotations), box_of(other, self.writer.annotations)]
        return boxes[0] is not None and boxes[0] == boxes[1]

    def set_apart(self, groups: dict[int, list[Ref]]) -> None:
        """Give texts that are said to have no object, or no label, a ref of their own; the others stay as they are."""
        for place in list(groups):
            for other in groups[place]:
                ref, texts = self.refs[place], {text_of(sentence) for sentence in other["sentences"]}
                named = [sentence for sentence in ref["sentences"] if text_of(sentence) in texts]
                left = [sentence for sentence in ref["sentences"] if sentence not in named]
                is_whole = self._ids.own(other) is not None
                about = [one for one in groups[place] if texts & {text_of(s) for s in one["sentences"]}]
                is_agreed = not is_whole and not self._differ(about) and gives_way(ref, other, self.has_truth(ref))
                if named and left and is_agreed and says_something_else(ref, other):
                    apart = {name: value for name, value in ref.items() if name not in _NOT_APART}
                    self.next_ref, apart["ref_id"] = self.next_ref + 1, self.next_ref
                    apart.setdefault("apart_from", ref["ref_id"])
                    self.refs.append(apart)
                    for part, sentences in ((ref, left), (apart, named)):
                        part |= {"sentences": sentences, "sent_ids": [s["sent_id"] for s in sentences]}
                    groups[len(self.refs) - 1] = about
                    groups[place] = [one for one in groups[place] if one not in about]
                    said, made = (one.get("rejected") or one.get("provenance") or {} for one in (other, ref))
                    if is_later_review(said, made) and made.get("sent_id") == said.get("sent_id"):
                        for name in TRUTH:  # it was this text's decision, and is taken back
                            ref.pop(name, None)
        self._apart = texts_apart(self.refs)

    def _differ(self, rows: list[Ref]) -> bool:
        """Tell whether rows give one object two different masks, or a mask and none."""
        masks = [self._new_mask(row) for row in rows if claims_truth(row, self.writer.annotations)]
        return any(mask != masks[0] for mask in masks)

    def change(self, ref: Ref, group: list[Ref]) -> None:
        """Add to a ref what is new about it."""
        before = self.update.num_changes
        for other in group:
            self.update.num_noted += self._beside.note_file(ref, other)
            if self._may_change(ref, other) and (texts := take_texts(ref, other)):
                self._notice(other, f"in place of {', '.join(map(repr, texts))}, as the folder says now")
                self.update.num_texts_gone += len(texts)
        known = {text_of(sentence) for sentence in ref["sentences"]} | self._apart.get(ref["ref_id"], set())
        for other in group:
            for sentence in other["sentences"]:
                if text_of(sentence) not in known and not is_of_former(ref, other):
                    known.add(text_of(sentence))
                    self.add_sentence(ref, sentence)
                    self.update.num_new_texts += 1
            if (split := other["split"]) != ref["split"]:
                said = "train, or no split" if split == "train" else split
                self._notice(other, f"the data set has it in split {ref['split']}, which stays; this says {said}")
        category = self.category_of(ref)
        if self.has_truth(ref):
            self.update.outlived |= {other[UNUSABLE] for other in group if UNUSABLE in other}
        masks = [other for other in group if claims_truth(other, self.writer.annotations)]
        self._correct(ref, masks)
        self._reject(ref, [other for other in group if "rejected" in other])
        self.note_unusable(ref, [] if masks else group)
        self._categorize(ref, group, category)
        self._point_out(ref, [other for other in group if "hint" in other])
        self.update.num_unchanged += before == self.update.num_changes

    def _correct(self, ref: Ref, group: list[Ref]) -> None:
        """Give a ref the one mask that its group has."""
        had_truth = self.has_truth(ref)
        current = self.mask(ref) if had_truth else None
        replaced = [mask for mask in self.replaced_masks(ref) if mask != current]
        said = ref.get("rejected") or ref.get("provenance")
        older = [other for other in group if not is_later_review(other.get("provenance"), said)]
        old = [other for other in older if self._new_mask(other) in replaced]
        for other in old:
            text = notices.STAYS_REJECTED if "rejected" in ref else notices.STAYS_REPLACED
            self._notice({**other, "sentences": ref["sentences"]}, text)
        group = [other for other in group if other not in old]
        group = [other for other in group if not is_made_by_a_model(other.get("provenance"))] or group
        if not group:
            return
        new = [self._new_mask(other) for other in group]
        is_weaker, stands = (is_made_by_a_model(one.get("provenance")) for one in (group[0], ref))
        if self._differ(group):
            texts = Words(f"{len({str(mask) for mask in new})} different masks")
            self._problem(group[0], "two corrections", texts, "one", "keep one; the data set's own stays until then")
        elif had_truth and current == new[0]:
            self._confirm(ref, group[0].get("provenance"))
        elif had_truth and is_weaker and not stands:
            self._notice(group[0], "it has a mask that no model made, which stays; this one is a model's")
        else:
            provenance = dict(group[0].get("provenance", {}))
            if "rejected" in ref and not had_truth:
                self._notice({**group[0], "sentences": ref["sentences"]}, self._after_rejection(ref, new[0]))
            if is_of_former(ref, group[0]):
                self._notice(group[0], notices.MASK_COUNTS)
            if replaced_here := {name: ref.pop(name) for name in SAID if name in ref}:
                provenance["replaced"] = replaced_here
            ref |= self.take_truth(self.writer, group[0], ref["image_id"]) | (
                {"provenance": provenance} if provenance else {}
            )
            ref |= {name: group[0][name] for name in SCORES if name in group[0]}
            self.update.count_mask(had_truth, provenance)

    def _after_rejection(self, ref: Ref, mask: Rle | str) -> str:
        """Say what a mask is that comes to a ref whose label was rejected."""
        known = self.replaced_masks(ref)
        if mask in known:
            return notices.ACCEPTED_SINCE  # else it would stay rejected
        return notices.NOT_REJECTED if known else notices.MAYBE_REJECTED

    def _confirm(self, ref: Ref, provenance: Any) -> None:
        """Note who says that the mask of a ref is right, where only a model said so."""
        made = ref.get("provenance")
        if provenance and is_made_by_a_model(made) and not is_made_by_a_model(provenance):
            ref["provenance"] = {**provenance, "replaced": {"provenance": made}}
            self.update.num_confirmed += 1

    def _reject(self, ref: Ref, group: list[Ref]) -> None:
        """Note that a person rejected the label of a ref; a mask that is stronger than that stays, and ends that."""
        if self.has_truth(ref) and not (group and gives_way(ref, group[0], True)):
            ref.pop("rejected", None)
            whose = "another mask by now" if is_made_by_a_model(ref.get("provenance")) else "a mask of a person's"
            for other in group:
                self._notice(other, f"it was rejected, but has {whose}, which stays")
        elif group and not is_same_rejection(ref.get("rejected", {}), group[0]["rejected"]):
            replaced = {name: ref.pop(name) for name in SAID if name in ref}
            ref["rejected"] = {**group[0]["rejected"], "replaced": replaced}
            self.update.num_rejected += 1

    def _categorize(self, ref: Ref, group: list[Ref], before: str) -> None:
        """Give a ref, and the annotation that it has, the category that its group names; else it keeps its own."""
        names = sorted({name for other in group if (name := category_name(other, self.writer.categories))})
        if len(names) > 1:
            self._problem(group[0], "two categories", Words(", ".join(names)), "one", "keep one of them")
        name = names[0] if len(names) == 1 else before
        if not name:
            return
        number = self.category(name)
        for ann_id in annotation_ids(ref):
            if name != before or "category_id" not in self.annotations[ann_id]:
                self.annotations[ann_id] = {**self.annotations[ann_id], "category_id": number}
        if name != before:
            ref["category_id"] = number
            self.update.num_new_categories += 1

    def _point_out(self, ref: Ref, group: list[Ref]) -> None:
        """Give a ref the one hint that its group has."""
        hints = [hint_of(other, self.writer.images) for other in group]
        if ref.get("ann_ids") == []:
            ref.pop("hint", None)
            for other in group:
                self._notice(other, "the photo does not show it, by its truth: the hint is not used")
        elif any(hint != hints[0] for hint in hints):
            texts = Words(f"{len({str(hint) for hint in hints})} different ones")
            self._problem(group[0], "two hints", texts, "one", "keep one of them")
        elif hints and hints[0] != hint_of(ref, self.images):
            ref["hint"] = group[0]["hint"]
            self.update.num_new_hints += 1

    def add(self, other: Ref) -> None:
        """Add a ref that is new."""
        image_id = self._photos.image_of.get(other["image_id"])
        if image_id is None:
            image_id = self._added.setdefault(other["image_id"], self._next_image + len(self._added))
            row = self.writer.images[other["image_id"]]
            self.images[image_id] = {**row, "id": image_id}
        dropped = ("ann_id", "ann_ids", "category_id", "sentences", "sent_ids")
        ref = {name: value for name, value in other.items() if name not in dropped}
        ref |= {"ref_id": self.next_ref, "image_id": image_id, "sent_ids": [], "sentences": []}
        splits = self.splits_of[image_id]
        if splits and ref["split"] not in splits:
            ref["split"] = min(splits)
            self._notice(other, f"its photo is in split {ref['split']}, and so is it; this says {other['split']}")
        if "file_name" in ref:
            ref["file_name"] = self.images[image_id]["file_name"]
        self.next_ref += 1
        for sentence in other["sentences"]:
            self.add_sentence(ref, sentence)
        ref |= self.take_truth(self.writer, other, image_id)
        splits.add(ref["split"])
        self.refs.append(ref)
        self.update.num_new_objects += 1
        self.update.num_new_masks += claims_truth(other, self.writer.annotations)
        self.update.num_rejected += "rejected" in other

    def hand_over(self, num_touched: int) -> None:
        """Let the writer hold the result."""
        self.update.num_unchanged += len(self.refs) - self.update.num_new_objects - num_touched
        self.update.num_new_photos = len(self._added)
        self.update.num_photos_back, self.update.num_resized = len(self._photos.back), len(self._photos.sizes)
        for new_id in (*self._photos.there, *self._photos.bad):
            self.writer.sources.pop(self.writer.images[new_id]["file_name"], None)  # nothing to be placed
        for image_id, size in self._photos.sizes.items():
            text = f"it is {in_px(size)} now, {in_px(self.old_sizes[image_id])} before; its masks are the new ones"
            self._notices.append(Notice(f"image {self.images[image_id]['file_name']}", text))
        for ref in self.lifted:
            where = f"{self.images[ref['image_id']]['file_name']}, {ref['sentences'][0]['sent']!r}"
            self._notices.append(Notice(where, notices.LIFTED))
        self.writer.notices += self._notices
        self.writer.solved = self.solved
        self.writer.refs, self.writer.images = self.refs, self.images
        self.writer.annotations, self.writer.categories = self.annotations, self.categories

    def _new_mask(self, ref: Ref) -> Rle | str:
        return mask_of(ref, self.writer.images, self.writer.annotations)

    def _photo(self, ref: Ref) -> str:
        return str(self.writer.images[ref["image_id"]]["file_name"])

    def _where(self, ref: Ref) -> str:
        return f"{self._photo(ref)}, {ref['sentences'][0]['sent']!r}"

    def _notice(self, ref: Ref, text: str) -> None:
        self._notices.append(Notice(self._where(ref), text))

    def _problem(self, ref: Ref, what: str, got: str, expected: str, remedy: str) -> None:
        self.update.problems.append(BadValue(what, got, expected, remedy).at(self._where(ref)))
