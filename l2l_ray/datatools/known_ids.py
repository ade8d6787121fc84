"""Which objects of a data set the ids of an update's row name, and which ones they rule out.

Rows of one `id` speak of one object, so a row whose `id` is new is not of an object that has another one, though photo
and text be the same; nor is an annotation of COCO with another id, unless its place is the same, for another file may
count anew. A row without an id rules out nothing.

A `sent_id` counts the sentences of the data set that the row's run read. Where that is this data set, it names one of
its sentences. But a ref may have come from an export of another one: it keeps the `sent_id` of there, while its own
sentences were numbered anew. Which of the two numberings a row means, its provenance tells, by run and data set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from l2l_ray.datatools import notices
from l2l_ray.datatools.ref_records import Ref, accounts, is_part_with, without_parts

_EARLIER = ("corrected_from", "confirmed_from", "rejected")  # fields of a provenance: that of the mask which was shown


class KnownIds:
    """The ids that the objects of a data set have.

    Example: `KnownIds(refs, "own", lambda ref, row: False).places(row, ["left man"], [3, 8], None)`

    Args:
        refs: Of the data set; they keep their places.
        dataset: Its name.
        is_same_place: Whether a ref of the data set and a row have the same mask, or the same hint.
    """

    def __init__(self, refs: Sequence[Ref], dataset: str, is_same_place: Callable[[Ref, Ref], bool]) -> None:
        self._refs, self._dataset, self._is_same_place = refs, dataset, is_same_place
        self._wholes = {ref["ref_id"]: ref for ref in refs}
        self._by_own_id: dict[str, int] = {}  # place of each ref that has an id of its own
        self._by_sentence: dict[int, int] = {}
        for place, ref in enumerate(refs):
            self._by_sentence |= {sentence["sent_id"]: place for sentence in ref["sentences"]}
            if ref.get("source_id") and "sent_id" not in ref:
                self._by_own_id[ref["source_id"]] = place

    def own(self, row: Ref) -> int | None:
        """Return the place of the object that has the id of its own which a row has; None where there is none."""
        return self._by_own_id.get(row.get("source_id", "")) if "sent_id" not in row else None

    def without_others(self, row: Ref, places: Iterable[int]) -> list[int]:
        """Return places of refs with a row's photo and text without those that are other objects by their ids."""
        return [place for place in places if not self._is_other(row, self._whole(place), self._refs[place])]

    def places(self, row: Ref, texts: Sequence[str], alike: Sequence[int], former: int | None) -> list[int]:
        """Return the places of the objects that a row may mean: one where an id names it.

        Args:
            row: Of the update.
            texts: Its expressions.
            alike: Places of the refs that have one of them, from `without_others`.
            former: Place of the ref that had the sentence which the row names.
        """
        named, places = self.own(row), [*alike]
        if "sent_id" in row:
            found = self._named_by_sentence(row, alike, self._by_sentence.get(row["sent_id"], former))
            if len(found) > 1:
                return found
            named = found[0] if found else None
        if named is not None:
            places = [p for p in alike if is_part_with(self._refs[p], self._refs[named], texts)] or [named]
        return without_parts(places, self._refs)

    def counts_here(self, row: Ref, place: int) -> bool:
        """Tell whether the `sent_id` of a row may be that of a sentence that a ref has in this data set."""
        whole = self._whole(place)
        return "sent_id" not in whole or self._counts_there(row, whole) is not True

    def remedy(self, row: Ref, places: Iterable[int]) -> str:
        """Return what to do about a row that may mean several objects."""
        is_by_sentence = "sent_id" in row and any(self._comes_from(row, place) for place in places)
        return notices.NAME_RUN if is_by_sentence else notices.NAME_ONE

    def _named_by_sentence(self, row: Ref, alike: Sequence[int], here: int | None) -> list[int]:
        """Return the places that the `sent_id` of a row names, as it counts here or where a ref came from.

        Args:
            row: With a `sent_id`.
            alike: Places of the refs that have one of its texts.
            here: Place of the ref that has this sentence here.
        """
        there = [p for p in alike if self._comes_from(row, p) and self._counts_there(row, self._whole(p)) is not False]
        there = without_parts(there, self._refs)
        found = sorted({*there, *(place for place in alike if place == here)})
        if len(found) < 2:
            return found
        sure = [p for p in there if self._counts_there(row, self._whole(p))]
        return sure or [p for p in found if self._is_same_place(self._refs[p], row)][:1] or found

    def _comes_from(self, row: Ref, place: int) -> bool:
        return bool(self._whole(place).get("sent_id") == row["sent_id"])

    def _counts_there(self, row: Ref, whole: Ref) -> bool | None:
        """Tell whether a row's `sent_id` counts as that which a ref came with, or not, or whether that is not known."""
        row_of, first = _origin(row.get("rejected") or row.get("provenance")), _origin(([*accounts(whole)] or [{}])[-1])
        if row_of[0] is not None and row_of[0] == self._dataset:  # that of a run on this one, or on one of its name
            return None if first[0] == row_of[0] else False
        return True if row_of == first or (row_of[0] is not None and row_of[0] == first[0]) else None

    def _whole(self, place: int) -> Ref:
        """Return a ref, or the one that it was set apart from, which has the ids of both."""
        ref = self._refs[place]
        return self._wholes.get(ref.get("apart_from", -1), ref)

    def _is_other(self, row: Ref, whole: Ref, ref: Ref) -> bool:
        if "sent_id" in row and "sent_id" in whole:
            return row["sent_id"] != whole["sent_id"] and self._counts_there(row, whole) is True
        if "sent_id" in row or "sent_id" in whole or self.own(row) is not None:
            return False
        if row.get("source_id") and whole.get("source_id"):
            return True
        ids = [one["coco_id"] for one in (row, whole) if "coco_id" in one]
        return len({*ids}) == 2 and not self._is_same_place(ref, row)


def _origin(made: Any) -> tuple[Any, Any]:
    """Return the data set and the run of the label that a provenance tells of, None where it does not say."""
    while isinstance(made, Mapping):
        if made.keys() & {"dataset", "run"}:
            return made.get("dataset"), made.get("run")
        made = next((made[name] for name in _EARLIER if name in made), None)
    return None, None
