"""Pseudo-label quality against hidden truth: by hand, only where truth is on disk, and of what was committed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from l2l_ray.config import RunConfig
from l2l_ray.data.masks import mask_to_grid
from l2l_ray.data.refer import ReferDataset
from l2l_ray.loop.evaluation.hidden_truth import pseudo_label_quality, selection_of
from l2l_ray.loop.state.candidates import data_root
from l2l_ray.loop.state.example_files import read_examples, write_examples
from l2l_ray.loop.state.ledger import Ledger, is_used, read_shard, write_shard
from l2l_ray.loop.state.prepare import prepare
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.types import Candidate, PseudoLabel
from tests.loop.partly_labeled import config_of, write_partly
from tests.whole_run import changed


def _with_data(copied: Callable[..., RunFolder], whole_run: RunFolder, root: Path) -> tuple[RunFolder, Path]:
    """Return a copy of the run whose data set is a copy too, and the path of its annotations."""
    shutil.copytree(data_root(whole_run.config), root, ignore=shutil.ignore_patterns("*.jpg"))
    return copied(data={"root": str(root)}), root / "refshapes" / "instances.json"


def _truth(config: RunConfig) -> dict[int, np.ndarray]:
    dataset = ReferDataset.open(data_root(config), config.data.dataset, config.data.split_by)
    examples, _ = dataset.labeled_examples("train")
    return {example.sent_id: mask_to_grid(example.mask_rle, 32) > 0.5 for example in examples}


def _relabel(run: RunFolder, change: Callable[[PseudoLabel], PseudoLabel]) -> None:
    for entry in Ledger(run.ledger_path).entries("l2l", 0):
        write_shard(run.path / entry.path, [change(label) for label in read_shard(run.path / entry.path)])


def test_the_figures_are_those_of_the_committed_labels(
    copied: Callable[..., RunFolder], whole_run: RunFolder, tmp_path: Path
) -> None:
    run, _ = _with_data(copied, whole_run, tmp_path / "data")
    truth = _truth(run.config)
    everything = np.ones((32, 32), bool)

    def right(label: PseudoLabel) -> PseudoLabel:
        return replace(label, target=truth[label.sent_id], accepted=everything, gate=1.0)

    _relabel(run, right)
    first, second = pseudo_label_quality(run.config, run)["l2l"]
    num = len(read_examples(run.examples_path("unlabeled")))
    assert first["labels"]["num"] == first["labels"]["num_used"] == second["labels"]["num"] == num
    assert first["object_precision"] == first["object_recall"] == first["labels"]["mean_iou"] == 1.0
    assert set(first["accuracy_by_true_region"].values()) == {1.0} and first["accepted_by_true_region"]["all"] == 1.0

    _relabel(run, lambda label: replace(right(label), target=~truth[label.sent_id]))
    wrong = pseudo_label_quality(run.config, run)["l2l"][0]
    assert wrong["object_precision"] == wrong["labels"]["mean_iou"] == wrong["accuracy_by_true_region"]["all"] == 0.0
    assert wrong["labels"]["wrong_object_frac"] == 1.0
    assert "wrong_before" not in wrong

    _relabel(run, lambda label: replace(right(label), accepted=~everything, gate=0.2))
    shut = pseudo_label_quality(run.config, run)["l2l"][0]
    assert shut["object_recall"] == 0.0 and shut["object_precision"] is None and shut["labels"]["num_used"] == 0


def test_used_labels_are_those_that_training_uses(whole_run: RunFolder) -> None:
    found = pseudo_label_quality(whole_run.config, whole_run)
    assert found is not None
    ledger = Ledger(whole_run.ledger_path)
    for method, rounds in found.items():
        for round_index, figures in enumerate(rounds):
            shards = [read_shard(whole_run.path / entry.path) for entry in ledger.entries(method, round_index)]
            used = [label for labels in shards for label in labels if is_used(label)]
            assert figures["labels"]["num_used"] == len(used)
            if used:
                confidence = np.mean([label.confidence for label in used])
                assert figures["labels"]["mean_confidence"] == pytest.approx(confidence, rel=1e-6)


def test_wrong_labels_of_committed_rounds(
    copied: Callable[..., RunFolder], whole_run: RunFolder, tmp_path: Path
) -> None:
    run, _ = _with_data(copied, whole_run, tmp_path / "data")
    truth, everything = _truth(run.config), np.ones((32, 32), bool)
    ledger = Ledger(run.ledger_path)
    sent_ids = sorted(example.sent_id for example in read_examples(run.examples_path("unlabeled")))
    for round_index, wrong in enumerate((sent_ids[:8], sent_ids[2:])):
        for entry in ledger.entries("l2l", round_index):
            labels = read_shard(run.path / entry.path)
            targets = [~truth[x.sent_id] if x.sent_id in wrong else truth[x.sent_id] for x in labels]
            write_shard(
                run.path / entry.path,
                [
                    replace(x, target=target, accepted=everything, gate=1.0)
                    for x, target in zip(labels, targets, strict=True)
                ],
            )
    first, second = pseudo_label_quality(run.config, run)["l2l"]
    assert (first["labels"]["wrong_object_frac"], "wrong_before" in first) == (8 / len(sent_ids), False)
    assert second["wrong_before"] == {"num": 8, "again_frac": 0.75, "same_mask_frac": 0.75}


def test_a_method_that_labels_nothing_has_no_rounds(whole_run: RunFolder) -> None:
    found = pseudo_label_quality(whole_run.config, whole_run)
    assert found is not None and found["supervised"] == []
    assert found == json.loads((whole_run.path / "results.json").read_text())["hidden_truth"]


def test_where_truth_is_not_on_disk_the_figures_are_absent(
    copied: Callable[..., RunFolder], whole_run: RunFolder, tmp_path: Path
) -> None:
    run, annotations = _with_data(copied, whole_run, tmp_path / "data")
    content = json.loads(annotations.read_text())
    whole = list(content["annotations"])
    known = {label.sent_id for label in read_shard(run.path / Ledger(run.ledger_path).entries("l2l", 0)[0].path)}
    dataset = ReferDataset.open(tmp_path / "data", "refshapes", "l2l")
    ann_ids = {i for ref in dataset.refs() if {sent_id for sent_id, _ in ref.sentences} & known for i in ref.ann_ids}
    content["annotations"] = [item for item in whole if item["id"] in ann_ids]
    annotations.write_text(json.dumps(content))
    partly = pseudo_label_quality(run.config, run)
    assert partly is not None and partly["l2l"][0]["labels"]["num"] == len(known)
    content["annotations"] = []
    annotations.write_text(json.dumps(content))
    assert pseudo_label_quality(run.config, run) is None


def test_stored_labels_become_the_selection_they_came_from() -> None:
    accepted, target = np.array([[True, False], [False, True]]), np.array([[False, False], [False, True]])
    label = PseudoLabel(7, 2, Candidate.GUIDED, target, accepted, None, 0.75, 0.5, 3, -1.25, 0, "")
    selection = selection_of([label, replace(label, source=Candidate.PRIOR, accepted=~accepted)])
    assert selection.source.tolist() == [Candidate.GUIDED, Candidate.PRIOR]
    assert selection.accepted.tolist() == [accepted.tolist(), (~accepted).tolist()]
    assert selection.used.tolist() == [True, False]
    assert selection.target[0].tolist() == target.tolist()
    assert selection.pixel_weight[0].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert selection.gate.tolist() == [0.75, 0.75] and selection.mean_log_prob.tolist() == [-1.25, -1.25]


def test_when_everything_is_labeled_there_is_nothing_to_judge(copied: Callable[..., RunFolder]) -> None:
    run = copied()
    write_examples(run.examples_path("unlabeled"), [])
    config = changed(run.config, run_root=str(run.config.root))
    assert pseudo_label_quality(config, run) is None


def test_labeled_items_on_the_same_photos_are_no_hidden_truth(smoke: RunConfig, tmp_path: Path) -> None:
    config = config_of(smoke, write_partly(tmp_path / "data", 8, {0, 1, 2}, second={0, 1, 2}))
    run = RunFolder.open(config)
    assert {example.ref_id for example in prepare(config, run).unlabeled} >= {100, 101, 102}
    assert pseudo_label_quality(config, run) is None


def test_data_that_cannot_be_read_any_more_are_named_and_end_nothing(
    copied: Callable[..., RunFolder], whole_run: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, annotations = _with_data(copied, whole_run, tmp_path / "data")
    annotations.unlink()
    assert pseudo_label_quality(run.config, run) is None
    assert "are not compared with hidden truth" in caplog.text and str(annotations.parent) in caplog.text
