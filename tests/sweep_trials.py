"""Trials without the running: the files that a run keeps of its figures, written as a run writes them."""

from __future__ import annotations

import json

from l2l_ray.loop.evaluation.evaluate import Evaluations
from l2l_ray.loop.inference.engine import EvalPart
from l2l_ray.loop.state.plan import EvalItem
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.sweep.trials import Trial


def measure(run: RunFolder, version: int, iou: float, split: str = "val", method: str = "") -> None:
    """Leave a version's figures on a split of one text, whose IoU, in thousandths, is mean and overall IoU.

    `method` "" is the run's main selector.
    """
    row = {"sent_id": 1, "image_id": 1, "intersection": round(1000 * iou), "union": 1000, "predicted_px": 1000}
    evaluations, item = Evaluations(run), EvalItem(method or run.methods[-1], version, split, 0, 1)
    evaluations.add(item, EvalPart([row], None))
    evaluations.close(item.group)


def leave_trial(trial: Trial, *ious: float, finished: bool = True) -> RunFolder:
    """Leave what a trial leaves: val's mean IoU of version 1, 2, ..., and 0.3 and 0.2 as the figures of testA."""
    run = RunFolder(trial.config.run_dir, trial.config).create()
    for version, iou in enumerate(ious, start=1):
        measure(run, version, iou)
    if finished:
        splits = {"val": {"mean_iou": max(ious), "overall_iou": 0.1}, "testA": {"mean_iou": 0.3, "overall_iou": 0.2}}
        row = {"method": run.methods[-1], "version": ious.index(max(ious)) + 1, "splits": splits}
        (run.path / "results.json").write_text(json.dumps({"rows": [{"method": "prior_only"}, row]}))
        run.mark_finished()
    return run
