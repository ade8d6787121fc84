"""One run, one folder: where everything lies, and whether it may start, resume, or is already done.

A run starts in an empty place, continues with `--resume`, or is finished and stays as it is. The config it was started
with is saved first; resuming with other settings is refused by field name, because half a run under one setting and
half under another is neither.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from l2l_ray.config import RunConfig, read_config, save_config
from l2l_ray.errors import FREE_SPACE, CheckpointError, ConfigError, DataError
from l2l_ray.files import replacing
from l2l_ray.loop.state.jsonl import append_line, read_lines
from l2l_ray.loop.state.position import Position
from l2l_ray.types import Skip

# Changing these between start and resume is harmless: they say where and how fast, not what.
_FREE_TO_CHANGE = ("resume", "cluster", "run_root", "name")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Example: `RunFolder.open(config).version_dir("l2l", 2)` is `<root>/<name>/train/l2l-v0002`.
    """

    path: Path
    config: RunConfig

    @classmethod
    def open(cls, config: RunConfig) -> RunFolder:
        """Create the folder, or reopen it.

        Raises:
            ConfigError: An unfinished run lies there and `resume` is off, its saved config differs, or nothing can be
                written there.
        """
        folder = cls(config.run_dir, config)
        saved = folder.path / "config.yaml"
        if saved.exists():
            if changed := _changed_fields(read_config(saved), config):
                raise ConfigError(
                    f"{folder.path} was started with other settings ({'; '.join(changed)}); "
                    "use the same settings or another --name, or delete the folder if you do not need it"
                )
            if not (config.resume or folder.finished):
                raise ConfigError(
                    f"an unfinished run lies in {folder.path}; continue it with --resume, or choose another --name"
                )
            return folder
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            (folder.path / "env.json").write_text(json.dumps(_environment(config), indent=1))
            with replacing(saved) as temporary:
                save_config(config, temporary)
        except OSError as error:
            raise ConfigError(
                f"cannot start a run in {folder.path}: {error}; choose another --run_root, or free some space"
            ) from error
        return folder

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
        for stale in self.path.rglob("*.tmp"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
        (self.path / "FINISHED").write_text("")

    def forget_config(self) -> None:
        """Let other settings start in this folder: for a start that failed before it did anything."""
        (self.path / "config.yaml").unlink(missing_ok=True)

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
        found = self.train_dir.glob(f"{method}-v*/version.json")
        return {int(p.parent.name.rsplit("-v", 1)[1]) for p in found if "-s" not in p.parent.name.rsplit("-v", 1)[1]}

    def chosen_version(self) -> tuple[str, int]:
        """Return the main method and its version that was best on val.

        Raises:
            CheckpointError: The run is not finished.
        """
        try:
            best = json.loads((self.path / "selection.json").read_text())
            return str(best["method"]), int(best["version"])
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{self.path} has chosen no version yet: {error}; let the run end, or continue it with --resume"
            ) from error

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
            raise DataError(f"cannot write {path}: {error}; {FREE_SPACE}") from error

    def events(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl back; a torn last line is left out."""
        return [json.loads(line) for line in read_lines(self.path / "metrics.jsonl")]

    def save_skips(self, skips: Iterable[Skip]) -> None:
        """Write the items left out, one JSON line each, atomically.

        Raises:
            DataError: The file could not be written.
        """
        path = self.path / "skips.jsonl"
        try:
            with replacing(path) as temporary:
                temporary.write_text("".join(json.dumps(asdict(skip)) + "\n" for skip in skips))
        except OSError as error:
            raise DataError(f"cannot write {path}: {error}; {FREE_SPACE}") from error

    def skips(self) -> list[Skip]:
        """Read the items left out."""
        return [Skip(**json.loads(line)) for line in read_lines(self.path / "skips.jsonl")]


def _changed_fields(saved: RunConfig, given: RunConfig) -> list[str]:
    old, new = (c.model_dump(exclude=set(_FREE_TO_CHANGE)) for c in (saved, given))
    return list(_differences(old, new, ""))


def _differences(old: Any, new: Any, prefix: str) -> Iterable[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old:
            yield from _differences(old[key], new[key], f"{prefix}.{key}".lstrip("."))
    elif old != new:
        yield f"{prefix} was {old!r}, now {new!r}"


def _environment(config: RunConfig) -> dict[str, Any]:
    """Return what else determines a result: code version, libraries, command."""
    return {
        "git": _git_commit(),
        "command": " ".join(sys.argv),
        "seed": config.loop.seed,
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in ("l2l-ray", "torch", "transformers", "ray", "numpy")},
    }


def _git_commit() -> str:
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
