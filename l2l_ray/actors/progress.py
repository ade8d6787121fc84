"""What the terminal shows while a run goes on: one line that is rewritten, or a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TextIO

from l2l_ray.actors.coordinator import Status, TrainProgress
from l2l_ray.config import RunConfig
from l2l_ray.loop.state.position import Stage
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.selector.registry import spec_of


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


def closing_text(folder: RunFolder, results: dict[str, Any]) -> str:
    """Say how the run ended: figures, skips, where the report is."""
    skips = Counter(skip.kind for skip in folder.skips())
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(skips.items())) or "none"
    return f"\n{results_text(results)}\n\nskipped    {counted}\nreport     {folder.path / 'report.html'}"


def results_text(results: dict[str, Any]) -> str:
    """Return results.json as a text table, one line per method and split, figures in percent."""
    head = f"{'method':<28}{'split':<7}{'oIoU':>7}{'mIoU':>7}" + "".join(f"{f'P@0.{k}':>7}" for k in range(5, 10))
    lines = [head, "-" * len(head)]
    for row in results["rows"]:
        for split, figures in row["splits"].items():
            values = [figures["overall_iou"], figures["mean_iou"], *figures["precision_at"].values()]
            lines.append(f"{row['label']:<28}{split:<7}" + "".join(f"{100 * value:>7.1f}" for value in values))
    return "\n".join([*lines, f"({results['dataset']}, {results['labeled_frac']:.0%} labeled, seed {results['seed']}; "
                      f"version chosen on: {results['chosen_on']}; {results['protocol']})"])  # fmt: skip


@dataclass
class Console:
    """Writes progress; quiet otherwise.

    Args:
        config: The run's config.
        stream: Where to.
    """

    config: RunConfig
    stream: TextIO = field(default_factory=lambda: sys.stdout)
    _started: float = field(default_factory=time.monotonic)
    _shown: float = 0.0
    _first: tuple[float, float] | None = None  # (time, share done) of the first training step seen
    _open_line: bool = False

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self.stream.write(("\n" if self._open_line else "") + text + "\n")
        self.stream.flush()
        self._open_line = False

    def update(self, status: Status, busy: int) -> None:
        """Show how far the run is, if it is time to.

        Args:
            status: From the coordinator.
            busy: Items the labelers have in work.
        """
        now, terminal = time.monotonic(), self.stream.isatty()
        if now - self._shown < (0.5 if terminal else self.config.cluster.progress_every_s):
            return
        self._shown = now
        line = f"[{duration(now - self._started):>6}] {self.line(status, busy)}"
        self.stream.write(f"\r\x1b[2K{line}" if terminal else line + "\n")
        self.stream.flush()
        self._open_line = terminal

    def line(self, status: Status, busy: int) -> str:
        """Return the progress line without its time."""
        parts = [f"priors of {name} {done}/{total}" for name, (done, total) in status.priors.items() if done < total]
        train, labels = status.train, status.labels
        if status.training_waits_for:
            parts.append(f"training waits for {status.training_waits_for}")
        else:
            parts.append(f"{train.stage.label} {train.done}/{train.total}" if train else "train group starting")
        if labels:
            rate = f", {labels.per_s:.0f} images/s" if busy else ""
            parts.append(f"shards {status.shards_committed}/{status.shards_total}{rate}")
            parts.append(f"accepted {labels.accepted_frac:.0%}")
        if status.mean_iou:
            name, value = list(status.mean_iou.items())[-1]
            parts.append(f"{name} mIoU {value:.3f}")
        if train and (eta := self._eta(train)):
            parts.append(eta)
        return " | ".join(parts)

    def _eta(self, train: TrainProgress) -> str | None:
        now, done = time.monotonic(), done_frac(self.config, train.stage, train.done)
        if self._first is None:
            self._first = now, done
        gained = done - self._first[1]
        return f"ETA {duration((now - self._first[0]) * (1 - done) / gained)}" if gained > 0 and done < 1 else None
