"""Which items of a data set are labeled: every mask of partial truth, a share of a benchmark, or what a file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.data.layout import SPLITS
from l2l_ray.data.origin import write_origin
from l2l_ray.data.split_files import write_split
from l2l_ray.data.splits import split_labeled
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.loop.state.candidates import Candidates, find_candidates, open_dataset
from l2l_ray.types import LabeledExample
from tests.loop.partly_labeled import BAD_MASK, config_of, set_mask, write_partly
from tests.refer_folder import write_tiny


def _found(smoke: RunConfig, root: Path, **data: Any) -> Candidates:
    config = config_of(smoke, root, **data)
    return find_candidates(config, open_dataset(config))


def _refs(found: Candidates) -> tuple[list[int], list[int]]:
    return [e.ref_id for e in found.labeled], [e.ref_id for e in found.unlabeled]


def test_of_partial_truth_every_mask_is_used(smoke: RunConfig, tmp_path: Path) -> None:
    found = _found(smoke, write_partly(tmp_path / "data", 10, {0, 3, 4}))
    assert _refs(found) == ([0, 3, 4], [1, 2, 5, 6, 7, 8, 9])
    assert (found.labeled_frac, found.hidden, found.without_mask, found.skips) == (0.3, 0, (), [])


def test_texts_without_a_mask_on_labeled_images_are_unlabeled_items(smoke: RunConfig, tmp_path: Path) -> None:
    found = _found(smoke, write_partly(tmp_path / "data", 4, {0, 1}, second={1, 3}))
    assert _refs(found) == ([0, 1], [2, 3, 103, 101])
    assert not any(isinstance(example, LabeledExample) for example in found.unlabeled)
    assert [Path(path).name for path in found.without_mask] == ["1.png"]


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (BAD_MASK, "invalid_mask"),
        ([[40.0, 2, 50, 2, 50, 14]], "mask_outside_image"),
        ([[2.0, 2, 2, 2, 2, 2]], "empty_mask"),
    ],
)
def test_a_bad_mask_leaves_its_item_unlabeled_and_is_named(
    smoke: RunConfig, tmp_path: Path, mask: Any, kind: str
) -> None:
    root = write_partly(tmp_path / "data", 4, {0, 1, 2})
    set_mask(root, 1, mask)
    found = _found(smoke, root)
    assert _refs(found) == ([0, 2], [3, 1])
    (skip,) = found.skips
    assert (skip.kind, skip.sent_id, Path(skip.path).name) == (f"{kind}_unlabeled", 10, "1.png")
    assert skip.reason.endswith("; the item is unlabeled")


def test_without_any_mask_there_is_one_plain_sentence(smoke: RunConfig, tmp_path: Path) -> None:
    root = write_partly(tmp_path / "data", 3, set(), {"val": 1})
    with pytest.raises(
        DataError, match=r"^No train photo has a mask; add masks of two at least, then give the same command"
    ):
        _found(smoke, root)


def test_a_benchmark_keeps_most_of_its_truth_hidden(smoke: RunConfig, tmp_path: Path) -> None:
    root = write_partly(tmp_path / "data", 40, set(range(40)), {"val": 2})
    (root / "cats" / "refs(me).p").rename(root / "cats" / "refs(l2l).p")
    found = _found(smoke, root, benchmark_frac=0.05, split_by="l2l")
    assert [e.image_id for e in found.labeled] == split_labeled(range(40), 0.05, 0)[0]
    assert (len(found.unlabeled), found.labeled_frac, found.hidden) == (38, 0.05, 38)
    with pytest.raises(ConfigError, match=r"40 of 40 train .* have masks, and 0\.02 .* --data\.labeled_frac 1 uses"):
        _found(smoke, root, benchmark_frac=0.02, split_by="l2l")


@pytest.mark.parametrize("lacking", [1, 30])
def test_published_data_stay_a_benchmark_under_any_name_and_with_masks_lacking(
    smoke: RunConfig, tmp_path: Path, lacking: int
) -> None:
    root = write_partly(tmp_path / "data", 40, set(range(lacking, 40)))
    write_origin(root / "cats", "published")
    found = _found(smoke, root, benchmark_frac=0.1)
    assert (len(found.labeled), found.hidden, found.labeled_frac) == (4, 36 - lacking, 0.1)
    assert not any(isinstance(example, LabeledExample) for example in found.unlabeled)
    everything = _found(smoke, root, labeled_frac=found.most_frac)
    assert (len(everything.labeled), everything.hidden) == (40 - lacking, 0)


def test_a_benchmark_of_which_no_more_is_known_than_its_share_hides_nothing(smoke: RunConfig, tmp_path: Path) -> None:
    root = write_partly(tmp_path / "data", 40, {3, 7}, second={7})
    write_origin(root / "cats", "published")
    assert (len(_found(smoke, root, benchmark_frac=0.05).labeled), _found(smoke, root).hidden) == (2, 0)
    with pytest.raises(ConfigError, match="is to be labeled|are to be labeled, that is 2, but only 1 have"):
        _found(smoke, root, labeled_frac=0.05)


@pytest.mark.parametrize("splits", [{}, {"val": 2}])
def test_own_data_with_all_masks_are_no_benchmark(smoke: RunConfig, tmp_path: Path, splits: dict[str, int]) -> None:
    found = _found(smoke, write_partly(tmp_path / "data", 5, set(range(5)), splits))
    assert (len(found.labeled), found.unlabeled, found.labeled_frac) == (5, [], 1.0)


def test_a_share_of_partial_truth_is_drawn_from_images_whose_texts_all_have_masks(
    smoke: RunConfig, tmp_path: Path
) -> None:
    root = write_partly(tmp_path / "data", 10, {0, 1, 2, 3, 4}, second={0, 1})
    found = _found(smoke, root, labeled_frac=0.2)
    assert len(found.labeled) == 2 and {e.image_id for e in found.labeled} < {2, 3, 4}
    assert (found.labeled_frac, found.hidden, len(found.unlabeled)) == (0.2, 3, 10)
    with pytest.raises(ConfigError, match=r"0\.5 of 10 train .* that is 5, but only 3 have a mask .*without data\."):
        _found(smoke, root, labeled_frac=0.5)


def test_a_split_file_needs_no_share_beside_it(smoke: RunConfig, tmp_path: Path) -> None:
    root = write_partly(tmp_path / "data", 10, {0, 1, 2, 3, 4}, second={0})
    digest = open_dataset(config_of(smoke, root)).digest
    write_split(tmp_path / "split.txt", [0, 4], 10, "cats", "me", digest, 0, "by hand")
    file = {"split_file": str(tmp_path / "split.txt")}
    assert _refs(_found(smoke, root, **file)) == ([0, 4], [1, 2, 3, 5, 6, 7, 8, 9, 100])
    assert _found(smoke, root, **file, labeled_frac=0.2).labeled_frac == 0.2
    with pytest.raises(ConfigError, match=r"labels 2 of 10 .* 0\.3 gives 3; leave data\.labeled_frac out"):
        _found(smoke, root, **file, labeled_frac=0.3)


def test_an_evaluation_split_without_a_mask_is_none(smoke: RunConfig, tmp_path: Path) -> None:
    root = write_partly(tmp_path / "data", 3, {0, 1}, {"val": 1, "testA": 1})
    set_mask(root, 3, None)  # the photo of val
    found = _found(smoke, root)
    assert list(found.splits) == ["testA"]
    assert [(skip.kind, Path(skip.path).name) for skip in found.skips] == [("missing_mask", "3.png")]


def test_every_split_of_own_data_is_used(smoke: RunConfig, tmp_path: Path) -> None:
    splits = dict(enumerate(SPLITS, 1))
    write_tiny(tmp_path, splits=splits)
    found = _found(smoke, tmp_path, dataset="tiny", split_by="own")
    assert {split: {e.image_id for e in examples} for split, examples in found.splits.items()} == {
        split: {number} for number, split in splits.items() if split != "train"
    }
