"""Split files: procedures, nesting, strata, the way there and back, and files made for other data."""

import pickle
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2l_ray.data.inventory import Inventory, Item, take_inventory
from l2l_ray.data.split_files import choose_labeled, plain_fraction, read_split, require_fraction, write_split
from l2l_ray.data.splits import split_labeled
from l2l_ray.errors import ConfigError, DataError
from tests.refer_folder import write_tiny


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
    with pytest.raises(ConfigError, match="0.1 of 200 train images is 20 images, but it must be from 1 to 10"):
        choose_labeled(inventory, 0.1)


@pytest.mark.parametrize("amount", [0, -3, 201, 0.0001, 1.5, -0.5, float("nan")])
def test_amounts_out_of_range(amount: float) -> None:
    with pytest.raises(ConfigError):
        choose_labeled(many(), amount)


def test_unknown_procedures_and_strata() -> None:
    with pytest.raises(ConfigError, match="procedure must be one of keyed, stratified, semires, got 'x'"):
        choose_labeled(many(), 3, 0, "x")
    with pytest.raises(ConfigError, match="strata must be one of"):
        choose_labeled(many(), 3, 0, "stratified", "x")


def test_there_and_back(tmp_path: Path) -> None:
    inventory = take_inventory(write_tiny(tmp_path))
    labeled = choose_labeled(inventory, 2)
    write_split(tmp_path / "split.txt", inventory, "abc", labeled, 7, "keyed")
    lines = (tmp_path / "split.txt").read_text().splitlines()
    assert lines[:8] == [
        "# l2l split 1", "# dataset: tiny", "# split_by: own", "# digest: abc", "# procedure: keyed", "# seed: 7",
        "# fraction: 0.7", "# count: 2 of 3",
    ]  # fmt: skip
    ids = inventory.image_ids("train")
    assert read_split(tmp_path / "split.txt", "abc", ids) == (labeled, [i for i in ids if i not in labeled])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no split file: line 1 is"),
        ("# l2l split 1\n# digest: other\n1\n", "with digest other, but the data set here has abc"),
        ("# l2l split 1\n1\n", "with digest none"),
        ("# l2l split 1\n# digest: abc\n", "names no image"),
        ("# l2l split 1\n# digest: abc\n9\n", "line 3: 9 is no train image"),
        ("# l2l split 1\n# digest: abc\n1\n1\n", "line 4: 1 comes twice"),
        ("# l2l split 1\n# digest: abc\n1 2\n", "line 3: 1 2 is no train image"),
        ("# l2l split 1\n# digest: abc\n" + "1" * 5000, "is no train image"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "split.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        read_split(tmp_path / "split.txt", "abc", [1, 2, 3])


def test_no_file_and_no_text(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(pickle.dumps([1]))
    for name in ("a.txt", "b.txt"):
        with pytest.raises(DataError, match="cannot be read: .*make it by `l2l data split`"):
            read_split(tmp_path / name, "abc", [1])


@given(content=st.text(max_size=80))
def test_any_text_is_a_split_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "split.txt"
    path.write_bytes(f"# l2l split 1\n# digest: abc\n{content}".encode())
    try:
        labeled, unlabeled = read_split(path, "abc", [1, 2, 3])
    except DataError:
        return
    assert sorted(labeled + unlabeled) == [1, 2, 3]


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_plain_fractions_give_the_count(numbers: tuple[int, int]) -> None:
    count, num_images = numbers
    require_fraction(plain_fraction(count, num_images), count, num_images)


def test_a_share_that_contradicts_the_file(tmp_path: Path) -> None:
    assert plain_fraction(169, 16994) == 0.01
    require_fraction(0.01, 169, 16994)
    with pytest.raises(ConfigError, match=r"labels 169 of 16994 .* 0.05 gives 849; set --data.labeled_frac 0.01"):
        require_fraction(0.05, 169, 16994)
