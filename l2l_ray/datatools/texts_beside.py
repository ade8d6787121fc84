"""The texts of a folder's photos in a data set: a text file is the whole of what its photo's object is called.

So where such a file was changed, an update changes the texts of the object, whose ids, mask and scores stay. This holds
for objects that an import of a folder made, not for those of tables, which name an object by several rows. A text that
is no longer in the file leaves the data set, but for three cases, in which the changed text is a new object and the old
one stays: the old text was rejected; it was said that the photo does not show it; or it has the folder's mask, and the
changed one has none. A later decision about a text that was left out, from a run that had it, does not count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from l2l_ray.datatools.ref_records import Ref, text_of

BESIDE = "texts_beside"  # field of a ref: the texts that the file beside its photo had, in imports of the folder
_FORMER = "former_sentences"  # field of a ref: its sentences that are no longer in that file
OF_A_FILE = (BESIDE, _FORMER)


def note_texts_beside(refs: Sequence[Ref]) -> None:
    """Keep with the refs of a folder which texts its files have."""
    for ref in refs:
        ref[BESIDE] = [text_of(sentence) for sentence in ref["sentences"]]


def may_change(ref: Ref, other: Ref, has_truth: bool, claims_truth: bool) -> bool:
    """Tell whether what a ref has as truth, if anything, holds for the texts of a folder's row, too.

    Args:
        ref: Of the data set.
        other: The row.
        has_truth: The ref has a mask, or says that it has no target.
        claims_truth: The row has.
    """
    if not (BESIDE in ref and BESIDE in other) or "rejected" in ref or ref.get("ann_ids") == []:
        return False
    made = ref.get("provenance")
    is_of_the_folder = has_truth and not (isinstance(made, Mapping) and made.get("source"))
    return claims_truth or not is_of_the_folder


def take_texts(ref: Ref, other: Ref) -> list[str]:
    """Take from a ref the texts that its file no longer has, and return them; what is new is not added."""
    gone = set(ref[BESIDE]) - set(other[BESIDE])
    former = [sentence for sentence in ref["sentences"] if text_of(sentence) in gone]
    ref["sentences"] = [sentence for sentence in ref["sentences"] if sentence not in former]
    ref["sent_ids"] = [sentence["sent_id"] for sentence in ref["sentences"]]
    ref[BESIDE] = list(other[BESIDE])
    if former:
        ref[_FORMER] = [*ref.get(_FORMER, ()), *former]
    return [text_of(sentence) for sentence in former]


class TextsBeside:
    """Finds the object of a data set whose texts in a folder were all changed.

    Example: `TextsBeside(refs, new_refs, image_of).meant(new_refs[0], 7)`

    Args:
        refs: Of the data set.
        new_refs: Of the update.
        image_of: Id of the data set's photo by id of the update's.
    """

    def __init__(self, refs: Sequence[Ref], new_refs: Sequence[Ref], image_of: Mapping[int, int]) -> None:
        self._places: dict[int, list[int]] = defaultdict(list)
        self._former: set[tuple[int, str]] = set()
        for place, ref in enumerate(refs):
            if BESIDE in ref:
                self._places[ref["image_id"]].append(place)
            self._former |= {(sentence["sent_id"], text_of(sentence)) for sentence in ref.get(_FORMER, ())}
        self._num_new = Counter(image_of.get(ref["image_id"]) for ref in new_refs)

    def meant(self, other: Ref, image_id: int | None) -> int | None:
        """Return the place of the one object that a folder's row may be; None where there is none, or several.

        Args:
            other: The row, none of whose texts is in the data set.
            image_id: Of its photo in the data set, if it is there.
        """
        places = self._places.get(image_id, []) if BESIDE in other and image_id is not None else []
        return places[0] if len(places) == self._num_new[image_id] == 1 else None

    def is_former(self, other: Ref) -> bool:
        """Tell whether a row speaks of sentences that are no longer in their file."""
        return all((other.get("sent_id"), text_of(sentence)) in self._former for sentence in other["sentences"])
