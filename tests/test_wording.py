"""Counts and file names in words."""

from l2l_ray.wording import counted, file_names, first_of


def test_counts_agree_with_their_nouns() -> None:
    assert [counted(num, "photo") for num in (0, 1, 2)] == ["0 photos", "1 photo", "2 photos"]


def test_the_first_few_are_named_and_the_others_counted() -> None:
    assert first_of(["b", "a", "b"]) == "b, a"
    assert first_of("abcde", "; ") == "a; b; c; and 2 more"
    assert file_names(["/x/1.png", "", "/y/1.png", "/x/2.png"]) == "1.png, 2.png"
