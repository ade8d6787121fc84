"""Which rows are left, how long they take, and running them, some at a time, each in a process of its own.

Rows of a seed share burn-in and priors. What no row has made yet is made by one of them while the others wait, and they
find it made. A row that failed is named at the end; what needs it is not run.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from benchmarks.compare.records import Record, digest_of, load_record, processor
from benchmarks.compare.rows import ROWS, Records, Row, Task, with_needed
from l2l_ray.config import RunConfig
from l2l_ray.errors import DataError
from l2l_ray.loop.progress import duration
from l2l_ray.loop.training.burn_in import burn_in_settings
from l2l_ray.selector.registry import spec_of

logger = logging.getLogger(__name__)

_POLL_S = 0.2


@dataclass(frozen=True)
class Comparison:
    """What is compared, and where records and runs are.

    Example: `Comparison(tasks, Path("benchmarks/results/compare"), None)`
    """

    tasks: Sequence[Task]
    folder: Path
    run_root: str | None

    def needed(self, task: Task) -> Records | None:
        """Return the records that a task needs; None where one of them is not there."""
        found = {name: self.record(task.sibling(name)) for name in task.spec.needs}
        there = {name: record for name, record in found.items() if record is not None}
        return there if len(there) == len(found) else None

    def record(self, task: Task) -> Record | None:
        """Return the record of a task; None where there is none, or one of other settings."""
        found = load_record(self.folder, task.name)
        records = self.needed(task) if found is not None else None
        if records is None or found is None:
            return None
        try:
            config = task.config(records, self.run_root)
        except DataError:  # what it needs does not say enough: it is left, and `Runner` says why
            return None
        return found if found.digest == digest_of(config, task.spec.oracle, task.spec.is_biased) else None

    def left(self) -> list[Task]:
        """Return the tasks to run, in order: those without a record.

        Of a seed that has such tasks, also those whose record is of another kind of processor than this one: what is
        run here could not be compared with them.
        """
        records = {task: self.record(task) for task in self.tasks}
        unfinished = {task.sibling("") for task, record in records.items() if record is None}  # their seeds
        return [
            task
            for task, record in records.items()
            if record is None or (task.sibling("") in unfinished and record.processor != processor())
        ]


def tasks_of(
    datasets: Sequence[str], schedules: Sequence[str], seeds: Sequence[int], rows: Sequence[Row]
) -> list[Task]:
    """Return every task once, rows that others need among them: all rows of a seed before the next seed."""
    tasks = [
        Task(dataset, schedule, seed, row.name)
        for dataset in datasets
        for schedule in schedules
        for seed in seeds
        for row in with_needed(list(rows))
    ]
    return list(dict.fromkeys(tasks))


def shared_parts(config: RunConfig, is_biased: bool) -> set[str]:
    """Name what a task shares with others: a burn-in and, where its selector looks at labels, the folds' teachers."""
    data = [config.data.dataset, config.data.benchmark_frac, config.data.labeled_frac]
    burn_in = json.dumps([*data, is_biased, burn_in_settings(config)], sort_keys=True)
    return {burn_in, f"folds of {burn_in}"} if spec_of(config.selector.name).learns else {burn_in}


@dataclass
class Runner:
    """Runs what is left.

    Args:
        comparison: What is compared.
        processes: Rows at a time.
        keep: Whether the weights of finished runs stay.
    """

    comparison: Comparison
    processes: int
    keep: bool = False
    failed: dict[Task, str] = field(default_factory=dict)  # and why, or the file that says so
    _running: dict[Task, tuple[subprocess.Popen[bytes], IO[bytes], set[str]]] = field(default_factory=dict)
    _made: set[str] = field(default_factory=set)  # shared parts

    def run(self) -> None:
        """Run all that is left, then return; when it is stopped, so is what it runs."""
        queue = self.comparison.left()
        total, started = len(queue), time.monotonic()
        try:
            while self._start_ready(queue):
                for task in self._wait():
                    self._end(task)
                    done = total - len(queue) - len(self._running)
                    failed = f" failed, see {self.failed[task]}" if task in self.failed else ""
                    passed = duration(time.monotonic() - started)
                    logger.info("%d of %d rows, %s: %s%s", done, total, passed, task.name, failed)
        finally:
            for process, _, _ in self._running.values():
                process.terminate()
            for process, output, _ in self._running.values():
                process.wait()
                output.close()
        self.failed |= dict.fromkeys(queue, "it needs a row that failed")

    def _start_ready(self, queue: list[Task]) -> bool:
        """Start what may start now; return whether anything runs. What needs a failed row is never started."""
        while len(self._running) < self.processes and (ready := self._next(queue)) is not None:
            queue.remove(ready[0])
            self._start(*ready)
        return bool(self._running)

    def _wait(self) -> list[Task]:
        """Wait until a process ends; return the tasks of those that did."""
        while not (ended := [task for task, (process, *_) in self._running.items() if process.poll() is not None]):
            time.sleep(_POLL_S)
        return ended

    def _next(self, queue: list[Task]) -> tuple[Task, set[str]] | None:
        """Return the first task that may start now, and the parts it shares; what can never start leaves the queue."""
        making = {part for *_, parts in self._running.values() for part in parts - self._made}
        for task in list(queue):
            records = self.comparison.needed(task)
            open_needs = {task.sibling(name) for name in task.spec.needs} & {*queue, *self._running, *self.failed}
            if records is not None and not open_needs:
                try:
                    config = task.config(records, self.comparison.run_root)
                except DataError as error:
                    queue.remove(task)
                    self.failed[task] = str(error)
                    continue
                parts = shared_parts(config, task.spec.is_biased)
                if not parts & making:
                    return task, parts
        return None

    def _start(self, task: Task, parts: set[str]) -> None:
        records = self.comparison.needed(task) or {}
        run = task.config(records, self.comparison.run_root).run_dir
        run.parent.mkdir(parents=True, exist_ok=True)
        output = (run.parent / f"{run.name}.log").open("wb")
        command = [sys.executable, "-m", "benchmarks.compare", "--work", task.dataset, task.schedule, str(task.seed)]
        command += [task.row, "--records", str(self.comparison.folder)]
        command += ["--run-root", self.comparison.run_root] if self.comparison.run_root else []
        command += ["--keep-runs"] if self.keep else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        root = Path(__file__).resolve().parents[2]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=root)
        self._running[task] = process, output, parts

    def _end(self, task: Task) -> None:
        process, output, parts = self._running.pop(task)
        output.close()
        if process.returncode == 0 and self.comparison.record(task) is not None:
            self._made |= parts
        else:
            self.failed[task] = output.name


def list_text(comparison: Comparison, processes: int) -> str:
    """Return what is done and what is left, row by row, and how long that takes by what finished rows took."""
    found = {task: comparison.record(task) for task in comparison.tasks}
    known: dict[tuple[str, str], list[float]] = {(task.schedule, task.row): [] for task in comparison.tasks}
    for task, record in found.items():
        if record is not None:
            known[task.schedule, task.row].append(sum(record.wall_s.values()))
    records = found | dict.fromkeys(comparison.left())
    lines, left_s, unknown = [f"{'row':<28}{'seeds done':<24}{'minutes each':>13}"], 0.0, 0
    order = {row.name: number for number, row in enumerate(ROWS)}
    table = sorted({(task.dataset, task.schedule, order[task.row], task.row) for task in records})
    for number, (dataset, schedule, _, row) in enumerate(table):
        if not number or table[number - 1][:2] != (dataset, schedule):
            lines.append(f"{dataset} {schedule}")
        seeds = {
            task.seed: record for task, record in records.items() if task == Task(dataset, schedule, task.seed, row)
        }
        seconds = _seconds(known, schedule, row)
        open_seeds = sum(record is None for record in seeds.values())
        left_s += open_seeds * (seconds or 0.0)
        unknown += open_seeds if seconds is None else 0
        done = " ".join("·" if record is None else str(seed) for seed, record in sorted(seeds.items()))
        minutes = "?" if seconds is None else f"{seconds / 60:.1f}" + ("" if known[schedule, row] else " (guess)")
        lines.append(f"  {row:<26}{done:<24}{minutes:>13}")
    num_done = sum(record is not None for record in records.values())
    num_left = len(records) - num_done
    rest = f", {unknown} of them unknown" if unknown else ""
    time_left = f"about {duration(left_s / processes)}" if unknown < num_left or not num_left else "an unknown time"
    lines.append(f"{num_done} of {len(records)} done; {num_left} left{rest}: {time_left} with {processes} at a time")
    return "\n".join(lines)


def _seconds(known: dict[tuple[str, str], list[float]], schedule: str, row: str) -> float | None:
    """Return the mean seconds of a row, else of all rows of its schedule; None where none is done."""
    own = known[schedule, row] or [s for (other, _), found in known.items() if other == schedule for s in found]
    return float(np.mean(own)) if own else None
