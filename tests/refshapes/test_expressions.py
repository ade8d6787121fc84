import re
from dataclasses import replace

import numpy as np
import pytest

from l2l_ray.refshapes.expressions import (
    LOCATION_WORDS,
    STYLES,
    WORDS,
    Meaning,
    describe,
    expressions_for,
    is_unique,
    matches,
)
from l2l_ray.refshapes.scenes import (
    CATEGORY_IDS,
    COLORS,
    SHAPES,
    SIZE_WORDS,
    TEXTURES,
    Scene,
    SceneObject,
    render_scene,
)


def _object(shape, color, x, y, radius=10.0, size_word="medium", texture="plain"):
    return SceneObject(shape, color, size_word, texture, CATEGORY_IDS[shape], (x, y), radius)


def _scene(*objects, hidden=(), side_px=100):
    hidden_px = np.zeros((len(objects), len(objects)), dtype=np.int64)
    for front, back, num_px in hidden:
        hidden_px[front, back] = num_px
    masks = np.zeros((len(objects), side_px, side_px), dtype=bool)
    boxes = np.zeros((len(objects), 4), dtype=np.float32)
    image = np.zeros((side_px, side_px, 3), dtype=np.uint8)
    return Scene(image, tuple(objects), masks, boxes, hidden_px, np.ones(len(objects), dtype=np.float32))


# 0, 1, 2: a row of red circles, growing to the right; 3: blue ring by the second circle; 4: striped star, lower right.
ROW = _scene(
    _object("circle", "red", 15, 20, radius=6, size_word="small"),
    _object("circle", "red", 50, 22, radius=11),
    _object("circle", "red", 85, 18, radius=18, size_word="large"),
    _object("ring", "blue", 52, 45, radius=9),
    _object("star", "red", 80, 80, texture="striped"),
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
    scene = _scene(_object("circle", "red", 39, 50), _object("circle", "red", 41, 50), _object("circle", "red", 10, 50))
    left = Meaning(location=("left",))
    assert matches(scene, left) == [0, 2]
    assert matches(scene, left, 0.025) == [0, 1, 2]
    assert matches(scene, left, -0.025) == [2]
    assert matches(scene, Meaning(rank=("right", 1))) == [1]
    assert matches(scene, Meaning(rank=("right", 1)), 0.025) == [0, 1]


def test_a_near_tie_is_not_unique():
    scene = _scene(_object("circle", "red", 30, 50), _object("circle", "red", 31, 50))
    assert not is_unique(scene, 0, Meaning(rank=("left", 1)))
    apart = _scene(_object("circle", "red", 30, 50), _object("circle", "red", 60, 50))
    assert is_unique(apart, 0, Meaning(rank=("left", 1)))
    assert not is_unique(apart, 1, Meaning(rank=("left", 1)))


def test_indistinguishable_objects_have_no_location_free_expression():
    twins = _scene(_object("circle", "red", 20, 50), _object("circle", "red", 80, 50))
    rng = np.random.default_rng(0)
    assert expressions_for(twins, 0, rng, "refcoco+", "refshapes") == []
    assert expressions_for(twins, 0, rng, "refcoco", "pretrain")


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


def _described(style, domain, num_scenes=40):
    rng = np.random.default_rng(11)
    for _ in range(num_scenes):
        scene = render_scene(rng, domain)
        for index in range(len(scene.objects)):
            for text, meaning in describe(scene, index, rng, style, domain):
                yield scene, index, text, meaning


@pytest.mark.parametrize("domain", ["pretrain", "refshapes"])
@pytest.mark.parametrize("style", STYLES)
def test_expressions_are_unique_under_brute_force(style, domain):
    """Judge each meaning again, without `matches`."""
    num = 0
    for scene, index, _, meaning in _described(style, domain):
        assert [i for i in range(len(scene.objects)) if _fits(scene, i, meaning)] == [index]
        num += 1
    assert num > 200


def _fits(scene, index, meaning):
    height, width = scene.image.shape[:2]

    def allowed(i):
        obj, (x, y) = scene.objects[i], scene.objects[i].center_xy_px
        for name in ("shape", "color", "size_word", "texture"):
            if getattr(meaning, name) is not None and getattr(meaning, name) != getattr(obj, name):
                return False
        near = {"left": x / width, "right": 1 - x / width, "top": y / height, "bottom": 1 - y / height}
        for place in meaning.location:
            if not (min(near.values()) > 0.35 if place == "middle" else near[place] < 0.4):
                return False
        if meaning.relation is None:
            return True
        relation, anchor_meaning = meaning.relation
        anchors = [j for j in range(len(scene.objects)) if _fits(scene, j, anchor_meaning)]
        assert len(anchors) == 1, "an expression names its anchor uniquely"
        j = anchors[0]
        other, (ax, ay) = scene.objects[j], scene.objects[j].center_xy_px
        gap = ((x - ax) ** 2 + (y - ay) ** 2) ** 0.5 - obj.radius_px - other.radius_px
        return (
            j != i
            and {
                "left of": x < ax,
                "right of": x > ax,
                "above": y < ay,
                "below": y > ay,
                "next to": gap < 0.07 * min(height, width),
                "in front of": scene.hidden_px[i, j] >= 12,
                "behind": scene.hidden_px[j, i] >= 12,
            }[relation]
        )

    if not allowed(index):
        return False
    if meaning.rank is None:
        return True
    order, position = meaning.rank
    axis = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}

    def value(i):
        obj = scene.objects[i]
        if order in axis:
            return obj.center_xy_px[axis[order][0]] * axis[order][1]
        return obj.radius_px if order == "smallest" else -obj.radius_px

    before = [i for i in range(len(scene.objects)) if allowed(i) and value(i) < value(index)]
    return len(before) == position - 1


@pytest.mark.parametrize("style", STYLES)
def test_the_words_say_what_the_meaning_does(style):
    for _, _, text, meaning in _described(style, "pretrain"):
        _, anchor = meaning.relation or ("", Meaning())
        for kind, names in (("shape", SHAPES), ("color", COLORS), ("size_word", SIZE_WORDS), ("texture", TEXTURES)):
            meant = [n for n in (getattr(meaning, kind), getattr(anchor, kind)) if n is not None]
            said = [n for n in names for w in WORDS["pretrain"].get(n, (n,)) for _ in re.findall(rf"\b{w}\b", text)]
            assert sorted(said) == sorted(meant), text
        for place in meaning.location:
            assert place in text.split()


@pytest.mark.parametrize("domain", ["pretrain", "refshapes"])
def test_refcoco_plus_has_no_location_words(domain):
    for _, _, text, _ in _described("refcoco+", domain):
        assert not LOCATION_WORDS & set(text.lower().split()), text


def test_refcoco_often_has_location_words_and_refcocog_is_long():
    texts = [text for _, _, text, _ in _described("refcoco", "refshapes")]
    with_location = np.mean([bool(LOCATION_WORDS & set(text.lower().split())) for text in texts])
    assert with_location > 0.5
    assert np.mean([len(text.split()) for text in texts]) < 5
    for domain in ("pretrain", "refshapes"):
        lengths = [len(text.split()) for _, _, text, _ in _described("refcocog", domain)]
        assert min(lengths) >= 8 and max(lengths) <= 20
        assert np.mean([8 <= n <= 16 for n in lengths]) > 0.95


def test_pretrain_uses_fewer_words_than_refshapes():
    def vocabulary(domain):
        return {word for _, _, text, _ in _described("refcoco", domain) for word in text.split()}

    pretrain, refshapes = vocabulary("pretrain"), vocabulary("refshapes")
    assert all(word.islower() for word in pretrain)
    assert "crimson" not in pretrain and "crimson" in refshapes
    assert any(word[0].isupper() for word in refshapes)


def test_expressions_are_the_same_for_the_same_seed():
    scene = render_scene(np.random.default_rng(0), "refshapes")
    first, second = (expressions_for(scene, 0, np.random.default_rng(1), "refcoco", "refshapes") for _ in range(2))
    assert first == second and len(set(first)) == len(first)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown location 'north'"):
        matches(ROW, Meaning(location=("north",)))
    with pytest.raises(ValueError, match="unknown relation 'inside'"):
        matches(ROW, Meaning(relation=("inside", Meaning(shape="ring"))))
