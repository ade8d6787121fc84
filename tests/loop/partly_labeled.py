"""Own data with few masks: photos of cats, some with masks, written in REFER's layout for tests of what is labeled."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l2l_ray.config import RunConfig
from tests.loop.cats import write_refer
from tests.whole_run import changed

BAD_MASK = {"size": [24, 32], "counts": "~~~"}


def write_partly(
    root: Path, num: int, masks: set[int], splits: Mapping[str, int] | None = None, second: set[int] = frozenset()
) -> Path:
    """Write `num` train photos, those in `masks` with a mask, and a second ref without one on those in `second`.

    Args:
        root: Where the data set goes.
        num: How many photos train has; their ids are 0, 1, ..., their refs have the same ids.
        masks: Ids of the photos whose refs have masks. Photos of other splits all have theirs.
        splits: Photos of other splits.
        second: Ids of the photos of which another text, of ref 100 + id, speaks of something without a mask.
    """
    write_refer(root, {"train": num, **(splits or {})}, sentences=1)
    edit_refs(root, lambda refs: refs.extend(_second(refs[i]) for i in sorted(second)))
    for ref in _load(root):
        if ref["split"] == "train" and ref["ref_id"] < 100 and ref["ref_id"] not in masks:
            set_mask(root, ref["ref_id"], None)
    return root


def _second(ref: dict[str, Any]) -> dict[str, Any]:
    number = ref["ref_id"]
    other = {"ref_id": 100 + number, "sentences": [{"sent_id": 1000 + number, "sent": f"dog {number}"}]}
    return {name: value for name, value in ref.items() if name != "ann_id"} | other


def _load(root: Path) -> list[dict[str, Any]]:
    refs: list[dict[str, Any]] = pickle.loads((root / "cats" / "refs(me).p").read_bytes())
    return refs


def edit_refs(root: Path, change: Any) -> None:
    """Change the list of refs in place."""
    refs = _load(root)
    change(refs)
    (root / "cats" / "refs(me).p").write_bytes(pickle.dumps(refs))


def set_mask(root: Path, number: int, mask: Any) -> None:
    """Replace the mask of a photo's first ref; None takes it away."""
    path = root / "cats" / "instances.json"
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        if row["id"] == 50 + number:
            row["segmentation"] = mask
    path.write_text(json.dumps(content))


def config_of(smoke: RunConfig, root: Path, **data: Any) -> RunConfig:
    """Return the smoke preset on such data."""
    where = {"root": str(root), "dataset": "cats", "split_by": "me"}
    return changed(smoke, data=where | data, loop={"shard_size": 2})
