"""What to do after a run: commands to copy, with this run's own folders in them, which work from any folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2l_ray.report.began import in_its_folder, label_command
from l2l_ray.report.record import RunRecord
from l2l_ray.storage import at_home, place


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
    steps = _corrections(record) if record.own_data and record.photos else []
    ask = f"l2l predict PHOTO.jpg 'THE CUP ON THE LEFT' --run {_run(record)}"
    return [*steps, *take_away(record), Step("Ask for an object in any photo.", ask)]


def take_away(record: RunRecord) -> list[Step]:
    """Return the step that writes the labels of the last round as files; none where the run has no labels."""
    if all(entry.get("used") is None for entry in record.photos):
        return []
    shares = [point.get("labels.accepted_frac") for point in record.points_of(record.main_method)]
    unused_too = " --all" if [share for share in shares if share is not None][-1:] == [0] else ""
    return [
        Step(
            "Take the labels away as files. Also jsonl, parquet, hf, png, labelstudio and yolo; "
            "--min-confidence 0.8 leaves out the less sure ones.",
            f"l2l export {_run(record)} --format coco --out labels-coco{unused_too}",
        )
    ]


def correct_doubtful(record: RunRecord) -> Step:
    """Return the step that brings the doubtful labels before a person."""
    return Step(
        "Look at the doubtful labels in the browser: accept, reject or redraw them. docs/review.md says how; "
        "docs/export.md how to do it with Label Studio.",
        f"l2l review {_run(record)}",
    )


def bring_home(record: RunRecord) -> Step:
    """Return the step that makes decisions about labels masks to learn from; a benchmark stays what it is."""
    if not record.own_data:
        return Step(
            "Make a data set of your own of the decisions.",
            f"l2l data import review {_run(record)} --root ROOT --dataset NAME",
        )
    data = _data(record)
    root, name = shlex.quote(_root(record)), shlex.quote(str(data.get("dataset", "DATASET")))
    return Step(
        "Bring your decisions into the data set; the next run starts from them.",
        f"l2l data import review {_run(record)} --root {root} --dataset {name} --update",
    )


def _corrections(record: RunRecord) -> list[Step]:
    return [correct_doubtful(record), bring_home(record), _once_more(record)]


def _once_more(record: RunRecord) -> Step:
    learned = (
        "what was corrected is learned from. A few right masks of doubtful photos help more than many of easy ones."
    )
    if command := label_command(record.env, record.config.get("run_root")):
        return Step(f"Go on by the same command, which writes masks anew: {learned}", command)
    data = _data(record)
    again = f"{record.config.get('name') or record.run_dir.name}-corrected"
    config = shlex.quote(str(record.run_dir.absolute() / "config.yaml"))
    where = in_its_folder(record.env) if _is_relative(data.get("root")) else ""
    return Step(
        f"Run again: {learned}", f"{where}l2l run --config {config} --name {shlex.quote(again)}{_all_masks(data)}"
    )


def _run(record: RunRecord) -> str:
    return shlex.quote(str(record.run_dir.absolute()))


def _data(record: RunRecord) -> Mapping[str, Any]:
    data = record.config.get("data")
    return data if isinstance(data, Mapping) else {}


def _root(record: RunRecord) -> str:
    """Return the folder of the data sets, from where the run was begun if it is relative."""
    root, began_in = str(_data(record).get("root", "ROOT")), record.env.get("directory")
    if _is_relative(root) and isinstance(began_in, str):
        return str(Path(began_in) / root)
    return str(at_home(place(root)))


def _is_relative(root: Any) -> bool:
    return isinstance(root, str) and not at_home(place(root)).is_absolute()


def _all_masks(data: Mapping[str, Any]) -> str:
    """Options without which a run that fixed its labeled photos would pass over the new masks."""
    fixed = [key for key in ("split_file", "labeled_frac") if data.get(key) is not None]
    return "".join(f" --data.{key} null" for key in fixed)
