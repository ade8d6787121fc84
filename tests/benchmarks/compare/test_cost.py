"""Seconds are booked on what they were spent for, over all attempts."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from benchmarks.compare.cost import Cost, phase_of
from l2l_ray.loop.progress import Status, TrainProgress
from l2l_ray.loop.state.position import Stage


def spin(seconds: float) -> None:
    """Use the processor for so long."""
    since = time.process_time()
    while time.process_time() - since < seconds:
        pass


def test_seconds_are_booked_by_phase_and_added_to_those_of_earlier_attempts(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    first = Cost(path)
    first.begin("training")
    spin(0.05)
    first.begin("evaluation")
    spin(0.1)
    first.begin("done")
    first.save()
    assert first.cpu_s["training"] == pytest.approx(0.05, abs=0.03)
    assert first.cpu_s["evaluation"] == pytest.approx(0.1, abs=0.03)
    assert all(first.wall_s[phase] > 0 for phase in first.cpu_s)
    second = Cost(path)
    second.begin("training")
    spin(0.05)
    second.begin("done")
    second.save()
    content = json.loads(path.read_text())
    assert content["attempts"] == 2 and content["cpu_s"]["training"] > first.cpu_s["training"] + 0.04


@pytest.mark.parametrize(
    ("now", "train", "phase"),
    [
        ("the models are loading", None, "loading"),
        ("labels of l2l round 0", None, "labels"),
        ("l2l v1 is measured on val", None, "evaluation"),
        ("the report is written", None, "report"),
        ("", None, "loading"),
        ("", TrainProgress(Stage(None, 0), 3, 40), "burn-in"),
        ("", TrainProgress(Stage(None, 2), 3, 40), "folds"),
        ("", TrainProgress(Stage("l2l", 0), 3, 40), "training"),
        ("", TrainProgress(Stage("l2l", 0), 40, 40), "selector"),  # what follows the last step
    ],
)
def test_what_a_run_is_at(now: str, train: TrainProgress | None, phase: str) -> None:
    assert phase_of(Status(shards_total=1, now=now, train=train)) == phase
