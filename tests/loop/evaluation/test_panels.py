"""Examples of a report: of the version that was evaluated, and the doubtful labels of unlabeled photos."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from l2l_ray.data.pixels import read_rgb
from l2l_ray.loop.evaluation import panels
from l2l_ray.loop.evaluation.evaluate import Evaluations
from l2l_ray.loop.evaluation.panels import (
    NUM_PANELS,
    NUM_UNUSED,
    NUM_USED,
    example_panels,
    label_panels,
    spread,
)
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.state.example_files import read_examples, read_priors, write_examples
from l2l_ray.loop.state.ledger import Ledger, is_used, read_shard, write_shard
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.report.panels import ACCEPTED, accepted_codes
from l2l_ray.report.record import read_run
from l2l_ray.types import PseudoLabel


def test_spread_takes_even_ranks_from_best_to_worst() -> None:
    scores = [0.1, 0.9, 0.5, 0.3, 0.7]
    assert spread(scores, 3) == [1, 2, 0]
    assert spread(scores, 5) == spread(scores, 99) == [1, 4, 2, 3, 0]
    assert spread([0.4], 16) == [0]
    assert spread([], 16) == []


def test_spread_holds_the_best_and_the_worst_of_many() -> None:
    scores = np.random.default_rng(0).random(100).tolist()
    chosen = spread(scores, 16)
    assert len(set(chosen)) == 16
    assert scores[chosen[0]] == max(scores) and scores[chosen[-1]] == min(scores)
    assert [scores[i] for i in chosen] == sorted((scores[i] for i in chosen), reverse=True)


def test_a_whole_run_shows_its_examples_with_failures(whole_run: RunFolder) -> None:
    folder = whole_run.path / "panels"
    shown = read_run(whole_run.path).evaluated
    version = json.loads((whole_run.path / "selection.json").read_text())["version"]
    iou_of = {row["sent_id"]: row["iou"] for row in Evaluations(whole_run).meter(("l2l", version, "val")).rows()}
    rows = {row.sent_id: row for row in read_examples(whole_run.examples_path("val"))}
    priors = read_priors(whole_run.priors_path("val"))
    assert len(shown) == min(NUM_PANELS, len(rows))
    assert shown[-1]["iou"] == min(iou_of.values())
    for panel in shown:
        row, prior = rows[panel["sent_id"]], priors[panel["sent_id"]]
        assert panel["iou"] == iou_of[row.sent_id] and panel["expression"] == row.expression
        boxes = [list(box) for box in prior.boxes_xyxy_frac]
        assert panel["prior_box_xyxy_frac"] == (boxes[0] if boxes else None)
        accepted = np.asarray(Image.open(folder / panel["accepted"]))
        assert accepted.shape == (32, 32) and accepted.max() < len(ACCEPTED)
        truth = np.asarray(Image.open(folder / panel["truth"]))
        assert truth.shape == (row.height_px, row.width_px) and set(np.unique(truth)) == {0, 255}
        assert (panel["proposal"] is None) == (not boxes)
        assert panel["used"] is None and 0 <= panel["confidence"] <= 1 and row.image_path.endswith(panel["file"])


def _last_labels(run: RunFolder) -> dict[int, PseudoLabel]:
    entries = Ledger(run.ledger_path).entries("l2l", run.config.loop.rounds - 1)
    return {label.sent_id: label for entry in entries for label in read_shard(run.path / entry.path)}


def _relabeled(run: RunFolder, change: Callable[[int, PseudoLabel], PseudoLabel]) -> None:
    """Write the labels of the last round again, each changed."""
    place = 0
    for entry in Ledger(run.ledger_path).entries("l2l", run.config.loop.rounds - 1):
        labels = read_shard(run.path / entry.path)
        write_shard(run.path / entry.path, [change(place + row, label) for row, label in enumerate(labels)])
        place += len(labels)


def _all_accepted(label: PseudoLabel, **changes: Any) -> PseudoLabel:
    everywhere = np.ones_like(label.target)
    return replace(label, **{"accepted": everywhere, "target": everywhere, "weight": None, **changes})


@pytest.mark.parametrize(("num_used", "num_unused"), [(5, 4), (5, 20), (20, 4)])  # of 13 used labels and 12 others
def test_doubtful_labels_come_first_then_some_that_training_did_not_use(
    num_used: int, num_unused: int, copied: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "NUM_USED", num_used)
    monkeypatch.setattr(panels, "NUM_UNUSED", num_unused)
    run = copied()
    _relabeled(run, lambda n, label: _all_accepted(label, confidence=(n * 7 % 50) / 50, gate=float(n % 2 == 0)))
    labels, shown = _last_labels(run), label_panels(run, "l2l")
    used = sorted(label.confidence for label in labels.values() if label.gate == 1)
    others = sorted(label.confidence for label in labels.values() if label.gate == 0)
    first, rest = ([p.confidence for p in shown if p.used is kind] for kind in (True, False))
    assert first == used[: len(first)] and all(panel.used for panel in shown[: len(first)])
    assert rest == sorted(rest) and (rest[0], rest[-1]) == (others[0], others[-1])
    assert len(shown) == min(len(labels), num_used + num_unused)
    assert len(first) >= min(num_used, len(used)) and len(rest) >= min(num_unused, len(others))
    assert {panel.why_unused for panel in shown} == {"", "the selector turned it down"}


def test_labels_are_shown_as_they_were_committed_and_without_any_truth(whole_run: RunFolder) -> None:
    labels, shown = _last_labels(whole_run), read_run(whole_run.path).photos
    rows = {row.sent_id: row for row in read_examples(whole_run.examples_path("unlabeled"))}
    assert len(shown) == min(len(labels), NUM_USED + NUM_UNUSED)
    for panel in shown:
        label = labels[panel["sent_id"]]
        assert (panel["iou"], panel["truth"], panel["expression"]) == (None, None, rows[label.sent_id].expression)
        final = np.asarray(Image.open(whole_run.path / "panels" / panel["final"]))
        np.testing.assert_array_equal(final == 255, label.target)
        codes = np.asarray(Image.open(whole_run.path / "panels" / panel["accepted"]))
        np.testing.assert_array_equal(codes, accepted_codes(label.source, label.target, label.accepted))
        assert panel["used"] == is_used(label) and panel["confidence"] == label.confidence


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"gate": 0.0}, "the selector turned it down"),
        ({"gate": 1.0, "target": np.zeros((32, 32), bool)}, "no object was found"),
        ({"gate": 1.0, "accepted": np.zeros((32, 32), bool)}, "no part of the object was accepted"),
    ],
)
def test_it_says_why_training_did_not_use_a_label(
    changes: dict[str, Any], why: str, copied: Callable[..., RunFolder]
) -> None:
    run = copied()
    _relabeled(run, lambda n, label: _all_accepted(label, **changes))
    assert {panel.why_unused for panel in label_panels(run, "l2l")} == {why}


def test_labels_made_with_hidden_truth_are_never_shown(copied: Callable[..., RunFolder]) -> None:
    run = copied()
    _relabeled(run, lambda n, label: replace(label, sees_truth=True))
    assert label_panels(run, "l2l") == []


def test_a_photo_that_is_gone_at_the_end_does_not_end_the_run(
    copied: Callable[..., RunFolder], caplog: pytest.LogCaptureFixture
) -> None:
    run = copied()
    rows = read_examples(run.examples_path("unlabeled"))
    write_examples(run.examples_path("unlabeled"), [replace(row, image_path="/gone/away.jpg") for row in rows])
    assert {panel.image for panel in label_panels(run, "l2l")} == {None}
    assert "the report cannot show a photo: /gone/away.jpg" in caplog.text


def test_a_method_without_labels_shows_its_masks_of_unlabeled_photos(whole_run: RunFolder) -> None:
    assert label_panels(whole_run, "supervised") == []
    engine = InferenceEngine(whole_run.config, whole_run.path)
    shown = example_panels(whole_run, engine, None, "supervised", 1, "unlabeled")
    assert len(shown) == NUM_PANELS
    assert all(p.iou is None and p.truth is None and p.used is None and p.final is not None for p in shown)
    assert all(panel.confidence is not None and 0 <= panel.confidence <= 1 for panel in shown)


def test_examples_are_made_with_the_memory_there_is_and_without_any_the_run_ends_all_the_same(
    whole_run: RunFolder, memory_for: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    engine = InferenceEngine(whole_run.config, whole_run.path)
    expected = example_panels(whole_run, engine, None, "l2l", 1, "val")
    memory_for(3)
    shown = example_panels(whole_run, engine, None, "l2l", 1, "val")
    assert [panel.sent_id for panel in shown] == [panel.sent_id for panel in expected]
    for panel, other in zip(shown, expected, strict=True):
        np.testing.assert_allclose(panel.final, other.final, atol=1e-3)
    memory_for(0)
    assert example_panels(whole_run, engine, None, "l2l", 1, "val") == []
    told = f"the report shows 0 examples of val instead of {len(expected)}: one sample does not fit into memory"
    assert told in caplog.text


def test_a_photo_of_16_bits_is_shown_as_it_is(copied: Callable[..., RunFolder]) -> None:
    run, photos = copied(), Path(__file__).parents[2] / "cases/09/ph"
    names = ["gray16.png", "gray16be.tif"]
    rows = [
        replace(row, image_path=str(photos / names[at % 2]), width_px=160, height_px=120)
        for at, row in enumerate(read_examples(run.examples_path("unlabeled")))
    ]
    write_examples(run.examples_path("unlabeled"), rows)
    expected = np.asarray(read_rgb(photos / "gray8.png"))
    engine = InferenceEngine(run.config, run.path)
    for panel in (*label_panels(run, "l2l"), *example_panels(run, engine, None, "l2l", 1, "unlabeled")):
        np.testing.assert_array_equal(panel.image, expected)


def test_a_photo_in_a_folder_is_named_with_it(copied: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = copied()
    rows = read_examples(run.examples_path("unlabeled"))
    photo = tmp_path / "images" / "refshapes" / "sub" / Path(rows[0].image_path).name
    photo.parent.mkdir(parents=True)
    photo.symlink_to(rows[0].image_path)
    write_examples(run.examples_path("unlabeled"), [replace(row, image_path=str(photo)) for row in rows])
    assert {panel.file for panel in label_panels(run, "l2l")} == {f"sub/{photo.name}"}
