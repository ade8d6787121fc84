"""What the terminal shows."""

from __future__ import annotations

import io
from typing import Any

import pytest

from l2l_ray.actors.progress import Console, done_frac, duration, results_text
from l2l_ray.config import RunConfig, smoke_config


@pytest.fixture
def config() -> RunConfig:
    """Burn-in of 6 steps, two folds of 4, then two methods with 2 rounds of 4 steps: 30 steps."""
    return smoke_config().model_copy(update={"compare": ("supervised",)})


@pytest.mark.parametrize(
    ("stage", "done", "steps"),
    [
        ("burn-in base", 0, 0),
        ("burn-in base", 6, 6),
        ("burn-in fold0", 3, 9),
        ("burn-in fold1", 4, 14),
        ("supervised round 0", 1, 15),
        ("supervised round 1", 4, 22),
        ("l2l round 0", 0, 22),
        ("l2l round 1", 4, 30),
    ],
)
def test_the_share_done_counts_all_steps_of_the_job(config: RunConfig, stage: str, done: int, steps: int) -> None:
    assert done_frac(config, stage, done) == pytest.approx(steps / 30)


def test_without_a_trained_selector_there_are_no_folds() -> None:
    config = smoke_config()
    config = config.model_copy(update={"selector": config.selector.model_copy(update={"name": "accept_all"})})
    assert done_frac(config, "burn-in base", 6) == pytest.approx(6 / 14)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (42, "42s"), (185, "3m05s"), (7800, "2h10m")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def _state(**parts: Any) -> dict[str, Any]:
    return {"train": {}, "labels": {}, "priors": {}, "mean_iou": {}, "shards_committed": 0, "shards_total": 10, **parts}


def test_the_line_says_what_is_known_so_far(config: RunConfig) -> None:
    console = Console(config, io.StringIO())
    assert console.line(_state(), busy=0) == "train group starting"
    line = console.line(
        _state(
            priors={"labeled": {"done": 1, "total": 1}, "val": {"done": 3, "total": 9}},
            train={"stage": "l2l round 0", "done": 1, "total": 4},
            labels={"per_s": 41.6, "accepted_frac": 0.613},
            mean_iou={"prior_only v0 val": 0.31, "l2l v0 val": 0.4567},
            shards_committed=4,
        ),
        busy=2,
    )
    assert line == (
        "priors val 3/9 | l2l round 0 1/4 | shards 4/10, 42 images/s | accepted 61% | l2l v0 val mIoU 0.457"
    )


def test_a_log_file_gets_a_line_now_and_then(config: RunConfig) -> None:
    out = io.StringIO()
    console = Console(config, out)
    for _ in range(5):
        console.update(_state(), busy=0)
    assert out.getvalue().count("\n") == 1 and "\r" not in out.getvalue()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_rewritten(config: RunConfig) -> None:
    out = _Terminal()
    console = Console(config, out)
    console.update(_state(), busy=0)
    console.say("done")
    assert out.getvalue().startswith("\r") and out.getvalue().endswith("train group starting\ndone\n")


def test_results_become_a_text_table() -> None:
    figures = {
        "overall_iou": 0.4,
        "mean_iou": 0.45678,
        "precision_at": {0.5: 0.5, 0.6: 0.4, 0.7: 0.3, 0.8: 0.2, 0.9: 0.1},
    }
    table = {
        "rows": [{"label": "L2L (RPLE)", "splits": {"val": figures}}],
        "dataset": "refshapes", "labeled_frac": 0.05, "seed": 0, "chosen_on": "val", "protocol": "native size",
    }  # fmt: skip
    lines = results_text(table).splitlines()
    assert lines[2].split() == ["L2L", "(RPLE)", "val", "40.0", "45.7", "50.0", "40.0", "30.0", "20.0", "10.0"]
    assert "5% labeled, seed 0" in lines[3]
