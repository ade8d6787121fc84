"""Does a confidence mean what it says, and does a guarantee hold? Against hidden truth, after the burn-in: minutes.

For each seed: one burn-in with its fold teachers, evidence of the labeled images and of a part of the unlabeled ones,
and each selector's first training on it (`label_choice.py`). Its labels of the unlabeled part are then compared with
what the labeled images say of them:

calibration   the expected calibration error of the confidence, and of the teacher's estimate that it was made from
ordering      the area of risk by coverage, by confidence and by the mean probability of the label's cells
interval      whether the mean IoU of all labels lies in the interval that labeled images give for it
guarantee     which share of the labels a promise exports, whether it is kept, and in how many of `NUM_DRAWS` draws it
              is broken: of a part of the labeled images, and of as many unlabeled ones whose truth is looked at instead

The last tells the test itself from what it rests on: that labels of labeled images, seen through fold teachers, are as
good as those of unlabeled ones.

    python -m benchmarks.trust --seeds 0 1 2

A seed whose figures are in the file is not run again. Writes benchmarks/results/trust.json.
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

from benchmarks.compare.oracles import HiddenTruth
from benchmarks.label_choice import burn_in_job, seed_config
from l2l_ray.calibration import Checked, expected_iou, reliability
from l2l_ray.config import RunConfig, load_config
from l2l_ray.device import pick_device
from l2l_ray.files import replacing
from l2l_ray.guarantee import Promise, find_guarantee
from l2l_ray.intervals import seed_interval
from l2l_ray.loop.inference.networks import load_segmenter
from l2l_ray.loop.inference.ordering import risks
from l2l_ray.loop.training.selector_training import SelectorLearner, calibration_of, unlabeled_evidence, unlabeled_rows
from l2l_ray.randomness import numpy_generator
from l2l_ray.selector.registry import label_of
from l2l_ray.selector.reward import truth_ious
from l2l_ray.sweep.trials import with_values
from l2l_ray.types import Evidence, Selection

RESULTS = Path(__file__).parent / "results" / "trust.json"
METHODS = ("l2l", "scorer", "confidence_gate", "accept_all")
PROMISES = ("iou>=0.5 for 80% at 90%", "iou>=0.5 for 70% at 90%", "iou>=0.7 for 70% at 90%")
NUM_DRAWS = 200
DRAWN_SHARE = 2 / 3  # of the labeled images, in each draw


@dataclass(frozen=True)
class Labels:
    """A selector's labels of unlabeled images: image, confidence, IoU with the truth, and other scores of the same."""

    image_ids: np.ndarray
    confidences: np.ndarray
    ious: np.ndarray
    estimates: np.ndarray  # of the teacher, not calibrated
    mean_probs: np.ndarray  # of the label's cells


def figures(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Return method -> figures of one seed."""
    job, device = burn_in_job(config), pick_device()
    cross_fitted, unlabeled = job.cross_fitted(), job.sets["unlabeled"]
    teacher = load_segmenter(config.segmenter, job.burn_in.base / "teacher.safetensors", device)
    evidence = unlabeled_evidence(config, unlabeled, teacher, device)
    assert evidence is not None, "selector.max_unlabeled is 0"
    rows = [unlabeled.examples[row] for row in unlabeled_rows(config, unlabeled)]
    truth = HiddenTruth(config).masks([row.sent_id for row in rows], unlabeled.grid)
    found = {}
    for method in METHODS:
        section = with_values(config, {"selector.name": method}).selector
        learner = SelectorLearner(section, device)
        parts = evidence.all(config.loop.eval_batch)
        for batch in learner.batches(cross_fitted, evidence, 0, section.warmup_updates, config.loop.seed):
            if learner.optimizer:
                learner.selector.update(learner.optimizer, batch)
        learner.selector.settle(cross_fitted.parts(), parts)
        calibration = calibration_of(learner.selector, cross_fitted, parts)
        selections = [learner.selector.select(part, [0] * len(part.prior_score)) for part in parts]
        scores = torch.cat([learner.selector.label_scores(selection) for selection in selections])
        labels = Labels(
            np.array([row.image_id for row in rows]),
            calibration.labels(scores.double().numpy()),
            truth_ious(torch.cat([s.target for s in selections])[:, None], truth)[:, 0].double().numpy(),
            torch.cat([selection.confidence for selection in selections]).double().numpy(),
            torch.cat([mean_probs(*pair) for pair in zip(selections, parts, strict=True)]).double().numpy(),
        )
        found[method] = _method(labels, calibration.checked, config.loop.seed)
    return found


def mean_probs(selection: Selection, evidence: Evidence) -> torch.Tensor:
    """Return the mean probability of each label's cells; 0 where it has none."""
    cells = selection.target.float()
    return (evidence.mask_probs * cells).sum((-2, -1)) / cells.sum((-2, -1)).clamp(min=1)


def _method(labels: Labels, checked: Checked, seed: int) -> dict[str, Any]:
    expected = expected_iou(checked, labels.confidences)
    assert expected is not None
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
        "guarantees": {text: _guarantee(Promise.parse(text), labels, checked, seed) for text in PROMISES},
    }


def _guarantee(promise: Promise, labels: Labels, checked: Checked, seed: int) -> dict[str, Any]:
    rng = numpy_generator(seed)
    image_ids = np.unique(checked.image_ids)
    size = round(DRAWN_SHARE * len(image_ids))
    cross_fitted, looked_at = [], []
    for _ in range(NUM_DRAWS):
        inside = np.isin(checked.image_ids, rng.choice(image_ids, size, replace=False))
        cross_fitted.append(_outcome(promise, checked.rows(np.flatnonzero(inside).tolist()), labels))
        inside = np.isin(labels.image_ids, rng.choice(np.unique(labels.image_ids), size, replace=False))
        columns = (labels.image_ids, labels.confidences, labels.ious)
        seen = Checked(*(column[inside].tolist() for column in columns))
        rest = Labels(*(getattr(labels, name)[~inside] for name in Labels.__dataclass_fields__))
        looked_at.append(_outcome(promise, seen, rest))
    all_images = _outcome(promise, checked, labels)
    return {"all": all_images, "cross_fitted": _rates(cross_fitted), "looked_at": _rates(looked_at), "images": size}


def _outcome(promise: Promise, checked: Checked, labels: Labels) -> dict[str, Any]:
    """Return the share of the labels that a promise exports, and the share of bad ones that it then has."""
    found = find_guarantee(promise, checked)
    kept = np.zeros(len(labels.ious), bool) if found is None else labels.confidences >= found.confidence
    if not kept.any():
        return {"exported": 0.0, "bad": None, "broken": False}
    _, image = np.unique(labels.image_ids[kept], return_inverse=True)
    bad = np.bincount(image, labels.ious[kept] < promise.iou) / np.bincount(image)
    return {"exported": float(kept.mean()), "bad": float(bad.mean()), "broken": bool(bad.mean() > 1 - promise.share)}


def _rates(outcomes: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {
        "exported": float(np.mean([one["exported"] for one in outcomes])),
        "given": float(np.mean([one["bad"] is not None for one in outcomes])),
        "broken": float(np.mean([one["broken"] for one in outcomes])),
    }


def summarize(by_seed: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return method -> means over seeds; the gain in area over the mean probability with its 95 % t-interval."""
    rows = {}
    for method in METHODS:
        seeds = [found[method] for found in by_seed.values()]
        gains = [one["area_of_mean_prob"] - one["area"] for one in seeds]
        rows[label_of(method)] = {
            **{name: float(np.mean([one[name] for one in seeds])) for name in ("ece", "ece_of_estimate", "area")},
            "worst_ece": max(one["ece"] for one in seeds),
            "expected_holds": f"{sum(one['expected_holds'] for one in seeds)} of {len(seeds)}",
            "area_gain": seed_interval(gains)._asdict() if len(gains) > 1 else None,
            "guarantees": {
                text: {
                    "exported": float(np.mean([one["guarantees"][text]["all"]["exported"] for one in seeds])),
                    "kept": f"{sum(not one['guarantees'][text]['all']['broken'] for one in seeds)} of {len(seeds)}",
                    **{
                        f"broken_{kind}": float(np.mean([one["guarantees"][text][kind]["broken"] for one in seeds]))
                        for kind in ("cross_fitted", "looked_at")
                    },
                }
                for text in PROMISES
            },
        }
    return rows


def main() -> None:
    """Run the seeds that are missing and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--frac", type=float, default=0.05)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args, words = parser.parse_known_args()
    base = load_config(["--preset", "5pct", "--selector.max_unlabeled", "1000", *words])
    content = json.loads(args.out.read_text()) if args.out.exists() else {"labeled_frac": args.frac, "by_seed": {}}
    for seed in args.seeds:
        if str(seed) not in content["by_seed"]:
            content["by_seed"][str(seed)] = figures(seed_config(base, args.frac, seed))
        content["rows"] = summarize(content["by_seed"])
        with replacing(args.out) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
        print(f"seed {seed}", flush=True)
    print(json.dumps(content["rows"], indent=1))


if __name__ == "__main__":
    main()
