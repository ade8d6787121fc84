"""What an expression can say about an object, and whether only one object of a scene fits.

What an expression means is a `Meaning`; `matches` evaluates one against a scene. Uniqueness is judged with thresholds
moved by `SLACK_FRAC` of the shorter image side: no other object may match even loosely, and the referred one must match
even strictly. So no expression hangs on a pixel.

Three styles, after the three data sets: `refcoco` uses location words, `refcoco+` uses none, `refcocog` uses all. Words
of size are absolute classes (`SceneObject.size_word`). Because the referred object is the only one of its class among
those the words allow, "the big star" is also the biggest, so the relative reading agrees.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np

from l2l_ray.refshapes.scenes import Scene, SceneObject

Style = Literal["refcoco", "refcoco+", "refcocog"]
STYLES: tuple[Style, ...] = ("refcoco", "refcoco+", "refcocog")

SLACK_FRAC = 0.025
_SIDE_FRAC = 0.4  # "left" is a centre in the left 40 % of the width
_NEAR_FRAC = 0.07  # "next to" leaves a gap of at most 7 % of the shorter side
_HIDDEN_PX = 12  # "behind" has at least this many pixels hidden

_SIDES = ("left", "right", "top", "bottom")
_CORNERS = tuple(product(("top", "bottom"), ("left", "right")))
_LOCATIONS: tuple[tuple[str, ...], ...] = (*((side,) for side in _SIDES), ("middle",), *_CORNERS)
_SIZE_RANKS = ("largest", "smallest")
_SPATIAL_RELATIONS = ("left of", "right of", "above", "below")
_FREE_RELATIONS = ("next to", "in front of", "behind")


@dataclass(frozen=True)
class Meaning:
    """The conditions an expression puts on an object; None and () put none.

    Example:
        `Meaning(shape="circle", color="red", rank=("left", 2))` is "the second red circle from the left".

    Args:
        shape: A name of `SHAPES`.
        color: A name of `COLORS`.
        size_word: A name of `SIZE_WORDS`.
        texture: A name of `TEXTURES`.
        location: Any of left, right, top, bottom, middle; all must hold.
        relation: A relation and what it relates to, which must itself match exactly one object.
        rank: (order, position from 1) among the objects that all other conditions allow; order is a side, "largest" or
            "smallest".
    """

    shape: str | None = None
    color: str | None = None
    size_word: str | None = None
    texture: str | None = None
    location: tuple[str, ...] = ()
    relation: tuple[str, "Meaning"] | None = None
    rank: tuple[str, int] | None = None


def matches(scene: Scene, meaning: Meaning, slack_frac: float = 0.0) -> list[int]:
    """Return the indices of the objects that fit a meaning.

    Args:
        scene: The scene to look in.
        meaning: What to look for.
        slack_frac: Moves every threshold by this fraction of the shorter side: positive lets more objects match,
            negative fewer. A rank has no threshold; positive slack adds the objects too close to the ranked one to
            tell apart.
    """
    height, width = scene.image.shape[:2]
    slack = slack_frac * min(height, width)
    found = [i for i, obj in enumerate(scene.objects) if _has_attributes(obj, meaning)]
    for location in meaning.location:
        found = [i for i in found if _is_at(scene.objects[i], location, height, width, slack)]
    if meaning.relation is not None:
        name, anchor = meaning.relation
        anchors = matches(scene, anchor, slack_frac)
        if len(anchors) != 1:
            return []
        found = [i for i in found if i != anchors[0] and _is_related(scene, i, name, anchors[0], slack)]
    if meaning.rank is not None:
        order, position = meaning.rank
        values = {i: _rank_value(scene.objects[i], order) for i in found}
        if position > len(found):
            return []
        ranked = sorted(values.values())[position - 1]
        found = [i for i in found if abs(values[i] - ranked) <= max(slack, 0.0)]
    return found


def is_unique(scene: Scene, index: int, meaning: Meaning) -> bool:
    """Tell whether a meaning fits object `index` and no other, with room to spare on every threshold."""
    return all(matches(scene, meaning, slack_frac) == [index] for slack_frac in (SLACK_FRAC, -SLACK_FRAC))


def _has_attributes(obj: SceneObject, meaning: Meaning) -> bool:
    return (
        meaning.shape in (None, obj.shape)
        and meaning.color in (None, obj.color)
        and meaning.size_word in (None, obj.size_word)
        and meaning.texture in (None, obj.texture)
    )


def _is_at(obj: SceneObject, location: str, height: int, width: int, slack: float) -> bool:
    x, y = obj.center_xy_px
    match location:
        case "left":
            return x < _SIDE_FRAC * width + slack
        case "right":
            return width - x < _SIDE_FRAC * width + slack
        case "top":
            return y < _SIDE_FRAC * height + slack
        case "bottom":
            return height - y < _SIDE_FRAC * height + slack
        case "middle":
            reach = 0.5 - _SIDE_FRAC + 0.05
            return abs(x - width / 2) < reach * width + slack and abs(y - height / 2) < reach * height + slack
    raise ValueError(f"unknown location {location!r}, expected one of {(*_SIDES, 'middle')}")


def _is_related(scene: Scene, index: int, relation: str, anchor: int, slack: float) -> bool:
    this, that = scene.objects[index], scene.objects[anchor]
    dx, dy = (a - b for a, b in zip(this.center_xy_px, that.center_xy_px, strict=True))
    match relation:
        case "left of":
            return dx < slack
        case "right of":
            return -dx < slack
        case "above":
            return dy < slack
        case "below":
            return -dy < slack
        case "next to":
            gap = float(np.hypot(dx, dy)) - this.radius_px - that.radius_px
            return gap < _NEAR_FRAC * float(min(scene.image.shape[:2])) + slack
        case "in front of":
            return bool(scene.hidden_px[index, anchor] >= (1 if slack > 0 else _HIDDEN_PX))
        case "behind":
            return bool(scene.hidden_px[anchor, index] >= (1 if slack > 0 else _HIDDEN_PX))
    raise ValueError(f"unknown relation {relation!r}, expected one of {(*_SPATIAL_RELATIONS, *_FREE_RELATIONS)}")


def _rank_value(obj: SceneObject, order: str) -> float:
    x, y = obj.center_xy_px
    return {"left": x, "right": -x, "top": y, "bottom": -y, "largest": -obj.radius_px, "smallest": obj.radius_px}[order]


# How often an expression names each attribute, and which kind of modifier it tries when attributes are not enough.
_NAMED_FRAC = {
    "refcoco": {"shape": 0.9, "color": 0.5, "size_word": 0.15, "texture": 0.2},
    "refcoco+": {"shape": 0.85, "color": 0.55, "size_word": 0.35, "texture": 0.4},
    "refcocog": {"shape": 1.0, "color": 0.8, "size_word": 0.35, "texture": 0.4},
}
_MODIFIER_FRAC = {
    "refcoco": {"location": 0.4, "side rank": 0.3, "size rank": 0.1, "spatial relation": 0.12, "free relation": 0.08},
    "refcoco+": {"size rank": 0.4, "free relation": 0.6},
    "refcocog": {
        "location": 0.25,
        "side rank": 0.15,
        "size rank": 0.15,
        "spatial relation": 0.25,
        "free relation": 0.2,
    },
}
_ATTRIBUTES = ("shape", "color", "size_word", "texture")


def candidates(
    scene: Scene, index: int, rng: np.random.Generator, style: Style, num_tries: int = 40
) -> Iterator[Meaning]:
    """Yield meanings worth checking: ones a person might choose, then all modifiers of the full description."""
    obj = scene.objects[index]
    for _ in range(num_tries):
        base = _draw_attributes(obj, rng, style)
        num_matching = len(matches(scene, base))
        if num_matching == 1 and rng.random() < 0.5:
            yield base
        kinds = _MODIFIER_FRAC[style]
        kind = list(kinds)[rng.choice(len(kinds), p=list(kinds.values()))]
        if num_matching == 1 and kind != "location" and rng.random() < 0.7:
            continue
        options = list(_modified(scene, index, base, kind, num_matching))
        if options:
            yield options[rng.integers(len(options))]
    full = Meaning(obj.shape, obj.color, obj.size_word, obj.texture)
    yield full
    for kind in _MODIFIER_FRAC[style]:
        yield from _modified(scene, index, full, kind, len(matches(scene, full)))


def _draw_attributes(obj: SceneObject, rng: np.random.Generator, style: Style) -> Meaning:
    fracs = _NAMED_FRAC[style]
    # People rarely say that a thing is medium or plain.
    dull = {"size_word": obj.size_word == "medium", "texture": obj.texture == "plain"}
    named = [name for name in _ATTRIBUTES if rng.random() < fracs[name] * (0.3 if dull.get(name) else 1.0)]
    return Meaning(**{name: getattr(obj, name) for name in named or ["color"]})


def _modified(scene: Scene, index: int, base: Meaning, kind: str, num_matching: int) -> Iterator[Meaning]:
    """Yield `base` with each modifier of one kind that could make it true of object `index` only."""
    height, width = scene.image.shape[:2]
    obj = scene.objects[index]
    if kind == "location":
        for location in _LOCATIONS:
            if all(_is_at(obj, name, height, width, 0.0) for name in location):
                yield replace(base, location=location)
    elif kind.endswith("relation"):
        for anchor in range(len(scene.objects)):
            relations = _relations(scene, index, anchor, kind) if anchor != index else []
            named = _name_anchor(scene, anchor) if relations else None
            if named is not None:
                yield from (replace(base, relation=(relation, named)) for relation in relations)
    elif num_matching > 1 and (kind == "side rank" or base.shape is not None):
        # A size rank names its shape, because sizes of different shapes do not compare at a glance.
        last = min(num_matching - 1, 3) if kind == "side rank" else 1
        for order, position in product(_SIDES if kind == "side rank" else _SIZE_RANKS, range(1, last + 1)):
            yield replace(base, size_word=base.size_word if kind == "side rank" else None, rank=(order, position))


def _relations(scene: Scene, index: int, anchor: int, kind: str) -> list[str]:
    """Return the relations of one kind that hold; of the sides only the main direction, and not far apart."""
    if kind == "free relation":
        return [name for name in _FREE_RELATIONS if _is_related(scene, index, name, anchor, 0.0)]
    this, that = scene.objects[index], scene.objects[anchor]
    dx, dy = (a - b for a, b in zip(this.center_xy_px, that.center_xy_px, strict=True))
    if np.hypot(dx, dy) > 0.5 * min(scene.image.shape[:2]):
        return []
    return ["left of" if dx < 0 else "right of"] if abs(dx) > abs(dy) else ["above" if dy < 0 else "below"]


def _name_anchor(scene: Scene, anchor: int) -> Meaning | None:
    """Return the shortest description by attributes that fits only the anchor, None if there is none."""
    obj = scene.objects[anchor]
    for names in (
        ("color", "shape"),
        ("texture", "shape"),
        ("size_word", "color", "shape"),
        ("texture", "color", "shape"),
    ):
        meaning = Meaning(**{name: getattr(obj, name) for name in names})
        if matches(scene, meaning) == [anchor]:
            return meaning
    return None
