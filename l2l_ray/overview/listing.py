"""What lies below a run root: each run's state, data, methods, main figure, size and last activity.

A run folder is one that holds a file of `MARKS`; nothing is looked for inside it. Folders up to `MAX_DEPTH` levels deep
are searched: sweeps and comparisons keep their runs in folders of their own, each of which is a group. A run that
cannot be read is listed with what is wrong, and is never the end of the list. Nothing is written, no weight is read and
no content is hashed: `--resume` does that. What it looks for are files that are lost or have another size.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from l2l_ray.config import EMBEDDED, RunConfig
from l2l_ray.config.messages import selector_not_found
from l2l_ray.config.places import MAX_DEPTH, SHARED
from l2l_ray.errors import DataError, one_line
from l2l_ray.loop.progress import done_frac
from l2l_ray.loop.state.digests import Digests
from l2l_ray.loop.state.lease import FOLDER as LEASE
from l2l_ray.loop.state.lease import Holder
from l2l_ray.loop.state.position import Position, Stage
from l2l_ray.loop.state.run_folder import MARKS
from l2l_ray.report.began import in_its_folder, label_command, words_of
from l2l_ray.report.figures import ends_of
from l2l_ray.report.record import RunRecord, is_number, read_glance
from l2l_ray.report.summary import main_scores, main_split
from l2l_ray.storage import StorePath
from l2l_ray.sweep.folder import SweepFolder
from l2l_ray.wording import first_of

State = Literal["running", "stopped", "finished", "damaged", "selector not found", "of another version"]


class Figure(NamedTuple):
    """A mean IoU in [0, 1], of the main method, with the ends of its 95 % interval where they are known.

    Example: `Figure("val", 0.395, 0.372, 0.418, 3)`
    """

    split: str
    mean_iou: float
    low: float | None = None
    high: float | None = None
    version: int | None = None  # of an unfinished run: the last one measured


@dataclass(frozen=True)
class ListedRun:
    """One run of a list.

    Example: `list_runs(Path("~/l2l_runs").expanduser())[0].state`
    """

    name: str  # its folder below the run root
    path: Path
    state: State
    active: float  # Unix time of the last change, seconds
    num_bytes: int
    done: float | None = None  # share of all training steps, in [0, 1]; None where the config cannot be read
    detail: str = ""  # who holds it, how far it is, or what is wrong
    go_on: str = ""  # the command that continues it
    dataset: str = ""
    labeled_frac: float | None = None
    methods: tuple[str, ...] = ()  # the main one last
    figure: Figure | None = None

    @property
    def group(self) -> str:
        """The folder below the run root that it lies in with others; "" directly below the root."""
        return self.name.rpartition("/")[0]


class _Files(NamedTuple):
    """What lies in a run folder: sizes by path relative to it, and when anything last changed."""

    sizes: dict[str, int]
    active: float

    @property
    def positions(self) -> list[Position]:
        """Where training can go on from, in no order."""
        parts = (name.split("/") for name in self.sizes if name.startswith("train/"))
        names = {folders[1] for folders in parts if len(folders) > 2}
        return [place for name in names if (place := Position.named(name)) is not None]


def list_runs(root: Path) -> list[ListedRun]:
    """Return the runs below a run root, the last active first.

    Raises:
        DataError: There is no such folder, it cannot be read, or it is itself a run folder.
    """
    if not root.is_dir():
        raise DataError(f"there is no run root {root}; give the folder of all runs: --run_root FOLDER")
    if (root / "config.yaml").is_file():
        raise DataError(f"{root} is a run folder, not a folder of runs; give the one above it: {root.parent}")
    found = [look(path, root) for path in _run_folders(root)]
    return sorted(found, key=lambda run: (-run.active, run.name))


def look(path: Path, root: Path) -> ListedRun:
    """Return what can be said of one run folder; whatever is wrong with it is said, not raised."""
    run = ListedRun(path.relative_to(root).as_posix(), path, "damaged", 0.0, 0)
    try:
        files = _files_of(path)
        run = replace(run, active=files.active, num_bytes=sum(files.sizes.values()))
        return _read(run, files)
    except Exception as error:  # whatever a stranger's folder holds must not hide the other runs
        return replace(run, detail=f"cannot be read: {one_line(error) or type(error).__name__}")


def _run_folders(folder: Path, depth: int = 1) -> Iterator[Path]:
    try:
        names, folders = _entries(folder)
    except OSError as error:
        if depth == 1:
            raise DataError(f"the run root {folder} cannot be read: {one_line(error)}") from error
        yield folder  # `look` says what is wrong
        return
    if depth > 1 and not names.isdisjoint(MARKS):
        yield folder
    elif depth <= MAX_DEPTH:
        for name in folders:
            is_shared = depth == 1 and name in SHARED and not (folder / name / "config.yaml").is_file()
            if not (name.startswith(".") or is_shared):
                yield from _run_folders(folder / name, depth + 1)


def _entries(folder: Path) -> tuple[set[str], list[str]]:
    """Return the names in a folder, and which of them are folders to look into.

    A link is one where a run lies behind it: a link to a folder of folders may be a circle.
    """
    if isinstance(folder, StorePath):
        found = folder.call("ls", detail=True)
        names = {str(item["name"]).rstrip("/").rpartition("/")[2]: item["type"] == "directory" for item in found}
    else:
        with os.scandir(folder) as entries:
            names = {entry.name: entry.is_dir() and _is_no_circle(entry) for entry in entries}
    return set(names), sorted(name for name, is_folder in names.items() if is_folder)


def _is_no_circle(entry: os.DirEntry[str]) -> bool:
    return not entry.is_symlink() or any(os.path.lexists(os.path.join(entry.path, mark)) for mark in MARKS)


def _files_of(path: Path) -> _Files:
    """Look at every file of a run folder; one that is removed meanwhile is none. Links are not followed."""
    if isinstance(path, StorePath):
        found = path.call("find", detail=True).items()
        sizes = {str(key)[len(path.key) :].lstrip("/"): int(info["size"] or 0) for key, info in found}
        known = [path / name for name in ("FINISHED", "results.json", "config.yaml", *sizes) if name in sizes][:1]
        return _Files(sizes, max((place.stat().st_mtime for place in known), default=0.0))
    sizes, active, folders = {}, path.stat().st_mtime, [""]
    while folders:
        folder = folders.pop()
        with suppress(FileNotFoundError), os.scandir(path / folder) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{name}/")
                    continue
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    sizes[name], active = status.st_size, max(active, status.st_mtime)
    return _Files(sizes, active)


def _read(run: ListedRun, files: _Files) -> ListedRun:
    record, holder = read_glance(run.path), Holder.of(run.path)
    is_alive = holder is not None and holder.is_alive(run.path)
    run = _with_figures(run, record)
    if is_alive and not record.config:
        return replace(run, state="running", detail=f"{holder.words}; it has just begun" if holder else "")
    if all(name.startswith(f"{LEASE}/") for name in files.sizes):
        return replace(run, state="stopped", detail="it was stopped before anything was written; remove the folder")
    if not record.config:
        wrong = next(
            (line for line in record.absent if line.startswith("config.yaml")), "config.yaml holds no settings"
        )
        return replace(run, detail=f"{' '.join(wrong.split())}; put it back from a backup, or remove the folder")
    try:
        config = RunConfig.model_validate(record.config)
    except ValidationError as error:
        who = f"; held by {holder.words}" if is_alive and holder else ""
        if missing := selector_not_found(error):
            return replace(run, state="selector not found", detail=f"{missing}{who}")
        versions = record.env.get("versions")
        version = versions.get("l2l-ray") if isinstance(versions, Mapping) else None
        made = f"made by l2l-ray {version} ({record.env.get('git')})" if version else "of an unknown version of l2l-ray"
        fields = first_of(".".join(map(str, item["loc"])) or item["msg"] for item in error.errors())
        return replace(
            run, state="of another version", detail=f"{made}, whose settings this one does not read ({fields}){who}"
        )
    return _state_of(run, config, record, files, holder if is_alive else None, holder)


def _with_figures(run: ListedRun, record: RunRecord) -> ListedRun:
    data, results = _section(record.config, "data"), record.results
    frac = results.get("labeled_frac", data.get("labeled_frac"))
    if frac is None and not results and data.get("root") == EMBEDDED:
        frac = data.get("benchmark_frac")
    names = (results.get("dataset"), data.get("dataset"))
    compared = record.config.get("compare")
    methods = [*(compared if isinstance(compared, list) else ()), _section(record.config, "selector").get("name")]
    return replace(
        run,
        dataset=next((name for name in names if isinstance(name, str)), ""),
        labeled_frac=float(frac) if is_number(frac) else None,
        methods=tuple(str(method) for method in methods if method),
        figure=_figure(record),
    )


def _figure(record: RunRecord) -> Figure | None:
    splits = main_scores(record)
    split = main_split(splits)
    if is_number(value := splits.get(split, {}).get("mean_iou")):
        ends = ends_of(splits[split])
        found = (ends.get(f"mean_iou.{end}") for end in ("low", "high"))
        low, high = (float(end) if is_number(end) else None for end in found)
        return Figure(split, float(value), low, high)
    for point in reversed(record.points_of(record.main_method)):
        if is_number(value := point.get("val.mean_iou")):
            return Figure("val", float(value), version=point["version"])
    return None


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def _state_of(
    run: ListedRun, config: RunConfig, record: RunRecord, files: _Files, working: Holder | None, last: Holder | None
) -> ListedRun:
    is_finished = "FINISHED" in files.sizes
    done, where = (1.0, "") if is_finished else _how_far(config, files.positions)
    run = replace(run, done=done)
    if working is not None:
        return replace(run, state="running", detail="; ".join(filter(None, (working.words, where))))
    problems = _problems(run.path, record, files, is_finished)
    if not is_finished and (version := _stopped_by_sweep(run.path)) is not None:
        return replace(run, state="stopped", detail=f"by its sweep, at version {version}")
    if not is_finished or problems:
        run = replace(run, go_on=_go_on(run.path, config, record.env, last))
    if problems:
        return replace(run, detail=f"{first_of(problems)}; going on makes it again")
    return replace(run, state="finished" if is_finished else "stopped", detail=where)


def _how_far(config: RunConfig, positions: list[Position]) -> tuple[float, str]:
    """Return which share of training is done, and the stage in words."""
    methods = (*config.compare, config.selector.name)
    known = [place for place in positions if place.method in methods]
    if not known:
        return 0.0, "before the first version"
    place = max(known, key=lambda p: (methods.index(str(p.method)), p.version, p.step))
    method, number = str(place.method), place.version
    if number >= config.loop.rounds:
        if method == methods[-1]:
            return 1.0, "trained; figures or report are missing"
        method, number = methods[methods.index(method) + 1], 0
    return done_frac(config, Stage(method, number), place.step), f"in {Stage(method, number).label}"


def _problems(path: Path, record: RunRecord, files: _Files, is_finished: bool) -> list[str]:
    """Name what is lost or has another size than it had; contents are not looked at."""
    promised = Digests.load(path).promised
    found = [f"{name} is lost" for name in promised if name not in files.sizes]
    found += [
        f"{name} has {files.sizes[name]:,} bytes instead of {digest.num_bytes:,}"
        for name, digest in promised.items()
        if name in files.sizes and digest.num_bytes not in (None, files.sizes[name])
    ]
    if not found and is_finished:
        found = [" ".join(line.split()) for line in record.absent if line.startswith("results.json")]
    return found


def _go_on(path: Path, config: RunConfig, env: Mapping[str, Any], last: Holder | None) -> str:
    """Return the command that continues a run; what only the program that began it can do is left to that."""
    if sweep := _sweep_command(path.parent):
        return sweep
    if again := label_command(env, config.run_root):
        return again
    program = Path(words_of(env)[0]).name
    if program not in ("l2l", "cli.py", "selfevolve.py"):
        return f"with what began it: {in_its_folder(env)}{env.get('command')}"
    start = "ray job submit -- python jobs/selfevolve.py" if last and "Ray" in last.what else "l2l run"
    words = ["--config", str(path / "config.yaml")]
    if config.run_dir != path.absolute():  # it was moved or renamed
        words += ["--run_root", str(path.parent), "--name", path.name]
    return f"{start} {shlex.join([*words, '--resume'])}"


def _stopped_by_sweep(path: Path) -> int | None:
    """Return the version at which a run's sweep stopped it, for good; None = it did not."""
    last = SweepFolder(path.parent).last_events().get(path.name, {})
    return last.get("version") if last.get("event") == "stopped" else None


def _sweep_command(folder: Path) -> str:
    """Return the command that continues the sweep of a folder; "" where it holds none, or its list is lost."""
    try:
        facts = json.loads((folder / "sweep.json").read_text())
        words = [str(word) for word in facts["words"]]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    where = in_its_folder(facts)
    script = str(facts.get("script", "jobs/sweep.py")) if where else "jobs/sweep.py"
    return f"{where}python {shlex.join([script, *words, *([] if '--resume' in words else ['--resume'])])}"
