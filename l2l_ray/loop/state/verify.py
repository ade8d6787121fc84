"""Whether everything a run has kept is still what was written: looked at when it goes on, before anything trusts it.

Nothing is changed here. Sizes are compared before contents are hashed; a gigabyte takes about a second.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from l2l_ray.files import is_whole
from l2l_ray.loop.state.digests import Digest, Digests
from l2l_ray.loop.state.ledger import Key, Ledger, LedgerEntry, num_shards
from l2l_ray.loop.state.position import Position
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.version_record import TRAINING_FILES, problems_in
from l2l_ray.selector.registry import stores_labels
from l2l_ray.storage import local_copy

TABLES = ("examples/*.parquet", "priors/*.parquet", "evals/*/*.parquet")


@dataclass
class Findings:
    """What is wrong in a run's folder. Paths are relative to it.

    Example: `check(run).num_damaged`
    """

    ledger_lines: list[int] = field(default_factory=list)  # numbers from 1
    shards: list[tuple[LedgerEntry, str]] = field(default_factory=list)  # with what is wrong
    lost_labels: list[Key] = field(default_factory=list)  # without a line, though a version was trained on them
    versions: list[tuple[Position, str]] = field(default_factory=list)  # they must be trained again
    states: list[tuple[Position, str]] = field(default_factory=list)  # training cannot go on from them
    files: dict[str, str] = field(default_factory=dict)  # tables, priors, evaluations, results
    unknown: list[str] = field(default_factory=list)  # whole tables that nothing was promised of
    num_files: int = 0
    num_bytes: int = 0
    seconds: float = 0.0

    @property
    def num_damaged(self) -> int:
        """How many things are damaged or lost."""
        lines = max(len(self.ledger_lines), len(self.lost_labels))  # a damaged line is a lost label, if not of now
        return lines + sum(len(part) for part in (self.shards, self.versions, self.states, self.files))


def check(run: RunFolder) -> Findings:
    """Look at everything that a run has promised to keep."""
    started, found = time.monotonic(), Findings()
    ledger = Ledger(run.ledger_path)
    found.ledger_lines = [number for number, _ in ledger.damaged]
    _check_files(run, found)
    used: dict[str, set[int]] = {method: set() for method in run.methods}  # versions that labeled something
    for entry in ledger.all_entries():
        used.setdefault(entry.method, set()).add(entry.version)
        _count(found, run.path / entry.path)
        if problem := Digest(None, entry.sha256).problem(run.path / entry.path):
            found.shards.append((entry, problem))
    for method in run.methods:
        _check_versions(run, method, used[method], found)
    _check_labels(run, ledger, found)
    found.seconds = time.monotonic() - started
    return found


def _check_files(run: RunFolder, found: Findings) -> None:
    promised = Digests.load(run.path).promised
    for name, digest in promised.items():
        _count(found, run.path / name)
        if problem := digest.problem(run.path / name):
            found.files[name] = problem
    for path in (path for pattern in TABLES for path in sorted(run.path.glob(pattern))):
        name = path.relative_to(run.path).as_posix()
        if name not in promised:
            try:
                pq.read_metadata(local_copy(path))
                found.unknown.append(name)
            except (OSError, pa.ArrowException):
                found.files[name] = "it cannot be read"


def _check_versions(run: RunFolder, method: str, used: set[int], found: Findings) -> None:
    places = [place for place in _places(run.train_dir) if place.method == method]
    # In a store: what a killed writer left, which the next one removes.
    places = [place for place in places if is_whole(run.train_dir / place.folder_name)]
    there = {place.version for place in places if not place.step}
    used = used | {place.version for place in _places(run.path / "evals") if place.method == method}
    for version in set(range(max(there | used, default=-1) + 1)) - there:
        found.versions.append((Position(method, version), "it is missing"))
    for place in places:
        folder = run.train_dir / place.folder_name
        for path in folder.iterdir():
            _count(found, path)
        problems = problems_in(folder)
        spare = {name: problems.pop(name) for name in TRAINING_FILES if name in problems}
        if place.step and (problems or spare):
            found.states.append((place, _words({**problems, **spare})))
        elif problems:
            found.versions.append((place, _words(problems)))
        elif spare:
            found.states.append((place, _words(spare)))


def _check_labels(run: RunFolder, ledger: Ledger, found: Findings) -> None:
    """Find rounds that a version was trained on, and whose labels are not all in the ledger."""
    unlabeled = run.examples_path("unlabeled")
    if unlabeled.relative_to(run.path).as_posix() in found.files or not unlabeled.exists():
        return
    expected = num_shards(pq.read_metadata(local_copy(unlabeled)).num_rows, run.config.loop.shard_size)
    for method in filter(stores_labels, run.methods):
        for round_index in range(max(run.published(method), default=0)):
            keys = ((method, round_index, shard) for shard in range(expected))
            found.lost_labels += [key for key in keys if key not in ledger and key not in ledger.revoked]


def _places(parent: Path) -> list[Position]:
    """Return the positions that folders are named after, in the order in which they come; hidden ones are not whole."""
    names = (path.name for path in parent.glob("[!.]*") if path.is_dir())
    found = [place for name in names if (place := Position.named(name)) is not None]
    return sorted(found, key=lambda place: (str(place.method), place.version, place.step))


def _count(found: Findings, path: Path) -> None:
    if path.exists():
        found.num_files += 1
        found.num_bytes += path.stat().st_size


def _words(problems: dict[str, str]) -> str:
    return ", ".join(f"{name}: {problem}" for name, problem in problems.items())
