"""The files at a sweep's end: sweep.csv and sweep.parquet (one row per trial), sweep.html, best.yaml.

They are made from the trials' folders alone, so they can be written at any time, for the trials there are.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from l2l_ray.config import RunConfig, save_config
from l2l_ray.errors import DataError, run_remedy
from l2l_ray.files import replacing
from l2l_ray.report.sweep_page import write_sweep_page
from l2l_ray.report.sweep_summary import FINISHED, METRIC, best_point, points_frame
from l2l_ray.sweep.folder import Outcome, SweepFolder
from l2l_ray.sweep.trials import Trial, short_names


@dataclass(frozen=True)
class SweepResults:
    """What a sweep came to.

    Example: `write_results(SweepFolder(path), trials).failed`
    """

    trials: pd.DataFrame  # one row per trial, see `trials_frame`
    points: pd.DataFrame  # see `report.sweep_summary.points_frame`
    failed: list[tuple[Trial, str]]  # with the reason, one line
    best: Trial | None  # of the best point the first seed; its config is in best.yaml
    command: str  # which runs best.yaml


def write_results(folder: SweepFolder, trials: Sequence[Trial]) -> SweepResults:
    """Read every trial and write the sweep's files.

    Args:
        folder: The sweep's folder.
        trials: All of its trials.
    Raises:
        DataError: A file cannot be written.
    """
    fields = list(trials[0].values)
    names = short_names(fields)
    outcomes = folder.outcomes(trials)
    frame = trials_frame(trials, outcomes)
    points = points_frame(frame, fields)
    best = _best(trials, outcomes, points)
    path = folder.path / "best.yaml"
    command = shlex.join(["python", "jobs/selfevolve.py", "--config", str(path)])
    try:
        with replacing(folder.path / "sweep.csv") as csv, replacing(folder.path / "sweep.parquet") as parquet:
            frame.to_csv(csv, index=False)
            _one_type_a_column(frame).to_parquet(parquet, index=False)
        path.unlink(missing_ok=True)
        if best is not None:
            with replacing(path) as temporary:
                save_config(best_config(best, folder), temporary)
        seeds = sorted({trial.seed for trial in trials})
        about = f"Swept: {', '.join(fields)}; seeds {', '.join(map(str, seeds))}. A seed draws the labeled images and "
        about += "everything random in training."
        write_sweep_page(
            folder.path / "sweep.html", frame, points, names, trials[0].config.selector.name, about,
            None if best is None else (command, best.seed),
        )  # fmt: skip
    except OSError as error:
        raise DataError(f"cannot write the sweep's files in {folder.path}: {error}; {run_remedy(error)}") from error
    failed = [(trial, outcomes[trial.id].reason) for trial in trials if outcomes[trial.id].state == "failed"]
    return SweepResults(frame, points, failed, best, command)


def best_config(trial: Trial, folder: SweepFolder) -> RunConfig:
    """Return a trial's config as that of a run of its own: it differs in its name alone."""
    return trial.config.model_copy(update={"name": f"{folder.path.name}-best"})


def trials_frame(trials: Sequence[Trial], outcomes: dict[str, Outcome]) -> pd.DataFrame:
    """Return one row per trial, in order.

    Columns: `trial`, the swept fields, `seed`, `state`, `reason`, `version` (the last one measured on val),
    `val_mean_iou` and `val_overall_iou` of that version, `val_mean_iou_v1` and so on of every version,
    `chosen_version` (best on val) with `<split>_mean_iou` and `<split>_overall_iou` of the other splits, `seconds`
    (wall time; of trials that were started once), `folder`. Figures are shares in [0, 1]; what there is not is empty.
    """
    rows = [_row(trial, outcomes[trial.id]) for trial in trials]
    first = ["trial", *trials[0].values, "seed", "state", "reason", "version", METRIC, "val_overall_iou"]
    last = ["seconds", "folder"]
    between = sorted({name for row in rows for name in row} - {*first, *last})
    frame = pd.DataFrame(rows, columns=[*first, *between, *last])
    versions = [name for name in ("version", "chosen_version") if name in frame]
    numbers = [name for name in map(str, frame) if name.endswith("_iou") or name == "seconds"]
    return frame.astype(dict.fromkeys(versions, "Int64") | dict.fromkeys(numbers, "float64"))


def _row(trial: Trial, outcome: Outcome) -> dict[str, Any]:
    state: str = outcome.state
    row: dict[str, Any] = {"trial": trial.id, **trial.values, "seed": trial.seed, "reason": outcome.reason}
    if outcome.figures:
        version = max(outcome.figures)
        row |= {"version": version, **{f"val_{name}": value for name, value in outcome.figures[version].items()}}
        row |= {f"{METRIC}_v{number}": figure["mean_iou"] for number, figure in outcome.figures.items()}
        state = f"stopped at version {version}" if outcome.state == "stopped" else state
    return row | outcome.chosen | {"state": state, "seconds": outcome.seconds, "folder": str(trial.config.run_dir)}


def _best(trials: Sequence[Trial], outcomes: dict[str, Outcome], points: pd.DataFrame) -> Trial | None:
    best = best_point(points)
    ids = () if best is None else best["trials"]
    return next((trial for trial in trials if trial.id in ids and outcomes[trial.id].state == FINISHED), None)


def _one_type_a_column(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn columns of mixed types into text: a Parquet column has one type."""
    mixed = [
        name for name in frame
        if frame[name].dtype == object and len({type(value) for value in frame[name].dropna()}) > 1
    ]  # fmt: skip
    return frame.astype(dict.fromkeys(mixed, str))
