"""Counts and file names in words."""

from pathlib import Path

from l2l_ray.data.layout import image_folder
from l2l_ray.wording import counted, first_of, photo_name, photo_names


def test_counts_agree_with_their_nouns() -> None:
    assert [counted(num, "photo") for num in (0, 1, 2)] == ["0 photos", "1 photo", "2 photos"]


def test_the_first_few_are_named_and_the_others_counted() -> None:
    assert first_of(["b", "a", "b"]) == "b, a"
    assert first_of("abcde", "; ") == "a; b; c; and 2 more"
    assert photo_names(["/x/1.png", "", "/y/1.png", "/x/2.png"], "own") == "1.png, 2.png"


def test_a_photo_has_the_name_that_its_data_set_knows_it_by() -> None:
    folder = image_folder(Path("/data"), "own")
    photos = [str(folder / name) for name in ("a.jpg", "sub/a.jpg", "images/own/a.jpg")]
    assert photo_names(photos, "own") == "a.jpg, sub/a.jpg, images/own/a.jpg"
    assert photo_name("s3://bucket/images/own/sub/a.jpg", "own") == "sub/a.jpg"
    assert photo_name("/data/mscoco/images/train2014/COCO_1.jpg", "refcoco") == "COCO_1.jpg"
