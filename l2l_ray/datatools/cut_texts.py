"""Texts that a run cut: what comes back of them is of the whole sentence, by its `sent_id`.

A run reads the first words of a long text (`data.max_words`), and its labels, exports and review have no more. Where
such a row comes back into the data set, it names the sentence that it was, and has the beginning of that one's words.
Words that are a text of the photo themselves were not cut. Nor does a row name a sentence of this data set by its
`sent_id` where that counts as in another one, which the object came from (`known_ids.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from l2l_ray.datatools.ref_records import Ref, text_of
from l2l_ray.datatools.texts_beside import FORMER


def with_whole_texts(
    rows: Iterable[Ref], refs: Sequence[Ref], image_of: Mapping[int, int], counts_here: Callable[[Ref, int], bool]
) -> Iterator[Ref]:
    """Yield rows, each that has the beginning of the sentence that it names on its photo with the whole of it.

    Args:
        rows: Refs of a writer.
        refs: Those of the data set.
        image_of: Id in the data set of each of the writer's photos, for those that are there.
        counts_here: Whether a row may name a sentence of the ref at a place.
    """
    known = {
        sentence["sent_id"]: (place, ref["image_id"], sentence)
        for place, ref in enumerate(refs)
        for sentence in (*ref["sentences"], *ref.get(FORMER, ()))
    }
    texts = {(image_id, text_of(sentence)) for _, image_id, sentence in known.values()}
    for row in rows:
        place, image_id, whole = known.get(row.get("sent_id", -1), (-1, None, {}))
        words = text_of(whole).split()
        is_there = image_id is not None and image_of.get(row["image_id"]) == image_id
        if not is_there or not words or not counts_here(row, place):
            yield row
            continue
        named = {name: value for name, value in whole.items() if name != "sent_id"}
        is_cut = [_begins(s, words) and (image_id, text_of(s)) not in texts for s in row["sentences"]]
        yield {
            **row,
            "sentences": [{**s, **named} if cut else s for s, cut in zip(row["sentences"], is_cut, strict=True)],
        }


def _begins(sentence: Ref, words: Sequence[str]) -> bool:
    own = text_of(sentence).split()
    return 0 < len(own) < len(words) and own == [*words[: len(own)]]
