"""The page of a sweep: everything in one file, nothing from anywhere else, words of others escaped."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from l2l_ray.report.sweep_page import headline, write_sweep_page
from l2l_ray.report.sweep_summary import points_frame

NAMES = {"loop.lr": "lr"}


def trials(states: list[str]) -> pd.DataFrame:
    num = len(states)
    figures = [0.3 + 0.1 * n if state != "failed" else None for n, state in enumerate(states)]
    return pd.DataFrame(
        {
            "trial": [f"t{n}" for n in range(num)], "loop.lr": [0.1 * (n + 1) for n in range(num)], "seed": 0,
            "state": states, "reason": ["<b>no</b> room" if state == "failed" else "" for state in states],
            "version": 2, "val_mean_iou": figures, "seconds": 3.0,
        }
    ).astype({"val_mean_iou": "float64"})  # fmt: skip


def test_the_headline_counts_and_names_the_best() -> None:
    frame = trials(["finished", "finished", "stopped at version 1", "failed"])
    assert headline(points_frame(frame, list(NAMES)), frame, NAMES) == (
        "4 points, 4 trials: 2 finished, 1 stopped, 1 failed. Best on val: lr 0.2, mean IoU 40.0 %."
    )
    frame["val_mean_iou"] = 0.4
    assert headline(points_frame(frame, list(NAMES)), frame, NAMES).endswith(
        "None is best on val: 2 points have the same mean IoU in print; the first: lr 0.1, mean IoU 40.0 %."
    )
    frame = trials(["failed"])
    assert headline(points_frame(frame, list(NAMES)), frame, NAMES) == (
        "1 point, 1 trial: 1 failed. No trial finished, so there is nothing to compare."
    )


@pytest.mark.parametrize("best", [("python jobs/selfevolve.py --config /x/best.yaml", 0), None])
def test_the_page_needs_nothing_but_itself(tmp_path: Path, best: tuple[str, int] | None) -> None:
    frame = trials(["finished", "finished", "finished", "failed"])
    path = tmp_path / "my-sweep" / "sweep.html"
    path.parent.mkdir()
    write_sweep_page(path, frame, points_frame(frame, list(NAMES)), NAMES, "l2l", "Swept: loop.lr", best)
    page = path.read_text()
    assert "<h1>my-sweep</h1>" in page and page.count('<img src="data:image/svg+xml') == 1
    assert "<b>no</b>" not in page and "&lt;b&gt;no&lt;/b&gt; room" in page
    assert ("selfevolve.py" in page) == (best is not None)
    assert "http" not in page and "<script" not in page
    frame["val_mean_iou"] = 0.4
    write_sweep_page(path, frame, points_frame(frame, list(NAMES)), NAMES, "l2l", "Swept: loop.lr", best)
    assert ("the first of the 3 points that are best in print" in path.read_text()) == (best is not None)
