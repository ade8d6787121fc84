"""Which test images a training set contains, across data sets and splits: by COCO number, by file and by looks.

- *number*: the file names hold the same COCO number. RefCOCO, RefCOCO+ and RefCOCOg share COCO's pictures, and a test
  image of one is a train image of another.
- *image*: the same image id of the same data set stands in both splits (RefCOCOg, google).
- *looks*: the pictures' perceptual hashes differ in few bits. It finds copies under other names, scaled or compressed
  again; see `picture_hash` for what it does not find.
"""

from __future__ import annotations

import pickle
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from l2l_ray.data.layout import BadValue, Problem, coco_number, image_folder, plain_name
from l2l_ray.data.origin import is_published, write_origin
from l2l_ray.datatools.inventory import Inventory, take_inventory
from l2l_ray.datatools.kept_problems import FILES
from l2l_ray.datatools.picture_hash import hash_file, pairs_within
from l2l_ray.errors import DataError, write_remedy
from l2l_ray.files import new_folder

MAX_DISTANCE = 8  # bits of 128; see tests/datatools/test_picture_hash.py for what scaling and JPEG change


class Part(NamedTuple):
    """Some splits of one data set.

    Example: `Part(take_inventory(Path("data/refer/refcoco")), ("testA", "testB"))`
    """

    inventory: Inventory
    splits: tuple[str, ...]

    @property
    def name(self) -> str:
        """The part as it is written on the command line."""
        return f"{self.inventory.dataset}@{self.inventory.split_by}:{','.join(self.splits)}"

    @property
    def image_ids(self) -> list[int]:
        """Ids of the images of these splits that stand in the image table, each once."""
        ids = dict.fromkeys(item.image_id for item in self.inventory.of(self.splits))
        return [image_id for image_id in ids if image_id in self.inventory.pictures]


class Leak(NamedTuple):
    """One test image that the training set contains. `distance` is in bits, None where the ids say it.

    Example: `Leak("refcoco+@unc:testA", 581857, 581857, "number", None)`
    """

    test_part: str
    test_image_id: int
    train_image_id: int
    how: str
    distance: int | None

    def __str__(self) -> str:
        bits = "" if self.distance is None else f", {self.distance} of 128 bits differ"
        return f"{self.test_part} image {self.test_image_id} is train image {self.train_image_id} (by {self.how}{bits})"


def parse_part(word: str, is_train: bool) -> Part:
    """Return the part that `FOLDER[@SPLIT_BY][:SPLIT,SPLIT]` means.

    Args:
        word: The folder of a data set, who split it, and splits.
        is_train: Without splits: train where True, all others where False.
    Raises:
        DataError: If the data set cannot be read, has malformed records, or has no refs in a split.
    """
    above, slash, last = word.rpartition("/")  # whose names may hold : and @, too
    end, _, names = last.partition(":")
    name, _, split_by = end.partition("@")
    place = f"{above}{slash}{name}"
    inventory = take_inventory(Path(place), split_by or None)
    inventory.require_sound("a search for leaks")
    usual = [split for split in inventory.splits if (split == "train") == is_train]
    splits = tuple(names.split(",")) if names else tuple(usual)
    if not splits or set(splits) - set(inventory.splits):
        wanted = ", ".join(splits) or ("train" if is_train else "any split but train")
        raise DataError(
            f"{word}: no refs in {wanted}; {place} has {', '.join(inventory.splits) or 'no split'}; name one that it "
            f"has, as {place}:train"
        )
    return Part(inventory, splits)


def find_leaks(
    train: Part, tests: Sequence[Part], max_distance: int | None = MAX_DISTANCE
) -> tuple[list[Leak], list[Problem]]:
    """Return the test images that the training set contains, each pair once, and the pictures that were not compared.

    Args:
        train: The training set.
        tests: What is evaluated on.
        max_distance: Most bits of 128 in which look-alikes differ; None = no picture is opened.
    """
    leaks: list[Leak] = []
    for test in tests:
        leaks += _by_identity(train, test)
    if max_distance is None:
        return leaks, []
    known = {(leak.test_part, leak.test_image_id, leak.train_image_id) for leak in leaks}
    hashes: dict[Path, np.ndarray | None] = {}
    problems: list[Problem] = []
    train_ids, train_hashes = _hashes(train, hashes, problems)
    for test in tests:
        test_ids, test_hashes = _hashes(test, hashes, problems)
        same = train.inventory.folder == test.inventory.folder
        for i, j, distance in pairs_within(train_hashes, test_hashes, max_distance):
            pair = test.name, test_ids[j], train_ids[i]
            if pair not in known and not (same and test_ids[j] == train_ids[i]):
                leaks.append(Leak(*pair, "looks", distance))
    return leaks, problems


def summary(train: Part, tests: Sequence[Part], leaks: Sequence[Leak]) -> list[str]:
    """Return one line per test part: how many of its images the training set contains."""
    lines = []
    for test in tests:
        leaked = {leak.test_image_id for leak in leaks if leak.test_part == test.name}
        lines.append(f"{train.name} contains {len(leaked)} of the {len(test.image_ids)} images of {test.name}")
    return lines


def drop_train_images(train: Part, leaks: Sequence[Leak], name: str) -> tuple[Path, int]:
    """Write the training set's data set without the refs of leaked images in the train splits, under another name.

    The pictures are not copied: the new image folder is a link to the old one. What imports named as wrong is copied:
    runs of the new data set tell it, too.

    Args:
        train: The training set.
        leaks: From `find_leaks`.
        name: Name of the new data set, beside the old one.
    Returns:
        The new folder, and the number of train images that were left out.
    Raises:
        DataError: If the name is taken or unusable, or the folder cannot be written.
    """
    old = train.inventory
    root, dataset = old.folder.parent, plain_name("dataset", name)
    folder, pictures = root / dataset, image_folder(root, dataset)
    source = image_folder(root, old.dataset)
    taken = pictures.exists() or pictures.is_symlink()
    if folder.exists() or (taken and not (pictures.exists() and source.exists() and pictures.samefile(source))):
        raise DataError(f"{folder} or {pictures} exists and is not overwritten; choose another name")
    leaked = {leak.train_image_id for leak in leaks}
    kept = [i.record for i in old.items if not (i.split in train.splits and i.image_id in leaked)]
    try:
        with new_folder(folder) as temporary:
            (temporary / f"refs({old.split_by}).p").write_bytes(pickle.dumps(kept, protocol=4))
            shutil.copyfile(old.folder / "instances.json", temporary / "instances.json")
            for told in FILES:
                if (old.folder / told).exists():
                    shutil.copyfile(old.folder / told, temporary / told)
            write_origin(temporary, "published" if is_published(old.folder, old.split_by) else "own")
            if source.exists() and not taken:
                pictures.parent.mkdir(parents=True, exist_ok=True)
                pictures.symlink_to(source.absolute(), target_is_directory=True)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error}; {write_remedy(error)}, or choose another name") from error
    return folder, len(leaked & set(train.image_ids))


def _by_identity(train: Part, test: Part) -> list[Leak]:
    same = train.inventory.folder == test.inventory.folder
    numbers: dict[int, list[int]] = defaultdict(list)
    for image_id in train.image_ids:
        if (number := coco_number(train.inventory.pictures[image_id].file_name)) is not None:
            numbers[number].append(image_id)
    train_ids, leaks = set(train.image_ids), []
    for image_id in test.image_ids:
        number = coco_number(test.inventory.pictures[image_id].file_name)
        twins = numbers.get(number, []) if number is not None else []
        leaks += [Leak(test.name, image_id, twin, "number", None) for twin in twins]
        if same and image_id in train_ids and image_id not in twins:
            leaks.append(Leak(test.name, image_id, image_id, "image", None))
    return leaks


def _hashes(part: Part, known: dict[Path, np.ndarray | None], problems: list[Problem]) -> tuple[list[int], np.ndarray]:
    ids, rows = [], []
    for image_id in part.image_ids:
        path = part.inventory.path(image_id)
        if path not in known:
            try:
                known[path] = hash_file(path)
            except BadValue as error:
                known[path] = None
                problems.append(error.at(f"{part.inventory.dataset} image {image_id}"))
        if (found := known[path]) is not None:
            ids.append(image_id)
            rows.append(found)
    return ids, np.array(rows, dtype=np.uint64).reshape(-1, 2)
