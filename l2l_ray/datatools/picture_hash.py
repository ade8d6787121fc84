"""A perceptual hash of pictures: 128 bits that stay nearly the same when a picture is scaled or compressed again.

The picture is shrunk to 9 x 9 gray pixels; 64 bits say where brightness rises to the right, 64 where it rises down.
The distance of two pictures is the number of bits that differ: 0 for copies, a few after scaling or JPEG, about 64 for
unrelated ones. Cropped, mirrored and rotated copies are not recognised; pictures with little in them may look alike.

Source: the difference hash ("dHash") is N. Krawetz's, hackerfactor.com, 2013; taking both directions is ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt64
from PIL import Image

from l2l_ray.data.pixels import read_gray

_SIDE = 9
PICTURES_AT_ONCE = 2048  # pictures compared at once: 2048 x 2048 distances are 32 MiB


def picture_hash(picture: Image.Image) -> UInt64[np.ndarray, " 2"]:
    """Return the 128 bits of a picture as two 64-bit words."""
    small = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    gray = np.asarray(small, dtype=np.int16)
    right = gray[:-1, 1:] > gray[:-1, :-1]
    down = gray[1:, :-1] > gray[:-1, :-1]
    packed = np.packbits(np.concatenate((right.ravel(), down.ravel())))
    return packed.view(">u8").astype(np.uint64)


def hash_file(path: Path) -> UInt64[np.ndarray, " 2"]:
    """Return the hash of a picture file.

    Raises:
        BadPicture: If it cannot be read.
    """
    return picture_hash(read_gray(path, 8 * _SIDE))


def pairs_within(
    first: UInt64[np.ndarray, "N 2"], second: UInt64[np.ndarray, "M 2"], max_distance: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (i, j, distance) of all pairs of `first` and `second` that differ in at most `max_distance` bits."""
    for start in range(0, len(first), PICTURES_AT_ONCE):
        rows = first[start : start + PICTURES_AT_ONCE]
        for offset in range(0, len(second), PICTURES_AT_ONCE):
            distances = _distances(rows, second[offset : offset + PICTURES_AT_ONCE])
            for i, j in np.argwhere(distances <= max_distance):
                yield start + int(i), offset + int(j), int(distances[i, j])


def _distances(first: UInt64[np.ndarray, "N 2"], second: UInt64[np.ndarray, "M 2"]) -> Int64[np.ndarray, "N M"]:
    differing = first[:, None] ^ second[None]
    distances: Int64[np.ndarray, "N M"] = np.bitwise_count(differing).sum(axis=2, dtype=np.int64)
    return distances
