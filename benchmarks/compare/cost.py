"""Processor seconds of a run, booked on what they were spent for.

It listens where the terminal's progress line comes from: the time between two notices belongs to what the first of
them said. A run that is killed and goes on adds up what all its attempts spent, so steps that were lost count twice;
`attempts` says how many there were. Seconds of one machine are no seconds of another: compare within one.

    priors, burn-in, evaluation, report    the same for all rows of a seed, or made once for them
    folds                                  teachers of the folds, needed by selectors that look at labeled images
    loading, labels, training, selector    what the method costs
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from l2l_ray.config import RunConfig
from l2l_ray.files import replacing
from l2l_ray.loop.progress import Console, Status

_SAVE_EVERY_S = 2.0


class Cost:
    """Books processor and wall seconds by phase, and keeps them in a file.

    Args:
        path: The file; what earlier attempts spent is read from it.
    """

    def __init__(self, path: Path) -> None:
        content: dict[str, Any] = {"attempts": 0, "cpu_s": {}, "wall_s": {}}
        if path.exists():
            content = json.loads(path.read_text())
        self.attempts: int = content["attempts"] + 1
        self.cpu_s: dict[str, float] = content["cpu_s"]
        self.wall_s: dict[str, float] = content["wall_s"]
        self._path = path
        self._phase = "loading"
        self._since = time.process_time(), time.monotonic()
        self.save()  # an attempt counts from its start, however soon it is killed

    def begin(self, phase: str) -> None:
        """Book the time since the last call on the phase that ends, and begin another."""
        cpu, wall = time.process_time(), time.monotonic()
        for seconds, now, since in zip((self.cpu_s, self.wall_s), (cpu, wall), self._since, strict=True):
            seconds[self._phase] = seconds.get(self._phase, 0.0) + now - since
        self._phase, self._since = phase, (cpu, wall)
        if wall - self._saved > _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write what was booked."""
        with replacing(self._path) as temporary:
            content = {"attempts": self.attempts, "cpu_s": self.cpu_s, "wall_s": self.wall_s}
            temporary.write_text(json.dumps(content))
        self._saved = time.monotonic()


class CostConsole(Console):
    """Shows nothing, and books the time between what a run reports."""

    def __init__(self, config: RunConfig, cost: Cost) -> None:
        super().__init__(config, stream=None)
        self._cost = cost

    def update(self, status: Status, busy: int) -> None:
        """Book the time that has passed."""
        self._cost.begin(phase_of(status))


def phase_of(status: Status) -> str:
    """Return what a run in one process is at."""
    if status.now:
        words = {"labels of": "labels", "is measured on": "evaluation", "the report": "report"}
        return next((phase for said, phase in words.items() if said in status.now), "loading")
    train = status.train
    if train is None:
        return "loading"
    if train.done == train.total:
        return "selector"  # what follows the last step: its updates, and the version's files
    if train.stage.method is not None:
        return "training"
    return "folds" if train.stage.number else "burn-in"
