"""Which images are labeled, held out, or in which fold: by image, by share, by seed. Ids only, no file is opened.

Images are ordered by a hash of seed and id, and the first ones are labeled. So the choice does not depend on the
order in which ids come, a smaller fraction is always a part of a larger one (1 % lies inside 5 %), and removing an
image from the data set changes nothing for the others but the count. Where some images lack truth, the first ones that
have it are labeled; the share still counts all images.

Source: the split is by image, all refs of a picked image are labeled, and the count is rounded down, as in SemiRES.
Departure: SemiRES draws each fraction anew, so its 1 % is not inside its 5 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

from l2l_ray.errors import ConfigError, DataError
from l2l_ray.randomness import sample_key

BEGIN_AGAIN = "give the same command again (where you imported yourself, `l2l data import ... --update` first)"
NO_MASK = f"No train photo has a mask; add masks of two at least, then {BEGIN_AGAIN}"


def split_labeled(
    image_ids: Sequence[int], frac: float, seed: int, with_truth: Collection[int] | None = None
) -> tuple[list[int], list[int]]:
    """Return (labeled, unlabeled) image ids, both in the order given.

    Args:
        image_ids: The train images, each once.
        frac: Share of all these images that is labeled, in (0, 1]; the count is rounded down.
        seed: Seed of the choice.
        with_truth: Those that may be labeled, because all their refs have truth; None = all.
    Raises:
        ConfigError: If the fraction is out of range, leaves no labeled image, or is more than have truth.
        DataError: If an id comes twice.
    """
    candidates = image_ids if with_truth is None else [i for i in image_ids if i in with_truth]
    count = num_labeled(frac, len(image_ids), len(candidates))
    labeled = set(_shuffled(candidates, seed, "labeled")[:count])
    return [i for i in image_ids if i in labeled], [i for i in image_ids if i not in labeled]


def num_labeled(amount: float | int, num_images: int, num_with_truth: int) -> int:
    """Return how many images are labeled when a share, or a number, of them shall be.

    Args:
        amount: A share of all train images in (0, 1] as a float, rounded down; a number of images as an int.
        num_images: How many train images there are.
        num_with_truth: How many of them have truth on all their refs: only those may be labeled.
    Raises:
        ConfigError: If the amount is out of range, gives no image, or is more than have truth.
    """
    count = count_of(amount, num_images)
    if count < 1:
        least = f"at least {1 / num_images:.2g}" if num_images else "a data set with train images"
        raise ConfigError(
            f"labeled_frac gives 0 labeled images: {amount} of {num_images} train images is below 1; use {least}"
        )
    if count > num_with_truth:
        raise ConfigError(
            f"{amount} of {num_images} train images are to be labeled, that is {count}, but only {num_with_truth} have "
            f"a mask for each of their texts; ask for at most {num_with_truth}, or, with data of your own, for all of "
            "them (a run without data.labeled_frac, `l2l data split --all`)"
        )
    return count


def count_of(amount: float | int, num_images: int) -> int:
    """Return how many of `num_images` a share in (0, 1] is, rounded down; an int is that number itself."""
    if isinstance(amount, int):
        return amount
    if not 0 < amount <= 1:
        raise ConfigError(f"the fraction must be in (0, 1], got {amount}; use 0.01 for the 1 % split")
    return _floor(amount * num_images)


def hold_out(
    image_ids: Sequence[int], share: float, num_needed: int, seed: int, last: Collection[int] = ()
) -> tuple[list[int], list[int]]:
    """Return (kept, held out) images, both in the order given; a smaller share lies inside a larger one.

    Args:
        image_ids: The labeled images, each once.
        share: Share of them to hold out, in [0, 1); the count is rounded down.
        num_needed: So many are kept, whatever the share, if there are so many.
        seed: Seed of the choice.
        last: Those that are held out only where the others are too few.
    Raises:
        DataError: If an id comes twice.
    """
    count = max(0, min(_floor(share * len(image_ids)), len(image_ids) - num_needed))
    order = sorted(_shuffled(image_ids, seed, "val"), key=lambda image_id: image_id in last)
    held_out = set(order[:count])
    return [i for i in image_ids if i not in held_out], [i for i in image_ids if i in held_out]


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
            "label more images or lower num_folds"
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


def _floor(number: float) -> int:
    # 1e-9: 0.29 * 100 is 28.999999999999996 in binary, which must still give 29 images.
    return math.floor(number + 1e-9)
