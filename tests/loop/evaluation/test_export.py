"""Exports of a whole run: the labels that were committed, as training used them, and the chosen version's masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2l_ray.cli import main
from l2l_ray.config import config_yaml
from l2l_ray.data.masks import decode, encode, mask_area_px, mask_to_grid
from l2l_ray.data.plain_pickle import plain_records
from l2l_ray.data.refer import ReferDataset
from l2l_ray.datatools.export import FORMATS
from l2l_ray.datatools.label_studio import decode_brush
from l2l_ray.errors import CheckpointError, ConfigError, DataError
from l2l_ray.loop.evaluation.evaluate import Evaluations
from l2l_ray.loop.evaluation.export import (
    GONE,
    NO_MASK,
    OTHER_TEXT,
    UNPROMISED,
    UNSURE,
    UNUSED,
    export_predictions,
    export_pseudo_labels,
)
from l2l_ray.loop.state.candidates import data_root
from l2l_ray.loop.state.example_files import read_examples, read_priors, write_examples
from l2l_ray.loop.state.ledger import Ledger, is_used, read_shard, write_shard
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.types import PseudoLabel

pytestmark = pytest.mark.usefixtures("one_thread")


def _labels(run: RunFolder, round_index: int) -> dict[int, PseudoLabel]:
    entries = Ledger(run.ledger_path).entries("l2l", round_index)
    return {label.sent_id: label for entry in entries for label in read_shard(run.path / entry.path)}


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "masks.jsonl").read_text().splitlines()]


def test_pseudo_labels_are_the_committed_ones(whole_run: RunFolder, tmp_path: Path) -> None:
    examples = {row.sent_id: row for row in read_examples(whole_run.examples_path("unlabeled"))}
    for round_index in (0, 1):
        done = export_pseudo_labels(
            whole_run.path, "jsonl", tmp_path / f"r{round_index}", round_index=round_index, keep_unused=True
        )
        labels, rows = _labels(whole_run, round_index), _rows(done.path)
        assert done.num == len(labels) == len(examples)
        assert {item.reason for item in done.left_out} == {OTHER_TEXT}
        root = Path(json.loads((done.path / "export.json").read_text())["image_root"])
        for row in rows:
            label, example, found = labels[row["sent_id"]], examples[row["sent_id"]], row["provenance"]
            assert str(root / row["image"]) == example.image_path and row["expression"] == example.expression
            assert row["rle"]["size"] == row["accepted_rle"]["size"] == [example.height_px, example.width_px]
            np.testing.assert_array_equal(mask_to_grid(row["accepted_rle"], label.grid) > 0.5, label.accepted)
            changed = (mask_to_grid(row["rle"], label.grid) > 0.5) != label.target
            assert changed.mean() < 0.03  # corners are rounded
            assert (row["confidence"], row["gate"]) == (label.confidence, label.gate)
            expected = {
                "run": whole_run.path.name, "dataset": "refshapes", "split_by": "l2l", "source": "pseudo_label",
                "method": "l2l", "model_version": round_index, "policy_version": round_index, "round": round_index,
                "seed": 0, "sample_key": label.seed, "prior_key": label.prior_key,
            }  # fmt: skip
            assert expected.items() <= found.items()


def test_by_default_what_training_used_of_the_last_round(whole_run: RunFolder, tmp_path: Path) -> None:
    done = export_pseudo_labels(whole_run.path, "jsonl", tmp_path / "out")
    labels = _labels(whole_run, 1)
    used = {sent_id for sent_id, label in labels.items() if is_used(label)}
    assert {int(row["id"]) for row in _rows(done.path)} == used
    unused = [item.example.sent_id for item in done.left_out if item.reason == UNUSED]
    assert done.num == len(used) and set(unused) == labels.keys() - used and len(unused) == len(labels) - len(used)
    index = json.loads((done.path / "export.json").read_text())
    assert (index["round"], index["num_left_out"], index["method"]) == (1, len(done.left_out), "l2l")
    assert [row["sent_id"] for row in index["left_out"]] == [item.example.sent_id for item in done.left_out]
    assert all(Path(row["image"]).is_file() and row["expression"] and row["reason"] for row in index["left_out"])


def test_an_earlier_round_is_no_stand_in_for_a_damaged_last_one(
    copied: Callable[..., RunFolder], tmp_path: Path
) -> None:
    run = copied(without=())
    content = run.ledger_path.read_bytes()
    run.ledger_path.write_bytes(content[: content.rstrip().rindex(b"\n") + 20])
    with pytest.raises(DataError, match="finished, but its last whole round of 'l2l' is 0, expected 1; start again"):
        export_pseudo_labels(run.path, "jsonl", tmp_path / "out")
    assert export_pseudo_labels(run.path, "jsonl", tmp_path / "out", round_index=0, keep_unused=True).num
    (run.path / "FINISHED").unlink()
    assert " masks of round 0; " in export_pseudo_labels(run.path, "jsonl", tmp_path / "last", keep_unused=True).line


def test_further_texts_of_an_object_are_counted_as_left_out(whole_run: RunFolder, tmp_path: Path) -> None:
    done = export_pseudo_labels(whole_run.path, "jsonl", tmp_path / "out", keep_unused=True)
    used = read_examples(whole_run.examples_path("unlabeled"))
    every, _ = ReferDataset.open(data_root(whole_run.config), "refshapes", "l2l").examples("train")
    others = {e.sent_id for e in every if e.ref_id in {u.ref_id for u in used}} - {u.sent_id for u in used}
    assert others and {item.example.sent_id for item in done.left_out} == others
    own = {name: len(read_examples(whole_run.examples_path(name))) for name in ("labeled", "val", "testA", "testB")}
    assert done.line == (
        f"{done.path}: {done.num} masks of round 1; left out: {len(others)} {OTHER_TEXT}; not among them, as they have "
        f"masks of their own: {', '.join(f'{count} {name}' for name, count in own.items())} (--split predicts these)"
    )
    assert "mask_rle" not in (done.path / "export.json").read_text()


def test_an_export_goes_on_where_the_data_set_is_gone(copied: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = copied(without=("FINISHED", "config.yaml"), data={"root": str(tmp_path / "gone")})
    (run.path / "config.yaml").write_text(config_yaml(run.config))
    done = export_pseudo_labels(run.path, "jsonl", tmp_path / "out", keep_unused=True)
    assert not done.left_out
    assert "; left out: nothing; not among" in done.line
    assert "; further texts of the same objects cannot be counted: refshapes: " in done.line


def test_the_least_sure_can_be_left_out(whole_run: RunFolder, tmp_path: Path) -> None:
    confidences = sorted(label.confidence for label in _labels(whole_run, 1).values())
    limit = confidences[len(confidences) // 2]
    done = export_pseudo_labels(whole_run.path, "jsonl", tmp_path / "out", min_confidence=limit, keep_unused=True)
    assert done.num == sum(value >= limit for value in confidences)
    with pytest.raises(
        DataError, match=r"no mask to export to .*: \d+ below --min-confidence; lower --min-confidence$"
    ):
        export_pseudo_labels(whole_run.path, "coco", tmp_path / "none", min_confidence=1.0, keep_unused=True)
    with pytest.raises(ConfigError, match=r"min_confidence must be in \[0, 1\], got 95"):
        export_pseudo_labels(whole_run.path, "coco", tmp_path / "none", min_confidence=95)


def test_labels_that_were_not_used_stay_away(copied: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = copied()
    entry = Ledger(run.ledger_path).entries("l2l", 1)[0]
    labels = read_shard(run.path / entry.path)
    full, empty = np.ones_like(labels[0].target), np.zeros_like(labels[0].target)
    used = [replace(label, gate=1.0, target=full, accepted=full) for label in labels[2:]]
    shut, background = (
        replace(used[0], gate=0.25, accepted=empty, sent_id=labels[0].sent_id),
        replace(labels[1], target=empty, gate=1.0),
    )
    write_shard(run.path / entry.path, [shut, background, *used])
    exported = {int(row["id"]) for row in _rows(export_pseudo_labels(run.path, "jsonl", tmp_path / "out").path)}
    assert not exported & {shut.sent_id, background.sent_id}
    assert {label.sent_id for label in used} <= exported


def test_predictions_are_what_was_evaluated(whole_run: RunFolder, tmp_path: Path) -> None:
    best = json.loads((whole_run.path / "selection.json").read_text())
    done = export_predictions(whole_run.path, "jsonl", tmp_path / "out", "testA")
    counted = Evaluations(whole_run).frame(("l2l", best["version"], "testA")).set_index("sent_id")
    priors = read_priors(whole_run.priors_path("testA"))
    rows = _rows(done.path)
    assert done.num == len(rows) == len(counted) and not done.left_out
    for row in rows:
        mask, found = decode(row["rle"]), row["provenance"]
        # The batch is the same, but not the kernel: a pixel on the edge may change sides.
        assert abs(int(mask.sum()) - counted.loc[int(row["id"]), "predicted_px"]) <= 3
        assert row["split"] == "testA" and row["accepted_rle"] is None and 0 <= row["confidence"] <= 1
        assert found["source"] == "prediction" and found["model_version"] == best["version"]
        assert found["prior_key"] == priors[int(row["id"])].key
    assert "mask_rle" not in (done.path / "masks.jsonl").read_text()


def test_a_val_that_was_held_out_of_train_is_train_in_the_data_set(
    copied: Callable[..., RunFolder], tmp_path: Path
) -> None:
    run = copied()
    facts = json.loads(run.data_path.read_text())
    for source, split in (("split", "val"), ("labeled", "train")):
        run.data_path.write_text(json.dumps(facts | {"val_source": source}))
        done = export_predictions(run.path, "jsonl", tmp_path / source, "val")
        assert {row["split"] for row in _rows(done.path)} == {split}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_command_writes_every_format(
    whole_run: RunFolder, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(whole_run.path), "--format", kind, "--out", str(tmp_path / "out"), "--round", "0", "--all"]
    assert main(words) == 0
    assert f"out: {len(_labels(whole_run, 0))} masks of round 0; left out: " in capsys.readouterr().out
    assert main(words) == 1
    assert "replace it with --force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0


def test_mistakes_are_named(
    whole_run: RunFolder, copied: Callable[..., RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="'l2l' in round 7; its whole rounds are supervised: none; l2l: 0, 1; "):
        export_pseudo_labels(whole_run.path, "coco", out, round_index=7)
    with pytest.raises(DataError, match="no committed pseudo-labels of 'supervised'"):
        export_pseudo_labels(whole_run.path, "coco", out, method="supervised")
    with pytest.raises(DataError, match="no split 'testC' to predict on; it has .*testA"):
        export_predictions(whole_run.path, "coco", out, "testC")
    with pytest.raises(CheckpointError, match="has chosen no version yet"):
        export_predictions(copied(without=("FINISHED", "selection.json")).path, "coco", out, "val")
    with pytest.raises(ConfigError):
        export_pseudo_labels(tmp_path, "coco", out)
    with pytest.raises(SystemExit):
        main(["export", str(whole_run.path), "--format", "coco", "--out", str(out), "--split", "val", "--round", "1"])
    assert "no effect with --split" in capsys.readouterr().err
    assert not out.exists()


def test_an_export_comes_back_as_labeled_data_with_its_provenance(
    copied: Callable[..., RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied()
    entry = Ledger(run.ledger_path).entries("l2l", 1)[0]
    first, *others = read_shard(run.path / entry.path)
    empty = np.zeros_like(first.target)
    write_shard(run.path / entry.path, [replace(first, target=empty), *others])
    exported = export_pseudo_labels(run.path, "jsonl", tmp_path / "out", keep_unused=True)
    images = json.loads((exported.path / "export.json").read_text())["image_root"]
    words = ["--root", str(tmp_path / "data"), "--dataset", "own", "--images", images]
    rows = _rows(exported.path)
    rows[0]["rle"] = encode(np.zeros(rows[0]["rle"]["size"], dtype=bool))  # a teacher may find nothing
    (exported.path / "masks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status = main(["data", "import", "rows", str(exported.path / "masks.jsonl"), *words])
    full = [row for row in rows if mask_area_px(row["rle"])]
    printed = capsys.readouterr().out
    assert status == 0 and len(full) < len(rows), "an empty mask of a model is no fault"
    assert "a model's mask without a pixel says nothing: its item stays unlabeled" in printed
    assert f"{len(full)} of the masks are a model's, corrected by nobody" in printed
    labeled, skips = ReferDataset.open(tmp_path / "data", "own", "own").labeled_examples("train")
    assert [example.mask_rle for example in labeled] == [row["rle"] for row in full]
    assert [skip.kind for skip in skips] == ["missing_mask"] * (len(rows) - len(full)), "they stay, unlabeled"
    records = plain_records(tmp_path / "data" / "own" / "refs(own).p")
    assert [record["provenance"] for record in records] == [row["provenance"] for row in rows]
    assert main(["data", "stats", str(tmp_path / "data" / "own")]) == 0
    assert f"truth with provenance: {len(full)} pseudo_label" in capsys.readouterr().out


def test_corrected_labels_come_back_from_label_studio(
    whole_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = export_pseudo_labels(whole_run.path, "labelstudio", tmp_path / "out", keep_unused=True)
    images = json.loads((exported.path / "export.json").read_text())["image_root"]
    first, second, *_ = tasks = json.loads((exported.path / "tasks.json").read_text())
    first["annotations"] = [{"id": 5, "completed_by": 3, "result": first["predictions"][0]["result"]}]
    second["annotations"] = [{"id": 6, "completed_by": 3, "result": []}]
    (tmp_path / "project.json").write_text(json.dumps(tasks))
    words = ["--root", str(tmp_path / "data"), "--dataset", "own", "--images", images]
    assert main(["data", "import", "labelstudio", str(tmp_path / "project.json"), *words]) == 0
    assert "2 refs (2 with truth)" in capsys.readouterr().out
    labeled, _ = ReferDataset.open(tmp_path / "data", "own", "own").labeled_examples("train")
    drawn = first["predictions"][0]["result"][0]["value"]["rle"]
    expected = decode_brush(drawn, labeled[0].height_px, labeled[0].width_px)
    np.testing.assert_array_equal(decode(labeled[0].mask_rle), expected)
    assert mask_area_px(labeled[1].mask_rle) == 0 and labeled[1].expression == second["data"]["expression"]
    made = plain_records(tmp_path / "data" / "own" / "refs(own).p")[0]["provenance"]
    assert made["source"] == "label_studio" and made["corrected_from"]["method"] == "l2l"
    assert main(["data", "stats", str(tmp_path / "data" / "own")]) == 0
    assert "truth with provenance: 2 label_studio" in capsys.readouterr().out


def test_a_round_that_is_half_labelled_is_not_exported(copied: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = copied()
    lines = run.ledger_path.read_text().splitlines(keepends=True)
    run.ledger_path.write_text("".join(lines[:-1]))
    assert json.loads(lines[-1])["round"] == 1
    done = export_pseudo_labels(run.path, "jsonl", tmp_path / "out", keep_unused=True)
    assert json.loads((done.path / "export.json").read_text())["round"] == 0
    with pytest.raises(DataError, match="in round 1; its whole rounds are supervised: none; l2l: 0; "):
        export_pseudo_labels(run.path, "jsonl", tmp_path / "more", round_index=1)


def test_what_a_benchmark_made_with_hidden_truth_is_not_exported(
    copied: Callable[..., RunFolder], tmp_path: Path
) -> None:
    run = copied()
    entry = Ledger(run.ledger_path).entries("l2l", 0)[0]
    labels = [replace(label, sees_truth=True) for label in read_shard(run.path / entry.path)]
    write_shard(run.path / entry.path, labels)
    assert all(label.sees_truth for label in read_shard(run.path / entry.path))
    for export in (
        lambda: export_pseudo_labels(run.path, "jsonl", tmp_path / "labels", round_index=0),
        lambda: export_predictions(run.path, "jsonl", tmp_path / "masks", "val"),
    ):
        with pytest.raises(DataError, match="made with hidden truth; nothing of it is to be used: export another run"):
            export()
    assert not list(tmp_path.glob("labels*")) and not list(tmp_path.glob("masks*"))


def test_a_guarantee_exports_the_surest_labels_of_its_share(whole_run: RunFolder, tmp_path: Path) -> None:
    kept = export_pseudo_labels(whole_run.path, "jsonl", tmp_path / "out", guarantee="iou>=0.1 for 10% at 60%")
    told = json.loads((tmp_path / "out" / "export.json").read_text())["guarantee"]
    assert told["text"] == "iou>=0.1 for 10% at 60%"
    for part in ("drawn like the others", "expected of labels like these", "up to twice as often"):
        assert part in told["supposes"]
    photos = {row["image"] for row in _rows(tmp_path / "out")}
    assert f"10 % are promised of labels like these: among those of {len(photos)} photos alone, chance" in kept.line
    labels = _labels(whole_run, whole_run.config.loop.rounds - 1)
    full = [sent_id for sent_id in labels if labels[sent_id].target.any()]
    sure = set(sorted(full, key=lambda sent_id: -labels[sent_id].confidence)[: int(told["coverage"] * len(full))])
    assert {row["sent_id"] for row in _rows(tmp_path / "out")} == sure
    assert kept.num == len(sure) > 0
    reasons = {item.example.sent_id: item.reason for item in kept.left_out}
    for sent_id in labels.keys() - sure:
        assert reasons[sent_id] == (UNPROMISED if sent_id in full else NO_MASK)
    for row in _rows(tmp_path / "out"):
        assert 0 <= row["provenance"]["chance_of_iou_0.8"] <= row["provenance"]["chance_of_iou_0.5"] <= 1


def test_a_label_that_is_lost_on_a_small_photo_is_left_out_as_empty(
    copied: Callable[..., RunFolder], tmp_path: Path
) -> None:
    run = copied()
    for entry in Ledger(run.ledger_path).entries("l2l", 1):
        labels = []
        for label in read_shard(run.path / entry.path):
            lone = np.zeros_like(label.target)
            lone[2, 3] = True
            labels.append(replace(label, target=lone, accepted=np.ones_like(lone), gate=1.0, confidence=0.9))
        write_shard(run.path / entry.path, labels)
    examples, grid = read_examples(run.examples_path("unlabeled")), labels[0].grid
    small = [replace(one, height_px=grid // 2, width_px=grid // 2) for one in examples[: len(examples) // 2]]
    write_examples(run.examples_path("unlabeled"), [*small, *examples[len(small) :]])
    lost = {one.sent_id for one in small}
    for promise in (None, "iou>=0.1 for 10% at 60%"):
        done = export_pseudo_labels(run.path, "jsonl", tmp_path / f"out-{promise is None}", guarantee=promise)
        assert {item.example.sent_id for item in done.left_out if item.reason == NO_MASK} == lost
        assert {row["sent_id"] for row in _rows(done.path)} & lost == set() and done.num > 0
    export_pseudo_labels(run.path, "jsonl", tmp_path / "all", keep_unused=True)
    confidences = {row["sent_id"]: row["confidence"] for row in _rows(tmp_path / "all")}
    assert {sent_id for sent_id, confidence in confidences.items() if confidence == 0.0} == lost
    sure = export_pseudo_labels(run.path, "jsonl", tmp_path / "sure", keep_unused=True, min_confidence=0.5)
    assert {item.example.sent_id for item in sure.left_out if item.reason == UNSURE} == lost


def test_a_photo_that_is_gone_leaves_its_texts_out_of_predictions(
    copied: Callable[..., RunFolder], tmp_path: Path
) -> None:
    run = copied()
    examples = read_examples(run.examples_path("val"))
    lost = {one.sent_id for one in examples if one.image_path == examples[0].image_path}
    moved = [replace(one, image_path="gone.jpg") if one.sent_id in lost else one for one in examples]
    write_examples(run.examples_path("val"), moved)
    done = export_predictions(run.path, "jsonl", tmp_path / "out", "val")
    assert {item.example.sent_id for item in done.left_out if item.reason == GONE} == lost
    assert {row["sent_id"] for row in _rows(done.path)} == {one.sent_id for one in examples} - lost
    assert f"{len(lost)} whose photo cannot be read any more" in done.line


def test_labels_without_a_cell_are_not_ranked_and_the_remedy_is_true_where_nothing_is_left(
    copied: Callable[..., RunFolder], tmp_path: Path
) -> None:
    run = copied()
    full = {i for i, label in _labels(run, 1).items() if label.target.any()}
    for entry in Ledger(run.ledger_path).entries("l2l", 1):
        labels = read_shard(run.path / entry.path)
        write_shard(run.path / entry.path, [replace(label, target=np.zeros_like(label.target)) for label in labels])
    with pytest.raises(DataError, match=f"{len(_labels(run, 1))} of which the label is empty; choose another round"):
        export_pseudo_labels(run.path, "jsonl", tmp_path / "out", guarantee="iou>=0.1 for 10% at 60%")
    export_pseudo_labels(run.path, "jsonl", tmp_path / "all", keep_unused=True)
    assert full and not any("chance_of_iou_0.5" in row["provenance"] for row in _rows(tmp_path / "all"))


def test_of_a_run_that_had_nothing_to_label_it_says_so(
    copied: Callable[..., RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(without=())
    write_examples(run.examples_path("unlabeled"), [])
    with pytest.raises(DataError, match="has no labels: it had no text without a mask; `l2l predict` takes other"):
        export_pseudo_labels(run.path, "jsonl", tmp_path / "out", guarantee="iou>=0.1 for 10% at 60%")
    for words in (["suggest", str(run.path)], ["review", str(run.path), "--no-browser"]):
        assert main(words) == 1
        assert "has no labels: it had no text without a mask" in capsys.readouterr().err


def test_a_guarantee_that_cannot_be_given_writes_nothing(whole_run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"iou>=0.9 for 99% at 99% cannot be given: by \d+ labeled images"):
        export_pseudo_labels(whole_run.path, "jsonl", tmp_path / "out", guarantee="iou>=0.9 for 99% at 99%")
    assert not (tmp_path / "out").exists()


def test_no_guarantee_of_labels_that_nobody_checked(copied: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = copied()
    for version in run.published("l2l"):
        (run.version_dir("l2l", version) / "calibration.json").unlink()
    with pytest.raises(ConfigError, match=r"none on labeled images were checked.*; run it again"):
        export_pseudo_labels(run.path, "jsonl", tmp_path / "out", guarantee="iou>=0.1 for 10% at 60%")
    with pytest.raises(ConfigError, match="a guarantee says which labels are exported"):
        export_pseudo_labels(
            run.path, "jsonl", tmp_path / "out", min_confidence=0.1, guarantee="iou>=0.1 for 10% at 60%"
        )
