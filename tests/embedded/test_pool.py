"""The scene pool: boxes and expressions belong to the picture, chunks are deterministic and resumable."""

import numpy as np
import pytest

from l2l_ray.embedded import pool as scene_pool
from l2l_ray.errors import ConfigError
from l2l_ray.refshapes.scenes import COLORS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    original, scene_pool.CHUNK_SCENES = scene_pool.CHUNK_SCENES, 6
    scene_pool.build(folder, num_scenes=10, size_px=64, seed=3)
    yield folder
    scene_pool.CHUNK_SCENES = original


def test_arrays_fit_together(folder):
    pool = scene_pool.load(folder)
    assert pool.images.shape == (12, 64, 64, 3)  # 10 rounded up to two chunks of 6
    assert len(pool.texts) == len(pool.scene_index) == len(pool.object_index)
    assert (np.diff(pool.scene_index) >= 0).all()
    assert pool.scene_index.max() == 11
    exists = pool.attributes[..., 0] >= 0
    assert exists[pool.scene_index, pool.object_index].all()
    boxes = pool.boxes_xyxy_frac[exists]
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert boxes.min() >= 0
    assert boxes.max() <= 1


def test_an_expression_that_names_a_color_names_its_object_s(folder):
    pool = scene_pool.load(folder)
    checked = 0
    for text, scene, index in zip(pool.texts, pool.scene_index, pool.object_index, strict=True):
        named = [color for color in COLORS if color in text.split()]
        if len(named) == 1 and " of " not in text and len(text.split()) <= 3:
            assert COLORS[pool.attributes[scene, index, 1]] == named[0], text
            checked += 1
    assert checked > 10


def test_a_missing_chunk_is_rendered_again_alike(folder):
    before = scene_pool.load(folder)
    (folder / "chunk0001.npz").unlink()
    first = (folder / "chunk0000.npz").stat().st_mtime_ns
    scene_pool.build(folder, num_scenes=10, size_px=64, seed=3)
    after = scene_pool.load(folder)
    assert np.array_equal(before.images, after.images)
    assert before.texts == after.texts
    assert (folder / "chunk0000.npz").stat().st_mtime_ns == first


def test_first_chunks_alone(folder):
    assert len(scene_pool.load(folder, num_scenes=6).images) == 6


def test_empty_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="holds no chunk.*run build"):
        scene_pool.load(tmp_path)
