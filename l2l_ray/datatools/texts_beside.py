"""The texts of a folder's photos in a data set: a text file is the whole of what its photo's object is called.

So where such a file was changed, an update changes the texts of the object, whose ids, mask and scores stay. This holds
for objects whose texts came from this very file, not for those of tables, which name an object by several rows, nor for
those of another folder. A text that is no longer in the file leaves the data set, but for three cases, in which the
changed text is a new object and the old one stays: the old text was rejected; it was said that the photo does not show
it; or it has the folder's mask, and the changed one has none. A later decision about a text that was left out, from a
run that had it: a person's mask is one of the object, which is the same; nothing else counts.

A ref without the name of its file, of an earlier version or from a table without ids, gets it when a folder has its
very texts; so does one whose file is gone, as the folder was moved.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from l2l_ray.datatools.record import is_made_by_a_model
from l2l_ray.datatools.ref_records import Ref, accounts, is_later_review, is_same_rejection, text_of

BESIDE = "texts_beside"  # field of a ref: the `file` beside its photo, and the `texts` that this had
FORMER = "former_sentences"  # field of a ref: its sentences that are no longer in that file
OF_A_FILE = (BESIDE, FORMER)
_OF_A_TABLE = ("source_id", "coco_id", "sent_id")  # fields of a ref that no folder gives


def note_texts_beside(refs: Sequence[Ref], folder: Path) -> None:
    """Keep with the refs of a folder which texts their files have."""
    for ref in refs:
        file = (folder.resolve() / ref["file_name"]).with_suffix(".txt")
        ref[BESIDE] = {"file": str(file), "texts": [text_of(sentence) for sentence in ref["sentences"]]}


def may_change(ref: Ref, other: Ref, has_truth: bool, claims_truth: bool) -> bool:
    """Tell whether what a ref has as truth, if anything, holds for the texts of a folder's row, too.

    Args:
        ref: Of the data set.
        other: The row.
        has_truth: The ref has a mask, or says that it has no target.
        claims_truth: The row has.
    """
    file = _file(ref)
    if file is None or file != _file(other) or "rejected" in ref or ref.get("ann_ids") == []:
        return False
    made = ref.get("provenance")
    is_of_the_folder = has_truth and not (isinstance(made, Mapping) and made.get("source"))
    return claims_truth or not is_of_the_folder


def take_texts(ref: Ref, other: Ref) -> list[str]:
    """Take from a ref the texts that its file no longer has, and return them; what is new is not added."""
    gone = {*ref[BESIDE]["texts"]} - {*other[BESIDE]["texts"]}
    former = [sentence for sentence in ref["sentences"] if text_of(sentence) in gone]
    ref["sentences"] = [sentence for sentence in ref["sentences"] if sentence not in former]
    ref["sent_ids"] = [sentence["sent_id"] for sentence in ref["sentences"]]
    ref[BESIDE] = other[BESIDE]
    if former:
        ref[FORMER] = [*ref.get(FORMER, ()), *former]
    return [text_of(sentence) for sentence in former]


def is_of_former(ref: Ref, other: Ref) -> bool:
    """Tell whether a row speaks of sentences that a ref had, by their ids, and that are no longer in their file."""
    former = {(sentence["sent_id"], text_of(sentence)) for sentence in ref.get(FORMER, ())}
    return all((other.get("sent_id"), text_of(sentence)) in former for sentence in other["sentences"])


def still_holds(ref: Ref, other: Ref, claims_truth: bool) -> bool:
    """Tell whether what a row says of former sentences of a ref is said of its object by now, too.

    A mask that a person made or confirmed is, unless what the object has was decided later.

    Args:
        ref: Of the data set.
        other: The row.
        claims_truth: The row has a mask, or says that there is no target.
    """
    said, known = other.get("provenance"), ref.get("rejected") or ref.get("provenance")
    is_mask = claims_truth and other.get("ann_ids") != []
    return is_mask and not is_made_by_a_model(said) and not is_later_review(known, said)


def is_known(ref: Ref, other: Ref) -> bool:
    """Tell whether a ref has, or had, the very decision that a row brings."""
    said = other.get("rejected") or other.get("provenance") or {}
    return bool(said) and any(is_same_rejection(account, said) for account in accounts(ref))


class TextsBeside:
    """Knows which object of a data set a text file speaks of, and which objects had other texts.

    Example: `TextsBeside(refs).meant(new_refs[0], 7)`

    Args:
        refs: Of the data set; what is changed about them later is seen.
    """

    def __init__(self, refs: Sequence[Ref]) -> None:
        self._refs = refs
        self._places: dict[str, int] = {}
        self._former: dict[tuple[int, str], int] = {}
        for place, ref in enumerate(refs):
            if (file := _file(ref)) is not None:
                self._places[file] = place
            self._former |= {(sentence["sent_id"], text_of(sentence)): place for sentence in ref.get(FORMER, ())}
        self._files = {*self._places}

    def meant(self, other: Ref, image_id: int | None) -> int | None:
        """Return the place of the object that a folder's row speaks of by its file; None where there is none.

        Args:
            other: The row, none of whose texts is in the data set.
            image_id: Of its photo in the data set, if it is there.
        """
        place = self._places.get(_file(other) or "")
        return place if place is not None and self._refs[place]["image_id"] == image_id else None

    def former(self, other: Ref, image_id: int | None) -> int | None:
        """Return the place of the object that had the sentences of which a row speaks, by their ids, on this photo."""
        place = self._former.get((other.get("sent_id", -1), text_of(other["sentences"][0])))
        if place is None or self._refs[place]["image_id"] != image_id or not is_of_former(self._refs[place], other):
            return None
        return place

    def note_file(self, ref: Ref, other: Ref) -> bool:
        """Note with a ref the file of a folder's row that has its very texts, where none is known that is there.

        Returns:
            Whether it was noted.
        """
        file, old = _file(other), _file(ref)
        if file is None or file in self._files:
            return False
        if old is None:
            if ref.keys() & {*_OF_A_TABLE}:
                return False
            texts = {text_of(sentence) for sentence in ref["sentences"]}
        elif any(os.path.exists(Path(old).with_suffix(ending)) for ending in (".txt", ".TXT")):
            return False
        else:
            texts = {*ref[BESIDE]["texts"]}
        if texts != {*other[BESIDE]["texts"]}:
            return False
        ref[BESIDE] = other[BESIDE]
        self._files.add(file)
        return True


def _file(ref: Ref) -> str | None:
    """Return the file that a ref's texts came from, None where that is not known."""
    return ref[BESIDE]["file"] if BESIDE in ref else None
