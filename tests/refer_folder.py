"""A tiny data set in the REFER layout, written by the real writer: three train images, one of val, one of testA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from l2l_ray.datatools.refer_writer import ReferWriter, sentence

SPLITS_OF_IMAGES = {1: "train", 2: "train", 3: "train", 4: "val", 5: "testA"}
TRIANGLE = [[2.0, 2.0, 20.0, 2.0, 2.0, 14.0]]  # 18 x 12 / 2 = 108 px


def draw(path: Path, seed: int, size: tuple[int, int] = (32, 24)) -> Path:
    """Write a picture of smooth patches, different for each seed; `size` is width, height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def write_tiny(
    root: Path,
    dataset: str = "tiny",
    file_name: str = "{}.png",
    splits: dict[int, str] | None = None,
    **annotation: Any,
) -> Path:
    """Write one ref with two sentences per image; `annotation` changes every annotation."""
    with ReferWriter(root, dataset, "own") as writer:
        writer.categories[1] = "cat"
        for image_id, split in (splits or SPLITS_OF_IMAGES).items():
            name = file_name.format(image_id)
            picture = draw(root / "pictures" / name, image_id)
            writer.add_image(image_id, name, (32, 24), picture)
            fields = {"category_id": 1, "bbox": [2.0, 2.0, 18.0, 12.0], "area": 108, "segmentation": TRIANGLE}
            writer.annotations[50 + image_id] = {
                "id": 50 + image_id, "image_id": image_id, "iscrowd": 0, **fields, **annotation,
            }  # fmt: skip
            ref = {"ref_id": image_id, "ann_id": 50 + image_id, "image_id": image_id, "split": split}
            writer.add_ref(ref, [sentence(10 * image_id + k, f"cat {image_id} {k}") for k in range(2)])
        return writer.write()
