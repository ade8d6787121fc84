"""The records of a data set's refs, as an update (`merge.py`) looks at them: texts, annotations, who said what.

A ref is one object of a photo with its texts, as a dict of plain values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from l2l_ray.datatools.record import is_made_by_a_model
from l2l_ray.errors import DataError

Ref = dict[str, Any]
TRUTH = ("ann_id", "ann_ids", "provenance", "of_size")  # the last: of an earlier photo, which `no_target` was said of
SAID = (*TRUTH, "rejected")  # what a new truth takes the place of


def rows_by_id(content: Mapping[str, Any], name: str, path: Path) -> dict[int, dict[str, Any]]:
    """Return the rows of a table by id.

    Raises:
        DataError: If a row has none, or that of another one: an update would lose it.
    """
    rows = content.get(name) or []
    found = {row["id"]: row for row in rows if isinstance(row, dict) and type(row.get("id")) is int}
    if len(found) < len(rows):
        raise DataError(
            f"{path}: {len(rows) - len(found)} of {len(rows)} {name} have no id of their own; an update would lose "
            "them; correct or remove them first"
        )
    return found


def text_of(sentence: Mapping[str, Any]) -> str:
    """Return the words of a sentence, with one blank between them."""
    return " ".join(str(sentence.get("sent", sentence.get("raw", ""))).split())


def annotation_ids(ref: Ref) -> list[int]:
    """Return the ids of the annotations that a ref names."""
    return list(ref["ann_ids"]) if "ann_ids" in ref else [ref["ann_id"]] if "ann_id" in ref else []


def category_name(row: Mapping[str, Any], categories: Mapping[int, str]) -> str:
    """Return what the category of a ref or an annotation is called; "" where it has none, or none that is known."""
    number = row.get("category_id")
    return categories.get(number, "") if isinstance(number, int) else ""


def names_annotations(record: Ref, annotations: Mapping[int, Any]) -> bool:
    """Tell whether what stands for annotations in a record is that: a person may have written it."""
    ids = [*found] if isinstance(found := record.get("ann_ids", [record.get("ann_id")]), list) else [None]
    return all(type(ann_id) is int and ann_id in annotations for ann_id in ids)


def claims_truth(ref: Ref, annotations: Mapping[int, Mapping[str, Any]]) -> bool:
    """Tell whether a ref has a mask or says that it has no target; a box alone is none."""
    if "ann_id" not in ref and "ann_ids" not in ref:
        return False
    return all(annotations.get(ann_id, {}).get("segmentation") for ann_id in annotation_ids(ref))


def brings_nothing(ref: Ref, annotations: Mapping[int, Mapping[str, Any]]) -> bool:
    """Tell whether a row says no more than that there is its text."""
    return not ref.keys() & {"hint", "rejected", "category_id"} and not claims_truth(ref, annotations)


def is_part_with(ref: Ref, whole: Ref, texts: Iterable[str]) -> bool:
    """Tell whether a ref was set apart from another one, with all of these texts."""
    return ref.get("apart_from") == whole["ref_id"] and {text_of(s) for s in ref["sentences"]}.issuperset(texts)


def without_parts(places: Sequence[int], refs: Sequence[Ref]) -> list[int]:
    """Return places of refs without those whose texts were set apart from another one of them."""
    ids = {refs[place]["ref_id"] for place in places}
    return [place for place in places if refs[place].get("apart_from") not in ids]


def texts_apart(refs: Sequence[Ref]) -> dict[int, set[str]]:
    """Return, by ref id, the texts that were set apart from it, or it from them: they do not come to it."""
    whole: dict[int, set[str]] = defaultdict(set)  # by the id of the ref that others were set apart from
    parents = {ref["apart_from"] for ref in refs if "apart_from" in ref}
    for ref in refs:
        for ref_id in parents & {ref["ref_id"], ref.get("apart_from")}:
            whole[ref_id] |= {text_of(sentence) for sentence in ref["sentences"]}
    return {
        ref["ref_id"]: whole[whole_id] for ref in refs if (whole_id := ref.get("apart_from", ref["ref_id"])) in whole
    }


def accounts(ref: Ref) -> Iterator[dict[str, Any]]:
    """Yield who made or rejected what a ref has, and what it had before, as far as it is known."""
    left = [ref]
    while left:
        record = left.pop()
        for made in (record.get("provenance"), record.get("rejected")):
            if isinstance(made, dict):
                yield made
                left += [older] if isinstance(older := made.get("replaced"), dict) else []


def is_same_rejection(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two rejections are the same decision, whatever mask of the data set it took away."""
    return {**one, "replaced": 0} == {**other, "replaced": 0}


def is_of_an_earlier_photo(ref: Ref, other: Ref, size: tuple[int, int] | None) -> bool:
    """Tell whether a row decides about a photo that was replaced since by one of another size.

    Of a rejection and of "no such object" the mask tells that was wrong; without it, that the ref has this very
    decision from before.

    Args:
        ref: Whom it speaks of.
        other: The row.
        size: Width and height of the photo by now, px.
    """
    said = other.get("rejected") or (other.get("provenance") if other.get("ann_ids") == [] else None)
    if not isinstance(said, dict):
        return False
    wrong = said.get("wrong_rle")
    if isinstance(wrong, dict) and size is not None and wrong.get("size") not in (size[::-1], [*size[::-1]]):
        return True
    known = [ref.get("lifted"), ref.get("provenance") if "of_size" in ref else None]
    return any(isinstance(one, dict) and is_same_rejection(one, said) for one in known)


def says_something_else(ref: Ref, other: Ref) -> bool:
    """Tell whether a row says of its texts that there is no such object, or no label, and the ref does not say so."""
    is_absent = other.get("ann_ids") == [] and ref.get("ann_ids") != []
    return is_absent or ("rejected" in other and "rejected" not in ref)


def is_later_review(said: Any, made: Any) -> bool:
    """Tell whether two provenances are both of the review page, and the first is the later decision."""
    both = [one for one in (said, made) if isinstance(one, Mapping) and one.get("source") == "review"]
    times = [(one.get("updated_at"), one.get("as_of")) for one in both]
    are_times = all(isinstance(at, str) and type(number) is int for at, number in times)  # a person may have written it
    return len(both) == 2 and are_times and times[0] > times[1]


def gives_way(ref: Ref, other: Ref, has_truth: bool) -> bool:
    """Tell whether what a ref has as truth, if it has any, ends by what a row says."""
    made = ref.get("provenance")
    if "rejected" not in other or not has_truth:
        return True
    was_answered = any(is_same_rejection(account, other["rejected"]) for account in accounts(ref))
    return not was_answered and (is_made_by_a_model(made) or is_later_review(other["rejected"], made))
