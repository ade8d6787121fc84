"""What a run works on: example sets, the unlabeled one without hidden truth."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from l2l_ray.config import RunConfig
from l2l_ray.data.layout import PROBLEMS_FILE
from l2l_ray.data.refer import ReferDataset
from l2l_ray.data.split_files import write_split
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.loop.state.candidates import data_root
from l2l_ray.loop.state.example_files import read_examples
from l2l_ray.loop.state.opening import opening_text
from l2l_ray.loop.state.prepare import Facts, RunData, missing_splits, prepare, read_facts, require_same_data
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.types import LabeledExample
from tests.loop.cats import write_refer
from tests.loop.partly_labeled import config_of, edit_refs, set_mask, write_partly
from tests.whole_run import changed


def test_data_of_run_split_by_image(config: RunConfig, sets: RunData) -> None:
    assert len(sets.labeled) == 3 * 2  # every sentence of three images
    assert len(sets.unlabeled) == 3  # one sentence per ref
    assert not {e.image_id for e in sets.labeled} & {e.image_id for e in sets.unlabeled}
    assert {name: len(rows) for name, rows in sets.splits.items()} == {"val": 4, "testA": 2}
    assert missing_splits(sets.splits) == ("testB",)
    assert sets.prior_order == ("labeled", "unlabeled", "val", "testA")
    assert sets.num_shards(config) == 2
    assert sets.examples("val") is sets.splits["val"]


def test_beside_val_one_test_split_is_enough() -> None:
    assert missing_splits({"val", "test"}) == ()
    assert missing_splits({"test"}) == ("val",)


def test_the_unlabeled_table_has_no_column_for_truth(run: RunFolder, sets: RunData) -> None:
    columns = set(pq.read_schema(run.examples_path("unlabeled")).names)
    assert columns == {"sent_id", "ref_id", "image_id", "image_path", "width_px", "height_px", "expression"}
    assert not any(isinstance(row, LabeledExample) for row in sets.unlabeled)
    assert "mask_rle" in pq.read_schema(run.examples_path("labeled")).names


def _same(found: RunData, expected: RunData) -> bool:
    rows = list(found.unlabeled) == list(expected.unlabeled)  # tables, which are compared by their rows
    return rows and replace(found, unlabeled=[]) == replace(expected, unlabeled=[])


def test_a_second_call_reads_what_the_first_wrote(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    Path(config.data.root, "cats", "instances.json").unlink()  # the data set is not opened again
    assert _same(prepare(config, run), sets)


def test_a_set_of_data_of_run_cut_off_in_the_middle_is_made_again(
    config: RunConfig, run: RunFolder, sets: RunData
) -> None:
    run.examples_path("labeled").unlink()  # written last
    run.examples_path("val").write_bytes(b"torn")
    assert _same(prepare(config, run), sets)


def test_what_is_left_out_is_listed(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "refer" / "images" / "cats" / "6.png").unlink()  # of val
    run = RunFolder.open(config)
    sets = prepare(config, run)
    assert len(sets.splits["val"]) == 2
    assert [(skip.kind, skip.sent_id) for skip in run.skips()] == [("missing_image", 60), ("missing_image", 61)]


def test_texts_that_the_segmenter_does_not_read_to_their_end_are_counted(config: RunConfig, tmp_path: Path) -> None:
    said = "the person in a dark jacket next to the wooden bench behind the parked bicycle, the one on the "

    def lengthen(refs: list[dict[str, Any]]) -> None:
        for ref in refs:
            ref["sentences"][0]["sent"] = f"{said}left"

    edit_refs(tmp_path / "refer", lengthen)
    run = RunFolder.open(config)
    sets = prepare(config, run)
    used = [row for name in sets.prior_order for row in sets.examples(name)]
    long = {row.sent_id for row in used if row.expression.startswith(said)}
    assert {(skip.kind, skip.sent_id) for skip in run.skips()} == {("long_expression_tokens", each) for each in long}
    assert all(any(row.sent_id in long for row in sets.examples(name)) for name in sets.prior_order)
    assert re.fullmatch(r"\d\d tokens, cut to segmenter.max_text_tokens=24 .*; the item stays", run.skips()[0].reason)
    assert f"note       {len(long)} texts: the segmenter reads the first" in opening_text(config, sets, run.skips())
    raised = changed(config, name="raised", segmenter={"max_text_tokens": 128})
    prepare(raised, run := RunFolder.open(raised))
    assert run.skips() == []


def test_without_a_train_split_there_is_a_clear_error(config: RunConfig, tmp_path: Path) -> None:
    write_refer(tmp_path / "eval_only", {"val": 2})
    config = changed(config, data={"root": str(tmp_path / "eval_only")})
    with pytest.raises(DataError, match=r"cats has no train split, only \('val',\); choose another --data.split_by"):
        prepare(config, RunFolder.open(config))


def test_without_a_usable_labeled_example_there_is_a_clear_error(config: RunConfig, tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / "refer" / "images" / "cats" / f"{number}.png").write_bytes(b"no image")
    run = RunFolder.open(config)
    with pytest.raises(DataError, match=r"no mask of a train image can be used: \d\.png: .*; and \d more; correct"):
        prepare(config, run)
    assert not run.path.exists()


def test_after_a_fraction_below_one_image_the_same_folder_starts_with_a_better_one(config: RunConfig) -> None:
    wrong = changed(config, data={"labeled_frac": 0.1})
    with pytest.raises(ConfigError, match="labeled_frac gives 0 labeled images"):
        prepare(wrong, RunFolder.open(wrong))
    assert len(prepare(config, RunFolder.open(config)).labeled) == 6


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_heads": 5}, "segmenter.width must be a multiple of num_heads = 5"),
        ({"fusion_stride": 32}, "segmenter.fusion_stride must be one of the backbone's strides"),
        ({"backbone": "/no/such/encoder"}, "segmenter.backbone"),
    ],
)
def test_a_segmenter_that_cannot_be_is_refused_before_anything_is_written(
    config: RunConfig, setting: dict[str, Any], message: str
) -> None:
    wrong = changed(config, segmenter=setting)
    with pytest.raises(ConfigError, match=message):
        prepare(wrong, RunFolder.open(wrong))
    assert not wrong.run_dir.exists()


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


def _sizes(data: RunData) -> tuple[int, int, dict[str, int]]:
    return len(data.labeled), len(data.unlabeled), {split: len(rows) for split, rows in data.splits.items()}


def test_without_val_a_share_of_the_labeled_images_is_held_out(smoke: RunConfig, tmp_path: Path) -> None:
    config = config_of(smoke, write_partly(tmp_path / "data", 20, set(range(12)), second={0, 1, 2, 3, 19}))
    data = prepare(config, RunFolder.open(config))
    assert _sizes(data) == (9, 8 + 5, {"val": 3})
    held_out = {e.image_id for e in data.splits["val"]}
    assert held_out < set(range(12)) and not held_out & {e.image_id for e in data.labeled}
    # A text without a mask is an unlabeled item, also on an image that is held out.
    assert {100 + i for i in (0, 1, 2, 3, 19)} <= {e.ref_id for e in data.unlabeled}
    assert (data.facts.labeled_frac, data.facts.val_source) == (0.6, "labeled")
    assert data.facts.notices[-1].startswith("there is no val split, so the run holds out 3 of its 12 labeled")

    off = changed(config, name="off", data={"val_from_labeled": 0.0})
    data = prepare(off, RunFolder.open(off))
    assert _sizes(data) == (12, 13, {}) and data.facts.val_source is None
    assert "--data.val_from_labeled is 0: the last version is taken" in data.facts.notices[-1]


def test_the_texts_of_a_photo_stand_side_by_side_in_whatever_order_they_came(smoke: RunConfig, tmp_path: Path) -> None:
    config = config_of(smoke, write_partly(tmp_path / "data", 20, set(range(12)), second={12, 15, 19}))
    prepare(config, run := RunFolder.open(config))
    rows = read_examples(run.examples_path("unlabeled"))
    assert [row.ref_id for row in rows] == [12, 112, 13, 14, 15, 115, 16, 17, 18, 19, 119]


def _reviewed(refs: list[dict[str, Any]], accepted: set[int], rejected: set[int]) -> None:
    """Give refs what the import of a review gives them: a mask that began as a label, or none for good."""
    for ref in refs:
        if ref["ref_id"] in accepted:
            made_by = {"source": "review", "confirmed_from": {"source": "pseudo_label"}}
            ref |= {"ann_id": 50 + ref["ref_id"] % 100, "provenance": made_by}
        elif ref["ref_id"] in rejected:
            ref["rejected"] = {"source": "review"}


def test_masks_that_began_as_labels_leave_val_as_it_was(smoke: RunConfig, tmp_path: Path) -> None:
    root = write_partly(tmp_path / "data", 40, set(range(12)), second={0, 1, 2, 3, 4, 19})
    config = config_of(smoke, root)
    before = prepare(config, RunFolder.open(config))
    edit_refs(root, lambda refs: _reviewed(refs, {100, 101, *range(20, 40)}, {102, 103}))
    for number in range(20, 40):
        set_mask(root, number, [[1.0, 1, 30, 1, 30, 22, 1, 22]])
    config = changed(config, name="again")
    run = RunFolder.open(config)
    after = prepare(config, run)
    assert after.splits == before.splits and len(after.splits["val"]) == 3
    assert {e.ref_id for e in after.labeled} == {e.ref_id for e in before.labeled} | {100, 101, *range(20, 40)}
    assert "holds out 3 of its 32 labeled photos" in after.facts.notices[-1]
    kept = {e.ref_id for e in read_examples(run.examples_path("labeled")) if getattr(e, "is_reviewed", False)}
    assert kept == {100, 101, *range(20, 40)}


def test_where_every_mask_began_as_a_label_val_is_of_these(smoke: RunConfig, tmp_path: Path) -> None:
    root = write_partly(tmp_path / "data", 16, set(range(8)))
    edit_refs(root, lambda refs: _reviewed(refs, set(range(8)), set()))
    config = config_of(smoke, root)
    assert len(prepare(config, RunFolder.open(config)).splits["val"]) == 2


def test_training_is_said_to_see_photos_of_val_that_it_has_other_texts_of(smoke: RunConfig, tmp_path: Path) -> None:
    config = config_of(smoke, write_partly(tmp_path / "data", 8, set(range(8)), second=set(range(8))))
    (notice,) = prepare(config, RunFolder.open(config)).facts.notices[-1:]
    assert (
        "holds out 2 of its 8 labeled photos (training sees these photos too, by 2 other texts of them), to" in notice
    )


def test_a_val_split_stays_what_it_is(smoke: RunConfig, tmp_path: Path) -> None:
    config = config_of(smoke, write_partly(tmp_path / "data", 8, set(range(5)), {"val": 2, "testA": 1}))
    data = prepare(config, RunFolder.open(config))
    assert _sizes(data) == (5, 3, {"val": 2, "testA": 1})
    assert data.facts.val_source == "split" and data.facts.notices == ()


def test_masks_that_are_held_out_reach_nothing_that_training_reads(smoke: RunConfig, tmp_path: Path) -> None:
    root = write_partly(tmp_path / "data", 16, set(range(8)), second=set(range(8)))
    config = config_of(smoke, root)
    run = RunFolder.open(config)
    held_out = {e.image_id for e in prepare(config, run).splits["val"]}
    before = {name: run.examples_path(name).read_bytes() for name in ("labeled", "unlabeled", "val")}
    for image_id in held_out:
        set_mask(root, image_id, [[1.0, 1, 30, 1, 30, 22, 1, 22]])
    again = changed(config, name="again")
    after = RunFolder.open(again)
    prepare(again, after)
    same = {name: after.examples_path(name).read_bytes() == content for name, content in before.items()}
    assert len(held_out) == 2 and same == {"labeled": True, "unlabeled": True, "val": False}
    assert "mask_rle" not in pq.read_schema(after.examples_path("unlabeled")).names


@pytest.mark.parametrize(
    ("num_masks", "selector", "sizes"),
    [(1, "fixed_threshold", (1, 0)), (2, "l2l", (2, 0)), (3, "l2l", (3, 0)), (4, "l2l", (3, 1)), (5, "l2l", (4, 1))],
)
def test_the_smallest_labeled_sets(
    smoke: RunConfig, tmp_path: Path, num_masks: int, selector: str, sizes: tuple[int, int]
) -> None:
    config = config_of(smoke, write_partly(tmp_path / "data", 8, set(range(num_masks))))
    config = changed(config, selector={"name": selector, "num_folds": 4})
    data = prepare(config, RunFolder.open(config))
    assert (len(data.labeled), len(data.splits.get("val", []))) == sizes
    fewer = [notice for notice in data.facts.notices if notice.startswith("selector.num_folds is 4")]
    assert len(fewer) == (selector == "l2l" and sizes[0] < 4)


def test_one_labeled_photo_is_too_few_for_a_selector_that_learns(smoke: RunConfig, tmp_path: Path) -> None:
    config = config_of(smoke, write_partly(tmp_path / "data", 8, {5}))
    message = (
        r"l2l needs masks on at least 2 train photos.* got 1, 5\.png; add a mask .* --selector\.name fixed_threshold"
    )
    with pytest.raises(DataError, match=message):
        prepare(config, RunFolder.open(config))
    assert not config.run_dir.exists()


def test_what_was_decided_is_read_back(smoke: RunConfig, tmp_path: Path) -> None:
    config = config_of(smoke, write_partly(tmp_path / "data", 8, {0, 1, 2, 3}, second={0}))
    run = RunFolder.open(config)
    data = prepare(config, run)
    assert _same(prepare(config, run), data) and read_facts(run) == data.facts and len(data.facts.notices) == 2
    run.data_path.unlink()  # a run of before there was such a file
    assert read_facts(run) == Facts(0.25, "split")


def test_a_problem_of_the_import_is_one_whatever_is_in_its_line(smoke: RunConfig, tmp_path: Path) -> None:
    config = config_of(smoke, write_partly(tmp_path / "data", 8, {0, 1, 2, 3}))
    kept = Path(config.data.root) / config.data.dataset / PROBLEMS_FILE
    kept.write_text("a\u2028b.png: missing text\n")
    with kept.open("ab") as file:
        file.write(b"\xe9t\xe9.png: missing text\n")
    notices = prepare(config, RunFolder.open(config)).facts.notices
    assert f"the import of these data named 2 problems, all in {kept}: a\u2028b.png: missing text" in notices


def test_data_that_changed_are_named_and_the_run_keeps_to_its_own(smoke: RunConfig, tmp_path: Path) -> None:
    root = write_partly(tmp_path / "data", 12, {0, 1, 2, 3, 4})
    config = config_of(smoke, root)
    run = RunFolder.open(config)
    data = prepare(config, run)
    require_same_data(config, run)

    square = [[1.0, 1, 20, 1, 20, 20, 1, 20]]
    for number in (0, 7, 8, 9):
        set_mask(root, number, square)
    edit_refs(root, lambda refs: refs.pop())
    message = (
        r"the data have changed since the run in .*/smoke began: 3 more masks, 1 mask changed, 1 text fewer, "
        r"1 photo fewer; a run keeps to the data it began with, so start one under another --name"
    )
    for look in (prepare, lambda *_: require_same_data(config, run)):
        with pytest.raises(DataError, match=message):
            look(config, run)
    other = changed(config, name="other")
    assert len(prepare(other, RunFolder.open(other)).labeled) == 6  # of 8; two are held out
    for number in range(12):
        set_mask(root, number, None)
    with pytest.raises(DataError, match=r"began: No train photo has a mask; .* under another --name"):
        prepare(config, run)
    assert data.labeled


def test_pictures_that_changed_are_noticed_and_a_touched_one_is_not(smoke: RunConfig, tmp_path: Path) -> None:
    config = config_of(smoke, write_partly(tmp_path / "data", 6, {0, 1}))
    run = RunFolder.open(config)
    data = prepare(config, run)
    picture = tmp_path / "data" / "images" / "cats" / "3.png"
    picture.touch()
    assert _same(prepare(config, run), data)
    picture.write_bytes((tmp_path / "data" / "images" / "cats" / "4.png").read_bytes())
    with pytest.raises(DataError, match="began: 1 photo changed; a run keeps"):
        prepare(config, run)


def test_hidden_truth_is_no_part_of_what_a_run_remembers(config: RunConfig, run: RunFolder, sets: RunData) -> None:
    known = {e.ref_id for e in sets.labeled}
    for number in range(6):
        if number not in known:
            set_mask(Path(config.data.root), number, None)
    assert _same(prepare(config, run), sets)


def test_photos_that_are_learned_from_and_evaluated_on_are_said(smoke: RunConfig, tmp_path: Path) -> None:
    root = write_partly(tmp_path / "data", 4, {0, 1, 2}, {"val": 2})
    config = config_of(smoke, root)
    assert not [text for text in prepare(config, RunFolder.open(config)).facts.notices if "training sees" in text]

    def shares_a_photo(refs: list[dict[str, Any]]) -> None:
        refs[3]["image_id"] = refs[4]["image_id"]  # an unlabeled one of train is that of the first of val

    edit_refs(root, shares_a_photo)
    other = changed(config, name="other")
    (told,) = [text for text in prepare(other, RunFolder.open(other)).facts.notices if "training sees" in text]
    assert told.startswith("training sees 1 photo of val, too (4.png): figures on it are too kind; `l2l data leaks")
