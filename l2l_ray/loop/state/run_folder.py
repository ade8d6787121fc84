"""One run, one folder: where everything lies, and whether it may start, resume, or is already done.

A run starts in an empty place, continues with `--resume`, or is finished and stays as it is. The folder is made once
the data are known to be good, and the config it was started with is saved first; resuming with other settings is
refused by field name, because half a run under one setting and half under another is neither.
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from l2l_ray.config import NO_RESULT, RunConfig, dump_without, read_config, save_config
from l2l_ray.config.differences import differences
from l2l_ray.config.places import MAX_DEPTH, given_in, require_run_name
from l2l_ray.errors import CheckpointError, ConfigError, DataError, run_remedy
from l2l_ray.files import remove_tree, replacing
from l2l_ray.jsonl import append_line, compact, read_lines, read_records, remove_lines
from l2l_ray.loop.state import lease
from l2l_ray.loop.state.digests import promise
from l2l_ray.loop.state.position import Position
from l2l_ray.storage import StorePath
from l2l_ray.types import Skip
from l2l_ray.wording import Say

MARKS = ("config.yaml", "env.json", "ledger.jsonl", "FINISHED", lease.FOLDER)  # a run without its config is one, too


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    `epoch` is that of its holder (`lease`); 0 where a process only reads, or works for the holder without committing.

    Example: `RunFolder.open(config).version_dir("l2l", 2)` is `<root>/<name>/train/l2l-v0002`.
    """

    path: Path
    config: RunConfig
    epoch: int = 0

    @classmethod
    def open(cls, config: RunConfig) -> RunFolder:
        """Return the folder of a run that may start or go on; nothing is written.

        Raises:
            ConfigError: An unfinished run lies there and `resume` is off; `resume` is on and there is none; its saved
                config differs; or nothing can be written there.
        """
        config = continued(config) if config.resume_if_begun else config
        folder = cls(config.run_dir, config)
        saved = folder.path / "config.yaml"
        if not saved.exists():
            if config.resume:
                raise ConfigError(_nothing_to_resume(config))
            if problem := _why_not_writable(folder.path):
                raise ConfigError(f"cannot start a run in {folder.path}: {problem}; choose another --run_root")
            _require_place(folder.path, config)
            return folder
        before = read_config(saved)
        if changed := _changed_fields(before, config) and _changed_fields(before.rooted(), config.rooted()):
            raise ConfigError(
                f"{folder.path} was started with other settings ({'; '.join(changed)}); "
                "use the same settings or another --name, or delete the folder if you do not need it"
            )
        if not (config.resume or folder.finished):
            lease.refuse_if_held(folder.path)
            raise ConfigError(
                f"an unfinished run lies in {folder.path}; continue it with --resume, or choose another --name"
            )
        return folder

    @contextmanager
    def held(self, what: str, say: Say = lambda _: None) -> Iterator[RunFolder]:
        """Hold the folder for the length of a `with` block; gives the folder with the holder's epoch.

        When a setting is refused before any work is done in a folder that the block made, the folder is removed: so the
        name is free again after, say, a model that is not there. A folder with priors or a version stays, and so does
        one in which anything else failed: `--resume` continues it.

        Args:
            what: Who holds it, as in `lease.Holder`.
            say: Told when a holder on another machine has to be waited for.
        Raises:
            ConfigError: Somebody else holds it, or as `open`: it changed since that looked.
        """
        was_there = self.path.exists()
        with lease.held(self.path, what, say, after=lease.newest_written(self.ledger_path)) as epoch:
            had_begun = (self.path / "config.yaml").exists()
            if had_begun and not self.config.resume and not self.finished:
                raise ConfigError(f"another process has just run in {self.path}; choose another --name")
            for log in (self.ledger_path, self.path / "digests.jsonl", self.path / "metrics.jsonl"):
                compact(log)
            try:
                yield replace(self, epoch=epoch)
            except ConfigError:
                begun = any(self.path.glob("priors/*.parquet")) or any(self.train_dir.glob("*/version.json"))
                if not had_begun and not begun:
                    self._remove(everything=not was_there)
                raise

    def create(self) -> RunFolder:
        """Make the folder, with the config and what else determines a result; where a run lies, change nothing.

        Raises:
            ConfigError: Nothing can be written there.
        """
        saved = self.path / "config.yaml"
        if saved.exists():
            return self
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "env.json").write_text(json.dumps(_environment(self.config), indent=1))
            with replacing(saved, durable=True) as temporary:
                save_config(self.config, temporary)
        except OSError as error:
            raise ConfigError(
                f"cannot start a run in {self.path}: {error}; choose another --run_root, or free some space"
            ) from error
        return self

    def _remove(self, everything: bool) -> None:
        """Remove the folder, or only what a start writes in a folder that was there before."""
        for name in ("config.yaml", "env.json", "data.json", "skips.jsonl", "metrics.jsonl", "digests.jsonl"):
            remove_lines(self.path / name)
        for folder in (self.path,) if everything else (self.path / "examples", self.path / "priors"):
            with suppress(OSError):
                remove_tree(folder)

    def promise(self, path: Path) -> None:
        """Note what a file of the run is, now that it has its name: it is checked when the run goes on.

        Raises:
            DataError: The line could not be written.
        """
        try:
            promise(self.path, path)
        except OSError as error:
            raise DataError(f"cannot write {self.path / 'digests.jsonl'}: {error}; {run_remedy(error)}") from error

    @property
    def methods(self) -> tuple[str, ...]:
        """Selectors run in this job, the main one last."""
        return *self.config.compare, self.config.selector.name

    @property
    def finished(self) -> bool:
        """Whether the run ended and its report is written."""
        return (self.path / "FINISHED").exists()

    def mark_finished(self) -> None:
        """Write the marker that makes a second start a no-op; remove what killed processes left half-written."""
        for stale in () if isinstance(self.path, StorePath) else self.path.rglob("*.tmp"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
        with replacing(self.path / "FINISHED", durable=True) as temporary:
            temporary.write_text("")

    @property
    def ledger_path(self) -> Path:
        """The job's ledger."""
        return self.path / "ledger.jsonl"

    @property
    def train_dir(self) -> Path:
        """Where versions and checkpoints are published."""
        return self.path / "train"

    def version_dir(self, method: str, version: int) -> Path:
        """Folder of one published version."""
        return self.train_dir / Position(method, version).folder_name

    def published(self, method: str) -> set[int]:
        """Versions of `method` that lie complete on disk."""
        found = (Position.named(path.parent.name) for path in self.train_dir.glob(f"{method}-v*/version.json"))
        return {place.version for place in found if place is not None and not place.step}

    def chosen_version(self) -> tuple[str, int]:
        """Return the main method and its version that was best on val.

        Raises:
            CheckpointError: The run is not finished.
        """
        try:
            best = json.loads((self.path / "selection.json").read_text())
            return str(best["method"]), int(best["version"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = "the run has not ended" if isinstance(error, FileNotFoundError) else str(error)
            raise CheckpointError(
                f"{self.path} has chosen no version yet: {why}; let the run end: `l2l runs` shows the command"
            ) from error

    @property
    def data_path(self) -> Path:
        """What was decided about the data, and what tells them from other data."""
        return self.path / "data.json"

    def examples_path(self, name: str) -> Path:
        """Parquet file of one set of examples (labeled, unlabeled, val, ...)."""
        return self.path / "examples" / f"{name}.parquet"

    def priors_path(self, name: str) -> Path:
        """Parquet file with the priors of one set, there once they are complete."""
        return self.path / "priors" / f"{name}.parquet"

    def log_event(self, event: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl.

        Raises:
            DataError: The line could not be written; the file is as it was before.
        """
        path = self.path / "metrics.jsonl"
        try:
            append_line(path, event)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error}; {run_remedy(error)}") from error

    def events(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl back; what is no event is left out: they only show what is kept elsewhere."""
        return read_records(self.path / "metrics.jsonl")

    def save_skips(self, skips: Iterable[Skip]) -> None:
        """Write the items left out, one JSON line each, atomically.

        Raises:
            DataError: The file could not be written.
        """
        path = self.path / "skips.jsonl"
        try:
            with replacing(path, durable=True) as temporary:
                temporary.write_text("".join(json.dumps(asdict(skip)) + "\n" for skip in skips))
            self.promise(path)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error}; {run_remedy(error)}") from error

    def skips(self) -> list[Skip]:
        """Read the items left out."""
        return [Skip(**json.loads(line)) for line in read_lines(self.path / "skips.jsonl")]


def open_run(run_dir: Path) -> RunFolder:
    """Return a run by its folder.

    Raises:
        ConfigError: There is none.
    """
    return RunFolder(run_dir, read_config(run_dir / "config.yaml"))


def continued(config: RunConfig) -> RunConfig:
    """Return the config with `resume` on where a run of its name began, off where none did: for whoever may be either.

    Example: `run_local(continued(config))`
    """
    return config.model_copy(update={"resume": (config.run_dir / "config.yaml").exists()})


def _nothing_to_resume(config: RunConfig) -> str:
    found = sorted(path.parent.relative_to(config.root).as_posix() for path in config.root.glob("*/config.yaml"))
    close = difflib.get_close_matches(config.run_name, found, 1)
    known = f"did you mean --name {close[0]}?" if close else f"runs there: {', '.join(found[:5]) or 'none'}"
    return f"there is no run in {config.run_dir} to continue ({known}); start it without --resume"


def run_around(path: Path, root: Path) -> Path | None:
    """Return the run below a run root that a folder lies in; None where it lies in none."""
    above = (folder for folder in path.parents if folder != root and folder.is_relative_to(root))
    return next((folder for folder in above if any((folder / mark).exists() for mark in MARKS)), None)


def _require_place(path: Path, config: RunConfig) -> None:
    """Refuse to begin a run that would be in no list, or would take others out of it."""
    require_run_name("--name", config.run_name)
    if outer := run_around(path, config.root):
        raise ConfigError(f"cannot start a run in {path}: {outer} is a run itself; choose another --name")
    levels = ("/".join("*" * depth) for depth in range(1, MAX_DEPTH)) if path.exists() else ()
    if inner := next((found for level in levels for found in path.glob(f"{level}/config.yaml")), None):
        raise ConfigError(f"cannot start a run in {path}: others lie in it, as {inner.parent}; choose another --name")


def _why_not_writable(path: Path) -> str | None:
    """Return why a folder cannot be made or written, as far as that can be told without writing; None = no reason."""
    if isinstance(path, StorePath):
        return path.why_unusable()
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        return f"{nearest} is a file"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} is not writable"


def _changed_fields(saved: RunConfig, given: RunConfig) -> list[str]:
    old, new = (dump_without(config, NO_RESULT) for config in (saved, given))
    return [f"{path} was {before!r}, now {now!r}" for path, before, now in differences(old, new)]


def _environment(config: RunConfig) -> dict[str, Any]:
    """Return what else determines a result: code version, libraries, command and where it was given."""
    return {
        "git": git_commit(),
        "command": shlex.join(sys.argv),
        "directory": given_in(),
        "seed": config.loop.seed,
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in ("l2l-ray", "torch", "transformers", "ray", "numpy")},
    }


def git_commit() -> str:
    """Return the commit of this code, with "-dirty" where files differ from it; "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return "unknown"
    return git.stdout.strip() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
