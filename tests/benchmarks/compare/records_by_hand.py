"""Records with figures that can be computed by hand: two images on val, of two and one sentences."""

from __future__ import annotations

from typing import Any

from benchmarks.compare.records import Record, SplitFigures, digest_of, processor, save_record
from benchmarks.compare.rows import Task
from benchmarks.compare.runner import Comparison


def labels(mean_iou: float | None = 0.6, used: float = 0.5, ece: float = 0.03) -> dict[str, Any]:
    """Return one round's figures of labels."""
    found = {"num": 10, "num_used": 5, "used_frac": used, "mean_iou": mean_iou, "right_frac": 0.7}
    found |= {"wrong_object_frac": 0.1, "poor_outline_frac": 0.2}
    sources = {"guided": {"num_used": 4, "used_frac": 0.8, "right_frac": 0.7}}
    sources |= {"prior": {"num_used": 1, "used_frac": 0.2, "right_frac": 0.6}}
    gate = {"auc": 0.9, "area": 0.2, "relative_excess": 0.1}
    return {
        "labels": found,
        "sources": sources,
        "object_precision": 0.7,
        "object_recall": 0.3,
        "ordering": {"gate": gate},
        "reliability": {"num": 10, "ece": ece, "bins": []},
    }


def record(task: Task, iou_sums: tuple[float, float], digest: str = "", **fields: Any) -> Record:
    """Return a record of two images with two and one sentences."""
    mean = sum(iou_sums) / 3
    figures = {"overall_iou": mean, "mean_iou": mean, "precision_at": {"0.5": 0.5}}
    content: dict[str, Any] = {
        "dataset": task.dataset, "schedule": task.schedule, "seed": task.seed, "row": task.row, "digest": digest,
        "package": "0", "commit": "abc", "device": "cpu", "sees_truth": bool(task.spec.oracle), "biased_prior": None,
        "labeled_frac": 0.05, "steps": 1400, "version": 6, "val_by_version": [0.1, mean],
        "splits": {"val": SplitFigures(figures, "ids", (2, 1), iou_sums)},
        "rounds": [labels(), labels()], "gate_open": [],
        "cpu_s": {"burn-in": 40.0, "training": 60.0, "labels": 30.0, "selector": 10.0, "evaluation": 900.0},
        "wall_s": {"training": 120.0, "evaluation": 1800.0},
        "processor": processor(),
    }  # fmt: skip
    return Record(**content | fields)


def save(comparison: Comparison, task: Task, iou_sums: tuple[float, float] = (1.0, 0.5), **fields: Any) -> Record:
    """Write a record that is valid: its digest is the task's."""
    needed = comparison.needed(task)
    assert needed is not None
    config = task.config(needed)
    made = record(task, iou_sums, digest_of(config, task.spec.oracle, task.spec.is_biased), **fields)
    save_record(comparison.folder, task.name, made)
    return made
