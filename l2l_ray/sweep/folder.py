"""The folder of a sweep: how it was started, its log, and the state of each of its trials.

    <root>/<sweep name>/sweep.json     the words it was started with and where, and its trials
                        trials.jsonl   what happened to which trial, one line each; one writer, the sweep
                        <trial id>/    a run folder

A trial is finished when its run folder says so and holds its figures, whoever finished it; one whose figures cannot be
read has failed, and is run again, which makes them again. That it was stopped, and at which version, is in the log
alone.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from l2l_ray.config.places import MAX_DEPTH, below, given_in, require_run_name
from l2l_ray.errors import HEALS, ClusterError, ConfigError, DataError, one_line
from l2l_ray.files import locked, replacing
from l2l_ray.jsonl import append_line, read_records
from l2l_ray.loop.state.run_folder import RunFolder, run_around
from l2l_ray.storage import StorePath
from l2l_ray.sweep.figures import chosen_figures, val_figures
from l2l_ray.sweep.trials import Trial
from l2l_ray.wording import counted, first_of

SEEN_TIMEOUT_S = 60.0
LOOK_AGAIN_S = 1.0

State = Literal["finished", "stopped", "failed", "unfinished", "waiting"]
Event = Literal["started", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What is known of one trial.

    `figures` maps each evaluated version after 0, up to the one it was stopped at, to val's mean_iou and overall_iou.

    Example: `Outcome("stopped", {1: {"mean_iou": 0.31, "overall_iou": 0.28}}, "", 41.0)`
    """

    state: State
    figures: dict[int, dict[str, float]]
    reason: str = ""  # of a failure
    seconds: float | None = None  # wall time; None where it was started more than once, as after a kill
    chosen: dict[str, Any] = field(default_factory=dict)  # of a finished one: see `chosen_figures`

    @property
    def is_open(self) -> bool:
        """Whether the trial is to be run: neither finished nor stopped; a failed one is tried again."""
        return self.state not in ("finished", "stopped")


@dataclass(frozen=True)
class SweepFolder:
    """One sweep, one folder.

    Example: `SweepFolder(config.root / "sweep-label_ratio")`
    """

    path: Path

    @classmethod
    def named(cls, name: str, root: Path) -> SweepFolder:
        """Return the folder of a name below a run root.

        Raises:
            ConfigError: It is no name of a sweep, or a run lies there.
        """
        try:
            name = below(name)
        except ValueError as error:
            raise ConfigError(f"--sweep-name {error}") from None
        require_run_name("--sweep-name", name, MAX_DEPTH - 1)  # its runs lie one deeper
        path = root / name
        if outer := run_around(path / "trial", root):
            raise ConfigError(f"cannot start a sweep in {path}: {outer} is a run; choose another --sweep-name")
        return cls(path)

    @property
    def has_begun(self) -> bool:
        """Whether a trial of a sweep has begun here."""
        return self._saved() is not None and bool(self.events())

    def require_startable(self, trials: Sequence[Trial], resume: bool, words: Sequence[str] = ()) -> None:
        """Refuse a start that would mix two sweeps; a sweep in which no trial has begun yet counts as none.

        Args:
            trials: Every trial of this start.
            resume: Whether an earlier start may be continued; with more trials than it had, too.
            words: The command's words.
        Raises:
            ConfigError: A sweep lies there and `resume` is off; `resume` is on and there is none; or it has trials
                that are not among these.
            DataError: The list of its trials cannot be read.
        """
        if isinstance(self.path, StorePath):
            raise ConfigError(
                f"a sweep's trials lock their folders, which an object store cannot; got {self.path}, expected a "
                "--run_root on a disk or a shared filesystem"
            )
        saved = self._saved()
        if saved is not None and not self.events():
            return
        if saved is None and resume:
            raise ConfigError(f"there is no sweep in {self.path} to continue; start it without --resume")
        if saved is not None and not resume:
            raise ConfigError(
                f"a sweep lies in {self.path}; continue it with --resume (finished trials are not run again), or "
                "choose another --sweep-name"
            )
        gone = set(saved["trials"] if saved else ()) - {trial.id for trial in trials}
        if saved is not None and gone == saved["trials"].keys() != set() and _same_words(saved["words"], words):
            raise ConfigError(
                f"the sweep in {self.path} was started with the same words, but none of its "
                f"{counted(len(gone), 'trial')} is one of these: an earlier version of the code began it, or the space "
                "or a file that is named there was changed since; continue it with that version, or with the file as "
                "it was, or begin another by --sweep-name"
            )
        if saved is not None and gone:
            begun = shlex.join(map(str, saved["words"]))
            raise ConfigError(
                f"the sweep in {self.path} was started with other settings: {len(gone)} of its {len(saved['trials'])} "
                f"trials are none of these; give the words it was started with ({begun}), more --seeds or --samples if "
                "you like, or choose another --sweep-name"
            )

    @contextmanager
    def begun(self, trials: Sequence[Trial], words: Sequence[str], resume: bool) -> Iterator[None]:
        """Hold the sweep's folder for the length of a `with` block, making it where it is a new one.

        Args:
            trials: Every trial of this start.
            words: The command's words, to be named when other ones are given later.
            resume: As in `require_startable`.
        Raises:
            ConfigError: As `require_startable`, or another process is at work on the sweep.
            DataError: As `require_startable`.
        """
        self.require_startable(trials, resume, words)
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.path / ".lock", timeout_s=0))
            except TimeoutError:
                raise ConfigError(
                    f"another process is at work on the sweep in {self.path}; let it end, or choose another "
                    "--sweep-name"
                ) from None
            listed = {trial.id: {"values": trial.values, "seed": trial.seed} for trial in trials}
            with replacing(self.path / "sweep.json") as temporary:
                facts = {"script": os.path.abspath(sys.argv[0]), "words": list(words), "directory": given_in()}
                temporary.write_text(json.dumps({**facts, "trials": listed}, indent=1))
            yield

    def _saved(self) -> dict[str, Any] | None:
        path = self.path / "sweep.json"
        try:
            saved = json.loads(path.read_bytes()) if path.exists() else None
            return None if saved is None else {"words": list(saved["words"]), "trials": dict(saved["trials"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} cannot be read: {error!r}; remove the file: finished trials stay") from error

    def log(self, event: Event, trial_id: str, **details: Any) -> None:
        """Append a line about a trial to the log."""
        append_line(self.path / "trials.jsonl", {"event": event, "trial": trial_id, **details})

    def events(self) -> list[dict[str, Any]]:
        """Read the log back; what is no event is left out: at worst its trial goes on from its own folder."""
        return [event for event in read_records(self.path / "trials.jsonl") if {"event", "trial"} <= event.keys()]

    def last_events(self) -> dict[str, dict[str, Any]]:
        """Return what was last said of each trial, by id."""
        return {event["trial"]: event for event in self.events()}

    def open_trials(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the trials that are to be run."""
        outcomes = self.outcomes(trials)
        return [trial for trial in trials if outcomes[trial.id].is_open]

    def outcomes(self, trials: Sequence[Trial]) -> dict[str, Outcome]:
        """Return what is known of each trial, by id."""
        events = self.events()
        last = {event["trial"]: event for event in events}
        starts = Counter(event["trial"] for event in events if event["event"] == "started")
        return {trial.id: _outcome(trial, last.get(trial.id), starts[trial.id]) for trial in trials}

    def unseen(self, trials: Sequence[Trial], wait_s: float = SEEN_TIMEOUT_S) -> list[str]:
        """Return the ids of trials that were run and have no end here, since what their nodes wrote is not seen.

        Args:
            trials: All of the sweep, after it.
            wait_s: How long one that has ended by the log is waited for: a network's file system may be late.
        """
        deadline = time.monotonic() + wait_s
        while True:
            outcomes = self.outcomes(trials)
            found = [trial.id for trial in trials if outcomes[trial.id].state in ("unfinished", "waiting")]
            has_ended = {event["trial"] for event in self.events() if event["event"] in ("finished", "stopped")}
            if not has_ended & {*found} or time.monotonic() > deadline:
                return found
            time.sleep(LOOK_AGAIN_S)

    def require_seen(self, lost: Sequence[str]) -> None:
        """Refuse to call a sweep done of which trials are unseen.

        Raises:
            ClusterError: There are such.
        """
        if lost:
            raise ClusterError(
                f"{counted(len(lost), 'trial')} ended without a result in {self.path} here: {first_of(lost)}; expected "
                "a folder that all nodes share: give a --run_root on a file system that all of them see, or the same "
                "command with --resume once the results are there"
            )


def _same_words(saved: Sequence[Any], given: Sequence[str]) -> bool:
    """Tell whether two starts had the same words, but for the one that continues a sweep."""
    one, other = ([word for word in map(str, words) if not word.startswith("--resume")] for words in (saved, given))
    return one == other


def _outcome(trial: Trial, last: dict[str, Any] | None, starts: int) -> Outcome:
    run, last = RunFolder(trial.config.run_dir, trial.config), last or {}
    event, seconds = last.get("event"), last.get("seconds") if starts <= 1 else None
    figures: dict[int, dict[str, float]] = {}
    try:
        figures = val_figures(run)
        if run.finished:
            _require_last(run, figures)
            return Outcome("finished", figures, seconds=seconds, chosen=chosen_figures(run))
    except DataError as error:
        return Outcome("failed", figures, one_line(error), seconds)
    if event == "stopped":
        kept = {version: figure for version, figure in figures.items() if version <= last.get("version", 0)}
        if kept:  # else it was stopped where nobody else sees its folder
            return Outcome("stopped", kept, seconds=seconds)
    if event == "failed":
        return Outcome("failed", figures, last.get("reason", ""), seconds)
    begun = (run.path / "config.yaml").exists()
    return Outcome("unfinished" if begun else "waiting", figures)


def _require_last(run: RunFolder, figures: dict[int, dict[str, float]]) -> None:
    rounds = run.config.loop.rounds
    if rounds not in figures:
        raise DataError(f"{run.path} is finished, but version {rounds} has no file of its figures on val; {HEALS}")
