"""The engine: the version it is told, never the latest; the same shard each time; figures, not truth, leave it."""

from __future__ import annotations

import gc
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from l2l_ray.config import selector_for
from l2l_ray.data.masks import decode, mask_area_px
from l2l_ray.data.native_size import grid_logits_to_native
from l2l_ray.data.protocols import LAVT480, NATIVE
from l2l_ray.errors import CheckpointError, DataError, LedgerError
from l2l_ray.loop.inference.engine import InferenceEngine, weight_map
from l2l_ray.loop.inference.inputs import ExampleSets
from l2l_ray.loop.inference.priors import LocalMllm, fill_priors
from l2l_ray.loop.inference.teacher import guided_evidence
from l2l_ray.loop.state.checkpoint import save_weights
from l2l_ray.loop.state.example_files import read_examples, read_priors
from l2l_ray.loop.state.ledger import Ledger, LedgerEntry, read_shard
from l2l_ray.loop.state.position import Position
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.version_record import write_position
from l2l_ray.prior.masks import mask_on_grid, read_mask
from l2l_ray.prior.proposal import Proposer
from l2l_ray.prior.shared_store import open_store
from l2l_ray.randomness import sample_key
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.selector.base import Selector, make_selector
from l2l_ray.types import Candidate, LabeledExample
from tests.tiny_sams import SAMS
from tests.whole_run import changed

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def engine(whole_run: RunFolder) -> InferenceEngine:
    return InferenceEngine(whole_run.config, whole_run.path)


@pytest.fixture
def scratch(copied: Callable[..., RunFolder]) -> RunFolder:
    return copied()


@pytest.fixture(scope="module")
def committed(whole_run: RunFolder) -> Iterator[list[LedgerEntry]]:
    ledger = Ledger(whole_run.ledger_path)
    yield [entry for r in range(whole_run.config.loop.rounds) for entry in ledger.entries("l2l", r)]


def test_a_shard_is_labeled_again_to_the_byte(scratch: RunFolder, committed: list[LedgerEntry]) -> None:
    again = InferenceEngine(scratch.config, scratch.path)
    assert {entry.version for entry in committed} == {0, 1}
    for entry in (committed[-1], committed[0]):  # later versions exist, and a later one was used last
        (scratch.path / entry.path).unlink()
        found = again.label("l2l", entry.round, entry.shard, entry.version)
        assert found.sha256 == entry.sha256 == hashlib.sha256((scratch.path / entry.path).read_bytes()).hexdigest()
        assert (found.key, found.num, found.num_gated_on) == (entry.key, entry.num, entry.num_gated_on)
        assert found.accepted_frac == entry.accepted_frac


def test_the_version_decides(scratch: RunFolder, committed: list[LedgerEntry]) -> None:
    other = InferenceEngine(scratch.config, scratch.path).label("l2l", 0, 0, version=2)
    assert other.version == 2
    assert other.sha256 != committed[0].sha256


def test_shards_hold_every_unlabeled_row_once_with_its_provenance(
    whole_run: RunFolder, committed: list[LedgerEntry]
) -> None:
    config, rows = whole_run.config, read_examples(whole_run.examples_path("unlabeled"))
    priors = read_priors(whole_run.priors_path("unlabeled"))
    for round_index in range(config.loop.rounds):
        entries = [entry for entry in committed if entry.round == round_index]
        labels = [label for entry in entries for label in read_shard(whole_run.path / entry.path)]
        assert [entry.num for entry in entries[:-1]] == [config.loop.shard_size] * (len(entries) - 1)
        assert [label.sent_id for label in labels] == [row.sent_id for row in rows]
        for label, row in zip(labels, rows, strict=True):
            assert label.grid == 32 and label.version == round_index
            assert label.seed == sample_key(config.loop.seed, "label", round_index, row.sent_id)
            assert label.prior_key == priors[row.sent_id].key
            assert label.gate >= 0.5 or not label.accepted.any()
        accepted = [label.accepted.mean() for label in labels[: config.loop.shard_size]]
        assert entries[0].accepted_frac == pytest.approx(np.mean(accepted))


def test_a_rule_without_parameters_labels_too(scratch: RunFolder) -> None:
    folder = scratch.version_dir("pwa", 1)
    shutil.copytree(scratch.version_dir("l2l", 1), folder)
    save_weights(make_selector(selector_for(scratch.config.selector, "pwa")), folder / "selector.safetensors")
    write_position(folder, Position("pwa", 1))
    entry = InferenceEngine(scratch.config, scratch.path).label("pwa", 1, 0, 1)
    label = read_shard(scratch.path / entry.path)[0]
    assert entry.accepted_frac == 1.0 and label.accepted.all() and label.source == Candidate.GUIDED
    assert label.weight is not None and label.weight.max() > label.weight.min()


def test_weights_are_stored_where_they_are_not_all_one() -> None:
    assert weight_map(np.array([[0.0, 1.0], [1.0, 1.0]])) is None  # 0 is a cell that is not accepted
    stored = weight_map(np.array([[0.0, 1.0], [0.5, 0.002]]))
    assert stored is not None and stored.dtype == np.uint8 and stored.tolist() == [[0, 255], [128, 1]]


def test_the_zero_shot_row_is_the_prior_alone(whole_run: RunFolder, engine: InferenceEngine) -> None:
    rows = [row for row in read_examples(whole_run.examples_path("val")) if isinstance(row, LabeledExample)]
    priors = read_priors(whole_run.priors_path("val"))
    found = engine.evaluate("prior_only", 0, "val", 0, len(rows)).rows
    batch = Proposer(whole_run.config.prior).proposals([priors[row.sent_id] for row in rows], 32)
    for row, proposal, has_prior, figures in zip(rows, batch.proposal, batch.has_prior, found, strict=True):
        logits = torch.logit(proposal, eps=1e-6) if has_prior else torch.full_like(proposal, -1.0)
        predicted = (grid_logits_to_native(logits, row.height_px, row.width_px) > 0).numpy()
        truth = decode(row.mask_rle)
        assert figures["sent_id"] == row.sent_id and figures["image_id"] == row.image_id
        assert figures["intersection"] == (predicted & truth).sum()
        assert figures["union"] == (predicted | truth).sum()


def test_the_zero_shot_row_and_the_prior_as_label_are_sams_mask(
    copied: Callable[..., RunFolder], tmp_path: Path
) -> None:
    SAMS["sam2"](tmp_path / "sam2")
    run = copied(prior={"proposal": "sam", "sam_model": str(tmp_path / "sam2"), "device": "cpu"})
    rows = [row for row in read_examples(run.examples_path("val")) if isinstance(row, LabeledExample)]
    run.priors_path("val").unlink()
    with open_store(run.config.cache_dir) as store:
        fill_priors("val", rows, run, store, LocalMllm(run.config.prior), 8)
    priors = read_priors(run.priors_path("val"))
    masks = torch.zeros(len(rows), 32, 32)
    for index, row in enumerate(rows):
        if priors[row.sent_id].boxes_xyxy_frac:
            (text,) = priors[row.sent_id].masks
            masks[index] = mask_on_grid(read_mask(text), 32)
    assert (masks.flatten(1).amax(1) > 0).any()

    found = InferenceEngine(run.config, run.path).evaluate("prior_only", 0, "val", 0, len(rows)).rows
    for row, mask, figures in zip(rows, masks, found, strict=True):
        logits = torch.logit(mask, eps=1e-6)
        predicted = (grid_logits_to_native(logits, row.height_px, row.width_px) > 0).numpy()
        assert figures["intersection"] == (predicted & decode(row.mask_rle)).sum()

    inputs = ExampleSets(run.config, run, run.priors_path)["val"].inputs(range(len(rows)))
    segmenter = Segmenter(run.config.segmenter).eval()
    selector = make_selector(selector_for(run.config.selector, "prior_label"))
    labels = selector.select(guided_evidence(segmenter, inputs, False), list(range(len(rows))))
    assert torch.equal(labels.target, masks > 0.5)
    assert set(labels.source[inputs.has_prior].tolist()) == {Candidate.PRIOR}


def test_without_a_prior_the_zero_shot_row_predicts_nothing(scratch: RunFolder) -> None:
    from l2l_ray.loop.state.example_files import write_priors
    from l2l_ray.types import Prior

    rows = [row for row in read_examples(scratch.examples_path("val")) if isinstance(row, LabeledExample)]
    nothing = Prior.absent("", "not JSON: a dog", "a dog")
    write_priors(scratch.priors_path("val"), [(row.sent_id, nothing) for row in rows])
    part = InferenceEngine(scratch.config, scratch.path).evaluate("prior_only", 0, "val", 0, 3)
    assert [figures["intersection"] for figures in part.rows] == [0, 0, 0]
    assert [figures["union"] for figures in part.rows] == [mask_area_px(row.mask_rle) for row in rows[:3]]


def test_evaluation_can_be_cut_anywhere(whole_run: RunFolder, engine: InferenceEngine) -> None:
    size = len(read_examples(whole_run.examples_path("val")))
    whole = engine.evaluate("l2l", 2, "val", 0, size)
    parts = [engine.evaluate("l2l", 2, "val", 0, 5), engine.evaluate("l2l", 2, "val", 5, size)]
    rows = parts[0].rows + parts[1].rows
    assert [row["sent_id"] for row in rows] == [row["sent_id"] for row in whole.rows]
    for found, expected in zip(rows, whole.rows, strict=True):
        # Another batch rounds differently: a pixel on the edge may change sides.
        assert abs(found["intersection"] - expected["intersection"]) <= 3
        assert abs(found["union"] - expected["union"]) <= 3
    assert whole.quality is not None and parts[0].quality is not None and parts[1].quality is not None
    assert (parts[0].quality + parts[1].quality).regions[:, 2].tolist() == whole.quality.regions[:, 2].tolist()


def test_the_other_protocol_counts_other_pixels_and_says_so(engine: InferenceEngine) -> None:
    native, lavt = (engine.evaluate("l2l", 2, "testA", 0, 3, protocol).rows for protocol in (NATIVE, LAVT480))
    assert [row["protocol"] for row in native + lavt] == ["native"] * 3 + ["lavt480"] * 3
    for row, other in zip(native, lavt, strict=True):
        same = ("sent_id", "image_id", "area_frac", "num_words", "category")
        assert [row[name] for name in same] == [other[name] for name in same]
        assert other["target_px"] == pytest.approx(row["area_frac"] * 480 * 480, rel=0.05)


def test_selectors_are_measured_on_val_alone(engine: InferenceEngine) -> None:
    assert engine.evaluate("l2l", 1, "testA", 0, 2).quality is None
    assert engine.evaluate("supervised", 1, "val", 0, 2).quality is None
    quality = engine.evaluate("l2l", 1, "val", 0, 2).quality
    assert quality is not None and len(quality.labels) == 2


@pytest.mark.parametrize("eval_batch", [2, 5, 32])
def test_the_first_sentences_are_measured_whatever_the_batch(
    whole_run: RunFolder, monkeypatch: pytest.MonkeyPatch, eval_batch: int
) -> None:
    monkeypatch.setattr("l2l_ray.loop.inference.engine.QUALITY_SENTENCES", 3)
    config = changed(whole_run.config, loop={"eval_batch": eval_batch})
    part = InferenceEngine(config, whole_run.path).evaluate("l2l", 1, "val", 0, 6)
    assert len(part.rows) == 6 and part.quality is not None and len(part.quality.labels) == 3


def test_what_was_asked_for_last_stays_in_memory(scratch: RunFolder) -> None:
    again = InferenceEngine(scratch.config, scratch.path)
    for version in (0, 1, 2, 0):
        again.curve("l2l", version)
    for version in (0, 2):
        (scratch.version_dir("l2l", version) / "selector.safetensors").unlink()
    again.curve("supervised", 0)  # takes the place of version 1
    again.curve("l2l", 0)
    again.curve("l2l", 2)


def test_panels_show_what_was_evaluated(engine: InferenceEngine) -> None:
    (data,) = engine.evidence_and_selection("l2l", 1, "val", [1, 0])
    assert len(data.inputs) == 2
    torch.testing.assert_close(data.final.sigmoid(), data.evidence.mask_probs, atol=1e-4, rtol=0.0)
    assert data.selection.target.shape == data.final.shape


def test_with_memory_for_one_sample_a_shard_is_labeled_and_panels_are_made(
    scratch: RunFolder, committed: list[LedgerEntry], memory_for: Callable[[int], None]
) -> None:
    again = InferenceEngine(scratch.config, scratch.path)
    (whole,) = again.evidence_and_selection("l2l", 1, "val", [1, 0, 3])
    memory_for(1)
    assert again.label("l2l", 0, 0, 0).num == committed[0].num
    parts = list(again.evidence_and_selection("l2l", 1, "val", [1, 0, 3]))
    assert [len(part.inputs) for part in parts] == [1, 1, 1]
    torch.testing.assert_close(torch.cat([part.final for part in parts]), whole.final, atol=1e-3, rtol=0.0)
    assert [part.selection.gate.item() for part in parts] == pytest.approx(whole.selection.gate.tolist(), abs=1e-3)


def test_few_versions_stay_in_memory(engine: InferenceEngine) -> None:
    def held(kind: type) -> int:
        return sum(issubclass(type(each), kind) for each in gc.get_objects())

    gc.collect()
    before = held(Segmenter), held(Selector)
    for version in (0, 1, 2):
        engine.evaluate("l2l", version, "val", 0, 1)
        engine.evaluate("supervised", version, "val", 0, 1)
    gc.collect()
    assert held(Segmenter) - before[0] <= 3 and held(Selector) - before[1] <= 3


def test_a_version_that_is_not_there_is_a_clear_error(engine: InferenceEngine) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read weights .*l2l-v0007"):
        engine.label("l2l", 0, 0, version=7)


def test_an_image_that_vanished_is_a_clear_error(scratch: RunFolder, tmp_path: Path) -> None:
    from dataclasses import replace

    from l2l_ray.loop.state.example_files import write_examples

    rows = read_examples(scratch.examples_path("unlabeled"))
    gone = replace(rows[0], image_path=str(tmp_path / "gone.jpg"))
    write_examples(scratch.examples_path("unlabeled"), [gone, *rows[1:]])
    with pytest.raises(DataError, match=r"gone\.jpg cannot be read: image file not found"):
        InferenceEngine(scratch.config, scratch.path).label("l2l", 0, 0, 0)


def test_a_full_disk_commits_nothing_and_breaks_nothing(
    scratch: RunFolder, committed: list[LedgerEntry], full_disk: Callable[[int], object]
) -> None:
    again, entry = InferenceEngine(scratch.config, scratch.path), committed[0]
    (scratch.path / entry.path).unlink()
    again.label("l2l", 0, 1, 0)  # opens what has to be open
    before = scratch.ledger_path.read_bytes()
    with (
        full_disk(1000),
        pytest.raises(LedgerError, match=r"cannot write shard .*nothing was committed; free some space"),
    ):
        again.label("l2l", 0, 0, 0)
    assert not (scratch.path / entry.path).exists()
    assert not list((scratch.path / entry.path).parent.glob(".*"))
    assert scratch.ledger_path.read_bytes() == before
    assert again.label("l2l", 0, 0, 0).sha256 == entry.sha256
