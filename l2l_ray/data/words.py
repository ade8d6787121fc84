"""What the words of an expression allow to be done with its image, and how they can be said differently.

An image may be mirrored, cropped or pasted into only where its expression stays true and still means one object. All
rules are by words, English, and refuse what is unclear; nothing is guessed:

- `swap_left_right`: left and right change places when the image is mirrored. Writing, numbers, clock faces and unclear
  words ("left-handed", "all right", "one left") forbid mirroring, and so do other scripts, and an order without a
  origin ("second man": counted from the left, as nearly everybody does).
- `survives_crop`: no word speaks of a place in the image, of an order, or of another object that the crop may lose.
- `survives_paste`: besides, nothing compares or counts, and no word of the pasted object could describe this one too.
- `reworded`: another article, or a word that means the same in every phrase.

Source: swapping is in DAM-Net, text augmentation in RESMatch; the rules for crops and pastes, the refusals and the
word lists are ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from l2l_ray.randomness import keyed_uniform


def swap_left_right(expression: str) -> str | None:
    """Return the expression of the mirrored image; None when that cannot be said safely.

    An expression without directions comes back as it is. Swapping twice gives the first expression again (up to odd
    capitals such as "lEft").

    Example: "2nd man from the left" -> "2nd man from the right"; "left-handed batter" -> None; "red car" -> "red car".
    """
    matches = list(_WORD.finditer(expression))
    words = [match.group().lower() for match in matches]
    if not _is_latin(expression) or _CLOCK.search(expression) or _NUMBER.search(expression):
        return None
    if any(map(_is_order, _words(expression))) and not _ORIGIN.search(expression.lower()):
        return None
    parts, done = [], 0
    for i, word in enumerate(words):
        direction = _DIRECTION.fullmatch(word)
        if direction is None and _is_unsafe(words, i):
            return None
        if direction is not None:
            if word in _SWAP and not _is_direction(words, i):
                return None
            start, end = (matches[i].start() + offset for offset in direction.span(1))
            parts += [expression[done:start], _in_case_of(expression[start:end], _SWAP[direction.group(1)])]
            done = end
    return "".join(parts) + expression[done:]


def survives_crop(expression: str) -> bool:
    """Tell whether an expression stays true when the image loses what is around its referent.

    Example: True for "man in red shirt" and "biggest dog"; False for "left man", "second cup" and "man near the car".
    """
    words = [*_words(expression), *(match.group().lower() for match in _WORD.finditer(expression))]
    named = any(w in _PLACE_WORDS or _ORDINAL.fullmatch(w) or _DIRECTION.fullmatch(w) for w in words)
    return not named and swap_left_right(expression) is not None  # what is unclear there is unclear here


def survives_paste(expression: str, pasted: str) -> bool:
    """Tell whether an expression still means its own referent when the referent of `pasted` stands beside it.

    Both must name a kind of thing that is known here, and not the same one.

    Example: True for "red car" and "brown dog"; False for "red car" and "old car", and for "blue shirt" and "tall man",
    because people wear shirts; False for "biggest car" and "second car", which compare, and for "the blue".
    """
    words = _words(expression)
    if not survives_crop(expression) or any(w in _COMPARING_WORDS or w.endswith("est") for w in words):
        return False
    own, other = _concepts(words), _concepts(_words(pasted))
    return _names_a_thing(own) and _names_a_thing(other) and not own & other


def reworded(expression: str, key: int) -> str:
    """Return the expression said differently: synonyms, and an article put or taken, each with probability one half.

    Args:
        expression: As it is, or mirrored; directions stay.
        key: From `sample_key`.
    Example: "the man on couch" -> "guy on sofa"
    """
    matches = list(_WORD.finditer(expression)) if _is_latin(expression) else []
    draws = keyed_uniform([key], len(matches) + 1, "reworded")[0]
    parts, done = [], 0
    for match, draw in zip(matches, draws[1:], strict=True):
        others = _SYNONYMS.get(match.group().lower(), ())
        if others and draw < 0.5:
            parts += [expression[done : match.start()], _in_case_of(match.group(), others[int(draw * 2 * len(others))])]
            done = match.end()
    text = "".join(parts) + expression[done:]
    first = matches[0].group().lower() if matches else ""
    if draws[0] >= 0.5 or not first or matches[0].start():
        return text
    if first == "the":
        return text[len("the") :].lstrip() or text
    return text if first in _NO_ARTICLE_BEFORE else f"the {text}"


_SWAP = {"left": "right", "right": "left"}
_LAST_LATIN = 0x24F  # end of the Unicode block Latin Extended-B
_WORD = re.compile(r"[^\W\d_]+")
_PLACE = "far|top|bottom|upper|lower|mid|middle|center|centre|back|front|most|on|the"
_CLOCK = re.compile(r"\d:\d\d")
_NUMBER = re.compile(r"(?<!\w)\d+(?!\w)")  # on a shirt, a bus, a sign; no ordinal
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th)")
_ORDERS = frozenset("first second third fourth fifth sixth seventh eighth ninth tenth last nth".split())
_ORIGIN = re.compile(  # where a count begins; a row or a side of the body is no such place
    r"\bfrom (?:the )?(?:far |very )?(?:left|right|top|bottom|front|back)"
    r"|\b(?:on|to|at) (?:the )?(?:far )?(?:left|right)(?! (?:hand|arm|leg|foot|eye))"
)
_DIRECTION = re.compile(rf"(?:{_PLACE})*(left|right)(?:{_PLACE}|est|ish|side|hand|wards?)*")

# Mirroring breaks what these speak of: clock positions, the compass, and whatever is read off the image. The last line
# is short for left and right, or for something else.
_UNSAFE_WORDS = frozenset(
    "oclock clockwise counterclockwise anticlockwise east west eastern western "  # codespell:ignore oclock
    "says say saying reads spells spelled word words letter letters text written number numbers numbered "
    "lefty righty lefties righties l r lt rt lh rh lhs rhs lft rgt rite "
    "izquierda izquierdo derecha derecho gauche droite droit links rechts linke linken linker linkes rechte rechten "
    "rechter rechtes linkse rechtse sinistra destra sinistro destro esquerda direita esquerdo direito lewa lewe "
    "lewej lewo lewy lewym prawa prawe prawej prawo prawy prawym vänster vänstra höger högra venstre høyre højre "
    "vasen vasemmalla oikea oikealla kiri kanan sol solda soldaki sağ sağda sağdaki levo levá levý vlevo nalevo "
    "pravo pravá pravý vpravo napravo stânga dreapta bal jobb trái phải".split()
)
# Contain left or right, or are one slip away from it, and are something else.
_SUFFIX = re.compile(r"(?:most|hand|side)$")
_HARMLESS_WORDS = frozenset(
    "least yeast beast beasts breast breasts feast easter lowest slowest narrowest newest yellowest shallowest fewest "
    "bright brighter brightest brightly brightness upright outright downright copyright playwright wright fright "
    "leftover leftovers cleft light night fight might sight tight eight lift loft let lent lest deft heft weft".split()
)
# "right now", "left-handed": not a place in the image, whatever comes before.
_NEVER_BEFORE = frozenset("now away handed wing winger angle angled alone".split())
# "right behind" may mean "directly behind"; after a word of _MARKERS it is a place.
_UNCLEAR_BEFORE = frozenset(
    "in next here there above below behind beside under underneath over before after between by beyond near on onto up "
    "down across against inside outside through where when out".split()
)
_MARKERS = frozenset(
    "on to at from the far farthest furthest top bottom upper lower front back middle center centre side very most "
    "extreme our your my his her their".split()
)
# "all right", "the one that is left": a place only in "is left of" and the like.
_UNCLEAR_AFTER = frozenset(
    "who which whats he she it they all is are was were be been has have had s that just yes ok okay correct".split()
)
_AMOUNTS = frozenset("last only two three four five six seven eight nine ten few some any many much".split())
_PLACE_BEFORE = frozenset("of side most hand corner edge half".split())


def _slips(word: str) -> frozenset[str]:
    """Return what one missing, extra, wrong or swapped letter makes of a word."""
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    letters = "abcdefghijklmnopqrstuvwxyz"
    return frozenset(
        [a + b[1:] for a, b in cuts if b]
        + [a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1]
        + [a + c + b[1:] for a, b in cuts for c in letters if b]
        + [a + c + b for a, b in cuts for c in letters]
    )


_SLIPS = _slips("left") | _slips("right")


def _is_unsafe(words: Sequence[str], i: int) -> bool:
    """Tell whether a word that is no direction forbids mirroring."""
    word = words[i]
    if word in _UNSAFE_WORDS or (word == "clock" and i > 0 and words[i - 1] == "o"):
        return True
    if word in _HARMLESS_WORDS:
        return False
    if "left" in word or "right" in word or "east" in word or "west" in word:
        return True
    return word in _SLIPS or _SUFFIX.sub("", word) in _SLIPS


def _is_direction(words: Sequence[str], i: int) -> bool:
    """Tell whether "left" or "right" at position i clearly means a place; the same answer for both words."""
    before = words[i - 1] if i else ""
    after = words[i + 1] if i + 1 < len(words) else ""
    if after in _NEVER_BEFORE or words[i + 1 : i + 3] == ["side", "up"]:
        return False
    if before in _UNCLEAR_AFTER and (after not in _PLACE_BEFORE or "what" in (before[:4], words[max(0, i - 2)])):
        return False
    if not after and before not in _MARKERS and _speaks_of_a_rest(words[:i]):
        return False
    return after not in _UNCLEAR_BEFORE or before in _MARKERS


def _speaks_of_a_rest(words: Sequence[str]) -> bool:
    """Tell whether "left" after these words may mean what remains: "last slice left", "one left", "two slices left"."""
    is_one = words[-1:] == ["one"] and not {"the", "this", "that"}.intersection(words[-2:-1])
    return is_one or not _AMOUNTS.isdisjoint(words)


def _is_order(word: str) -> bool:
    return word in _ORDERS or _ORDINAL.fullmatch(word) is not None


def _in_case_of(model: str, word: str) -> str:
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


# A place in the image, an order, or a relation to something that a crop may lose.
_PLACE_WORDS = frozenset(
    "north south rear btm bottommost "
    "top bottom upper lower uppermost lowermost topmost middle mid center centre central corner edge side end "
    "background foreground back front frontmost first second third fourth fifth sixth last 1st 2nd 3rd 4th 5th 6th "
    "nth row column between beside besides next near nearer nearest nearby by close closer closest far farther "
    "farthest further furthest behind above below beneath under underneath over across against around along beyond "
    "past after before opposite facing towards toward among outside away adjacent other others another rest both "
    "all every each picture image photo pic screen frame camera viewer us you me".split()
)
# Besides: true only as long as nothing else comes into the image.
_COMPARING_WORDS = frozenset(
    "most more least less bigger smaller larger taller shorter older younger darker lighter brighter longer wider "
    "thinner thicker fatter higher fuller only single lone alone sole not no without none isn aren doesn don".split()
)
# Say nothing about what is meant.
_EMPTY_WORDS = frozenset(
    "a an the this that these those of in on at with and or to from for as is are was be being been has have having "
    "it its his her hers him their them they he she who whom whose which what where there here s t one ones "
    "thing things item object something part piece area spot section very really can see seen you your my just some "
    "any".split()
)
_PEOPLE = (
    "man men guy guys dude male boy boys woman women lady ladies female girl girls gal chick person people human "
    "kid kids child children baby toddler player batter catcher pitcher umpire ump skier surfer skater rider driver "
    "chef cook bride groom mom mother dad father grandma grandpa waiter waitress officer cop soldier worker crowd "
    "team face head hair hand hands arm arms leg legs foot feet finger back body shoulder beard mustache bald "
    "blonde blond brunette shirt tshirt tee top blouse sweater hoodie jacket coat vest suit tie dress skirt gown "
    "pants jeans shorts trousers shoe shoes boots hat cap helmet glasses sunglasses goggles scarf gloves glove "
    "jersey uniform apron bikini swimsuit wetsuit backpack purse standing sitting wearing holding eating smiling "
    "walking jumping kneeling talking"
)
# Kinds of things; the words of a line could all be said of one thing.
_THINGS = (
    "car cars vehicle truck van suv taxi cab bus trailer minivan jeep pickup engine",
    "plane airplane jet aircraft vehicle",
    "bike bicycle motorcycle motorbike scooter cycle vehicle",
    "boat ship canoe kayak surfboard board vehicle",
    "train engine locomotive vehicle",
    "couch sofa loveseat chair seat armchair recliner bench stool",
    "table desk counter",
    "bed mattress",
    "tv television monitor computer laptop keyboard mouse",
    "phone cellphone cell mobile remote",
    "book magazine paper",
    "bag suitcase luggage purse backpack handbag",
    "umbrella parasol",
    "bird duck goose chicken animal",
    "cow cattle bull calf ox animal",
    "sheep lamb ram goat animal",
    "dog puppy pup animal",
    "cat kitten kitty animal",
    "horse pony foal animal",
    "zebra animal",
    "giraffe animal",
    "elephant animal",
    "bear teddy animal",
    "cup glass mug drink bottle jar vase",
    "plate dish bowl food",
    "pizza slice food",
    "sandwich burger bun bread hotdog slice food",
    "cake donut doughnut pastry pie slice food",
    "orange apple banana lemon fruit slice food",
    "carrot broccoli vegetable veggie food",
    "knife fork spoon",
    "oven stove microwave fridge refrigerator",
    "sink toilet tub",
    "clock sign light",
    "plant flower tree",
    "kite balloon",
    "ball racket racquet bat skateboard board ski skis snowboard frisbee",
    "circle disc disk round ring oval ellipse ball",
    "square rectangle box block",
    "triangle wedge",
    "star",
    "heart",
    "cross plus",
    "diamond rhombus",
    "pentagon hexagon",
    "moon crescent",
)
_COLORS = ("gray grey silver", "tan beige brown")
_NO_ARTICLE_BEFORE = frozenset(
    "the a an this that these those he she it they him her his its their who which what one two three four five six "
    "left right leftmost rightmost farthest very all both some any in on at with under behind between near next to "
    "of from by and or not no is are wearing holding sitting standing".split()
)
# Words that can replace each other in every phrase.
_SYNONYM_GROUPS = (
    *(
        ("man", "guy"),
        ("woman", "lady"),
        ("kid", "child"),
        ("kids", "children"),
        ("gray", "grey"),
        ("tv", "television"),
    ),
    *(("couch", "sofa"), ("plane", "airplane"), ("big", "large"), ("biggest", "largest")),
    *(("small", "little"), ("photo", "picture", "image"), ("closest", "nearest"), ("farthest", "furthest")),
    *(("center", "centre"),),
)


def _concepts_of(groups: Sequence[Sequence[str]]) -> dict[str, frozenset[int]]:
    """Return for each word the groups that it belongs to, by number."""
    found: dict[str, set[int]] = {}
    for number, group in enumerate(groups):
        for word in group:
            found.setdefault(word, set()).add(number)
    return {word: frozenset(numbers) for word, numbers in found.items()}


_GROUPS_OF = _concepts_of([group.split() for group in (_PEOPLE, *_THINGS, *_COLORS)])
_NUM_THINGS = 1 + len(_THINGS)
_SYNONYMS = {word: tuple(w for w in group if w != word) for group in _SYNONYM_GROUPS for word in group}


def _concepts(words: Sequence[str]) -> set[str | int]:
    """Return what words speak of: groups of words for the same kind of thing, and every other word as it is."""
    found: set[str | int] = set()
    for word in words:
        if word not in _EMPTY_WORDS:
            known = _GROUPS_OF.get(word) or _GROUPS_OF.get(word.removesuffix("s")) or (word.removesuffix("s"),)
            found.update(known)
    return found


def _names_a_thing(concepts: set[str | int]) -> bool:
    """Tell whether a kind of thing is among what words speak of: "the blue" could be said of anything."""
    return any(isinstance(concept, int) and concept < _NUM_THINGS for concept in concepts)


def _words(expression: str) -> list[str]:
    """Return the words in lower case; numbers count as words."""
    return re.findall(r"[^\W_]+", expression.lower())


def _is_latin(expression: str) -> bool:
    return not any(character.isalpha() and ord(character) > _LAST_LATIN for character in expression)
