"""Which objects of a data set the ids of an update's row name, and which ones they rule out.

Rows of one `id` speak of one object, so a row whose `id` is new is not of an object that has another one, though photo
and text be the same; nor is an annotation of COCO with another id, unless its place is the same, for another file may
count anew. A row without an id rules out nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from l2l_ray.datatools.ref_records import Ref, is_part_with, without_parts


class KnownIds:
    """The ids that the objects of a data set have.

    Example: `KnownIds(refs, lambda ref, row: False).places(row, ["left man"], [3, 8], None)`

    Args:
        refs: Of the data set; they keep their places.
        is_same_place: Whether a ref of the data set and a row have the same mask, or the same hint.
    """

    def __init__(self, refs: Sequence[Ref], is_same_place: Callable[[Ref, Ref], bool]) -> None:
        self._refs, self._is_same_place = refs, is_same_place
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
            named = self._by_sentence.get(row["sent_id"], former)
            named = named if named in places else None
        if named is not None:
            places = [p for p in alike if is_part_with(self._refs[p], self._refs[named], texts)] or [named]
        return without_parts(places, self._refs)

    def _whole(self, place: int) -> Ref:
        """Return a ref, or the one that it was set apart from, which has the ids of both."""
        ref = self._refs[place]
        return self._wholes.get(ref.get("apart_from", -1), ref)

    def _is_other(self, row: Ref, whole: Ref, ref: Ref) -> bool:
        if "sent_id" in row or "sent_id" in whole or self.own(row) is not None:
            return False
        if row.get("source_id") and whole.get("source_id"):
            return True
        ids = [one["coco_id"] for one in (row, whole) if "coco_id" in one]
        return len({*ids}) == 2 and not self._is_same_place(ref, row)
