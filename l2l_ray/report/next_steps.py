"""What to do after a run: commands to copy, with this run's own folders in them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from l2l_ray.report.record import RunRecord


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Example: `Step("Use the run on another photo.", "l2l predict PHOTO 'the cup' --run runs/own")`
    """

    text: str
    command: str


def next_steps(record: RunRecord) -> list[Step]:
    """Return what can be done with a finished run; correcting labels first where no truth of them is known.

    Words in capitals are for the reader to fill in.
    """
    run = shlex.quote(str(record.run_dir))
    steps = _corrections(record, run) if record.own_data and record.photos else []
    if record.photos and any(entry.get("used") is not None for entry in record.photos):
        steps.append(
            Step(
                "Take the labels away as files. Also jsonl, parquet, hf, png, labelstudio and yolo; "
                "--min-confidence 0.8 leaves out the less sure ones.",
                f"l2l export {run} --format coco --out labels-coco",
            )
        )
    steps.append(Step("Ask for an object in any photo.", f"l2l predict PHOTO.jpg 'THE CUP ON THE LEFT' --run {run}"))
    return steps


def correct_doubtful(record: RunRecord) -> Step:
    """Return the step that brings the doubtful labels before a person."""
    return Step(
        "Look at the doubtful labels in the browser: accept, reject or redraw them. docs/review.md says how; "
        "docs/export.md how to do it with Label Studio.",
        f"l2l review {shlex.quote(str(record.run_dir))}",
    )


def _corrections(record: RunRecord, run: str) -> list[Step]:
    data = record.config.get("data")
    data = data if isinstance(data, Mapping) else {}
    root, name = (shlex.quote(str(data.get(key, key.upper()))) for key in ("root", "dataset"))
    again = f"{record.config.get('name') or record.run_dir.name}-corrected"
    config = shlex.quote(str(record.run_dir / "config.yaml"))
    return [
        correct_doubtful(record),
        Step(
            "Bring your decisions into the data set.",
            f"l2l data import review {run} --root {root} --dataset {name} --update",
        ),
        Step(
            "Run again: what was corrected is learned from. A few right masks of doubtful photos help more than many "
            "of easy ones.",
            f"l2l run --config {config} --name {shlex.quote(again)}{_all_masks(data)}",
        ),
    ]


def _all_masks(data: Mapping[str, Any]) -> str:
    """Options without which a run that fixed its labeled photos would pass over the new masks."""
    fixed = [key for key in ("split_file", "labeled_frac") if data.get(key) is not None]
    return "".join(f" --data.{key} null" for key in fixed)
