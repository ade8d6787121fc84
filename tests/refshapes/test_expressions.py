"""Expressions of drawn scenes: each fits one object by a judge of its own, in the words of its style and domain."""

import functools
import re

import numpy as np
import pytest

from l2l_ray.refshapes.expressions import KINDS, LOCATION_WORDS, WORDS, describe, expressions_for, kind_of
from l2l_ray.refshapes.meanings import STYLES, Meaning
from l2l_ray.refshapes.scenes import COLORS, SHAPES, SIZE_WORDS, TEXTURES, render_scene
from tests.shape_scenes import scene_of, shape_at


def test_indistinguishable_objects_have_no_location_free_expression():
    twins = scene_of(shape_at("circle", "red", 20, 50), shape_at("circle", "red", 80, 50))
    rng = np.random.default_rng(0)
    assert expressions_for(twins, 0, rng, "refcoco+", "refshapes") == []
    assert expressions_for(twins, 0, rng, "refcoco", "pretrain")


@functools.cache
def _described(style, domain, num_scenes=40):
    rng = np.random.default_rng(11)
    found = []
    for _ in range(num_scenes):
        scene = render_scene(rng, domain)
        for index in range(len(scene.objects)):
            found += [(scene, index, *said) for said in describe(scene, index, rng, style, domain)]
    return found


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


@pytest.mark.parametrize("style", STYLES)
def test_the_kind_of_an_expression_is_read_off_its_words(style):
    found = set()
    for _, _, text, meaning in _described(style, "pretrain"):
        if meaning.rank:
            expected = "extreme" if meaning.rank[1] == 1 else "order"
        else:
            expected = "another object" if meaning.relation else "place" if meaning.location else "looks"
        assert kind_of(text) == expected, text
        found.add(expected)
    assert found == (set(KINDS) - {"place", "order"} if style == "refcoco+" else set(KINDS))


def test_slips_and_capitals_of_the_benchmark_hide_the_kind_of_few():
    kinds = [
        (kind_of(text), kind_of(text.swapcase()), meaning.rank)
        for _, _, text, meaning in _described("refcoco", "refshapes")
    ]
    assert all(kind == swapped for kind, swapped, _ in kinds)
    ranked = [kind for kind, _, rank in kinds if rank]
    assert np.mean([kind in ("extreme", "order") for kind in ranked]) > 0.95
