"""Which images are labeled, as a file that can be committed: a few header lines, then one image id per line.

    # l2l split 1
    # dataset: refcoco
    # split_by: unc
    # digest: 5f1c...
    # procedure: keyed
    # seed: 0
    # fraction: 0.01
    # count: 169 of 16994
    98304
    ...

Procedures:
- `keyed`: that of `splits.split_labeled`; a smaller fraction lies inside a larger one.
- `stratified`: as `keyed` within each stratum (the category of an image's first ref, the number of its refs, or both);
  the strata are interleaved, so each fraction has nearly its share of every stratum and lies inside a larger one.
- `semires`: the published procedure: unique train image ids in the order of their first ref, `random.seed(seed)` and
  `random.sample(ids, floor(fraction * number))`. Fractions are not inside one another.
  Source: SemiRES (ICML 2024), github.com/nini0919/SemiRES, `split_dataset_select.py`; written anew here.

Where some train images have no truth, only images whose refs all have it are chosen; the fraction counts all of them.
"""

from __future__ import annotations

import math
import os
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from l2l_ray.data.inventory import Inventory
from l2l_ray.data.layout import short
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.keys import sample_key

PROCEDURES = ("keyed", "stratified", "semires")
STRATA = ("category", "refs", "category,refs")
_TITLE = "# l2l split 1"
_HEADER = ("dataset", "split_by", "digest", "procedure", "seed", "fraction", "count")


def choose_labeled(
    inventory: Inventory, amount: float | int | None, seed: int = 0, procedure: str = "keyed", strata: str = "category"
) -> list[int]:
    """Return the ids of the images to label, in the order in which the data set mentions them.

    Args:
        inventory: The data set.
        amount: A share of all train images in (0, 1] as a float, a number of images as an int; None = all that have
            truth.
        seed: Seed of the choice.
        procedure: One of `PROCEDURES`.
        strata: One of `STRATA`; for `stratified`.
    Raises:
        ConfigError: If the amount is out of range, or more than there are images with truth.
    """
    every = inventory.image_ids("train")
    with_truth = set(every) - {item.image_id for item in inventory.of(["train"]) if not inventory.has_truth(item)}
    candidates = [image_id for image_id in every if image_id in with_truth]
    count = len(candidates) if amount is None else _count(amount, len(every))
    if not 1 <= count <= len(candidates):
        raise ConfigError(
            f"{amount} of {len(every)} train images is {count} images, but it must be from 1 to {len(candidates)}, the "
            "number of train images whose refs all have masks; choose another fraction or count"
        )
    if procedure == "semires":
        chosen = set(random.Random(seed).sample(candidates, count))
    elif procedure in PROCEDURES:
        key = _stratum_of(inventory, strata) if procedure == "stratified" else (lambda _: 0)
        chosen = set(_interleaved(candidates, key, seed)[:count])
    else:
        raise ConfigError(f"procedure must be one of {', '.join(PROCEDURES)}, got {procedure!r}")
    return [image_id for image_id in every if image_id in chosen]


def write_split(
    path: Path, inventory: Inventory, digest: str, labeled: Sequence[int], seed: int, procedure: str
) -> None:
    """Write a split file under a temporary name and rename it."""
    num_images = len(inventory.image_ids("train"))
    values = (
        inventory.dataset,
        inventory.split_by,
        digest,
        procedure,
        seed,
        plain_fraction(len(labeled), num_images),
        f"{len(labeled)} of {num_images}",
    )
    lines = [_TITLE, *(f"# {name}: {value}" for name, value in zip(_HEADER, values, strict=True)), *map(str, labeled)]
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text("\n".join(lines) + "\n")
    os.replace(partial, path)


def read_split(path: Path, digest: str, image_ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return (labeled, unlabeled) image ids by a split file, both in the order given.

    Args:
        path: The file.
        digest: `ReferDataset.digest` of the data set that is used.
        image_ids: Its train images.
    Raises:
        DataError: If the file is malformed, was made for other data, or names images that are no train images.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"split file {path} cannot be read: {error}; make it by `l2l data split`") from error
    if lines[0].strip() != _TITLE:
        raise DataError(
            f"{path} is no split file: line 1 is {short(lines[0])!r}, expected {_TITLE!r}; make it by `l2l data split`"
        )
    header = dict(line[2:].strip().split(": ", 1) for line in lines if line.startswith("# ") and ": " in line)
    if header.get("digest") != digest:
        raise DataError(
            f"{path} was made for {short(header.get('dataset', 'another data set'))} with digest "
            f"{short(header.get('digest', 'none'))}, but the data set here has {digest}; "
            "use the data it was made for, or make the file again by `l2l data split`"
        )
    labeled: set[int] = set()
    train = set(image_ids)
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        image_id = int(line) if line.strip().isascii() and line.strip().isdecimal() and len(line) < 20 else -1
        if image_id not in train or image_id in labeled:
            what = "comes twice" if image_id in labeled else "is no train image of this data set"
            raise DataError(f"{path} line {number}: {short(line)} {what}; make the file again by `l2l data split`")
        labeled.add(image_id)
    if not labeled:
        raise DataError(f"{path} names no image; make it again by `l2l data split`")
    return [i for i in image_ids if i in labeled], [i for i in image_ids if i not in labeled]


def plain_fraction(count: int, num_images: int) -> float:
    """Return the shortest fraction that gives `count` of `num_images` when it is rounded down."""
    for digits in range(1, 17):
        for fraction in (float(f"{count / num_images:.{digits}g}"), float(f"{(count + 0.5) / num_images:.{digits}g}")):
            if 0 < fraction <= 1 and _count(fraction, num_images) == count:
                return fraction
    return count / num_images


def require_fraction(labeled_frac: float, count: int, num_images: int) -> None:
    """Refuse a configured share that a split file contradicts: tables of results name the configured one.

    Raises:
        ConfigError: If `labeled_frac` gives another count.
    """
    if _count(labeled_frac, num_images) != count:
        raise ConfigError(
            f"data.split_file labels {count} of {num_images} train images, but data.labeled_frac {labeled_frac} gives "
            f"{_count(labeled_frac, num_images)}; set --data.labeled_frac {plain_fraction(count, num_images)}"
        )


def _count(amount: float | int, num_images: int) -> int:
    if isinstance(amount, int):
        return amount
    if not 0 < amount <= 1:
        raise ConfigError(f"the fraction must be in (0, 1], got {amount}; use 0.01 for the 1 % split")
    # 1e-9: 0.29 * 100 is 28.999999999999996 in binary, which must still give 29 images.
    return math.floor(amount * num_images + 1e-9)


def _interleaved(image_ids: Sequence[int], stratum_of: Callable[[int], Hashable], seed: int) -> list[int]:
    """Order images so that every beginning of the order holds nearly its share of each stratum."""
    strata: dict[Hashable, list[int]] = defaultdict(list)
    for image_id in sorted(image_ids, key=lambda i: (sample_key(seed, "labeled", i), i)):
        strata[stratum_of(image_id)].append(image_id)
    place = {i: (rank + 0.5) / len(members) for members in strata.values() for rank, i in enumerate(members)}
    return sorted(image_ids, key=lambda i: (place[i], sample_key(seed, "labeled", i), i))


def _stratum_of(inventory: Inventory, strata: str) -> Callable[[int], Hashable]:
    if strata not in STRATA:
        raise ConfigError(f"strata must be one of {'; '.join(STRATA)}, got {strata!r}")
    category: dict[int, int] = {}
    num_refs: dict[int, int] = defaultdict(int)
    for item in inventory.of(["train"]):
        num_refs[item.image_id] += 1
        category.setdefault(item.image_id, inventory.category_id(item) or 0)
    by: dict[str, Callable[[int], Hashable]] = {
        "category": lambda i: category[i],
        "refs": lambda i: num_refs[i],
        "category,refs": lambda i: (category[i], num_refs[i]),
    }
    return by[strata]
