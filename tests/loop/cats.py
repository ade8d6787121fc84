"""A data set of nine photos with a cat each, in REFER's layout, for tests of preparation and priors."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from l2l_ray.data.masks import encode

NUM_IMAGES = {"train": 6, "val": 2, "testA": 1}


def write_refer(root: Path, num_images: dict[str, int] | None = None, sentences: int = 2) -> dict[str, Any]:
    """Write a data set in REFER's layout, one ref per image; return the content of instances.json."""
    rng = np.random.default_rng(0)
    (root / "images" / "cats").mkdir(parents=True)
    (root / "cats").mkdir()
    images, annotations, refs = [], [], []
    splits = [split for split, num in (num_images or NUM_IMAGES).items() for _ in range(num)]
    for number, split in enumerate(splits):
        name = f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(root / "images" / "cats" / name)
        images.append({"id": number, "file_name": name, "width": 32, "height": 24})
        mask = np.zeros((24, 32), bool)
        mask[4:12, 3:20] = True
        annotations.append({
            "id": 50 + number, "image_id": number, "category_id": 1, "bbox": [3, 4, 17, 8], "area": 136,
            "segmentation": encode(mask),
        })  # fmt: skip
        sents = [{"sent_id": 10 * number + k, "sent": f"cat {number} {k}"} for k in range(sentences)]
        refs.append({"ref_id": number, "ann_id": 50 + number, "image_id": number, "split": split, "sentences": sents})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (root / "cats" / "refs(me).p").write_bytes(pickle.dumps(refs))
    (root / "cats" / "instances.json").write_text(json.dumps(content))
    return content
