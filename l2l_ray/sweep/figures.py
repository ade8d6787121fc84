"""A trial's figures, from what its run keeps: val from the evaluations' files, the other splits from results.json.

Never from metrics.jsonl: a log only shows what is kept elsewhere, and by a lost line another version would be ranked.
"""

from __future__ import annotations

import json
from typing import Any

from l2l_ray.errors import HEALS, DataError
from l2l_ray.loop.state.plan import VAL
from l2l_ray.loop.state.run_folder import RunFolder

SHOWN = ("mean_iou", "overall_iou")


def val_figures(run: RunFolder, after: int = 0) -> dict[int, dict[str, float]]:
    """Return val's mean_iou and overall_iou of a run's main selector by version, in order.

    Args:
        run: The trial's run, finished or not.
        after: Versions up to this one are left out.
    Raises:
        DataError: A file cannot be read.
    """
    from l2l_ray.loop.evaluation.evaluate import Evaluations  # here: it loads torch

    evaluations, main = Evaluations(run), run.methods[-1]
    found = [group for group in evaluations.groups() if (group[0], group[2]) == (main, VAL) and group[1] > after]
    summaries = {group[1]: evaluations.meter(group).summary() for group in sorted(found)}
    return {version: {name: summary[name] for name in SHOWN} for version, summary in summaries.items()}


def chosen_figures(run: RunFolder) -> dict[str, Any]:
    """Return `chosen_version` of a finished run, and `<split>_mean_iou` and `<split>_overall_iou` of all but val.

    Raises:
        DataError: results.json cannot be read.
    """
    path = run.path / "results.json"
    try:
        rows = json.loads(path.read_bytes())["rows"]
        row = next(row for row in rows if row["method"] == run.methods[-1])
        tests = {split: figures for split, figures in row["splits"].items() if split != VAL}
        named = {f"{split}_{name}": float(figures[name]) for split, figures in tests.items() for name in SHOWN}
        return {"chosen_version": int(row["version"]), **named}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise DataError(f"{path} cannot be read: {error!r}; {HEALS}") from error
