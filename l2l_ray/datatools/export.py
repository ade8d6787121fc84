"""Masks as files that other programs read: COCO JSON, JSON lines, Parquet, a Hugging Face folder, PNG, Label Studio.

Every mask is at the image's native size. `accepted` is where training believed the label; it and the provenance go with
every format. An export is a folder with `export.json`, which says what is inside; it appears whole or not at all, under
a temporary name until the last byte, and only another export is ever replaced.

Images are named, not copied: paths are relative to their common folder, `image_root` in `export.json`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from l2l_ray.data.masks import decode, mask_area_px
from l2l_ray.data.object_masks import box_of_mask
from l2l_ray.datatools.label_studio import LABELING_CONFIG, task
from l2l_ray.errors import DataError
from l2l_ray.files import replacing_folder
from l2l_ray.types import Example, Rle

INDEX = "export.json"
ROWS_PER_SHARD = 50_000
CATEGORY = {"id": 1, "name": "referent"}  # unlabeled items have no category, and their masks none either


@dataclass(frozen=True, slots=True)
class ExportedMask:
    """One mask with all that is known of it.

    Example: `ExportedMask(example, rle, accepted_rle, 0.93, 0.8, {"run": "refshapes-l2l-s0", "method": "l2l"})`
    """

    example: Example
    rle: Rle
    accepted_rle: Rle | None  # None for predictions: no selector was asked
    confidence: float  # estimated IoU with the truth, in [0, 1]; see confidence.py
    gate: float | None  # probability that the sample is used; None for predictions
    provenance: Mapping[str, str | int | float]
    split: str = "train"


def write_export(
    masks: Sequence[ExportedMask], kind: str, out: Path, about: Mapping[str, Any], force: bool = False
) -> Path:
    """Write masks in one format, as a new folder.

    Args:
        masks: At least one.
        kind: A key of `FORMATS`.
        out: The folder to make.
        about: What `export.json` says beside format, number and image root.
        force: Replace an export that is there; a folder that is no export is never replaced.
    Returns:
        `out`.
    Raises:
        DataError: Nothing to write, an unknown format, something in the way, or the disk is full.
    """
    if kind not in FORMATS:
        raise DataError(f"there is no export format {kind!r}; use one of {', '.join(FORMATS)}")
    if not masks:
        raise DataError(f"there is no mask to export to {out}; lower --min-confidence, or choose another round")
    out = out.absolute()
    _check_free(out, force)
    root = Path(os.path.commonpath([Path(mask.example.image_path).parent for mask in masks]))
    if kind == "labelstudio":
        root = root.parent  # it serves folders below its document root, not that one itself
    try:
        with replacing_folder(out) as temporary:
            FORMATS[kind](masks, root, temporary)
            index = {"format": kind, "num": len(masks), "image_root": str(root), **about}
            (temporary / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"cannot write {out}: {error}; nothing was exported; free some space or choose another --out"
        ) from error
    return out


def own_data_row(mask: ExportedMask, root: Path) -> dict[str, Any]:
    """Return a mask as a row of own data, which `l2l data import` reads as labeled."""
    more = {"confidence": mask.confidence, "gate": mask.gate, "accepted_rle": mask.accepted_rle}
    return {
        "image": _name(mask, root),
        "expression": mask.example.expression,
        "rle": mask.rle,
        "split": mask.split,
        "id": str(mask.example.sent_id),
        "category": "",
        "provenance": {**mask.provenance, **{k: v for k, v in more.items() if v is not None}},
    }


def write_json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object per line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _check_free(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not (out / INDEX).is_file():
        raise DataError(f"{out} is there and is no export (it has no {INDEX}); choose another --out")
    if not force:
        raise DataError(f"{out} holds an export already; replace it with --force, or choose another --out")


def _name(mask: ExportedMask, root: Path) -> str:
    return Path(mask.example.image_path).relative_to(root).as_posix()


def _coco(masks: Sequence[ExportedMask], root: Path, folder: Path) -> None:
    """One file that `pycocotools.coco.COCO` opens; expressions and scores are further keys of the annotations."""
    images = {
        mask.example.image_id: {
            "id": mask.example.image_id,
            "file_name": _name(mask, root),
            "width": mask.example.width_px,
            "height": mask.example.height_px,
        }
        for mask in masks
    }
    annotations = [
        {
            "id": number,
            "image_id": mask.example.image_id,
            "category_id": CATEGORY["id"],
            "segmentation": mask.rle,
            "area": mask_area_px(mask.rle),
            "bbox": box_of_mask(mask.rle),
            "iscrowd": 0,
            "expression": mask.example.expression,
            "sent_id": mask.example.sent_id,
            "ref_id": mask.example.ref_id,
            "score": mask.confidence,
            "gate": mask.gate,
            "accepted": mask.accepted_rle,
            "provenance": dict(mask.provenance),
        }
        for number, mask in enumerate(masks, 1)  # COCO's evaluation takes id 0 for "no match"
    ]
    info = {"description": "Masks of referring expressions, made by L2L-Ray"}
    content = {"info": info, "images": list(images.values()), "annotations": annotations, "categories": [CATEGORY]}
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


def _jsonl(masks: Sequence[ExportedMask], root: Path, folder: Path) -> None:
    write_json_lines(folder / "masks.jsonl", [own_data_row(mask, root) for mask in masks])


def _parquet(masks: Sequence[ExportedMask], root: Path, folder: Path) -> None:
    _write_parquet(folder / "masks.parquet", masks, root)


def _hf(masks: Sequence[ExportedMask], root: Path, folder: Path) -> None:
    """Parquet shards named as the Hub names them, and a card whose YAML tells `datasets` what they hold."""
    (folder / "data").mkdir()
    num_shards = math.ceil(len(masks) / ROWS_PER_SHARD)
    sizes = []
    for shard in range(num_shards):
        path = folder / "data" / f"train-{shard:05d}-of-{num_shards:05d}.parquet"
        _write_parquet(path, masks[shard * ROWS_PER_SHARD : (shard + 1) * ROWS_PER_SHARD], root)
        sizes.append(path.stat().st_size)
    split = {"name": "train", "num_examples": len(masks), "num_bytes": sum(sizes)}
    features: list[dict[str, Any]] = [{"name": name, "dtype": dtype} for name, dtype in _COLUMNS.items()]
    for feature in features:
        if feature["dtype"] == "rle":
            del feature["dtype"]
            feature["struct"] = [{"name": "size", "sequence": "int64"}, {"name": "counts", "dtype": "string"}]
    card = {
        "task_categories": ["image-segmentation"],
        "tags": ["referring-expression-segmentation", "pseudo-labels"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        "dataset_info": {
            "features": features,
            "splits": [split],
            "download_size": sum(sizes),
            "dataset_size": sum(sizes),
        },
    }
    front = yaml.safe_dump(card, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{front}---\n{_CARD}", encoding="utf-8")


_CARD = """
# Masks of referring expressions

Made by a model, not by people: `confidence` is its own estimate of the mask's IoU with the truth, not calibrated,
`accepted_rle` where it was believed, `provenance` (JSON) which run, version, round and seed it came from. `rle` is
COCO's compressed run-length encoding at the image's native size:

```python
from pycocotools import mask
pixels = mask.decode({"size": row["rle"]["size"], "counts": row["rle"]["counts"].encode()})
```

Images are not part of this data set: `image` is a path below the folder that `export.json` names as `image_root`.
"""


def _png(masks: Sequence[ExportedMask], root: Path, folder: Path) -> None:
    """One picture per sentence, 255 = object; `index.jsonl` says which is which."""
    rows = []
    for mask in masks:
        row = own_data_row(mask, root)
        del row["rle"]
        row["mask"] = _save_png(mask.rle, folder, f"masks/{mask.example.sent_id}.png")
        if mask.accepted_rle is not None:
            del row["provenance"]["accepted_rle"]
            row["provenance"]["accepted"] = _save_png(mask.accepted_rle, folder, f"accepted/{mask.example.sent_id}.png")
        rows.append(row)
    write_json_lines(folder / "index.jsonl", rows)


def _save_png(rle: Rle, folder: Path, name: str) -> str:
    (folder / name).parent.mkdir(exist_ok=True)
    Image.fromarray(np.ascontiguousarray(decode(rle)).astype(np.uint8) * 255).save(folder / name)
    return name


def _label_studio(masks: Sequence[ExportedMask], root: Path, folder: Path) -> None:
    tasks = [
        task(
            decode(mask.rle),
            _name(mask, root),
            mask.example.expression,
            mask.example.sent_id,
            mask.confidence,
            own_data_row(mask, root)["provenance"],
            mask.split,
        )
        for mask in masks
    ]
    (folder / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")
    (folder / "labeling_config.xml").write_text(LABELING_CONFIG, encoding="utf-8")


_COLUMNS = {
    "sent_id": "int64",
    "ref_id": "int64",
    "image_id": "int64",
    "image": "string",
    "width_px": "int64",
    "height_px": "int64",
    "expression": "string",
    "rle": "rle",
    "accepted_rle": "rle",
    "confidence": "float64",
    "gate": "float64",
    "provenance": "string",
}


def _write_parquet(path: Path, masks: Sequence[ExportedMask], root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rle = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])
    types = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "rle": rle}
    rows = [
        {
            "sent_id": mask.example.sent_id,
            "ref_id": mask.example.ref_id,
            "image_id": mask.example.image_id,
            "image": _name(mask, root),
            "width_px": mask.example.width_px,
            "height_px": mask.example.height_px,
            "expression": mask.example.expression,
            "rle": mask.rle,
            "accepted_rle": mask.accepted_rle,
            "confidence": mask.confidence,
            "gate": mask.gate,
            "provenance": json.dumps(dict(mask.provenance)),
        }
        for mask in masks
    ]
    schema = pa.schema([(name, types[dtype]) for name, dtype in _COLUMNS.items()])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


FORMATS: dict[str, Callable[[Sequence[ExportedMask], Path, Path], None]] = {
    "coco": _coco,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "hf": _hf,
    "png": _png,
    "labelstudio": _label_studio,
}
