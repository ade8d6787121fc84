"""A folder of drawn photos with texts beside them and masks for a few, as somebody's own photos would lie there.

For trying what is done with own photos (`l2l example`). Each shows several things and is asked for one of them:
`photo_000.jpg`, its texts one per line in `photo_000.txt`, and for the first few `photo_000_mask.png`.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from l2l_ray.errors import DataError
from l2l_ray.refshapes.synthetic import draw_samples


def write_photos(folder: Path, num: int = 40, num_masks: int = 12, side_px: int = 128, seed: int = 0) -> Path:
    """Draw the photos.

    Args:
        folder: Made here; it must be empty or not there.
        num: How many photos.
        num_masks: How many of them have a mask.
        side_px: Nominal side.
        seed: The same photos for the same arguments.
    Returns:
        `folder`.
    Raises:
        DataError: A number is out of range, something lies in the folder, or it cannot be written.
    """
    if not 0 <= num_masks <= num or num < 1:
        raise DataError(
            f"--masks must lie between 0 and --num, and --num must be at least 1, got {num_masks} and {num}"
        )
    if seed < 0:
        raise DataError(f"--seed must be 0 or more, got {seed}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise DataError(f"{folder} is not empty; name a new folder")
        for number, sample in enumerate(islice(draw_samples("refshapes", seed, "train", 4 * num, side_px), num)):
            stem = folder / f"photo_{number:03d}"
            index, texts = next(iter(sample.expressions.items()))
            stem.with_suffix(".jpg").write_bytes(sample.jpeg)
            stem.with_suffix(".txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
            if number < num_masks:
                mask = Image.fromarray(sample.scene.masks[index].astype(np.uint8) * 255)
                mask.save(stem.with_name(f"{stem.name}_mask.png"))
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error}; name another folder") from error
    return folder
