"""`l2l label`: from photos with texts to masks in one command: import, run, masks as files. The same command goes on.

    <run root>/data/<name>/    the data set made of the source; a source that changed since is merged into it
    <run root>/<name>/         the run; <name>-2, <name>-3, ... once the data or the settings are others
    <run root>/<name>/masks/   the masks that the best version predicts, named after their photos, and index.jsonl
"""

from __future__ import annotations

import hashlib
import json
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from l2l_ray.config import RunConfig
from l2l_ray.datatools.commands import data_command
from l2l_ray.errors import ConfigError, DataError, L2LError
from l2l_ray.files import replacing
from l2l_ray.loop.estimate import estimate
from l2l_ray.loop.evaluation.export import export_predictions
from l2l_ray.loop.local import run_local
from l2l_ray.loop.progress import Console
from l2l_ray.loop.state.opening import opening_text
from l2l_ray.loop.state.prepare import prepare, require_same_data
from l2l_ray.loop.state.run_folder import RunFolder, continued

Say = Callable[[str], object]
TABLES = (".jsonl", ".csv", ".parquet")
SURE, DOUBTFUL = 0.7, 0.4  # confidence from which a mask is called sure, and below which doubtful


@dataclass(frozen=True)
class Source:
    """What a person has: a folder of photos with texts beside them, or a table or JSON file about photos.

    Example: `Source.of(Path("photos"), None)`
    """

    path: Path
    images: Path
    kind: str

    @classmethod
    def of(cls, path: Path, images: Path | None) -> Source:
        """Tell what kind of source a path is.

        Raises:
            DataError: It is not there, or nothing that can be imported.
        """
        if path.is_dir():
            return cls(path, images or path, "folder")
        if not path.is_file():
            raise DataError(f"{path} not found; give a folder of photos with texts beside them, or a table of them")
        if path.suffix.lower() in TABLES:
            return cls(path, images or path.parent, "rows")
        if path.suffix.lower() == ".json":
            with path.open("rb") as file:
                first = file.read(200).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
            return cls(path, images or path.parent, "labelstudio" if first == b"[" else "coco")
        raise DataError(
            f"{path}: the ending must be one of {', '.join((*TABLES, '.json'))}, got {path.suffix!r}; give a folder of "
            "photos with texts beside them, or a table of them"
        )

    def digest(self) -> str:
        """Hash names, sizes and times of change of all files that the source is made of."""
        files = {self.path} if self.path.is_file() else set()
        files |= {path for path in self.images.rglob("*") if path.is_file()}
        facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def import_words(self, root: Path, name: str) -> list[str]:
        """Return the words of the import."""
        return [
            *("import", self.kind, str(self.path), "--images", str(self.images)),
            *("--root", str(root), "--dataset", name),
        ]


def label(source: Source, name: str, config: RunConfig, out: Path | None, say: Say) -> int:
    """Make masks for every text that has none; what is done already is not done again.

    Args:
        source: The photos and texts.
        name: Of the data set and of the run.
        config: The run's config, but for its name and its data.
        out: Folder of the masks; None = `masks` in the run's folder.
        say: Takes each line of output.
    Returns:
        Exit status: 1 when some items could not be used; each is named.
    Raises:
        L2LError: What ends an import or a run.
    """
    root = config.root / "data"
    status = _bring_in(source, root, name, say)
    ready = _to_run(_with_data(config, root, name), name)
    with Console(ready).with_warnings() as console:
        run = run_local(ready, console=console)
    place = out or run.path / "masks"
    done = export_predictions(run.path, "png", place, "unlabeled", force=True)
    say(f"masks      {done.line}")
    for line in _summary(place, run):
        say(line)
    return status


def dry_run(source: Source, name: str, config: RunConfig, say: Say) -> int:
    """Say what `label` would do and how long it would take; nothing is kept.

    Returns:
        Exit status, as `label`.
    """
    with tempfile.TemporaryDirectory(prefix="l2l-dry-") as place:
        status = data_command(source.import_words(Path(place), name), lambda line: None if "use it" in line else say(line))
        trial = _with_data(config, Path(place), name).model_copy(update={"run_root": place, "name": name})
        run = RunFolder(trial.run_dir, trial)
        data = prepare(trial, run)
        say(opening_text(trial, data, run.skips()))
        say(f"would take {estimate(trial, data).line}")
    say(f"would write {config.root / name}; nothing was kept of this trial: leave --dry-run out to begin")
    return status


def _bring_in(source: Source, root: Path, name: str, say: Say) -> int:
    """Import the source, or what changed of it since."""
    note, digest = root / f"{name}.source.json", source.digest()
    there = (root / name).is_dir()
    known = json.loads(note.read_text()) if there and note.is_file() else {}
    if known.get("digest") == digest:
        say(f"data set   {root / name}, made of {source.path} before")
        return int(known["status"])
    words = source.import_words(root, name)
    status = data_command([*words, "--update"] if there else words, say)
    with replacing(note) as temporary:
        temporary.write_text(json.dumps({"digest": digest, "status": status}))
    return status


def _with_data(config: RunConfig, root: Path, name: str) -> RunConfig:
    data = config.data.model_copy(update={"root": str(root), "dataset": name, "split_by": "own"})
    return config.model_copy(update={"data": data})


def _to_run(config: RunConfig, name: str) -> RunConfig:
    """Return the config of the run to begin or to go on with: the first of this name with these data and settings."""
    for number in count(1):
        named = config.model_copy(update={"name": name if number == 1 else f"{name}-{number}"})
        ready = continued(named)
        if not ready.resume:
            return ready
        try:
            run = RunFolder.open(ready)
            require_same_data(ready, run)
        except (ConfigError, DataError):
            continue
        return ready
    raise AssertionError("numbers do not end")
