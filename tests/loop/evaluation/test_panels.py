"""Examples of a report: spread over the ranking, and of the version that was evaluated."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from l2l_ray.data.pixels import read_rgb
from l2l_ray.loop.evaluation.evaluate import Evaluations
from l2l_ray.loop.evaluation.panels import NUM_PANELS, spread, write_panels
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.state.example_files import read_examples, read_priors, write_examples
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.report.panels import ACCEPTED


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
    panels = json.loads((folder / "index.json").read_text())
    version = json.loads((whole_run.path / "selection.json").read_text())["version"]
    iou_of = {row["sent_id"]: row["iou"] for row in Evaluations(whole_run).meter(("l2l", version, "val")).rows()}
    rows = {row.sent_id: row for row in read_examples(whole_run.examples_path("val"))}
    priors = read_priors(whole_run.priors_path("val"))
    assert len(panels) == min(NUM_PANELS, len(rows))
    assert panels[-1]["iou"] == min(iou_of.values())
    for panel in panels:
        row, prior = rows[panel["sent_id"]], priors[panel["sent_id"]]
        assert panel["iou"] == iou_of[row.sent_id] and panel["expression"] == row.expression
        boxes = [list(box) for box in prior.boxes_xyxy_frac]
        assert panel["prior_box_xyxy_frac"] == (boxes[0] if boxes else None)
        accepted = np.asarray(Image.open(folder / panel["accepted"]))
        assert accepted.shape == (32, 32) and accepted.max() < len(ACCEPTED)
        truth = np.asarray(Image.open(folder / panel["truth"]))
        assert truth.shape == (row.height_px, row.width_px) and set(np.unique(truth)) == {0, 255}
        assert (panel["proposal"] is None) == (not boxes)


def test_without_truth_unlabeled_images_are_shown_with_their_masks(whole_run: RunFolder, tmp_path: Path) -> None:
    copied = shutil.copytree(whole_run.path, tmp_path / "run")
    shutil.rmtree(copied / "panels")
    run = RunFolder(copied, whole_run.config)
    write_panels(run, InferenceEngine(run.config, run.path), None, "l2l", 1, "unlabeled")
    panels = json.loads((copied / "panels" / "index.json").read_text())
    assert len(panels) == NUM_PANELS
    assert all(panel["iou"] is None and panel["truth"] is None and panel["final"] for panel in panels)


def test_a_photo_of_16_bits_is_shown_as_it_is(whole_run: RunFolder, tmp_path: Path) -> None:
    copied = shutil.copytree(whole_run.path, tmp_path / "run")
    shutil.rmtree(copied / "panels")
    run = RunFolder(copied, whole_run.config)
    photos = Path(__file__).parents[2] / "cases/09/ph"
    rows = read_examples(run.examples_path("unlabeled"))
    names = ["gray16.png", "gray16be.tif"]
    for at, row in enumerate(rows):
        rows[at] = replace(row, image_path=str(photos / names[at % 2]), width_px=160, height_px=120)
    write_examples(run.examples_path("unlabeled"), rows)
    write_panels(run, InferenceEngine(run.config, run.path), None, "l2l", 1, "unlabeled")
    expected = np.asarray(read_rgb(photos / "gray8.png"))
    panels = json.loads((copied / "panels" / "index.json").read_text())
    assert len(panels) == NUM_PANELS
    for panel in panels:
        with Image.open(copied / "panels" / panel["image"]) as picture:
            shown = np.asarray(picture.convert("RGB"))
        assert np.abs(shown.astype(int) - expected).max() < 8  # pictures of a report are compressed
