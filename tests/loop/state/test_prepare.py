"""What a run works on: tables without hidden truth, and priors that are asked for once."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from l2l_ray.config import RunConfig
from l2l_ray.data.masks import encode
from l2l_ray.data.refer import ReferDataset
from l2l_ray.data.split_files import write_split
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.loop.state.example_files import read_priors
from l2l_ray.loop.state.prepare import Answered, Question, RunData, data_root, fill_priors, open_store, prepare
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.mllm import MllmIdentity, Reply
from l2l_ray.prior.prompt import QWEN_RELATIVE
from l2l_ray.types import LabeledExample
from tests.whole_run import changed

NUM_IMAGES = {"train": 6, "val": 2, "testA": 1}
GOOD = '[{"bbox_2d": [100, 200, 500, 600], "label": "cat"}]'


def write_refer(root: Path, num_images: dict[str, int] | None = None, sentences: int = 2) -> dict[str, Any]:
    """Write a data set in REFER's layout, one ref per image; return the content of instances.json."""
    rng = np.random.default_rng(0)
    (root / "images" / "cats").mkdir(parents=True)
    (root / "cats").mkdir()
    images, annotations, refs = [], [], []
    splits = [split for split, num in (num_images or NUM_IMAGES).items() for _ in range(num)]
    for number, split in enumerate(splits):
        name = f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(root / "images" / "cats" / name)
        images.append({"id": number, "file_name": name, "width": 32, "height": 24})
        mask = np.zeros((24, 32), bool)
        mask[4:12, 3:20] = True
        annotations.append({
            "id": 50 + number, "image_id": number, "category_id": 1, "bbox": [3, 4, 17, 8], "area": 136,
            "segmentation": encode(mask),
        })  # fmt: skip
        sents = [{"sent_id": 10 * number + k, "sent": f"cat {number} {k}"} for k in range(sentences)]
        refs.append({"ref_id": number, "ann_id": 50 + number, "image_id": number, "split": split, "sentences": sents})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (root / "cats" / "refs(me).p").write_bytes(pickle.dumps(refs))
    (root / "cats" / "instances.json").write_text(json.dumps(content))
    return content


@pytest.fixture
def config(smoke: RunConfig, tmp_path: Path) -> RunConfig:
    write_refer(tmp_path / "refer")
    data = {"root": str(tmp_path / "refer"), "dataset": "cats", "split_by": "me", "labeled_frac": 0.5}
    return changed(smoke, data=data, loop={"shard_size": 2})


@pytest.fixture
def run(config: RunConfig) -> RunFolder:
    return RunFolder.open(config)


@pytest.fixture
def tables(config: RunConfig, run: RunFolder) -> RunData:
    return prepare(config, run)


def test_tables_split_by_image(config: RunConfig, tables: RunData) -> None:
    assert len(tables.labeled) == 3 * 2  # every sentence of three images
    assert len(tables.unlabeled) == 3  # one sentence per ref
    assert not {e.image_id for e in tables.labeled} & {e.image_id for e in tables.unlabeled}
    assert {name: len(rows) for name, rows in tables.splits.items()} == {"val": 4, "testA": 2}
    assert tables.missing_splits == ("testB",)
    assert tables.prior_order == ("labeled", "unlabeled", "val", "testA")
    assert tables.num_shards(config) == 2
    assert tables.examples("val") is tables.splits["val"]


def test_a_set_with_one_test_split_lacks_nothing() -> None:
    assert RunData([], [], {"val": [], "test": []}).missing_splits == ()
    assert RunData([], [], {"test": []}).missing_splits == ("val",)


def test_the_unlabeled_table_has_no_column_for_truth(run: RunFolder, tables: RunData) -> None:
    columns = set(pq.read_schema(run.examples_path("unlabeled")).names)
    assert columns == {"sent_id", "ref_id", "image_id", "image_path", "width_px", "height_px", "expression"}
    assert not any(isinstance(row, LabeledExample) for row in tables.unlabeled)
    assert "mask_rle" in pq.read_schema(run.examples_path("labeled")).names


def test_a_second_call_reads_what_the_first_wrote(config: RunConfig, run: RunFolder, tables: RunData) -> None:
    Path(config.data.root, "cats", "instances.json").unlink()  # the data set is not opened again
    assert prepare(config, run) == tables


def test_a_set_of_tables_cut_off_in_the_middle_is_made_again(
    config: RunConfig, run: RunFolder, tables: RunData
) -> None:
    run.examples_path("labeled").unlink()  # written last
    run.examples_path("val").write_bytes(b"torn")
    assert prepare(config, run) == tables


def test_what_is_left_out_is_listed(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "refer" / "images" / "cats" / "6.png").unlink()  # of val
    run = RunFolder.open(config)
    tables = prepare(config, run)
    assert len(tables.splits["val"]) == 2
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


class Model:
    """What answers: canned replies, and a count of what was asked."""

    def __init__(self, bad: str = "") -> None:
        self.identity = MllmIdentity("f00d", QWEN_RELATIVE)
        self.asked: list[Question] = []
        self.batches: list[int] = []
        self._bad = bad

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        everything = list(batches)
        for batch in reversed(everything):  # any order is allowed
            self.asked += batch
            self.batches.append(len(batch))
            texts = ["I see a cat" if q.expression == self._bad else GOOD for q in batch]
            yield batch, [Reply((text,), (-0.1,), 0, 0) for text in texts]


def _fill(config: RunConfig, run: RunFolder, tables: RunData, model: Model, name: str = "val") -> int:
    with open_store(config) as store:
        return fill_priors(name, tables, run, store, model.identity, model.ask, 3)


def test_every_example_gets_its_prior(config: RunConfig, run: RunFolder, tables: RunData) -> None:
    model = Model()
    assert _fill(config, run, tables, model) == 4
    assert sorted(model.batches) == [1, 3]
    priors = read_priors(run.priors_path("val"))
    assert priors.keys() == {row.sent_id for row in tables.splits["val"]}
    assert {prior.boxes_xyxy_frac for prior in priors.values()} == {((0.1, 0.2, 0.5, 0.6),)}
    assert len({prior.key for prior in priors.values()}) == 4


def test_nothing_is_asked_twice(config: RunConfig, run: RunFolder, tables: RunData) -> None:
    model = Model()
    _fill(config, run, tables, model)
    assert _fill(config, run, tables, model) == 0  # the file is there
    expected = read_priors(run.priors_path("val"))
    run.priors_path("val").unlink()
    assert _fill(config, run, tables, model) == 0  # the store has them all
    other = changed(config, name="other", loop={"seed": 5})
    other_run = RunFolder.open(other)
    assert _fill(other, other_run, prepare(other, other_run), model) == 0  # also those of another run
    assert len(model.asked) == 4
    assert read_priors(run.priors_path("val")) == read_priors(other_run.priors_path("val")) == expected


def test_equal_questions_are_one_question(config: RunConfig, run: RunFolder, tables: RunData) -> None:
    row = tables.splits["val"][0]
    twin = LabeledExample(
        999, row.ref_id, row.image_id, row.image_path, 32, 24, row.expression, row.mask_rle, row.category
    )
    model = Model()
    assert _fill(config, run, RunData([], [], {"val": [row, twin, row]}), model) == 1
    assert read_priors(run.priors_path("val")).keys() == {row.sent_id, 999}


def test_another_model_is_asked_anew(config: RunConfig, run: RunFolder, tables: RunData) -> None:
    _fill(config, run, tables, Model())
    run.priors_path("val").unlink()
    other = Model()
    other.identity = MllmIdentity("beef", QWEN_RELATIVE)
    assert _fill(config, run, tables, other) == 4


def test_answers_before_a_crash_are_kept(config: RunConfig, run: RunFolder, tables: RunData) -> None:
    model = Model()

    def dies(batches: Iterator[list[Question]]) -> Iterator[Answered]:
        yield next(model.ask(batches))
        raise KeyboardInterrupt

    with open_store(config) as store, pytest.raises(KeyboardInterrupt):
        fill_priors("val", tables, run, store, model.identity, dies, 3)
    assert not run.priors_path("val").exists()
    kept = len(model.asked)
    assert _fill(config, run, tables, model) == 4 - kept
    assert len(model.asked) == 4


def test_bad_replies_are_counted(config: RunConfig, run: RunFolder, tables: RunData) -> None:
    bad = tables.splits["val"][1]
    _fill(config, run, tables, Model(bad.expression))
    prior = read_priors(run.priors_path("val"))[bad.sent_id]
    assert not prior.boxes_xyxy_frac and prior.failure and prior.reply == "I see a cat"
    (event,) = [event for event in run.events() if event["event"] == "priors"]
    assert (event["table"], event["num"], event["asked"]) == ("val", 4, 4)
    assert list(event["failures"].values()) == [1]


def test_the_plan_knows_all_there_is_to_do(config: RunConfig, tables: RunData) -> None:
    plan = tables.plan(config, ("l2l",))
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
