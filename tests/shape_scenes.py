"""Scenes of given shapes without a picture: what the tests of meanings and expressions look at."""

import numpy as np

from l2l_ray.refshapes.scenes import CATEGORY_IDS, Scene, SceneObject


def shape_at(shape, color, x, y, radius=10.0, size_word="medium", texture="plain"):
    return SceneObject(shape, color, size_word, texture, CATEGORY_IDS[shape], (x, y), radius)


def scene_of(*objects, hidden=(), side_px=100):
    hidden_px = np.zeros((len(objects), len(objects)), dtype=np.int64)
    for front, back, num_px in hidden:
        hidden_px[front, back] = num_px
    masks = np.zeros((len(objects), side_px, side_px), dtype=bool)
    boxes = np.zeros((len(objects), 4), dtype=np.float32)
    image = np.zeros((side_px, side_px, 3), dtype=np.uint8)
    return Scene(image, tuple(objects), masks, boxes, hidden_px, np.ones(len(objects), dtype=np.float32))
