"""How much is there to gain by taking another label than the teacher's guided one? Minutes, on a finished run.

For texts of the run's unlabeled set, under one version: how many labels are right (IoU of at least 0.5 with the hidden
truth) when the guided label is taken, when hidden truth chooses among all candidates, and when a learner chooses that
is given far more than any selector has: gradient-boosted trees, taught with the truth of four fifths of these very
texts and asked about the rest, by image. It reads what selectors read (`candidates.relations`). What it does not gain,
no selector with these candidates and this evidence will.

    python -m benchmarks.choice_ceiling RUN [--version 0] [--num 1600]

Writes benchmarks/results/choice-ceiling.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import GroupKFold
from torch import Tensor

from benchmarks.command import add_out, at_least_one, run_main, write_results
from benchmarks.compare.oracles import HiddenTruth
from benchmarks.label_choice import order_figures
from l2l_ray.device import pick_device
from l2l_ray.loop.inference.inputs import ExampleSets
from l2l_ray.loop.inference.networks import load_segmenter
from l2l_ray.loop.inference.ordering import RIGHT_IOU
from l2l_ray.loop.inference.teacher import gather_evidence
from l2l_ray.loop.state.run_folder import open_run
from l2l_ray.selector.candidates import NAMES, candidates_of, relations
from l2l_ray.selector.reward import truth_ious
from l2l_ray.types import Candidate

RESULTS = Path(__file__).parent / "results" / "choice-ceiling.json"
FOLDS = 5


def candidates_with_truth(run_dir: Path, version: int, num: int) -> tuple[Tensor, Tensor, Tensor, np.ndarray]:
    """Return relations [N, K, R], which candidates are possible [N, K], their IoU [N, K] and the image of each text."""
    run, device = open_run(run_dir), pick_device()
    unlabeled = ExampleSets(run.config, run, run.priors_path)["unlabeled"]
    method = run.config.selector.name
    teacher = load_segmenter(run.config.segmenter, run.version_dir(method, version) / "teacher.safetensors", device)
    truth, rows = HiddenTruth(run.config), range(min(num, len(unlabeled)))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(rows), run.config.loop.eval_batch):
        part = list(rows[start : start + run.config.loop.eval_batch])
        inputs, rivals = unlabeled.inputs(part).to(device), unlabeled.rivals(part).to(device)
        evidence = gather_evidence(teacher, inputs, rivals, run.config.loop.autocast)
        candidates = candidates_of(evidence)
        masks = truth.masks([unlabeled.examples[row].sent_id for row in part], unlabeled.grid).to(device)
        ious = truth_ious(candidates.masks, masks)
        found.append((relations(evidence, candidates).cpu(), candidates.possible.cpu(), ious.cpu()))
    seen, possible, ious = (torch.cat(tensors) for tensors in zip(*found, strict=True))
    return seen, possible, ious, np.asarray(unlabeled.integers("image_id"))[: len(rows)]


def foretold(seen: np.ndarray, possible: np.ndarray, ious: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the IoU [N, K] that trees foretell of texts whose images they were not taught with; -1 = not possible."""
    told = np.full(ious.shape, -1.0)
    for known, asked in GroupKFold(FOLDS).split(seen, groups=images):
        trees = HistGradientBoostingRegressor(max_iter=150, learning_rate=0.06, random_state=0)
        trees.fit(seen[known][possible[known]], ious[known][possible[known]])
        told[asked] = trees.predict(seen[asked].reshape(-1, seen.shape[2])).reshape(ious[asked].shape)
    return np.where(possible, told, -1.0)


def figures(told: np.ndarray, ious: np.ndarray) -> dict[str, float]:
    """Return what comes out where the candidate is taken that is foretold to be the best."""
    taken = told.argmax(1)
    score, iou = told.max(1), ious[np.arange(len(ious)), taken]
    return {
        "right": float(np.mean(iou >= RIGHT_IOU)),
        **order_figures(score, iou),
        "other_label": float(np.mean(taken != Candidate.GUIDED)),
    }


def main() -> None:
    """Measure one run and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--version", type=int, default=0)
    parser.add_argument("--num", type=at_least_one, default=1600, help="texts that are looked at")
    add_out(parser, RESULTS)
    given = parser.parse_args()
    seen, possible, ious, images = (
        np.asarray(part) for part in candidates_with_truth(given.run, given.version, given.num)
    )
    guided = possible & (np.arange(possible.shape[1]) == Candidate.GUIDED)
    found = {
        "version": given.version,
        "texts": len(ious),
        "right_of_each": {name: float(np.mean(ious[:, place] >= RIGHT_IOU)) for place, name in enumerate(NAMES)},
        "guided, order by trees": figures(foretold(seen, guided, ious, images), ious),
        "all candidates, choice and order by trees": figures(foretold(seen, possible, ious, images), ious),
        "all candidates, choice by truth": {"right": float(np.mean(ious.max(1) >= RIGHT_IOU))},
    }
    write_results(given.out, found)
    sys.stdout.write(given.out.read_text())


if __name__ == "__main__":
    run_main(main)
