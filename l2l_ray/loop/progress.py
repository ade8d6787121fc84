"""What the terminal shows of a run, in one process or on Ray: what it works on, how far it is, how it ended.

While it goes on: one line that is rewritten, or a line now and then where the output is a file.
"""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from l2l_ray.config import RunConfig
from l2l_ray.loop.state.position import Stage
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.report.next_steps import take_away
from l2l_ray.report.outcome import outcome
from l2l_ray.report.record import read_run
from l2l_ray.selector.registry import spec_of

_RATE_WINDOW_S = 30.0


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """How far training is.

    Example: `TrainProgress(Stage("l2l", 0), 3, 40, {"loss": 0.7})`: 3 of the stage's 40 steps are done.
    """

    stage: Stage
    done: int
    total: int
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelProgress:
    """The labels committed last: whose, their share of accepted pixels, and how fast they come.

    Example: `LabelProgress("l2l", 1, 0.61, 41.5)`
    """

    method: str
    round: int
    accepted_frac: float
    per_s: float


@dataclass
class Status:
    """How far a run is: what the terminal shows and, on Ray, what state.json holds."""

    shards_total: int
    shards_committed: int = 0
    newest_version: dict[str, int] = field(default_factory=dict)  # by method
    train: TrainProgress | None = None
    training_waits_for: str = ""
    held_by: str = ""  # who has had something in work for long, in words
    labels: LabelProgress | None = None
    priors: dict[str, tuple[int, int]] = field(default_factory=dict)  # example set -> (answered, total)
    mean_iou: dict[str, float] = field(default_factory=dict)  # "l2l v1 val" -> figure, the newest last
    now: str = ""  # what one process does in place of training
    stopped: str = ""

    def to_json(self) -> str:
        """Write it down; a stage becomes its label."""
        content = asdict(self)
        if self.train is not None:
            content["train"] = {"stage": self.train.stage.label, "done": self.train.done, "total": self.train.total}
            content["train"] |= self.train.values
        return json.dumps({**content, "updated_unix_s": round(time.time(), 1)}, indent=1)


class LabelRate:
    """How fast labels come, over the last half minute."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def add(self, num: int) -> float:
        """Count `num` more labels; return labels per second."""
        now = time.monotonic()
        self._counts.append((now, self._counts[-1][1] + num))
        while len(self._counts) > 2 and now - self._counts[0][0] > _RATE_WINDOW_S:
            self._counts.popleft()
        (start, before), (end, after) = self._counts[0], self._counts[-1]
        return (after - before) / max(1e-3, end - start)


def done_frac(config: RunConfig, stage: Stage, done: int) -> float:
    """Return which share of all training steps of the job is done, in [0, 1].

    Args:
        config: The run's config.
        stage: What training is at.
        done: Steps of that stage.
    """
    methods = (*config.compare, config.selector.name)
    num_folds = config.selector.num_folds if any(spec_of(method).learns for method in methods) else 0
    total = Stage(methods[-1], config.loop.rounds).steps_before(config, num_folds)
    return (stage.steps_before(config, num_folds) + done) / total


def duration(seconds: float) -> str:
    """Return e.g. `42s`, `3m05s`, `2h10m`."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def finished_text(folder: RunFolder) -> str:
    """Say that there is nothing to do."""
    return f"this run is finished: nothing to do; its report is {folder.path / 'report.html'}"


def closing_text(folder: RunFolder, results: dict[str, Any]) -> str:
    """Say how the run ended: figures, what they mean, where the report is, what can be done next."""
    record = read_run(folder.path)
    run, found = shlex.quote(str(folder.path)), outcome(record)
    steps = [
        *([(found.step.command, "the doubtful labels, to correct them")] if found.step else []),
        *((step.command, "the masks, as files") for step in take_away(record)),
        (f'l2l predict PHOTO "the left cup" --run {run}', "other photos and texts"),
    ]
    width = max(len(command) for command, _ in steps)
    lines = [
        *(f"result     {sentence}" for sentence in found.sentences),
        f"report     {folder.path / 'report.html'}",
        *(f"next       {command:<{width}}   # {what}" for command, what in steps),
    ]
    return "\n".join(["", results_text(results), "", *lines])


def results_text(results: dict[str, Any]) -> str:
    """Return results.json as a text table, one line per method and split, figures in percent."""
    head = f"{'method':<28}{'split':<7}{'oIoU':>7}{'mIoU':>7}" + "".join(f"{f'P@0.{k}':>7}" for k in range(5, 10))
    lines = [head, "-" * len(head)]
    for row in results["rows"]:
        for split, figures in row["splits"].items():
            values = [figures["overall_iou"], figures["mean_iou"], *figures["precision_at"].values()]
            lines.append(f"{row['label']:<28}{split:<7}" + "".join(f"{100 * value:>7.1f}" for value in values))
    if len(lines) == 2:
        return "no images with masks were held out, so nothing says how good the result is; look at the report"
    share = f"{results['labeled_frac']:.0%} labeled, " if results["labeled_frac"] else ""
    return "\n".join([*lines, f"({results['dataset']}, {share}seed {results['seed']}; "
                      f"version chosen on: {results['chosen_on']}; {results['protocol']})"])  # fmt: skip


@runtime_checkable
class Stream(Protocol):
    """Where progress goes: `sys.stdout` and its kin."""

    def write(self, text: str, /) -> int:
        """Write text; return how many characters."""

    def flush(self) -> None:
        """Let what was written be seen."""

    def isatty(self) -> bool:
        """Whether it is a terminal, whose line can be written again."""


@dataclass
class Console:
    """Writes progress; quiet otherwise.

    Args:
        config: The run's config.
        stream: Where to; None = nowhere.
        every_s: Seconds between lines where the stream is no terminal.
    """

    config: RunConfig
    stream: Stream | None = field(default_factory=lambda: sys.stdout)
    every_s: float = 10.0
    _started: float = field(default_factory=time.monotonic)
    _shown: float = 0.0
    _first: dict[str, tuple[float, float]] = field(default_factory=dict)  # phase -> (time, share done) when first seen
    _open_line: bool = False

    def say(self, text: str) -> None:
        """Write a line that stays."""
        if self.stream is not None:
            self.end_line()
            self.stream.write(text + "\n")
            self.stream.flush()

    def end_line(self) -> None:
        """Let the line that is rewritten stay as it is."""
        if self._open_line and self.stream is not None:
            self.stream.write("\n")
            self.stream.flush()
        self._open_line = False

    @contextmanager
    def with_warnings(self) -> Iterator[Console]:
        """Show warnings in the block as lines of their own, without the name of who logs them."""
        handler, root = _Warnings(self), logging.getLogger()
        root.addHandler(handler)
        try:
            yield self
        finally:
            root.removeHandler(handler)
            self.end_line()

    def update(self, status: Status, busy: int) -> None:
        """Show how far the run is, if it is time to.

        Args:
            status: What is known.
            busy: Items the labelers have in work.
        """
        if self.stream is None:
            return
        now, terminal = time.monotonic(), self.stream.isatty()
        if now - self._shown < (0.5 if terminal else self.every_s):
            return
        self._shown = now
        line = f"[{duration(now - self._started):>6}] {self.line(status, busy)}"
        width = shutil.get_terminal_size().columns - 1  # a longer line would not be rewritten, but repeated
        self.stream.write(f"\r\x1b[2K{line[:width]}" if terminal else line + "\n")
        self.stream.flush()
        self._open_line = terminal

    def line(self, status: Status, busy: int) -> str:
        """Return the progress line without its time."""
        train, labels = status.train, status.labels
        asked = [f"{name} {done}/{total}" for name, (done, total) in status.priors.items() if done < total]
        parts = [f"language model: {', '.join(asked)}"] if asked else []
        if status.now:
            parts.append(status.now)
        elif status.training_waits_for:
            who = f": {status.held_by}" if status.held_by else ""
            parts.append(f"waiting for {status.training_waits_for}{who}")
        elif train:
            parts.append(f"{train.stage.label} {train.done}/{train.total}")
        if labels:
            rate = f", {labels.per_s:.0f} texts/s" if busy else ""
            parts.append(f"labels: {status.shards_committed}/{status.shards_total} shards{rate}")
            parts.append(f"{labels.accepted_frac:.0%} of pixels accepted")
        if status.mean_iou:
            name, value = list(status.mean_iou.items())[-1]
            parts.append(f"{name} mIoU {value:.3f}")
        if train:
            parts += self._eta("training", done_frac(self.config, train.stage, train.done))
        elif asked:
            counts = status.priors.values()
            parts += self._eta("asking", sum(done for done, _ in counts) / sum(total for _, total in counts))
        return " | ".join(parts or ["models are loading"])

    def _eta(self, phase: str, done: float) -> list[str]:
        now = time.monotonic()
        since, before = self._first.setdefault(phase, (now, done))
        return [f"ETA {duration((now - since) * (1 - done) / (done - before))}"] if before < done < 1 else []


class _Warnings(logging.Handler):
    """Lines on stderr that do not run into the console's."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.end_line()
        sys.stderr.write(f"{self.format(record)}\n")
