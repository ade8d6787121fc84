"""Masks as files that other programs read: COCO, JSON lines, Parquet, a Hugging Face folder, PNG, Label Studio, YOLO.

Every mask is at the image's native size. Every format holds the whole record of `record.py`, and comes back by
`l2l data import`. An export is a folder with `export.json`, which says what is inside; it appears whole or not at all,
under a temporary name until the last byte, and only another export is ever replaced.

Images are named, not copied (YOLO has links to them): paths are relative to their common folder, `image_root` in
`export.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from PIL import Image

from l2l_ray.data.layout import Words, shown
from l2l_ray.data.masks import box_of_mask, decode, mask_area_px
from l2l_ray.data.pixels import BadPicture, read_header
from l2l_ray.datatools.known_photos import sha256_of_file
from l2l_ray.datatools.label_studio import LABELING_CONFIG, task
from l2l_ray.datatools.record import (
    NO_CATEGORY,
    RECORD,
    ExportedMask,
    common_folder,
    image_name,
    record,
    write_json_lines,
)
from l2l_ray.datatools.yolo import write_yolo
from l2l_ray.errors import DataError, write_remedy
from l2l_ray.files import new_folder, replacing_folder
from l2l_ray.storage import StorePath, place
from l2l_ray.types import Rle
from l2l_ray.wording import counted, first_of

INDEX = "export.json"
ROWS_PER_SHARD = 50_000
_MAX_STEM_BYTES = 200  # of a photo's name in that of its mask; file systems take 255 bytes in all


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
        `out`, absolute.
    Raises:
        DataError: Nothing to write, an unknown format, something in the way, or it cannot be written.
    """
    out = require_place(kind, out, force)
    if not masks:
        raise DataError(f"there is no mask to export to {out}, expected at least one; choose other masks")
    root = common_folder([place(mask.example.image_path).parent for mask in masks])
    if kind == "labelstudio" and isinstance(root, StorePath):
        raise DataError(
            f"Label Studio serves photos of its own machine, and these lie in {root}; copy them to a disk and run with "
            "--data.root there, or choose another --format"
        )
    if kind == "labelstudio":
        root = root.parent  # it serves folders below its document root, not that one itself
    try:
        with (replacing_folder if force else new_folder)(out) as temporary:
            FORMATS[kind](masks, root, temporary)
            content = {"image_root": str(root), "files_sha256": _digest(temporary)}
            index = {"format": kind, "num": len(masks), **content, **about}
            (temporary / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
            require_place(kind, out, force)  # once more: something may have come while this was written
    except UnicodeEncodeError as error:
        raise DataError(
            f"cannot write {out} as {kind}: {error.object[:80]!r} is no text that UTF-8 can hold; "
            "rename the photo, or choose --format jsonl or coco"
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot write {out}: {error}; nothing was exported; {write_remedy(error)}, or choose another --out"
        ) from error
    return out


def require_place(kind: str, out: Path, force: bool) -> Path:
    """Return the absolute path of a folder to export to, if there is such a format and nothing is in the way.

    Raises:
        DataError: An unknown format, or a file, another folder or, without `force`, an earlier export is there.
    """
    if kind not in FORMATS:
        raise DataError(f"there is no export format {kind!r}; use one of {', '.join(FORMATS)}")
    out = Path(os.path.abspath(out))
    try:
        os.lstat(out)  # what is there, if only a link that leads nowhere
        is_export = (out / INDEX).is_file()
    except (FileNotFoundError, NotADirectoryError):
        return out
    except (OSError, ValueError) as error:  # a name that no folder can have, or that may not be looked at
        raise DataError(f"cannot write {shown(Words(out))}: {error}; choose another --out") from error
    if not is_export:
        raise DataError(f"{out} is there and is no export (it has no {INDEX}); choose another --out")
    if not force:
        raise DataError(f"{out} holds an export already; replace it with --force, or choose another --out")
    return out


def index_of(out: Path) -> dict[str, Any]:
    """Return what `export.json` says; nothing where no export is."""
    try:
        index: dict[str, Any] = json.loads((out / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return index


def is_as_written(out: Path) -> bool:
    """Whether an export holds the files that were written, each as it was, and no others."""
    return index_of(out).get("files_sha256") == _digest(out)


def _digest(folder: Path) -> str:
    """Hash names and content of all files but `export.json`."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / INDEX):
        digest.update(os.fsencode(path.relative_to(folder)) + b"\0" + sha256_of_file(path))
    return digest.hexdigest()


def _coco(masks: Sequence[ExportedMask], root: Path, folder: Path) -> None:
    """One file that `pycocotools.coco.COCO` opens; the record is in further keys of the annotations."""
    images = {
        mask.example.image_id: {
            "id": mask.example.image_id,
            "file_name": image_name(mask.example, root),
            "width": mask.example.width_px,
            "height": mask.example.height_px,
        }
        for mask in masks
    }
    names = [NO_CATEGORY, *sorted({mask.category for mask in masks} - {"", NO_CATEGORY})]
    ids = {name: number for number, name in enumerate(names, 1)}
    annotations = [
        {
            "id": number,
            "image_id": mask.example.image_id,
            "category_id": ids[mask.category or NO_CATEGORY],
            "segmentation": mask.rle,
            "area": mask_area_px(mask.rle),
            "bbox": box_of_mask(mask.rle),
            "iscrowd": 0,
            **record(mask, root, without=("image", "rle", "id")),
        }
        for number, mask in enumerate(masks, 1)  # COCO's evaluation takes id 0 for "no match"
    ]
    info = {"description": "Masks of referring expressions, made by L2L-Ray"}
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    content = {"info": info, "images": list(images.values()), "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


def _jsonl(masks: Sequence[ExportedMask], root: Path, folder: Path) -> None:
    write_json_lines(folder / "masks.jsonl", (record(mask, root) for mask in masks))


def _parquet(masks: Sequence[ExportedMask], root: Path, folder: Path) -> None:
    _write_parquet(folder / "masks.parquet", masks, root)


def _hf(masks: Sequence[ExportedMask], root: Path, folder: Path) -> None:
    """Parquet shards named as the Hub names them, and a card whose YAML tells `datasets` what they hold."""
    (folder / "data").mkdir()
    sizes: dict[str, int] = {}
    splits = []
    for split in dict.fromkeys(mask.split for mask in masks):
        chosen = [mask for mask in masks if mask.split == split]
        num_shards = math.ceil(len(chosen) / ROWS_PER_SHARD)
        sizes[split] = 0
        for shard in range(num_shards):
            path = folder / "data" / f"{split}-{shard:05d}-of-{num_shards:05d}.parquet"
            _write_parquet(path, chosen[shard * ROWS_PER_SHARD : (shard + 1) * ROWS_PER_SHARD], root)
            sizes[split] += path.stat().st_size
        splits.append({"name": split, "num_examples": len(chosen), "num_bytes": sizes[split]})
    rle = [{"name": "size", "sequence": "int64"}, {"name": "counts", "dtype": "string"}]
    features = [
        {"name": name, **({"struct": rle} if kind == "rle" else {"dtype": "string" if kind == "json" else kind})}
        for name, kind in RECORD.items()
    ]
    size = sum(sizes.values())
    files = [{"split": split, "path": f"data/{split}-*"} for split in sizes]
    card = {
        "task_categories": ["image-segmentation"],
        "tags": ["referring-expression-segmentation", "pseudo-labels"],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"features": features, "splits": splits, "download_size": size, "dataset_size": size},
    }
    front = yaml.safe_dump(card, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{front}---\n{_CARD}", encoding="utf-8")


_CARD = """
# Masks of referring expressions

Made by a model, not by people: `confidence` is the estimated IoU of the mask with the truth,
`accepted_rle` where it was believed, `provenance` (JSON) which run, version, round and seed it came from. `rle` is
COCO's compressed run-length encoding at the image's native size:

```python
from pycocotools import mask
pixels = mask.decode({"size": row["rle"]["size"], "counts": row["rle"]["counts"].encode()})
```

Images are not part of this data set: `image` is a path below the folder that `export.json` names as `image_root`.
"""


def _png(masks: Sequence[ExportedMask], root: Path, folder: Path) -> None:
    """One picture per mask, 255 = object, named after its photo; `index.jsonl` has the records."""
    rows = []
    for mask, name in zip(masks, _picture_names(masks, root), strict=True):
        _save_png(mask.rle, folder / "masks" / name)
        if mask.accepted_rle is not None:
            _save_png(mask.accepted_rle, folder / "accepted" / name)
        rows.append({**record(mask, root, without=("rle",)), "mask": f"masks/{name}"})
    write_json_lines(folder / "index.jsonl", rows)


def _picture_names(masks: Sequence[ExportedMask], root: Path) -> list[str]:
    """Return `<folder>/<photo>_<n>_mask.png` per mask; n counts the masks of all photos of that name in a folder."""
    counts: Counter[str] = Counter()
    names = []
    for mask in masks:
        photo = PurePosixPath(image_name(mask.example, root))
        stem = os.fsencode(photo.stem)[:_MAX_STEM_BYTES].decode(errors="ignore")
        counts[str(photo.with_name(stem or "_")).lower()] += 1  # a.jpg, a.png and, on some disks, A.jpg are one name
        number = counts[str(photo.with_name(stem or "_")).lower()]
        names.append(photo.with_name(f"{stem}_{number}_mask.png").as_posix())
    return names


def _save_png(rle: Rle, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(decode(rle)).astype(np.uint8) * 255).save(path)


def _label_studio(masks: Sequence[ExportedMask], root: Path, folder: Path) -> None:
    turned = [path for path in dict.fromkeys(mask.example.image_path for mask in masks) if _is_shown_turned(path)]
    if turned:
        raise DataError(
            f"Label Studio shows {counted(len(turned), 'photo')} of these turned as EXIF says ({first_of(turned)}), "
            "and the masks are on the stored pixels; take the tag away, which changes no pixel (exiftool -Orientation= "
            "PHOTO), or choose another --format"
        )
    tasks = [task(decode(mask.rle), record(mask, root, without=("rle",))) for mask in masks]
    (folder / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")
    (folder / "labeling_config.xml").write_text(LABELING_CONFIG, encoding="utf-8")


def _is_shown_turned(photo: str) -> bool:
    try:
        return not read_header(photo).as_shown
    except BadPicture:  # such as one that is gone; it is shown to nobody
        return False


def _write_parquet(path: Path, masks: Sequence[ExportedMask], root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rle = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])
    types = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "json": pa.string(), "rle": rle}
    texts = [name for name, kind in RECORD.items() if kind == "json"]
    rows = [record(mask, root) for mask in masks]
    for row in rows:
        row.update({name: json.dumps(row[name]) for name in texts if row[name] is not None})
    schema = pa.schema([(name, types[kind]) for name, kind in RECORD.items()])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


FORMATS: dict[str, Callable[[Sequence[ExportedMask], Path, Path], None]] = {
    "coco": _coco,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "hf": _hf,
    "png": _png,
    "labelstudio": _label_studio,
    "yolo": write_yolo,
}
