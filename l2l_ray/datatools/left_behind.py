"""What a data set has that the source it was made of no longer has: an update adds, and takes no photo or mask away.

Compared are the data set and the source imported afresh: texts by photo, and which of these items have a truth. A truth
that has another origin, by its provenance, such as a review, is none that the source could lack; and one that the
source has, but unusable, is a problem with a line of its own. Nor could it lack what it never gave: other sources may
have been merged into the data set.
"""

from __future__ import annotations

import filecmp
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from l2l_ray.datatools.inventory import Inventory, Item, take_inventory
from l2l_ray.datatools.record import MADE_BY_A_MODEL
from l2l_ray.datatools.refer_writer import UNUSABLE
from l2l_ray.wording import counted, first_of

_OWN_ORIGINS = {"rows": (None, *MADE_BY_A_MODEL), "labelstudio": (None, "label_studio")}  # by kind of source

Given = list[Any]  # name of a photo, text, id that the source gave the object, whether it gave a truth


def given_by(fresh: Path) -> list[Given]:
    """Return what a source gave, as JSON has it, by a data set that was made of it alone."""
    made = take_inventory(fresh)
    return [
        [made.pictures[item.image_id].file_name, text, item.record.get("source_id"), made.has_truth(item)]
        for item in made.items
        for _, text in item.sentences
    ]


def left_behind(
    folder: Path, fresh: Path, source: Path, kind: str, given: Sequence[Given] | None = None
) -> Iterator[str]:
    """Yield a line about the texts that are no longer in a source, and one about the masks; the last says what to do.

    Args:
        folder: The data set, `<root>/<dataset>`.
        fresh: One that was made of the source as it is now.
        source: What to call it.
        kind: Of the import that made both.
        given: What the source gave at any time, from `given_by`; None = not known, all may be from it.
    """
    texts = None if given is None else {(name, text) for name, text, _, _ in given}
    truths = None if given is None else {(name, text, own_id) for name, text, own_id, is_truth in given if is_truth}
    kept, now = take_inventory(folder), take_inventory(fresh)
    by_text: dict[str, list[Item]] = defaultdict(list)
    for item in now.items:
        for _, text in item.sentences:
            by_text[text].append(item)
    gone: set[tuple[str, str]] = set()  # name of the photo and text
    masks: list[str] = []
    is_merged = False
    for item in kept.items:
        name = kept.pictures[item.image_id].file_name
        alike: list[Item] = []
        for _, text in item.sentences:
            same = _of_photo(name, kept.path(item.image_id), by_text.get(text, []), now)
            is_given = texts is None or (name, text) in texts
            gone |= {(name, text)} if is_given and not same else set()
            is_merged |= not is_given and not same
            alike += same
        own_id = item.record.get("source_id")
        if truths is not None and truths.isdisjoint((name, text, own_id) for _, text in item.sentences):
            continue
        alike = [one for one in alike if one.record.get("source_id") == own_id] or alike
        is_own = _origin(item) in _OWN_ORIGINS.get(kind, (None,))
        if alike and is_own and kept.has_truth(item) and not any(UNUSABLE in one.record for one in alike):
            masks += [] if any(map(now.has_truth, alike)) else [f"{name} ({item.sentences[0][1]!r})"]
    lines: list[str] = []
    if gone:
        name, text = min(gone)
        lines.append(f"{_stays(gone, 'text', source)} in the data set, such as {text!r} of {name}")
    if masks:
        lines.append(f"{_stays(masks, 'mask', source)} truth, of {first_of(masks)}")
    if lines:
        place = ["--root", str(folder.parent), "--dataset", folder.name]
        back = f"`{shlex.join(['l2l', 'data', 'import', 'review', 'RUN', *place, '--update'])}`"
        lines[-1] += f"; to begin without, remove {shlex.quote(str(folder))} and give the same command; {back} then "
        lines[-1] += "brings back what was reviewed"
        lines[-1] += ", and what came from other sources has to be merged again" if is_merged else ""
    yield from lines


def _of_photo(name: str, path: Path, items: list[Item], inventory: Inventory) -> list[Item]:
    """Return the items of a photo: of its name, else of its content, as the photo may lie elsewhere in the source."""
    named = [item for item in items if inventory.pictures[item.image_id].file_name == name]
    if named or not path.is_file():
        return named
    others = [(item, inventory.path(item.image_id)) for item in items]
    return [item for item, other in others if other.is_file() and filecmp.cmp(path, other, shallow=False)]


def _origin(item: Item) -> object:
    """Return who made the truth of an item, None where nothing is said."""
    made = item.record.get("provenance")
    return made.get("source") if isinstance(made, dict) else None


def _stays(gone: Collection[Any], noun: str, source: Path) -> str:
    verbs = ("is", "stays") if len(gone) == 1 else ("are", "stay")
    return f"{counted(len(gone), noun)} {verbs[0]} no longer in {source} and {verbs[1]}"
