"""Leaks: by COCO number, by id and by looks; counts, pairs and the training set without them."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
from PIL import Image

from l2l_ray.data.origin import write_origin
from l2l_ray.data.plain_pickle import plain_records
from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.inventory import take_inventory
from l2l_ray.datatools.kept_problems import FILES, kept_problems, write_problems
from l2l_ray.datatools.leaks import MAX_DISTANCE, Leak, Part, drop_train_images, find_leaks, parse_part, summary
from l2l_ray.errors import DataError
from tests.refer_folder import write_tiny


def part(folder: Path, *splits: str) -> Part:
    return Part(take_inventory(folder), splits)


def test_a_sound_data_set_leaks_nothing(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    train, test = part(folder, "train"), part(folder, "val", "testA")
    assert find_leaks(train, [test]) == ([], [])
    assert summary(train, [test], []) == ["tiny@own:train contains 0 of the 2 images of tiny@own:val,testA"]


def test_ids_of_own_data_sets_mean_nothing_to_one_another(tmp_path: Path) -> None:
    first = write_tiny(tmp_path, "first")
    second = write_tiny(tmp_path, "second", splits={1: "val"})
    assert find_leaks(part(first, "train"), [part(second, "val")], None) == ([], [])


def test_the_same_picture_under_another_name_and_size_is_found_by_looks(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "a", "first")
    second = write_tiny(tmp_path / "b", "second", splits={4: "val", 5: "train"})
    with Image.open(tmp_path / "a" / "pictures" / "2.png") as picture:
        picture.resize((96, 72), Image.Resampling.NEAREST).save(tmp_path / "b" / "pictures" / "4.png")
    (leak,), problems = find_leaks(part(first, "train"), [part(second, "val")])
    assert (leak.test_part, leak.test_image_id, leak.train_image_id, leak.how) == ("second@own:val", 4, 2, "looks")
    assert leak.distance is not None and leak.distance <= MAX_DISTANCE
    assert problems == []
    assert "image 4 is train image 2 (by looks, " in str(leak)


def test_coco_numbers_count_across_data_sets(tmp_path: Path) -> None:
    names = "COCO_train2014_00000000000{}.jpg"
    first = write_tiny(tmp_path, "first", names)
    second = write_tiny(tmp_path, "second", names, splits={2: "testA", 9: "testA"})
    train, test = part(first, "train"), part(second, "testA")
    leaks, problems = find_leaks(train, [test])
    assert leaks == [Leak("second@own:testA", 2, 2, "number", None)]  # once, though it also looks the same
    assert problems == []
    assert summary(train, [test], leaks) == ["first@own:train contains 1 of the 2 images of second@own:testA"]


def test_an_image_in_two_splits_of_one_data_set(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, splits={1: "train", 2: "val"})
    inventory = take_inventory(folder)
    inventory.items[1] = inventory.items[1]._replace(image_id=1)
    leaks, _ = find_leaks(Part(inventory, ("train",)), [Part(inventory, ("val",))])
    assert leaks == [Leak("tiny@own:val", 1, 1, "image", None)]


def test_pictures_that_cannot_be_compared_are_told(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    (tmp_path / "pictures" / "1.png").unlink()
    (tmp_path / "pictures" / "4.png").write_bytes(b"no picture")
    _, problems = find_leaks(part(folder, "train"), [part(folder, "val")])
    assert [problem.where for problem in problems] == ["tiny image 1", "tiny image 4"]
    assert find_leaks(part(folder, "train"), [part(folder, "val")], None) == ([], [])


def test_dropping_leaves_the_old_set_and_the_test_splits_alone(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    write_origin(folder, "published")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    leaks = [Leak("x", 7, 2, "looks", 0), Leak("x", 8, 2, "looks", 1), Leak("x", 8, 4, "looks", 1)]
    clean, num = drop_train_images(part(folder, "train"), leaks, "clean")
    assert num == 1
    data = ReferDataset.open(tmp_path, "clean", "own")
    assert (data.image_ids("train"), data.image_ids("val")) == ([1, 3], [4])
    assert data.is_benchmark
    labeled, skips = data.labeled_examples("train")
    assert len(labeled) == 4 and skips == []
    assert all(Path(example.image_path).is_file() for example in labeled)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(DataError, match="clean or .* exists and is not overwritten"):
        drop_train_images(part(folder, "train"), leaks, "clean")
    assert clean == tmp_path / "clean"
    assert not list(tmp_path.glob(".*"))


def test_parts_as_they_are_written(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    assert parse_part(f"{folder}", is_train=True).splits == ("train",)
    assert parse_part(f"{folder}", is_train=False).splits == ("val", "testA")
    assert parse_part(f"{folder}@own:val", is_train=False).name == "tiny@own:val"
    beside = folder.parent / "me@home:x" / folder.name
    beside.parent.mkdir()
    beside.symlink_to(folder)
    assert parse_part(f"{beside}@own:val", is_train=False).splits == ("val",)
    assert parse_part(f"{beside}", is_train=True).splits == ("train",)
    with pytest.raises(DataError, match=r"no refs in testB; .* has train, val, testA; name one .*:train"):
        parse_part(f"{folder}:testB", is_train=False)


@pytest.mark.parametrize("malformed", ["ref", "image"])
def test_records_that_cannot_be_compared_are_refused(tmp_path: Path, malformed: str) -> None:
    folder = write_tiny(tmp_path)
    if malformed == "ref":
        records = list(plain_records(folder / "refs(own).p"))
        records[1]["image_id"] = "two"
        (folder / "refs(own).p").write_bytes(pickle.dumps(records))
    else:
        content = json.loads((folder / "instances.json").read_text())
        content["images"][1]["width"] = -5
        (folder / "instances.json").write_text(json.dumps(content))
    for is_train in (True, False):
        with pytest.raises(
            DataError, match="tiny has 1 malformed record, first: .*; `l2l data check` lists all; correct them before"
        ):
            parse_part(str(folder), is_train)


def test_what_imports_named_goes_with_the_clean_set(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    write_problems(folder, {"own.csv line 3: missing image": ["/home/me/own.csv"]})
    clean, _ = drop_train_images(part(folder, "train"), [Leak("x", 4, 1, "image", None)], "clean")
    assert kept_problems(clean) == kept_problems(folder) != {}
    (folder / FILES[1]).unlink()  # as an earlier version left it
    clean, _ = drop_train_images(part(folder, "train"), [], "cleaner")
    assert kept_problems(clean) == {"own.csv line 3: missing image": []}


def test_a_set_without_pictures_is_dropped_from_twice(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    shutil.rmtree(tmp_path / "images" / "tiny")
    leaks = [Leak("x", 4, 1, "image", None)]
    for _ in range(2):
        clean, num = drop_train_images(part(folder, "train"), leaks, "clean")
        assert num == 1 and not (tmp_path / "images" / "clean").is_symlink()
        shutil.rmtree(clean)


def test_a_clean_set_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    train = part(folder, "train")
    (folder / "instances.json").unlink()  # its copy fails, as on a full disk
    with pytest.raises(
        DataError, match="cannot write .*clean: .*; check its place and permissions, or choose another name"
    ):
        drop_train_images(train, [], "clean")
    assert not list(tmp_path.glob("*clean*"))
