"""One judge of data: `check` has no problem with a data set exactly where the loader opens it and leaves nothing out.

Beyond what the loader looks at, check names a few things by itself; `BEYOND` is all of them.
"""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from l2l_ray.data.layout import SPLITS
from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.check import check
from l2l_ray.datatools.inventory import take_inventory
from l2l_ray.errors import DataError
from tests.refer_folder import write_tiny

REAL = os.environ.get("L2L_REAL_DATA")
# Files of pictures, boxes, splits of no run, and refs that say nothing: none of them is asked for by the loader.
BEYOND = {
    "missing image", "unreadable image", "image size", "bbox", "mask outside its box", "split",
    "image in several splits", "file of several ids", "sentences",
}  # fmt: skip

Mutation = tuple[str, int, str, str, Any]
scalars = st.none() | st.booleans() | st.integers(-2, 60) | st.floats() | st.text(max_size=3)
masks = st.sampled_from(
    [[], [[1, 1]], [[1, 1], [5, 5], [9, 1]], [1, 1, 9, 1, 9, 9], [[1, 1, 9, 1, 9, 9]], [["1", 1, 9, 1, 9, 9]],
     [[1, 1, True, 1, 9, 9]], [[90, 90, 99, 90, 99, 99]], [[1, 1, 1, 1, 1, 1]], [[1, 1, 9, 1, 9]],
     {"size": [24, 32], "counts": [768]}, {"size": [24, 32], "counts": [10, 20, 738]},
     {"size": [32, 24], "counts": [768]}, {"size": [24, 32], "counts": "?"},
     [[1, 1, 9, 1, 9, 9], {"size": [24, 32], "counts": [10, 20, 738]}]]
)  # fmt: skip
values = masks | st.recursive(scalars, lambda inner: st.lists(inner, max_size=4), max_leaves=6)
keys = {
    "refs": ["ref_id", "ann_id", "ann_ids", "image_id", "split", "sentences"],
    "sentences": ["sent_id", "sent", "raw"],
    "images": ["id", "file_name", "width", "height"],
    "annotations": ["id", "image_id", "segmentation", "bbox", "category_id"],
    "categories": ["id", "name"],
}
mutations = st.sampled_from(sorted(keys)).flatmap(
    lambda part: st.tuples(
        st.just(part),
        st.integers(0, 4),
        st.sampled_from(["drop", "set", "remove", "twice"]),
        st.sampled_from(keys[part]),
        values,
    )
)


def mutate(folder: Path, mutation: Mutation) -> None:
    part, number, how, key, value = mutation
    refs = pickle.loads((folder / "refs(own).p").read_bytes())
    content = json.loads((folder / "instances.json").read_text())
    records = refs if part == "refs" else refs[number]["sentences"] if part == "sentences" else content[part]
    number %= len(records)
    if how == "drop":
        records[number].pop(key, None)
    elif how == "set":
        records[number][key] = value
    elif how == "remove":
        del records[number]
    else:
        records.append(records[number])
    (folder / "refs(own).p").write_bytes(pickle.dumps(refs))
    (folder / "instances.json").write_text(json.dumps(content))


def problems_of(folder: Path) -> set[str]:
    try:
        return {problem.what for problem in check(take_inventory(folder))}
    except DataError:
        return {"a file"}


def is_loaded(folder: Path) -> bool:
    """Tell whether the loader opens a data set and leaves nothing out but the truth of train refs that claim none."""
    try:
        data = ReferDataset.open(folder.parent, folder.name, "own", cache_dir=folder / "cache")
    except DataError:
        return False
    unlabeled = {sent_id for ref in data.refs() if ref.ann_ids == (-1,) for sent_id, _ in ref.sentences}
    for split in data.splits:
        skips = data.examples(split)[1]
        skips += [s for s in data.labeled_examples(split)[1] if split != "train" or s.sent_id not in unlabeled]
        if skips:
            return False
    return True


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutation=mutations)
@example(mutation=("sentences", 0, "twice", "sent_id", None))
@example(mutation=("annotations", 1, "twice", "id", None))
@example(mutation=("images", 1, "twice", "id", None))
@example(mutation=("categories", 0, "twice", "id", None))
@example(mutation=("categories", 0, "set", "name", None))
@example(mutation=("annotations", 1, "set", "image_id", 4))
@example(mutation=("annotations", 1, "set", "id", "52"))
@example(mutation=("annotations", 1, "drop", "id", None))
@example(mutation=("annotations", 1, "set", "segmentation", [["1", "1", "9", "1", "9", "9"]]))
@example(mutation=("images", 1, "set", "width", None))
@example(mutation=("refs", 1, "set", "ann_id", [52]))
@example(mutation=("refs", 1, "set", "ann_ids", []))
@example(mutation=("refs", 1, "set", "ref_id", 2**63))
def test_check_has_no_problem_exactly_where_the_loader_leaves_nothing_out(
    tmp_path_factory: pytest.TempPathFactory, mutation: Mutation
) -> None:
    folder = write_tiny(tmp_path_factory.mktemp("judge"))
    mutate(folder, mutation)
    found, loaded = problems_of(folder), is_loaded(folder)
    assert loaded or found, "the loader refuses it or leaves something out, and check says nothing"
    assert not loaded or found <= BEYOND, "check has a problem that the loader does not have"


def test_every_split_of_a_sound_data_set_is_loaded(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    assert is_loaded(folder) and not problems_of(folder)
    assert {item.split for item in take_inventory(folder).items} <= set(SPLITS)


@pytest.mark.skipif(REAL is None, reason="L2L_REAL_DATA is not set")
def test_real_masks_have_the_boxes_of_their_annotations() -> None:
    inventory = take_inventory(Path(str(REAL)) / "refer" / "refcoco")
    assert check(inventory) == [] and inventory.notices == []
