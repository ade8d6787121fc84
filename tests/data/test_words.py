"""What words allow: mirrored only where directions are clear, cropped and pasted into only where they stay true."""

import pytest

from l2l_ray.data.words import reworded, survives_crop, survives_paste, swap_left_right
from l2l_ray.randomness import sample_key


@pytest.mark.parametrize(
    ("expression", "mirrored"),
    [
        ("left man", "right man"),
        ("2nd from the right, in red", "2nd from the left, in red"),
        ("LEFT Right leftmost", "RIGHT Left rightmost"),
        ("far right", "far left"),
        ("man on right behind bench", "man on left behind bench"),
        ("cup to the left of the bright light", "cup to the right of the bright light"),
        ("bottomright corner", "bottomleft corner"),
        ("leftest giraffe at night", "rightest giraffe at night"),
        ("person on the left-hand side", "person on the right-hand side"),
        ("the dog that is left of the cat", "the dog that is right of the cat"),
        ("her left hand", "her right hand"),
        ("upright bear leftside", "upright bear rightside"),
        ("second circle counting from the left of the picture", "second circle counting from the right of the picture"),
        ("the disc that is in the bottom left part", "the disc that is in the bottom right part"),
        ("third cup from the top", "third cup from the top"),
        ("last man from the back", "last man from the back"),
        ("second man on the left", "second man on the right"),
        ("man on the left in red", "man on the right in red"),
        ("two men on the left", "two men on the right"),
        ("red car", "red car"),
        ("", ""),
    ],
)
def test_swap(expression: str, mirrored: str) -> None:
    assert swap_left_right(expression) == mirrored
    assert swap_left_right(mirrored) == expression


@pytest.mark.parametrize(
    "expression",
    [
        "left-handed batter",
        "right handed player",
        "the man to look at right now",
        "all right",
        "alright guy",
        "right next to the dog",
        "man right behind the bench",
        "the slice that is left",
        "what's left",
        "what's left of the pizza",
        "whats left of the pizza",
        "milk left in glass",
        "two slices left",
        "pizza right side up",
        "second guy",
        "21st man",
        "back row third person",
        "second man in back",
        "second man with left hand up",
        "2nd car",
        "third zebra",
        "last one",
        "osoba po lewej",
        "mannen till vänster",
        "orang di kiri",
        "last slice left",
        "only one left",
        "one left",
        "player 22",
        "#22",
        "guy in 23 jersey",
        "bus 42 on left",
        "leftt man",
        "rihgt cup",
        "man on l",
        "rt guy",
        "leftguy",
        "slice at 4 o clock",
        "slice at 4 o'clock",
        "slice at 4 oclock",  # codespell:ignore oclock
        "book that says europe",
        "player number 8 on left",
        "\u5de6\u8fb9\u7684\u4eba",
        "northeast corner zebra",
        "rigthmost man",
        "lefmost cup",
        "bike at 3:00",
        "homme a gauche",
        "boy who left",
    ],
)
def test_unclear_expressions_are_not_swapped(expression: str) -> None:
    assert swap_left_right(expression) is None


@pytest.mark.parametrize(
    "expression", ["man in red shirt", "biggest dog", "woman holding umbrella", "Zebra", "the tall one in blue"]
)
def test_what_survives_a_crop(expression: str) -> None:
    assert survives_crop(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "left man", "RIGHTMOST cup", "bottomleft", "man in the middle", "2nd dog", "third from back",
        "cup near the plate", "person behind bench", "closest to us", "the other zebra",
        "lft man", "rt guy", "lefty", "left1 man", "7th zebra", "rear zebra", "12 oclock slice", "pants on rigt",
        "corner piece", "dog next to him", "\u5de6\u8fb9",
    ],
)  # fmt: skip
def test_what_does_not_survive_a_crop(expression: str) -> None:
    assert not survives_crop(expression)


@pytest.mark.parametrize(
    ("expression", "pasted", "allowed"),
    [
        ("red car", "brown dog", True),
        ("man in hat", "slice of pizza", True),
        ("red car", "old cars", False),
        ("red car", "yellow taxi", False),  # a car, too
        ("blue shirt", "tall man", False),  # people wear shirts
        ("guy", "the lady", False),
        ("red car", "red bowl", False),  # shares a word that describes
        ("biggest car", "brown dog", False),
        ("taller giraffe", "cup", False),
        ("only car", "cup", False),
        ("car that is not red", "cup", False),
        ("left car", "cup", False),
        ("that one", "cup", False),  # says nothing that a cup is not
        ("red car", "this thing", False),
        ("the blue", "cup", False),  # could be said of a cup
        ("red car", "qwert", False),
        ("gray", "brown cup", False),
        ("big vehicle", "white motorcycle", False),
        ("long board", "red skateboard", False),
        ("red car", "\u72d7", False),
    ],
)
def test_what_survives_a_paste(expression: str, pasted: str, allowed: bool) -> None:
    assert survives_paste(expression, pasted) is allowed


def keys(num: int) -> list[int]:
    return [sample_key(0, "test", i) for i in range(num)]


def test_rewording_swaps_synonyms_and_articles_only() -> None:
    said = {reworded("the man on couch", key) for key in keys(200)}
    assert said == {
        f"{article}{who} on {seat}" for article in ("the ", "") for who in ("man", "guy") for seat in ("couch", "sofa")
    }
    assert {reworded("Red Sofa!", key) for key in keys(50)} == {
        "Red Sofa!",
        "Red Couch!",
        "the Red Sofa!",
        "the Red Couch!",
    }


@pytest.mark.parametrize(
    "expression", ["left cup", "a dog", "2nd cup", "", "...", "the", "a middle aged person", "his bike", "\u72d7"]
)
def test_rewording_leaves_what_it_does_not_know(expression: str) -> None:
    assert {reworded(expression, key) for key in keys(50)} == {expression}


def test_rewording_keeps_the_rules_of_words() -> None:
    for text in (
        "the man on couch",
        "left man near the photo",
        "biggest kid in the center",
        "small grey bike on right",
    ):
        for key in keys(40):
            other = reworded(text, key)
            assert survives_crop(other) is survives_crop(text)
            assert survives_paste(other, "pizza") is survives_paste(text, "pizza")
            assert (swap_left_right(other) == other) is (swap_left_right(text) == text)
