"""`sweep.html`: one file with the points, figures and trials of a sweep; no server, no script, no request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from l2l_ray.files import replacing
from l2l_ray.report import sweep_plots
from l2l_ray.report.canvas import drawn
from l2l_ray.report.sweep_summary import (
    METRIC,
    best_point,
    figure_text,
    num_as_good,
    points_table,
    trials_table,
    value_text,
)
from l2l_ray.wording import counted

FOLDER = Path(__file__).parent


def write_sweep_page(
    path: Path,
    trials: pd.DataFrame,
    points: pd.DataFrame,
    names: Mapping[str, str],
    selector: str,
    about: str,
    best: tuple[str, int] | None,
) -> None:
    """Write the page of a sweep.

    Args:
        path: The page.
        trials: As `sweep_summary` describes.
        points: From `sweep_summary.points_frame`.
        names: Swept field -> its name for people.
        selector: The selector of all trials, where it was not swept.
        about: What was swept, and how, in a sentence or two.
        best: The command that runs the best point, and its seed; None where no trial finished.
    Raises:
        OSError: The page cannot be written.
    """
    fields = list(names)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    failed = trials[trials["state"] == "failed"].to_dict("records")
    page = environment.get_template("sweep.html.j2").render(
        name=path.parent.name,
        headline=headline(points, trials, names),
        about=about,
        failed=[(row["trial"], f"{_point(row, names)}, seed {row['seed']}", row["reason"]) for row in failed],
        points=points_table(points, fields, dict(names)),
        curves=drawn(
            ("Labeled share", "", sweep_plots.share_curves(points, fields, selector, names)),
            ("Each field alone", "", sweep_plots.field_effects(points, fields, names)),
        ),
        trials=trials_table(trials, fields, dict(names)),
        best=best[0] if best else "",
        best_seed=best[1] if best else "",
        num_as_good=num_as_good(points),
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def headline(points: pd.DataFrame, trials: pd.DataFrame, names: Mapping[str, str]) -> str:
    """Return in a sentence or two what a sweep came to."""
    states = trials["state"].str.partition(" ")[0].value_counts().to_dict()
    counts = ", ".join(f"{states[state]} {state}" for state in _ORDER if state in states)
    of = f"{counted(len(points), 'point')}, {counted(len(trials), 'trial')}: {counts}."
    best = best_point(points)
    if best is None:
        return f"{of} No trial finished, so there is nothing to compare."
    shown = f"{_point(best, names)}, mean IoU {figure_text(best, METRIC)} %."
    if (num := num_as_good(points)) > 1:
        return f"{of} None is best on val: {num} points have the same mean IoU in print; the first: {shown}"
    return f"{of} Best on val: {shown}"


_ORDER = ["finished", "stopped", "failed", "unfinished", "waiting"]


def _point(row: Mapping[Any, Any] | pd.Series[Any], names: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value_text(row[field])}" for field, name in names.items())
