"""Expressions that refer to exactly one object of a procedural scene: meanings that hold for it alone, put into words.

The words are chosen after a meaning is known to be unique (`meanings.py`). `refcoco` and `refcoco+` are short,
`refcocog` mostly writes 8 to 16 words. The `pretrain` domain uses the canonical words and a few synonyms; `refshapes`
uses more synonyms, with some typos and capitals.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from l2l_ray.refshapes.meanings import Meaning, Style, candidates, is_unique
from l2l_ray.refshapes.scenes import Domain, Scene

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


# What an expression tells its object from others by.
KINDS = ("looks", "place", "extreme", "order", "another object")


def kind_of(expression: str) -> str:
    """Return which of `KINDS` the words of a drawn scene's expression are of; a typing error in them reads as "looks".

    Example: "red star" -> "looks", "top left star" -> "place", "leftmost star" -> "extreme", "second star from left" ->
    "order", "star below the ring" -> "another object"
    """
    text = expression.lower()
    if _said(_ORDINALS, text):
        return "order"
    if _said(_SUPERLATIVES, text):
        return "extreme"
    place = re.sub(r"\bof th(?:e|is) (?:picture|image)", "", text)  # "in the left of this picture" is no relation
    if _said(_RELATION_WORDS, place):
        return "another object"
    return "place" if LOCATION_WORDS & set(place.split()) else "looks"


def _said(phrases: Mapping[Any, Sequence[str]], text: str) -> bool:
    return any(re.search(rf"\b{phrase}\b", text) for options in phrases.values() for phrase in options)


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
    for meaning in candidates(scene, index, rng, style):
        if is_unique(scene, index, meaning):
            found.setdefault(_Wording(rng, style, domain).write(meaning), meaning)
            if len(found) == num:
                break
    return list(found.items())


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
