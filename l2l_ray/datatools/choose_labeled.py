"""Which train images to label first: three procedures, each a pure function of data set, amount and seed.

- `keyed`: that of `data.splits.split_labeled`; a smaller fraction lies inside a larger one.
- `stratified`: as `keyed` within each stratum (the category of an image's first ref, the number of its refs, or both);
  the strata are interleaved, so each fraction has nearly its share of every stratum and lies inside a larger one.
- `semires`: the published procedure: unique train image ids in the order of their first ref, `random.seed(seed)` and
  `random.sample(ids, floor(fraction * number))`. Fractions are not inside one another.
  Source: SemiRES (ICML 2024), github.com/nini0919/SemiRES, `split_dataset_select.py`; written anew here.

Where some train images have no truth, only images whose refs all have it are chosen; the fraction counts all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

from l2l_ray.data.splits import NO_MASK, num_labeled
from l2l_ray.datatools.inventory import Inventory
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.randomness import python_generator, sample_key

PROCEDURES = ("keyed", "stratified", "semires")
STRATA = ("category", "refs", "category,refs")


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
        DataError: If no train image has truth for all its refs.
    """
    every = inventory.image_ids("train")
    without_truth = {item.image_id for item in inventory.of(["train"]) if not inventory.has_truth(item)}
    candidates = [image_id for image_id in every if image_id not in without_truth]
    if not candidates:
        if not any(inventory.has_truth(item) for item in inventory.of(["train"])):
            raise DataError(NO_MASK)
        raise DataError(
            f"none of {len(every)} train images has a mask for each of its texts; start a run without "
            "--data.split_file: it uses every mask"
        )
    count = len(candidates) if amount is None else num_labeled(amount, len(every), len(candidates))
    if procedure == "semires":
        chosen = set(python_generator(seed).sample(candidates, count))
    elif procedure in PROCEDURES:
        key = _stratum_of(inventory, strata) if procedure == "stratified" else (lambda _: 0)
        chosen = set(_interleaved(candidates, key, seed)[:count])
    else:
        raise ConfigError(f"procedure must be one of {', '.join(PROCEDURES)}, got {procedure!r}")
    return [image_id for image_id in every if image_id in chosen]


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
    category: dict[int, int | None] = {}  # 0 is a category like others; None = it has none
    num_refs: dict[int, int] = defaultdict(int)
    for item in inventory.of(["train"]):
        num_refs[item.image_id] += 1
        category.setdefault(item.image_id, inventory.category_id(item))
    by: dict[str, Callable[[int], Hashable]] = {
        "category": lambda i: category[i],
        "refs": lambda i: num_refs[i],
        "category,refs": lambda i: (category[i], num_refs[i]),
    }
    return by[strata]
