"""What a meaning fits, by hand: on the row of shapes below, mirrored, and where two objects nearly tie."""

from dataclasses import replace

import pytest

from l2l_ray.refshapes.meanings import Meaning, is_unique, matches
from tests.shape_scenes import scene_of, shape_at

# 0, 1, 2: a row of red circles, growing to the right; 3: blue ring by the second circle; 4: striped star, lower right.
ROW = scene_of(
    shape_at("circle", "red", 15, 20, radius=6, size_word="small"),
    shape_at("circle", "red", 50, 22, radius=11),
    shape_at("circle", "red", 85, 18, radius=18, size_word="large"),
    shape_at("ring", "blue", 52, 45, radius=9),
    shape_at("star", "red", 80, 80, texture="striped"),
    hidden=((3, 1, 20), (4, 2, 3)),
)


@pytest.mark.parametrize(
    ("meaning", "expected"),
    [
        (Meaning(), [0, 1, 2, 3, 4]),
        (Meaning(color="red"), [0, 1, 2, 4]),
        (Meaning(shape="circle"), [0, 1, 2]),
        (Meaning(shape="heart"), []),
        (Meaning(texture="striped"), [4]),
        (Meaning(shape="circle", size_word="large"), [2]),
        (Meaning(shape="circle", location=("left",)), [0]),
        (Meaning(location=("right",)), [2, 4]),
        (Meaning(location=("top",)), [0, 1, 2]),
        (Meaning(location=("bottom",)), [4]),
        (Meaning(location=("top", "right")), [2]),
        (Meaning(location=("middle",)), [3]),
        (Meaning(shape="circle", rank=("left", 1)), [0]),
        (Meaning(shape="circle", rank=("left", 2)), [1]),
        (Meaning(shape="circle", rank=("right", 1)), [2]),
        (Meaning(shape="circle", rank=("right", 3)), [0]),
        (Meaning(shape="circle", rank=("right", 4)), []),
        (Meaning(rank=("bottom", 1)), [4]),
        (Meaning(shape="circle", rank=("largest", 1)), [2]),
        (Meaning(shape="circle", rank=("smallest", 1)), [0]),
        (Meaning(color="red", relation=("left of", Meaning(shape="ring"))), [0, 1]),
        (Meaning(color="red", relation=("right of", Meaning(shape="ring"))), [2, 4]),
        (Meaning(color="red", relation=("below", Meaning(shape="ring"))), [4]),
        (Meaning(shape="circle", relation=("above", Meaning(shape="ring"))), [0, 1, 2]),
        (Meaning(shape="circle", relation=("next to", Meaning(color="blue"))), [1]),
        (Meaning(relation=("in front of", Meaning(size_word="medium", shape="circle"))), [3]),
        (Meaning(relation=("behind", Meaning(shape="ring"))), [1]),
        (Meaning(relation=("behind", Meaning(shape="star"))), []),
        (Meaning(relation=("next to", Meaning(shape="circle"))), []),  # three anchors: the relation says nothing
        (Meaning(color="red", relation=("left of", Meaning(shape="ring")), rank=("left", 2)), [1]),
    ],
)
def test_matches_by_hand(meaning, expected):
    assert matches(ROW, meaning) == expected


def test_slack_widens_and_narrows():
    scene = scene_of(
        shape_at("circle", "red", 39, 50), shape_at("circle", "red", 41, 50), shape_at("circle", "red", 10, 50)
    )
    left = Meaning(location=("left",))
    assert matches(scene, left) == [0, 2]
    assert matches(scene, left, 0.025) == [0, 1, 2]
    assert matches(scene, left, -0.025) == [2]
    assert matches(scene, Meaning(rank=("right", 1))) == [1]
    assert matches(scene, Meaning(rank=("right", 1)), 0.025) == [0, 1]


def test_a_near_tie_is_not_unique():
    scene = scene_of(shape_at("circle", "red", 30, 50), shape_at("circle", "red", 31, 50))
    assert not is_unique(scene, 0, Meaning(rank=("left", 1)))
    apart = scene_of(shape_at("circle", "red", 30, 50), shape_at("circle", "red", 60, 50))
    assert is_unique(apart, 0, Meaning(rank=("left", 1)))
    assert not is_unique(apart, 1, Meaning(rank=("left", 1)))


def test_a_mirrored_scene_swaps_left_and_right():
    width = ROW.image.shape[1]
    flipped = replace(
        ROW,
        objects=tuple(replace(o, center_xy_px=(width - o.center_xy_px[0], o.center_xy_px[1])) for o in ROW.objects),
    )
    for name, mirrored in (("left", "right"), ("right", "left"), ("top", "top")):
        assert matches(ROW, Meaning(location=(name,))) == matches(flipped, Meaning(location=(mirrored,)))
        for position in (1, 2, 3):
            assert matches(ROW, Meaning(rank=(name, position))) == matches(flipped, Meaning(rank=(mirrored, position)))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown location 'north'"):
        matches(ROW, Meaning(location=("north",)))
    with pytest.raises(ValueError, match="unknown relation 'inside'"):
        matches(ROW, Meaning(relation=("inside", Meaning(shape="ring"))))
