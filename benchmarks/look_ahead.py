"""Does the gain that a label promises for held-out labeled images tell right labels from wrong ones?

The look-ahead reward of a label is the drop of the loss on held-out labeled images after a student step on it; to first
order, the dot product of the label's gradient with that of the held-out loss. It would be what supervision cannot give:
the value of a label for the student. Here it is measured for one fold: the fold's teacher is the student, the images it
never saw are the held-out ones, and the gradient is that of fusion, guidance and decoder together. For each unlabeled
item, three labels: guided, unguided, and the prior's mask.

    python -m benchmarks.look_ahead --seed 0 --frac 0.05 --items 300

Writes benchmarks/results/look-ahead.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.command import add_out, at_least_one, run_main, write_results
from benchmarks.compare.oracles import HiddenTruth
from benchmarks.label_choice import burn_in_job, seed_config
from l2l_ray.config import RunConfig, load_config
from l2l_ray.device import pick_device
from l2l_ray.loop.inference.inputs import ExampleSet, Inputs
from l2l_ray.loop.inference.networks import load_segmenter, run_segmenter
from l2l_ray.loop.inference.ordering import RIGHT_IOU, auc
from l2l_ray.loop.inference.teacher import gather_evidence
from l2l_ray.loop.training.selector_training import unlabeled_rows
from l2l_ray.segmenter.losses import segmentation_loss
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.selector.candidates import candidates_of
from l2l_ray.selector.reward import truth_ious
from l2l_ray.types import Candidate

RESULTS = Path(__file__).parent / "results" / "look-ahead.json"
LABELS = (Candidate.GUIDED, Candidate.UNGUIDED, Candidate.PRIOR)
_BATCH = 32


def gradient(
    model: Segmenter, config: RunConfig, inputs: Inputs, target: Float[Tensor, "B G G"], count: int
) -> tuple[Float[Tensor, " P"], float]:
    """Return the gradient of the student's loss over the parts that learn, flat, and the loss; a sum over `count`."""
    output = run_segmenter(model, inputs, use_autocast=False)
    loss = segmentation_loss(
        output, target, torch.ones_like(target), count, config.loop.dice_weight, config.loop.deep_weight
    )
    parts = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parts, allow_unused=True)
    flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parts, found, strict=True)]
    return torch.cat([g.flatten() for g in flat]), loss.item()


def held_out_gradient(model: Segmenter, config: RunConfig, labeled: ExampleSet, rows: list[int]) -> Float[Tensor, " P"]:
    """Return the gradient of the mean loss on labeled rows that the model never saw."""
    parts = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
    device = next(model.parameters()).device
    batches = ((labeled.inputs(part).to(device), labeled.masks(part).to(device)) for part in parts)
    return torch.stack([gradient(model, config, *batch, len(rows))[0] for batch in batches]).sum(0)


def measure(config: RunConfig, items: int) -> dict[str, Any]:
    """Return AUCs of the gain, its cosine and the plain loss, for "this label has an IoU of at least 0.5"."""
    job, device = burn_in_job(config), pick_device()
    labeled, unlabeled = job.sets["labeled"], job.sets["unlabeled"]
    fold, folder = job.burn_in.folds[0], job.burn_in.fold_folders[0]
    model = load_segmenter(config.segmenter, folder / "teacher.safetensors", device)
    for part in (model.backbone, model.text):
        part.requires_grad_(False)
    wanted = held_out_gradient(model, config, labeled, list(fold))
    rows = unlabeled_rows(config, unlabeled)[:items]
    truth = HiddenTruth(config).masks([unlabeled.examples[row].sent_id for row in rows], unlabeled.grid).to(device)
    gain, cosine, loss, iou = (np.zeros((len(rows), len(LABELS))) for _ in range(4))
    for number, row in enumerate(rows):
        inputs, rivals = unlabeled.inputs([row]).to(device), unlabeled.rivals([row]).to(device)
        candidates = candidates_of(gather_evidence(model, inputs, rivals, use_autocast=False))
        found = truth_ious(candidates.masks, truth[number : number + 1])[0]
        for place, label in enumerate(LABELS):
            target = candidates.masks[:, label].float().clone()
            own, loss[number, place] = gradient(model, config, inputs, target, 1)
            gain[number, place] = float(own @ wanted)
            cosine[number, place] = gain[number, place] / max(1e-12, float(own.norm() * wanted.norm()))
            iou[number, place] = float(found[label])
    right = iou >= RIGHT_IOU
    scores = {"gain": gain, "cosine": cosine, "low loss": -loss}
    by_label = {
        label.name.lower(): {
            "right": float(right[:, place].mean()),
            **{f"auc of {name}": auc(score[:, place], right[:, place]) for name, score in scores.items()},
        }
        for place, label in enumerate(LABELS)
    }
    differs = np.abs(iou[:, 2] - iou[:, 0]) > 0.2  # the choice between guided label and prior matters
    better = iou[differs, 2] > iou[differs, 0]
    choice = {f"auc of {name}": auc((s[:, 2] - s[:, 0])[differs], better) for name, s in scores.items()}
    return {
        "labels": by_label,
        "prior over guided": {"pairs": int(differs.sum()), "share": float(better.mean()), **choice},
    }


def main() -> None:
    """Measure one seed and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frac", type=float, default=0.05)
    parser.add_argument("--items", type=at_least_one, default=300)
    add_out(parser, RESULTS)
    args, words = parser.parse_known_args()
    base = load_config(["--preset", "5pct", "--selector.max_unlabeled", "1000", *words])
    found = {"seed": args.seed, "frac": args.frac, "items": args.items}
    found |= measure(seed_config(base, args.frac, args.seed), args.items)
    write_results(args.out, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    run_main(main)
