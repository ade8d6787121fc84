"""The picture hash: bits by hand, and how far copies and strangers are apart."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2l_ray.data.layout import BadValue
from l2l_ray.datatools.leaks import MAX_DISTANCE
from l2l_ray.datatools.picture_hash import hash_file, pairs_within, picture_hash
from tests.refer_folder import draw

REAL = os.environ.get("L2L_REAL_DATA")


def distance(first: np.ndarray, second: np.ndarray) -> int:
    ((_, _, bits),) = pairs_within(first[None], second[None], 128)
    return bits


def test_bits_by_hand() -> None:
    gray = np.zeros((9, 9), dtype=np.uint8)
    assert picture_hash(Image.fromarray(gray)).tolist() == [0, 0]
    gray[0, 1] = 9  # brighter than its left neighbour: the first bit of the first word; nothing above it
    assert picture_hash(Image.fromarray(gray)).tolist() == [1 << 63, 0]
    ramp = np.tile(np.arange(9, dtype=np.uint8) * 20, (9, 1))
    assert picture_hash(Image.fromarray(ramp)).tolist() == [2**64 - 1, 0]
    assert picture_hash(Image.fromarray(ramp.T)).tolist() == [0, 2**64 - 1]


def test_pairs_are_all_found_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2l_ray.datatools.picture_hash.PICTURES_AT_ONCE", 2)
    first = np.array([[0, 0], [1, 0], [7, 0]], dtype=np.uint64)
    second = np.array([[0, 0], [3, 0], [0, 255], [7, 1]], dtype=np.uint64)
    assert sorted(pairs_within(first, second, 1)) == [(0, 0, 0), (1, 0, 1), (1, 1, 1), (2, 1, 1), (2, 3, 1)]
    assert list(pairs_within(first[:0], second, 1)) == []


def variants(path: Path) -> list[Image.Image]:
    with Image.open(path) as picture:
        image = picture.convert("RGB")
    small = image.resize((max(9, image.width // 2), max(9, image.height // 2)), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=60)
    return [small, Image.open(content)]


def test_copies_are_near_and_strangers_far(tmp_path: Path) -> None:
    paths = [draw(tmp_path / f"{seed}.png", seed, size=(320, 240)) for seed in range(6)]
    hashes = [hash_file(path) for path in paths]
    for path, found in zip(paths, hashes, strict=True):
        assert all(distance(found, picture_hash(variant)) <= MAX_DISTANCE for variant in variants(path))
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 2 * MAX_DISTANCE


@pytest.mark.skipif(REAL is None, reason="L2L_REAL_DATA is not set")
def test_real_photos_scaled_and_compressed_again_are_near_and_others_far() -> None:
    paths = sorted((Path(str(REAL)) / "refer" / "images").rglob("*.jpg"))
    hashes = [hash_file(path) for path in paths]
    for path, found in list(zip(paths, hashes, strict=True))[:20]:
        assert all(distance(found, picture_hash(variant)) <= MAX_DISTANCE for variant in variants(path)), path
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > MAX_DISTANCE


def test_unreadable_pictures(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    for name in ("x.jpg", "gone.jpg"):
        with pytest.raises(BadValue, match="cannot be read"):
            hash_file(tmp_path / name)
