"""Which images are labeled: by image, by fraction, by seed; and folds of the labeled ones. Ids only, no file is opened.

Images are ordered by a hash of seed and id, and the first ones are labeled. So the choice does not depend on the
order in which ids come, a smaller fraction is always a part of a larger one (1 % lies inside 5 %), and removing an
image from the data set changes nothing for the others but the count.

Source: the split is by image, all refs of a picked image are labeled, and the count is rounded down, as in SemiRES.
Departure: SemiRES draws each fraction anew, so its 1 % is not inside its 5 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from l2l_ray.errors import ConfigError, DataError
from l2l_ray.randomness import sample_key


def split_labeled(image_ids: Sequence[int], frac: float, seed: int) -> tuple[list[int], list[int]]:
    """Return (labeled, unlabeled) image ids, both in the order given.

    Args:
        image_ids: The train images, each once.
        frac: Share of images that is labeled, in (0, 1]; the count is rounded down.
        seed: Seed of the choice.
    Raises:
        ConfigError: If the fraction is out of range or leaves no labeled image.
        DataError: If an id comes twice.
    """
    if not 0 < frac <= 1:
        raise ConfigError(f"labeled_frac must be in (0, 1], got {frac}; use 0.01 for the 1 % split")
    # 1e-9: 0.29 * 100 is 28.999999999999996 in binary, which must still give 29 images.
    num_labeled = math.floor(frac * len(image_ids) + 1e-9)
    if num_labeled < 1:
        least = f"at least {1 / len(image_ids):.4g}" if image_ids else "a data set with train images"
        raise ConfigError(
            f"labeled_frac gives 0 labeled images: {frac} of {len(image_ids)} train images is below 1; use {least}"
        )
    labeled = set(_shuffled(image_ids, seed, "labeled")[:num_labeled])
    return [i for i in image_ids if i in labeled], [i for i in image_ids if i not in labeled]


def folds(image_ids: Sequence[int], num_folds: int, seed: int) -> list[list[int]]:
    """Return a partition of the images into folds whose sizes differ by at most one.

    Args:
        image_ids: The labeled images, each once.
        num_folds: At least 2.
        seed: Seed of the partition.
    Raises:
        ConfigError: If there are fewer images than folds.
        DataError: If an id comes twice.
    """
    if not 2 <= num_folds <= len(image_ids):
        raise ConfigError(
            f"num_folds must be from 2 to the number of labeled images, got {num_folds} for {len(image_ids)} images; "
            "raise labeled_frac or lower num_folds"
        )
    order = _shuffled(image_ids, seed, "folds")
    return [order[fold::num_folds] for fold in range(num_folds)]


def _shuffled(image_ids: Sequence[int], seed: int, purpose: str) -> list[int]:
    if len(set(image_ids)) != len(image_ids):
        repeated = [image_id for image_id, count in Counter(image_ids).most_common(5) if count > 1]
        raise DataError(
            f"image ids must be unique to be split, got some more than once: {repeated}; pass each image once"
        )
    return sorted(image_ids, key=lambda image_id: (sample_key(seed, purpose, image_id), image_id))
