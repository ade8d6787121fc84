"""What the terminal shows."""

from __future__ import annotations

import io

import pytest

from l2l_ray.config import RunConfig, smoke_config
from l2l_ray.loop.progress import (
    Console,
    LabelProgress,
    Status,
    TrainProgress,
    closing_text,
    done_frac,
    duration,
    results_text,
)
from l2l_ray.loop.state.position import Stage
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.report.outcome import outcome
from l2l_ray.report.record import read_run

FIXED = "fixed_threshold@0.8"


@pytest.fixture
def config() -> RunConfig:
    """Burn-in of 6 steps, two folds of 4, then three methods with 2 rounds of 4 steps: 38 steps."""
    return smoke_config().model_copy(update={"compare": ("supervised", FIXED)})


@pytest.mark.parametrize(
    ("stage", "done", "steps"),
    [
        (Stage(None, 0), 0, 0),
        (Stage(None, 0), 6, 6),
        (Stage(None, 1), 3, 9),
        (Stage(None, 2), 4, 14),
        (Stage("supervised", 0), 1, 15),
        (Stage("supervised", 1), 4, 22),
        (Stage(FIXED, 0), 0, 22),
        (Stage(FIXED, 1), 3, 29),
        (Stage("l2l", 0), 0, 30),
        (Stage("l2l", 1), 4, 38),
    ],
    ids=lambda value: value.label if isinstance(value, Stage) else str(value),
)
def test_the_share_done_counts_all_steps_of_the_job(config: RunConfig, stage: Stage, done: int, steps: int) -> None:
    assert done_frac(config, stage, done) == pytest.approx(steps / 38)


def test_without_a_trained_selector_there_are_no_folds() -> None:
    config = smoke_config()
    config = config.model_copy(update={"selector": config.selector.model_copy(update={"name": "accept_all"})})
    assert done_frac(config, Stage(None, 0), 6) == pytest.approx(6 / 14)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (42, "42s"), (185, "3m05s"), (7800, "2h10m")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_line_says_what_is_known_so_far(config: RunConfig) -> None:
    console = Console(config, io.StringIO())
    status = Status(shards_total=10)
    assert console.line(status, busy=0) == "models are loading"
    status.priors = {"labeled": (1, 1), "val": (3, 9)}
    status.train = TrainProgress(Stage(FIXED, 0), 1, 4)
    status.labels = LabelProgress(FIXED, 0, accepted_frac=0.613, per_s=41.6)
    status.shards_committed = 4
    status.mean_iou = {"prior_only v0 val": 0.31, "l2l v0 val": 0.4567}
    assert console.line(status, busy=2) == (
        "language model: val 3/9 | fixed_threshold@0.8 round 0 1/4 | labels: 4/10 shards, 42 texts/s | "
        "61% of pixels accepted | "
        "l2l v0 val mIoU 0.457"
    )


def test_the_line_says_what_training_waits_for(config: RunConfig) -> None:
    status = Status(shards_total=10, train=TrainProgress(Stage(None, 2), 4, 4))
    status.training_waits_for = "the labels of l2l round 0"
    console = Console(config, io.StringIO())
    assert console.line(status, busy=0) == "waiting for the labels of l2l round 0"
    status.held_by = "labeler-1 has had shard 7 for 40 s"
    assert console.line(status, busy=1) == "waiting for the labels of l2l round 0: labeler-1 has had shard 7 for 40 s"


def test_the_time_left_follows_from_the_steps_of_the_whole_job(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    console, now = Console(config, io.StringIO()), [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    first = Status(shards_total=10, train=TrainProgress(Stage("supervised", 1), 4, 4))  # 22 of 38 steps
    assert "ETA" not in console.line(first, busy=0)
    now[0] = 30.3
    later = Status(shards_total=10, train=TrainProgress(Stage(FIXED, 0), 3, 4))  # 3 steps in 30.3 s; 13 are left
    assert console.line(later, busy=0).endswith("fixed_threshold@0.8 round 0 3/4 | ETA 2m11s")
    last = Status(shards_total=10, train=TrainProgress(Stage("l2l", 1), 4, 4))
    assert "ETA" not in console.line(last, busy=0)


def test_a_log_file_gets_a_line_now_and_then(config: RunConfig) -> None:
    out = io.StringIO()
    console = Console(config, out)
    for _ in range(5):
        console.update(Status(shards_total=10), busy=0)
    assert out.getvalue().count("\n") == 1 and "\r" not in out.getvalue()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_rewritten(config: RunConfig) -> None:
    out = _Terminal()
    console = Console(config, out)
    console.update(Status(shards_total=10), busy=0)
    console.say("done")
    assert out.getvalue().startswith("\r") and out.getvalue().endswith("models are loading\ndone\n")


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


def test_a_run_ends_with_the_sentences_of_its_report_and_what_to_do_next(whole_run: RunFolder) -> None:
    record = read_run(whole_run.path)
    lines = closing_text(whole_run, record.results).split("\n\n")[1].splitlines()
    said = [line.removeprefix("result     ") for line in lines if line.startswith("result ")]
    assert tuple(said) == outcome(record).sentences and 2 <= len(said) <= 4
    commands = [line.split()[1:3] for line in lines if line.startswith("next ")]
    assert commands[-2:] == [["l2l", "export"], ["l2l", "predict"]]
    assert len({line.index("   #") for line in lines if line.startswith("next ")}) == 1
    assert len(lines) <= 8
