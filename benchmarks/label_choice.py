"""Which labels do learned selectors take? After the burn-in, before any round: minutes where whole runs take hours.

For each seed and share of labeled images: one burn-in with its fold teachers, evidence of the labeled images and of a
part of the unlabeled ones, and each selector's first training on it. Its labels of the unlabeled part are then compared
with hidden truth. No student is trained, so this says who ranks labels well, not who teaches well.

    python -m benchmarks.label_choice --seeds 0 1 2 3 4 --fracs 0.01 0.05

A seed whose figures are in the file is not run again; a file of other settings is refused. Writes
benchmarks/results/label-choice.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.command import add_out, run_main
from benchmarks.compare.oracles import HiddenTruth
from benchmarks.seed_file import SeedFile, changed_settings
from l2l_ray.config import RunConfig, load_config
from l2l_ray.device import pick_device
from l2l_ray.intervals import seed_interval
from l2l_ray.loop.inference.networks import load_segmenter
from l2l_ray.loop.inference.ordering import RIGHT_IOU, auc, risks
from l2l_ray.loop.inference.priors import LocalMllm, fill_all_priors
from l2l_ray.loop.local import LocalHost
from l2l_ray.loop.state.position import Stage
from l2l_ray.loop.state.prepare import prepare
from l2l_ray.loop.state.run_folder import RunFolder, continued
from l2l_ray.loop.training.selector_training import CrossFitted, SelectorLearner, StoredEvidence, unlabeled_evidence
from l2l_ray.loop.training.selector_training import unlabeled_rows as rows_of
from l2l_ray.loop.training.train import Job
from l2l_ray.selector.registry import spec_of
from l2l_ray.selector.reward import truth_ious
from l2l_ray.types import Candidate

RESULTS = Path(__file__).parent / "results" / "label-choice.json"
WORDS = ["--preset", "5pct", "--selector.max_unlabeled", "1000"]
COVERAGE = 0.4  # share of the labels at which selectors are compared

PIXELS = {"selector.cells": True, "selector.reward.wrong_cost": 3.0}  # a wrong pixel costs what three right ones earn

# Row -> fields that it changes.
ROWS: dict[str, dict[str, Any]] = {
    "accept all": {"selector.name": "accept_all"},
    "confidence gate": {"selector.name": "confidence_gate"},
    "supervised scorer": {"selector.name": "scorer"},
    "L2L": {"selector.name": "l2l"},
    "L2L, as it starts": {"selector.name": "l2l", "selector.warmup_updates": 0},
    "L2L, guided label alone": {"selector.name": "l2l", "selector.candidates": False},
    "L2L, labeled images alone": {"selector.name": "l2l", "selector.reward.unlabeled": 0.0},
    "L2L, rivals not seen": {"selector.name": "l2l", "selector.rivals": False},
    "supervised scorer, rivals not seen": {"selector.name": "scorer", "selector.rivals": False},
    "L2L, pixel by pixel": {"selector.name": "l2l", **PIXELS},
    "supervised scorer, pixel by pixel": {"selector.name": "scorer", **PIXELS},
}


class BurnInHost(LocalHost):
    """The local host as far as a burn-in needs it: no rounds, no versions, nothing shown."""

    def __init__(self, run: RunFolder) -> None:
        self.device = pick_device()
        self._run = run

    def waits_for(self, what: str) -> None:
        """Say nothing."""

    def progress(self, stage: Stage, done: int, total: int, values: dict[str, float]) -> None:
        """Say nothing."""


def seed_config(base: RunConfig, frac: float, seed: int) -> RunConfig:
    """Return the config of one seed and share: the seed also draws which images are labeled."""
    data = base.data.model_copy(update={"labeled_frac": frac, "split_seed": seed})
    loop = base.loop.model_copy(update={"seed": seed})
    return base.model_copy(update={"name": f"label-choice-{frac:g}-s{seed}", "data": data, "loop": loop})


def burn_in_job(config: RunConfig) -> Job:
    """Return a job whose data, priors and burn-in with fold teachers are there."""
    run = RunFolder.open(continued(config))
    data = prepare(config, run)
    fill_all_priors(config, run, data, LocalMllm(config.prior))
    job = Job.begin(config, run, BurnInHost(run))
    job.burn_in.train(with_folds=True)
    return job


def figures(config: RunConfig) -> dict[str, dict[str, float]]:
    """Return row -> figures of one seed and share."""
    job, device = burn_in_job(config), pick_device()
    cross_fitted, unlabeled = job.cross_fitted(), job.sets["unlabeled"]
    teacher = load_segmenter(config.segmenter, job.burn_in.base / "teacher.safetensors", device)
    others = unlabeled_evidence(config, unlabeled, teacher, device)
    assert others is not None, "selector.max_unlabeled is 0"
    rows = rows_of(config, unlabeled)
    truth = HiddenTruth(config).masks([unlabeled.examples[row].sent_id for row in rows], unlabeled.grid)
    return {row: _row(config, change, cross_fitted, others, truth) for row, change in ROWS.items()}


def _row(
    config: RunConfig, change: dict[str, Any], cross_fitted: CrossFitted, others: StoredEvidence, truth: Tensor
) -> dict[str, float]:
    section = config.with_values(change).selector
    learner = SelectorLearner(section, pick_device())
    parts = others.all(config.loop.eval_batch)
    settled: dict[str, float] = {}
    if spec_of(section.name).learns:
        learner.learn(cross_fitted, others, 0, config.loop.seed)
        settled = learner.selector.settle(cross_fitted.parts(), parts)
    selections = [learner.selector.select(part, [0] * len(part.prior_score)) for part in parts]
    target, used, gate, accepted = (
        torch.cat([getattr(selection, name) for selection in selections]).cpu()
        for name in ("target", "used", "gate", "accepted")
    )
    iou = truth_ious(target[:, None], truth)[:, 0].double().numpy()
    right, taken = iou >= RIGHT_IOU, used.numpy()
    believed = target & accepted & used[:, None, None]  # object cells that are trained on
    found = {
        "right_of_all": right.mean(),
        "used": taken.mean(),
        "used_labeled": settled.get("open_rate_labeled", 1.0),
    }
    if taken.any():  # where none is used, every gate is shut and orders nothing
        source = torch.cat([selection.source for selection in selections]).cpu().numpy()
        found |= order_figures(gate.double().numpy(), iou)
        found["object_precision"] = float((believed & truth).sum() / believed.sum().clamp(min=1))
        found["object_recall"] = float((believed & truth).sum() / (truth & used[:, None, None]).sum().clamp(min=1))
        found["iou_of_used"] = iou[taken].mean()
        found["right_of_used"] = right[taken].mean()
        found["other_label"] = np.mean(source[taken] != Candidate.GUIDED)
    return {name: float(value) for name, value in found.items()}


def order_figures(score: np.ndarray, iou: np.ndarray) -> dict[str, float]:
    """Return how well scores [N] put labels of some IoU [N] in order: the surest at `COVERAGE`, and the AUC.

    Labels of one score count with their mean, as any order among them gives on average: the order of rows says nothing.
    """
    right, last = iou >= RIGHT_IOU, max(1, round(COVERAGE * len(iou))) - 1
    area = auc(score, right)
    return {
        "iou_at_coverage": float(1 - risks(score, iou)[last]),
        "right_at_coverage": float(1 - risks(score, right.astype(np.float64))[last]),
        "auc": 0.5 if area is None else area,
    }


def summarize(by_seed: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Return row -> figure -> mean over seeds, and L2L minus the row with its 95 % t-interval over seeds.

    Both are over the seeds in which the row, and for the difference L2L too, uses any label; `num_using` counts them.
    """
    seeds = list(by_seed.values())
    rows: dict[str, Any] = {}
    for row in ROWS:
        names = dict.fromkeys(name for seed in seeds for name in seed[row])
        rows[row] = {name: float(np.mean([seed[row][name] for seed in seeds if name in seed[row]])) for name in names}
        rows[row]["num_using"] = sum(seed[row]["used"] > 0 for seed in seeds)
        both = [seed for seed in seeds if seed[row]["used"] > 0 and seed["L2L"]["used"] > 0]
        if row != "L2L" and len(both) > 1:
            rows[row]["l2l_minus_this"] = {
                name: seed_interval([seed["L2L"][name] - seed[row][name] for seed in both])._asdict()
                for name in (
                    "auc",
                    "iou_at_coverage",
                    "right_at_coverage",
                    "right_of_all",
                    "object_precision",
                    "object_recall",
                )
            }
    return rows


def main() -> None:
    """Run the seeds that are missing and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--fracs", type=float, nargs="+", default=[0.01, 0.05])
    add_out(parser, RESULTS)
    args, words = parser.parse_known_args()
    base = load_config([*WORDS, *words])
    file = SeedFile(args.out, {"settings": changed_settings(WORDS, words)})
    for frac in args.fracs:

        def measure(seed: int, frac: float = frac) -> dict[str, dict[str, float]]:
            return figures(seed_config(base, frac, seed))

        for seed, rows in file.complete(args.seeds, measure, summarize, ("by_frac", f"{frac:g}")):
            print(f"{frac:g} seed {seed}", flush=True)
            for row, found in rows.items():
                print(f"  {row:28}" + "  ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    run_main(main)
