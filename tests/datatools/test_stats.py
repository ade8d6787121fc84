"""Counts of a data set, by hand."""

from pathlib import Path

from l2l_ray.datatools.inventory import take_inventory
from l2l_ray.datatools.stats import category_of, statistics
from tests.refer_folder import write_tiny


def test_counts_by_hand(tmp_path: Path) -> None:
    inventory = take_inventory(write_tiny(tmp_path))
    lines = statistics(inventory)
    assert lines[3].split() == ["train", "3", "3", "6", "100.0%", "0", "0"]
    assert lines[6].split() == ["all", "5", "5", "10", "100.0%", "0", "0"]
    assert "words per sentence: mean 3.0, median 3, from 3 to 3" in lines
    assert any(line.endswith("100.0% small (below 32 x 32), 0.0% medium, 0.0% large (from 96 x 96)") for line in lines)
    assert lines[-1] == "categories: 1; most frequent: cat 5"
    assert category_of(inventory, inventory.items[0]) == "cat"


def test_boxes_stand_in_for_masks_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    inventory = take_inventory(write_tiny(tmp_path, segmentation=[]))
    inventory.items[0] = inventory.items[0]._replace(ann_ids=())
    inventory.items[1] = inventory.items[1]._replace(ann_ids=None)
    lines = statistics(inventory)
    assert lines[3].split() == ["train", "3", "3", "6", "0.0%", "1", "1"]
    assert any(line.startswith("object area, px: mean 216.0, median 216") for line in lines)  # 18 x 12, three times


def test_an_empty_data_set(tmp_path: Path) -> None:
    inventory = take_inventory(write_tiny(tmp_path))
    inventory.items.clear()
    lines = statistics(inventory)
    assert lines[3].split() == ["all", "0", "0", "0", "-", "0", "0"]
    assert "words per sentence: none" in lines
