"""Where is L2L right, and where does it fail? By what a text names and by how large its object is, over seeds.

Reads the runs that `make compare` left in the run root (a run's weights are gone by then, its figures and labels are
there), so nothing is trained: a minute. All of the last version and the last round.

students    mean IoU on val of each row, and L2L minus accept all with its 95 % t-interval over seeds
labels      of each selector's labels of unlabeled texts, against hidden truth: how many are right, are used, and are
            right of the used ones

    python -m benchmarks.where --seeds 11 12 13 14 15

Writes benchmarks/results/where.json, and a picture of labels drawn at random, docs/results-labels.jpg.
"""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from benchmarks.command import add_out, run_main, write_results
from benchmarks.compare.oracles import HiddenTruth
from benchmarks.compare.rows import REPORT_SEEDS, SCHEDULES, Task
from benchmarks.compare.runner import Comparison
from benchmarks.compare.worker import last_version_rows
from l2l_ray.errors import DataError
from l2l_ray.intervals import seed_interval
from l2l_ray.loop.evaluation.committed import last_round
from l2l_ray.loop.evaluation.evaluate import meter_of
from l2l_ray.loop.inference.ordering import RIGHT_IOU
from l2l_ray.loop.inference.quality import WRONG_OBJECT_IOU
from l2l_ray.loop.state.example_files import ExampleTable
from l2l_ray.loop.state.ledger import is_used
from l2l_ray.loop.state.run_folder import open_run
from l2l_ray.randomness import numpy_generator
from l2l_ray.refshapes.expressions import KINDS, kind_of
from l2l_ray.selector.reward import truth_ious
from l2l_ray.types import Example, PseudoLabel

if TYPE_CHECKING:
    from jaxtyping import Bool
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
PICTURE = RESULTS.parent.parent / "docs" / "results-labels.jpg"
STUDENTS = ("supervised", "accept_all", "confidence_gate", "scorer", "l2l", "sample_oracle")
SELECTORS = ("accept_all", "confidence_gate", "scorer", "l2l")
# Upper limits, exclusive, by share of the image: about a quarter, a half and a quarter of the objects of RefShapes.
SIZES = {"below 1 %": 0.01, "1 to 3 %": 0.03, "above 3 %": math.inf}
GROUPS = {"kind": list(KINDS), "size": list(SIZES)}
# What becomes of a label -> whether it is right, whether it is used.
FATES = {"right, used": (True, True), "right, left out": (True, False), "wrong, left out": (False, False),
         "wrong, used": (False, True)}  # fmt: skip
SHOWN_EACH = 3
_LABEL_COLOR, _TRUTH_COLOR = "#ff2d95", "#21d07a"


def students(runs: Mapping[Task, Path]) -> pd.DataFrame:
    """Return one line per sentence of val and run: row, seed, kind, size, iou."""
    return pd.concat([_student(task, path) for task, path in runs.items()])


def _student(task: Task, path: Path) -> pd.DataFrame:
    run = open_run(path)
    rows = last_version_rows(run, run.config.selector.name, run.config.loop.rounds, "val").sort_values("sent_id")
    table = ExampleTable(run.examples_path("val"))
    kinds = {example.sent_id: kind_of(example.expression) for example in table}
    ious = [row["iou"] for row in meter_of(rows).rows()]
    found = {"row": task.row, "seed": task.seed, "kind": rows["sent_id"].map(kinds), "iou": ious}
    return pd.DataFrame({**found, "size": _sizes(rows["area_frac"])})


def labels(task: Task, path: Path) -> tuple[pd.DataFrame, list[PseudoLabel]]:
    """Return one line per label of a run's last round: row, seed, kind, size, iou, used; and the labels themselves."""
    found = list(last_round(path).labels())
    run = open_run(path)
    kinds = {example.sent_id: kind_of(example.expression) for example in ExampleTable(run.examples_path("unlabeled"))}
    covered = _truth(path).covered([one.sent_id for one in found], found[0].grid)
    targets = torch.from_numpy(np.stack([one.target for one in found]))
    frame = pd.DataFrame(
        {
            "row": task.row,
            "seed": task.seed,
            "kind": [kinds[one.sent_id] for one in found],
            "iou": truth_ious(targets[:, None], covered > 0.5)[:, 0],
            "used": [is_used(one) for one in found],
            "size": _sizes(pd.Series(covered.mean((1, 2)).numpy())),
        }
    )
    return frame, found


@cache
def _truth(path: Path) -> HiddenTruth:
    return HiddenTruth(open_run(path).config)


def _sizes(area_fracs: pd.Series) -> pd.Series:
    return pd.cut(area_fracs, [-math.inf, *SIZES.values()], right=False, labels=list(SIZES)).astype(str)


def student_figures(frame: pd.DataFrame) -> dict[str, Any]:
    """Return by kind and by size -> group -> num, mean IoU per row (mean over seeds), L2L minus accept all."""
    return {by: {group: _students_of(part) for group, part in _parts(frame, by)} for by in GROUPS}


def _parts(frame: pd.DataFrame, by: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the groups that have a text, in their order, with their lines."""
    parts = dict(list(frame.groupby(by)))
    yield from ((group, parts[group]) for group in GROUPS[by] if group in parts)


def _students_of(part: pd.DataFrame) -> dict[str, Any]:
    means = part.groupby(["row", "seed"])["iou"].mean().unstack("row")
    gains = (means["l2l"] - means["accept_all"]).tolist()
    return {
        "num": len(part) // means.size,
        "mean_iou": {row: float(means[row].mean()) for row in STUDENTS},
        "l2l_minus_accept_all": seed_interval(gains)._asdict() if len(gains) > 1 else None,
    }


def label_figures(frame: pd.DataFrame) -> dict[str, Any]:
    """Return by kind and by size -> group -> num, and per row the shares right, used, right of the used, wrong object.

    Each is the mean over seeds; None where a seed uses no label of the group.
    """
    return {by: {group: _labels_of(part) for group, part in _parts(frame, by)} for by in GROUPS}


def _labels_of(part: pd.DataFrame) -> dict[str, Any]:
    by_row = {row: [_shares(of_seed) for _, of_seed in part[part["row"] == row].groupby("seed")] for row in SELECTORS}
    rows = {row: {name: _mean([one[name] for one in seeds]) for name in seeds[0]} for row, seeds in by_row.items()}
    return {"num": round(len(part) / sum(map(len, by_row.values()))), "rows": rows}


def _shares(part: pd.DataFrame) -> dict[str, float | None]:
    right, used, num = part["iou"] >= RIGHT_IOU, part["used"], int(part["used"].sum())
    wrong_object = used & (part["iou"] < WRONG_OBJECT_IOU)
    return {
        "right": float(right.mean()),
        "used": float(used.mean()),
        "right_of_used": float((right & used).sum() / num) if num else None,
        "wrong_object_of_used": float(wrong_object.sum() / num) if num else None,
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def picture(path: Path, task: Task, frame: pd.DataFrame, found: Sequence[PseudoLabel]) -> Figure:
    """Draw labels of one run, drawn at random: a column for each of `FATES`, outlines of label and truth."""
    from matplotlib.figure import Figure

    examples = {example.sent_id: example for example in ExampleTable(open_run(path).examples_path("unlabeled"))}
    figure = Figure(figsize=(9.2, 3 * SHOWN_EACH), layout="constrained")
    panels = figure.subplots(SHOWN_EACH, len(FATES), subplot_kw={"xticks": [], "yticks": []})
    rng, has_cells = numpy_generator(task.seed), np.array([one.target.any() for one in found])
    for column, (fate, (is_right, used)) in enumerate(FATES.items()):
        fits = ((frame["iou"] >= RIGHT_IOU) == is_right) & (frame["used"] == used)
        panels[0][column].set_title(f"{fate}: {100 * fits.mean():.0f} %", weight="bold")
        for number, place in enumerate(rng.permutation(np.flatnonzero(fits & has_cells))[:SHOWN_EACH]):
            label, axes = found[place], panels[number][column]
            truth = _truth(path).masks([label.sent_id], label.grid)[0].numpy()
            _draw(axes, examples[label.sent_id], label.target, truth)
            said = f"confidence {100 * label.confidence:.0f} %, IoU {100 * frame['iou'][place]:.0f} %"
            axes.set_xlabel("\n".join([*textwrap.wrap(examples[label.sent_id].expression, 27), said]))
    return figure


def _draw(axes: Any, example: Example, label: Bool[np.ndarray, "G G"], truth: Bool[np.ndarray, "G G"]) -> None:
    from l2l_ray.data.pixels import read_rgb

    axes.imshow(np.asarray(read_rgb(example.image_path)), extent=(0, 1, 1, 0), aspect="auto")
    cells = (np.arange(len(label)) + 0.5) / len(label)
    for mask, color in ((truth, _TRUTH_COLOR), (label, _LABEL_COLOR)):
        axes.contour(cells, cells, mask.astype(float), [0.5], colors=color, linewidths=1.8)
    axes.set_box_aspect(example.height_px / example.width_px)


def finished_runs(
    schedule: str, seeds: Sequence[int], results: Path, run_root: str | None
) -> tuple[dict[Task, Path], list[str]]:
    """Return the folder of every run that is needed, and the commits of their records.

    Raises:
        DataError: A run or its record is missing, or they are not of each other.
    """
    tasks = [Task("refshapes", schedule, seed, row) for seed in seeds for row in STUDENTS]
    comparison, found, commits = Comparison(tasks, results / "compare", run_root), dict[Task, Path](), set[str]()
    for task in tasks:
        record, path = comparison.record(task), task.config({}, run_root).run_dir
        again = f"run `python -m benchmarks.compare --schedules {schedule} --seeds {task.seed} --only {task.row}`"
        if record is None or not (path / "FINISHED").exists():
            raise DataError(f"there is no finished run of {task.name} with its record at {path}; {again} first")
        run = open_run(path)
        mean = meter_of(last_version_rows(run, run.config.selector.name, record.version, "val")).summary()["mean_iou"]
        if abs(mean - record.splits["val"].figures["mean_iou"]) > 1e-4:
            raise DataError(f"{path} is another run than its record says; remove both, then {again}")
        commits.add(record.commit)
        found[task] = path
    return found, sorted(commits)


def main() -> None:
    """Read the runs, write the file and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(REPORT_SEEDS))
    parser.add_argument("--schedule", choices=list(SCHEDULES), default="1pct")
    parser.add_argument("--run-root", help="where `make compare` kept its runs; default $L2L_HOME, else ~/l2l_runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the comparison's records")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="default: %(default)s")
    add_out(parser, RESULTS / "where.json")
    args = parser.parse_args()
    runs, commits = finished_runs(args.schedule, args.seeds, args.results, args.run_root)
    labeled = {task: labels(task, path) for task, path in runs.items() if task.row in SELECTORS}
    shown = Task("refshapes", args.schedule, args.seeds[0], "l2l")
    picture(runs[shown], shown, *labeled[shown]).savefig(args.picture, dpi=80)
    about = {"dataset": shown.dataset, "schedule": args.schedule, "seeds": args.seeds, "commits": commits}
    parts = {
        "students": student_figures(students(runs)),
        "labels": label_figures(pd.concat([frame for frame, _ in labeled.values()])),
    }
    write_results(args.out, {**about, **parts})


if __name__ == "__main__":
    run_main(main)
