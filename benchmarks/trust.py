"""Does a confidence mean what it says, and does a guarantee hold? Against hidden truth, after the burn-in: minutes.

For each seed: one burn-in with its fold teachers, evidence of the labeled images and of a part of the unlabeled ones,
and each selector's first training on it (`label_choice.py`). Its labels of the unlabeled part are then compared with
what the labeled images say of them:

calibration   the expected calibration error of the confidence, and of the teacher's estimate that it was made from
ordering      the area of risk by coverage, by confidence and by the mean probability of the label's cells
interval      whether the mean IoU of all labels lies in the interval that labeled images give for it
guarantee     which share of the labels a promise exports, and whether it is kept

Then `--draws` times, for L2L: a part of the labeled images is drawn, the selector learns from these alone, its
confidence is calibrated on them, and a promise is made by them and held against the truth of the unlabeled part. The
teachers stay: they saw all labeled images but those of one fold.

    python -m benchmarks.trust --seeds 0 1 2 --draws 50

A seed whose figures are in the file is not run again; a file of other options is refused. Writes
benchmarks/results/trust.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.command import add_out, at_least_one, run_main
from benchmarks.compare.oracles import HiddenTruth
from benchmarks.label_choice import WORDS, burn_in_job, seed_config
from benchmarks.seed_file import SeedFile, changed_settings
from l2l_ray.calibration import Checked, expected_iou, ranks_of, reliability
from l2l_ray.confidence import area_iou, label_confidence
from l2l_ray.config import RunConfig, load_config
from l2l_ray.device import pick_device
from l2l_ray.guarantee import Promise, find_guarantee
from l2l_ray.intervals import seed_interval
from l2l_ray.loop.inference.networks import load_segmenter
from l2l_ray.loop.inference.ordering import risks
from l2l_ray.loop.training.calibrating import calibration_of
from l2l_ray.loop.training.selector_training import CrossFitted, SelectorLearner, unlabeled_evidence, unlabeled_rows
from l2l_ray.randomness import numpy_generator
from l2l_ray.selector.registry import label_of, spec_of
from l2l_ray.types import Evidence, Selection

RESULTS = Path(__file__).parent / "results" / "trust.json"
METHODS = ("l2l", "scorer", "confidence_gate", "accept_all")
PROMISES = ("iou>=0.5 for 80% at 90%", "iou>=0.5 for 70% at 90%", "iou>=0.7 for 70% at 90%")
DRAWN_SHARE = 2 / 3  # of the labeled images, in each draw


@dataclass(frozen=True)
class Labels:
    """A selector's labels of unlabeled images that have a mask: image, confidence, IoU, other scores of the same."""

    image_ids: np.ndarray
    confidences: np.ndarray
    ious: np.ndarray  # by area
    estimates: np.ndarray  # of the teacher, not calibrated
    mean_probs: np.ndarray  # of the label's cells


class Trial:
    """What is there after the burn-in of one seed."""

    def __init__(self, config: RunConfig) -> None:
        job = burn_in_job(config)
        unlabeled = job.sets["unlabeled"]
        teacher = load_segmenter(config.segmenter, job.burn_in.base / "teacher.safetensors", pick_device())
        evidence = unlabeled_evidence(config, unlabeled, teacher, pick_device())
        assert evidence is not None, "selector.max_unlabeled is 0"
        rows = [unlabeled.examples[row] for row in unlabeled_rows(config, unlabeled)]
        self.config, self.cross_fitted, self._evidence = config, job.cross_fitted(), evidence
        self._image_ids = np.array([row.image_id for row in rows])
        self._truth = HiddenTruth(config).covered([row.sent_id for row in rows], unlabeled.grid)

    def labels(self, method: str, labeled: CrossFitted) -> tuple[Labels, Checked]:
        """Return what a method that learns from some labeled images says, and what these say of it."""
        section = self.config.with_values({"selector.name": method}).selector
        learner, evidence, seed = SelectorLearner(section, pick_device()), self._evidence, self.config.loop.seed
        parts = evidence.all(self.config.loop.eval_batch)
        if spec_of(method).learns:
            learner.learn(labeled, evidence, 0, seed)
            learner.selector.settle(labeled.parts(), parts)
        calibration = calibration_of(learner, labeled, evidence, 0, seed, self.config.loop.eval_batch)
        assert calibration is not None, "no label has a cell"
        selections = [learner.selector.select(part, [0] * len(part.prior_score)) for part in parts]
        target = torch.cat([selection.target for selection in selections])
        scores = torch.cat([learner.selector.label_scores(selection) for selection in selections])
        found = (
            self._image_ids,
            label_confidence(calibration.labels, target, scores.double()).numpy(),
            area_iou(target, self._truth).double().numpy(),
            torch.cat([selection.confidence for selection in selections]).double().numpy(),
            torch.cat([mean_probs(*pair) for pair in zip(selections, parts, strict=True)]).double().numpy(),
        )
        return Labels(*(column[target.flatten(1).any(1).numpy()] for column in found)), calibration.checked


def figures(config: RunConfig, num_draws: int) -> dict[str, Any]:
    """Return the figures of one seed: method -> figures, and those of the draws."""
    trial = Trial(config)
    methods = {method: _method(*trial.labels(method, trial.cross_fitted)) for method in METHODS}
    rng, image_ids = numpy_generator(config.loop.seed), np.unique(trial.cross_fitted.image_ids)
    size, drawn = round(DRAWN_SHARE * len(image_ids)), dict[str, list[dict[str, Any]]]()
    for _ in range(num_draws):
        part = trial.cross_fitted.of_images(rng.choice(image_ids, size, replace=False).tolist())
        labels, checked = trial.labels("l2l", part)
        for text in PROMISES:
            drawn.setdefault(text, []).append(_outcome(Promise.parse(text), checked, labels))
    return {"methods": methods, "draws": {text: {"images": size, **_rates(found)} for text, found in drawn.items()}}


def mean_probs(selection: Selection, evidence: Evidence) -> torch.Tensor:
    """Return the mean probability of each label's cells; 0 where it has none."""
    cells = selection.target.float()
    return (evidence.mask_probs * cells).sum((-2, -1)) / cells.sum((-2, -1)).clamp(min=1)


def _method(labels: Labels, checked: Checked) -> dict[str, Any]:
    expected = expected_iou(checked, ranks_of(labels.confidences))
    assert expected is not None and expected["low"] is not None, "too few labeled images for an interval"
    mean = float(labels.ious.mean())
    return {
        "num_labels": len(labels.ious),
        "num_labeled_images": len(set(checked.image_ids)),
        "mean_iou": mean,
        "ece": reliability(labels.confidences, labels.ious)["ece"],
        "ece_of_estimate": reliability(labels.estimates, labels.ious)["ece"],
        "area": float(risks(labels.confidences, labels.ious).mean()),
        "area_of_mean_prob": float(risks(labels.mean_probs, labels.ious).mean()),
        "expected": expected,
        "expected_holds": expected["low"] <= mean <= expected["high"],
        "guarantees": {text: _outcome(Promise.parse(text), checked, labels) for text in PROMISES},
    }


def _outcome(promise: Promise, checked: Checked, labels: Labels) -> dict[str, Any]:
    """Return the share of the labels that a promise exports, and the share of bad ones that it then has."""
    found = find_guarantee(promise, checked)
    kept = np.zeros(len(labels.ious), bool) if found is None else found.kept(labels.confidences)
    if not kept.any():
        return {"exported": 0.0, "bad": None, "broken": False}
    _, image = np.unique(labels.image_ids[kept], return_inverse=True)
    bad = np.bincount(image, labels.ious[kept] < promise.iou) / np.bincount(image)
    return {"exported": float(kept.mean()), "bad": float(bad.mean()), "broken": bool(bad.mean() > 1 - promise.share)}


def _rates(outcomes: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {
        "num": len(outcomes),
        "exported": float(np.mean([one["exported"] for one in outcomes])),
        "given": sum(one["bad"] is not None for one in outcomes),
        "broken": sum(one["broken"] for one in outcomes),
    }


def summarize(by_seed: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return method -> means over seeds; the gain in area over the mean probability with its 95 % t-interval."""
    rows: dict[str, Any] = {}
    for method in METHODS:
        seeds = [found["methods"][method] for found in by_seed.values()]
        gains = [one["area_of_mean_prob"] - one["area"] for one in seeds]
        rows[label_of(method)] = {
            **{name: float(np.mean([one[name] for one in seeds])) for name in ("ece", "ece_of_estimate", "area")},
            "worst_ece": max(one["ece"] for one in seeds),
            "expected_holds": f"{sum(one['expected_holds'] for one in seeds)} of {len(seeds)}",
            "area_gain": seed_interval(gains)._asdict() if len(gains) > 1 else None,
            "guarantees": {text: _rates([one["guarantees"][text] for one in seeds]) for text in PROMISES},
        }
    return rows


def main() -> None:
    """Run the seeds that are missing and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--frac", type=float, default=0.05)
    parser.add_argument("--draws", type=at_least_one, default=200)
    add_out(parser, RESULTS)
    args, words = parser.parse_known_args()
    base = load_config([*WORDS, *words])
    options = {"labeled_frac": args.frac, "draws": args.draws, "settings": changed_settings(WORDS, words)}
    file = SeedFile(args.out, options)

    def measure(seed: int) -> dict[str, Any]:
        config = seed_config(base, args.frac, seed).model_copy(update={"name": f"trust-{args.frac:g}-s{seed}"})
        return figures(config, args.draws)

    for seed, _ in file.complete(args.seeds, measure, summarize):
        print(f"seed {seed}", flush=True)
    print(json.dumps(file.rows(), indent=1))


if __name__ == "__main__":
    run_main(main)
