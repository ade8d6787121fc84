"""What a run works on: example sets, the unlabeled one without hidden truth."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from l2l_ray.config import RunConfig
from l2l_ray.data.refer import ReferDataset
from l2l_ray.data.split_files import write_split
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.loop.state.prepare import RunData, data_root, prepare
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.types import LabeledExample
from tests.loop.cats import write_refer
from tests.whole_run import changed


def test_data_of_run_split_by_image(config: RunConfig, sets: RunData) -> None:
    assert len(sets.labeled) == 3 * 2  # every sentence of three images
    assert len(sets.unlabeled) == 3  # one sentence per ref
    assert not {e.image_id for e in sets.labeled} & {e.image_id for e in sets.unlabeled}
    assert {name: len(rows) for name, rows in sets.splits.items()} == {"val": 4, "testA": 2}
    assert sets.missing_splits == ("testB",)
    assert sets.prior_order == ("labeled", "unlabeled", "val", "testA")
    assert sets.num_shards(config) == 2
    assert sets.examples("val") is sets.splits["val"]


def test_a_set_with_one_test_split_lacks_nothing() -> None:
    assert RunData([], [], {"val": [], "test": []}).missing_splits == ()
    assert RunData([], [], {"test": []}).missing_splits == ("val",)


def test_the_unlabeled_table_has_no_column_for_truth(run: RunFolder, sets: RunData) -> None:
    columns = set(pq.read_schema(run.examples_path("unlabeled")).names)
    assert columns == {"sent_id", "ref_id", "image_id", "image_path", "width_px", "height_px", "expression"}
    assert not any(isinstance(row, LabeledExample) for row in sets.unlabeled)
    assert "mask_rle" in pq.read_schema(run.examples_path("labeled")).names


def test_a_second_call_reads_what_the_first_wrote(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    Path(config.data.root, "cats", "instances.json").unlink()  # the data set is not opened again
    assert prepare(config, run) == sets


def test_a_set_of_data_of_run_cut_off_in_the_middle_is_made_again(
    config: RunConfig, run: RunFolder, sets: RunData
) -> None:
    run.examples_path("labeled").unlink()  # written last
    run.examples_path("val").write_bytes(b"torn")
    assert prepare(config, run) == sets


def test_what_is_left_out_is_listed(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "refer" / "images" / "cats" / "6.png").unlink()  # of val
    run = RunFolder.open(config)
    sets = prepare(config, run)
    assert len(sets.splits["val"]) == 2
    assert [(skip.kind, skip.sent_id) for skip in run.skips()] == [("missing_image", 60), ("missing_image", 61)]


def test_without_a_train_split_there_is_a_clear_error(config: RunConfig, tmp_path: Path) -> None:
    write_refer(tmp_path / "eval_only", {"val": 2})
    config = changed(config, data={"root": str(tmp_path / "eval_only")})
    with pytest.raises(DataError, match=r"cats has no train split, only \('val',\); choose another --data.split_by"):
        prepare(config, RunFolder.open(config))


def test_without_a_usable_labeled_example_there_is_a_clear_error(config: RunConfig, tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / "refer" / "images" / "cats" / f"{number}.png").write_bytes(b"no image")
    run = RunFolder.open(config)
    with pytest.raises(DataError, match=r"none of the 3 labeled images is usable: \{'truncated_image': 9\}; see "):
        prepare(config, run)
    assert len(run.skips()) == 9


def test_after_a_fraction_below_one_image_the_same_folder_starts_with_a_better_one(config: RunConfig) -> None:
    wrong = changed(config, data={"labeled_frac": 0.1})
    with pytest.raises(ConfigError, match="labeled_frac gives 0 labeled images"):
        prepare(wrong, RunFolder.open(wrong))
    assert len(prepare(config, RunFolder.open(config)).labeled) == 6


def test_the_embedded_data_set_is_made_once_under_the_cache(smoke: RunConfig) -> None:
    config = changed(smoke, data={"num_train_refs": 8, "num_eval_refs": 4})
    root = data_root(config)
    assert root.parent == config.cache_dir / "data" and (root / "refshapes" / "refs(l2l).p").exists()
    made = (root / "refshapes" / "instances.json").stat().st_mtime_ns
    assert data_root(config) == root
    assert (root / "refshapes" / "instances.json").stat().st_mtime_ns == made


def test_the_plan_knows_all_there_is_to_do(config: RunConfig, sets: RunData) -> None:
    plan = sets.plan(config, ("l2l",))
    assert plan.split_sizes == {"val": 4, "testA": 2}
    assert (plan.num_shards, plan.rounds, plan.lag) == (2, config.loop.rounds, config.loop.lag)


def test_a_split_file_says_which_images_are_labeled(config: RunConfig, tmp_path: Path) -> None:
    data = ReferDataset.open(tmp_path / "refer", "cats", "me")
    chosen = sorted(
        set(data.image_ids("train")) - {e.image_id for e in prepare(config, RunFolder.open(config)).labeled}
    )
    write_split(tmp_path / "split.txt", chosen, len(data.image_ids("train")), "cats", "me", data.digest, 0, "by hand")
    config = changed(config, name="by_file", data={"split_file": str(tmp_path / "split.txt")})
    assert sorted({e.image_id for e in prepare(config, RunFolder.open(config)).labeled}) == chosen
    config = changed(config, name="contradicted", data={"labeled_frac": 0.9})
    with pytest.raises(
        ConfigError, match="data.split_file labels 3 of 6 train images, but data.labeled_frac 0.9 gives 5"
    ):
        prepare(config, RunFolder.open(config))
    write_refer(tmp_path / "other", {"train": 7, "val": 2})
    config = changed(config, name="other_data", data={"labeled_frac": 0.5, "root": str(tmp_path / "other")})
    with pytest.raises(DataError, match="was made for cats with digest"):
        prepare(config, RunFolder.open(config))
