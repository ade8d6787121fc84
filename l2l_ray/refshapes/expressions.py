"""Expressions that refer to exactly one object of a procedural scene.

What an expression means is a `Meaning`; `matches` evaluates one against a scene, and the words are chosen after the
meaning is known to be unique. Uniqueness is judged with thresholds moved by `SLACK_FRAC` of the shorter image side: no
other object may match even loosely, and the referred one must match even strictly. So no expression hangs on a pixel.

Three styles, after the three data sets: `refcoco` is short and uses location words, `refcoco+` uses none, `refcocog`
mostly writes 8 to 16 words. The `pretrain` domain uses the canonical words and a few synonyms; `refshapes` uses more
synonyms, with some typos and capitals. Words of size are absolute classes (`SceneObject.size_word`). Because the
referred object is the only one of its class among those the words allow, "the big star" is also the biggest, so the
relative reading agrees.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np

from l2l_ray.refshapes.scenes import Domain, Scene, SceneObject

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


def expressions_for(
    scene: Scene, index: int, rng: np.random.Generator, style: Style, domain: Domain, num: int = 3
) -> list[str]:
    """Return up to `num` different expressions that refer to object `index` and nothing else; [] if none was found."""
    return [text for text, _ in describe(scene, index, rng, style, domain, num)]


def describe(
    scene: Scene, index: int, rng: np.random.Generator, style: Style, domain: Domain, num: int = 3
) -> list[tuple[str, Meaning]]:
    """Return what `expressions_for` does, each with its meaning."""
    found: dict[str, Meaning] = {}
    for meaning in _candidates(scene, index, rng, style):
        if is_unique(scene, index, meaning):
            found.setdefault(_Wording(rng, style, domain).write(meaning), meaning)
            if len(found) == num:
                break
    return list(found.items())


# ---------------------------------------------------------------------------------------------------------------------
# Meanings


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


def _candidates(
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


# ---------------------------------------------------------------------------------------------------------------------
# Words

# The first word of each entry is the canonical one.
WORDS: dict[Domain, dict[str, tuple[str, ...]]] = {
    "pretrain": {
        "circle": ("circle", "disc"), "square": ("square", "box"), "triangle": ("triangle",), "star": ("star",),
        "cross": ("cross", "plus"), "ring": ("ring",), "heart": ("heart",), "crescent": ("crescent", "moon"),
        "large": ("large", "big"), "medium": ("medium",), "small": ("small", "little"),
    },
    "refshapes": {
        "circle": ("circle", "disc", "disk"), "square": ("square", "box", "block"), "triangle": ("triangle", "wedge"),
        "star": ("star",), "cross": ("cross", "plus", "plus sign"), "ring": ("ring", "hoop", "donut"),
        "heart": ("heart", "love heart"), "crescent": ("crescent", "moon", "half moon"),
        "red": ("red", "crimson"), "orange": ("orange", "tangerine"), "yellow": ("yellow", "mustard"),
        "green": ("green", "olive"), "cyan": ("cyan", "teal", "turquoise"), "blue": ("blue", "navy"),
        "purple": ("purple", "violet"), "pink": ("pink", "rose"),
        "striped": ("striped", "stripy"), "dotted": ("dotted", "spotted"), "checked": ("checked", "checkered"),
        "plain": ("plain", "solid"),
        "large": ("large", "big", "huge"), "medium": ("medium", "medium sized"), "small": ("small", "little", "tiny"),
    },
}  # fmt: skip
_RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "higher than"),
    "below": ("below", "lower than"),
    "next to": ("next to", "beside", "close to"),
    "in front of": ("in front of", "partly covering", "overlapping"),
    "behind": ("behind", "partly hidden by"),
}
_SUPERLATIVES = {
    "left": ("leftmost", "furthest left"),
    "right": ("rightmost", "furthest right"),
    "top": ("topmost", "highest"),
    "bottom": ("lowest", "bottommost"),
    "largest": ("largest", "biggest"),
    "smallest": ("smallest", "littlest"),
}
_ORDINALS = {2: ("second", "2nd"), 3: ("third", "3rd")}
_PREPOSITIONS = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "middle": "in the middle",
}
LOCATION_WORDS = frozenset(
    {"left", "right", "top", "bottom", "middle", "above", "higher", "below", "lower"}
    | {"leftmost", "rightmost", "topmost", "bottommost", "highest", "lowest", "furthest"}
)


class _Wording:
    """Chooses the words of one expression."""

    def __init__(self, rng: np.random.Generator, style: Style, domain: Domain) -> None:
        self.rng, self.style, self.domain = rng, style, domain

    def write(self, meaning: Meaning) -> str:
        text = self._long(meaning) if self.style == "refcocog" else self._short(meaning)
        text = re.sub(r"\ba (?=[aeiou])", "an ", text)
        return self._scribble(text) if self.domain == "refshapes" else text

    def _pick(self, options: Sequence[str]) -> str:
        """Return the first option half of the time, else any."""
        return options[0] if self.rng.random() < 0.5 else options[int(self.rng.integers(len(options)))]

    def _word(self, name: str) -> str:
        return self._pick(WORDS[self.domain].get(name, (name,)))

    def _noun_phrase(self, meaning: Meaning) -> str:
        noun = self._word(meaning.shape) if meaning.shape else self._pick(("one", "thing", "object"))
        return " ".join(
            [*(self._word(name) for name in (meaning.size_word, meaning.texture, meaning.color) if name), noun]
        )

    def _short(self, meaning: Meaning) -> str:
        phrase = self._noun_phrase(meaning)
        if meaning.location:
            where = " ".join(meaning.location)
            at = _PREPOSITIONS.get(where, f"in the {where}")
            return self._pick((f"{where} {phrase}", f"{phrase} {where}", f"{phrase} {at}"))
        if meaning.relation:
            name, anchor = meaning.relation
            article = self._pick(("the ", ""))
            return f"{phrase} {self._pick(_RELATION_WORDS[name])} {article}{self._noun_phrase(anchor)}"
        if meaning.rank:
            order, position = meaning.rank
            if position > 1:
                return f"{self._pick(_ORDINALS[position])} {phrase} from {self._pick(('the ', ''))}{order}"
            return f"{self._pick(_SUPERLATIVES[order])} {phrase}"
        return self._pick((phrase, f"the {phrase}"))

    def _long(self, meaning: Meaning) -> str:
        """Write 8 words or more; above 16 only when several of the chosen words are synonyms of two words."""
        phrase = self._noun_phrase(meaning)
        picture = self._pick(("picture", "image"))
        if meaning.location:
            where = " ".join(meaning.location)
            return self._pick(
                (
                    f"the {phrase} that is in the {where} part of the {picture}",
                    f"a {phrase} which can be seen in the {where} of this {picture}",
                )
            )
        if meaning.relation:
            name, anchor = meaning.relation
            relation, other = self._pick(_RELATION_WORDS[name]), self._noun_phrase(anchor)
            return self._pick(
                (
                    f"the {phrase} that is {relation} the {other}",
                    f"a {phrase} which you can see {relation} the {other}",
                    f"the {phrase} that somebody has drawn {relation} a {other}",
                )
            )
        if meaning.rank:
            order, position = meaning.rank
            if position > 1:
                return f"the {self._pick(_ORDINALS[position])} {phrase} counting from the {order} of the {picture}"
            return self._pick(
                (
                    f"the {self._pick(_SUPERLATIVES[order])} {phrase} that there is in the {picture}",
                    f"out of all of them the {self._pick(_SUPERLATIVES[order])} {phrase}",
                )
            )
        return self._pick(
            (
                f"the only {phrase} that there is in the {picture}",
                f"a {phrase} that can be seen somewhere in this {picture}",
            )
        )

    def _scribble(self, text: str) -> str:
        """Add the slips people make: a capital in one of ten, a typo in one of thirty."""
        if self.rng.random() < 0.1:
            text = text[0].upper() + text[1:]
        if self.rng.random() < 0.033:
            at = int(self.rng.integers(1, len(text) - 1))
            if text[at : at + 2].isalpha():
                text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        return text
