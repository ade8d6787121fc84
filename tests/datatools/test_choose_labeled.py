"""Which images are labeled: procedures, nesting, strata, amounts."""

import random
from collections import Counter
from pathlib import Path

import pytest

from l2l_ray.data.splits import split_labeled
from l2l_ray.datatools.choose_labeled import choose_labeled
from l2l_ray.datatools.inventory import Inventory, Item
from l2l_ray.errors import ConfigError, DataError


def many(num: int = 200, with_truth: int | None = None) -> Inventory:
    """Make an inventory of `num` train images with one ref each; every fourth is a dog, the others are cats."""
    inventory = Inventory(Path("root/many"), "own")
    for i in range(num):
        image_id, has_truth = 1000 - i, with_truth is None or i < with_truth
        inventory.items.append(Item(i, (i,) if has_truth else None, image_id, "train", ((i, "x"),), {}))
        inventory.annotations[i] = {"segmentation": [[1]], "category_id": 2 if i % 4 == 0 else 1}
    return inventory


def test_keyed_is_the_split_that_runs_draw() -> None:
    inventory = many()
    for frac in (0.01, 0.29, 1.0):
        assert choose_labeled(inventory, frac, seed=5) == split_labeled(inventory.image_ids("train"), frac, 5)[0]
    assert len(choose_labeled(inventory, 7)) == 7


@pytest.mark.parametrize("procedure", ["keyed", "stratified"])
def test_smaller_fractions_lie_inside_larger_ones(procedure: str) -> None:
    one, five, ten = (set(choose_labeled(many(), frac, 3, procedure)) for frac in (0.01, 0.05, 0.1))
    assert one < five < ten
    assert (len(one), len(five), len(ten)) == (2, 10, 20)


@pytest.mark.parametrize("count", [4, 20, 100])
def test_strata_have_their_share(count: int) -> None:
    chosen = choose_labeled(many(), count, 0, "stratified")
    dogs = sum((1000 - image_id) % 4 == 0 for image_id in chosen)
    assert dogs == count // 4


def test_images_without_a_category_are_a_stratum_apart_from_category_0() -> None:
    inventory = many()
    for annotation in inventory.annotations.values():
        if annotation["category_id"] == 2:
            annotation["category_id"] = 0
        else:
            del annotation["category_id"]
    for count in (4, 20, 100):
        chosen = choose_labeled(inventory, count, 0, "stratified")
        assert sum((1000 - image_id) % 4 == 0 for image_id in chosen) == count // 4


def test_strata_by_number_of_refs() -> None:
    inventory = many(8)
    inventory.items += [item._replace(ref_id=100 + item.ref_id) for item in inventory.items[:2]]
    chosen = choose_labeled(inventory, 4, 0, "stratified", "refs")
    assert Counter(image_id in (1000, 999) for image_id in chosen) == {True: 1, False: 3}


def test_the_published_procedure_of_semires() -> None:
    inventory = many()
    random.seed(0)
    expected = random.sample(list(range(1000, 800, -1)), 20)  # unique ids in first-appearance order, floor(0.1 * 200)
    assert set(choose_labeled(inventory, 0.1, 0, "semires")) == set(expected)


def test_items_without_truth_stay_unlabeled() -> None:
    inventory = many(200, with_truth=10)
    assert set(choose_labeled(inventory, None)) == set(range(1000, 990, -1))
    assert set(choose_labeled(inventory, 0.02)) < set(range(1000, 990, -1))
    with pytest.raises(ConfigError, match="0.1 of 200 train images .* that is 20, but only 10 have a mask"):
        choose_labeled(inventory, 0.1)


def test_without_an_image_to_choose_there_is_a_plain_sentence() -> None:
    with pytest.raises(
        DataError, match=r"^No train photo has a mask; add masks of two at least, then give the same command"
    ):
        choose_labeled(many(24, with_truth=0), None)
    inventory = many(3, with_truth=1)
    inventory.items.append(inventory.items[0]._replace(ref_id=9, ann_ids=None))
    with pytest.raises(DataError, match="none of 3 train images has a mask for each of its texts; start a run without"):
        choose_labeled(inventory, 0.5)


@pytest.mark.parametrize("amount", [0, -3, 201, 0.0001, 1.5, -0.5, float("nan")])
def test_amounts_out_of_range(amount: float) -> None:
    with pytest.raises(ConfigError):
        choose_labeled(many(), amount)


def test_unknown_procedures_and_strata() -> None:
    with pytest.raises(ConfigError, match="procedure must be one of keyed, stratified, semires, got 'x'"):
        choose_labeled(many(), 3, 0, "x")
    with pytest.raises(ConfigError, match="strata must be one of"):
        choose_labeled(many(), 3, 0, "stratified", "x")
