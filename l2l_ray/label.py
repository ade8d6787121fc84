"""`l2l label`: from photos with texts to masks in one command: import, run, masks as files. The same command goes on.

<run root>/data/<name>/    the data set made of the source; a source that changed since is merged into it
<run root>/<name>/         the run; <name>-2, <name>-3, ... once the data or the settings are others
<run root>/<name>/masks/   the masks that the best version predicts, named after their photos, and index.jsonl
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from l2l_ray.config import RunConfig, load_config
from l2l_ray.data.layout import plain_name
from l2l_ray.datatools.commands import data_command
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.files import replacing
from l2l_ray.loop.estimate import estimate
from l2l_ray.loop.evaluation.export import export_predictions
from l2l_ray.loop.local import run_local
from l2l_ray.loop.progress import Console
from l2l_ray.loop.state.example_files import read_examples
from l2l_ray.loop.state.opening import opening_text
from l2l_ray.loop.state.prepare import prepare, require_same_data
from l2l_ray.loop.state.run_folder import RunFolder, continued

Say = Callable[[str], None]
TABLES = (".jsonl", ".csv", ".parquet")
_RESULT = ("wrote ", "updated ", "it has ", "a split file ")  # how an import begins a line that is no problem
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

    def import_words(self, config: RunConfig) -> list[str]:
        """Return the words of the import into a config's data set."""
        data = config.data
        place = ("--root", data.root, "--dataset", data.dataset)
        return ["import", self.kind, str(self.path), "--images", str(self.images), *place]


def config_of(source: Source, name: str | None, run_root: str | None, words: Sequence[str]) -> RunConfig:
    """Return the config of a run on the data set that a source becomes.

    Args:
        source: The photos and texts.
        name: Of the data set and of the run; None = the source's own name.
        run_root: Folder of all runs; None = as the config says.
        words: Further options of `l2l run`.
    Raises:
        ConfigError: An option or a value is unknown.
    """
    root = RunConfig(run_root=run_root).root
    plain = re.sub(r"[^A-Za-z0-9_+-]+", "-", source.path.resolve().stem).strip("-") or "photos"
    name = plain_name("--name", name or plain)
    own = ["--data.root", str(root / "data"), "--data.dataset", name, "--data.split_by", "own"]
    return load_config([*words, *own, "--name", name, "--run_root", str(root)], "run")


def label(source: Source, config: RunConfig, out: Path | None, say: Say) -> int:
    """Make a mask for every text that has none; what is done already is not done again.

    Args:
        source: The photos and texts.
        config: From `config_of`.
        out: Folder of the masks; None = `masks` in the run's folder.
        say: Takes each line of output.
    Returns:
        Exit status: 1 when some items could not be used; each is named.
    Raises:
        DataError: The masks would lie among the photos, where the next call would take them for photos.
        L2LError: What ends an import or a run.
    """
    if out and source.kind == "folder" and out.resolve().is_relative_to(source.path.resolve()):
        raise DataError(
            f"--out must lie outside of the photos, got {out} in {source.path}; its masks would be taken for photos by "
            "the next call: choose another folder"
        )
    status = _bring_in(source, config, say)
    ready = _next_run(config)
    with Console(ready).with_warnings() as console:
        run = run_local(ready, console=console)
    if not read_examples(run.examples_path("unlabeled")):
        say("every text has a mask already: there is nothing to label; `l2l predict` takes other photos")
        return status
    place = out or run.path / "masks"
    done = export_predictions(run.path, "png", place, "unlabeled", force=True)
    say(f"masks      {done.line}")
    say(f"           {_how_sure(place)}")
    return status


def dry_run(source: Source, config: RunConfig, say: Say) -> int:
    """Say what `label` would do and how long it would take; nothing is kept.

    Returns:
        Exit status, as `label`.
    """
    with tempfile.TemporaryDirectory(prefix="l2l-dry-") as place:
        data_config = config.data.model_copy(update={"root": place})
        trial = config.model_copy(update={"run_root": place, "data": data_config})
        made, meant = f"wrote {Path(place) / config.data.dataset}:", f"would write {_data_folder(config)}:"
        status = _import(source.import_words(trial), lambda line: say(line.replace(made, meant, 1)))
        run = RunFolder(trial.run_dir, trial)
        data = prepare(trial, run)
        say(opening_text(trial, data, run.skips()))
        say(f"would take {estimate(trial, data).line}")
    say(f"would write {_next_run(config).run_dir}; nothing was kept: leave --dry-run out to begin")
    return status


def _bring_in(source: Source, config: RunConfig, say: Say) -> int:
    """Import the source, or what changed of it since; what was wrong with it is said each time.

    Raises:
        DataError: The data set of this name was made of another source, or an import ends.
    """
    folder = _data_folder(config)
    note, digest, place = folder.with_name(f"{folder.name}.source.json"), source.digest(), str(source.path.resolve())
    known = json.loads(note.read_text()) if folder.is_dir() and note.is_file() else {}
    if (before := known.get("source", place)) != place:
        raise DataError(
            f"the data set {folder} was made of {before}, got {place}; choose another --name, or merge the two by "
            "`l2l data import ... --update`"
        )
    if known.get("digest") == digest:
        say(f"data set   {folder}, made of {source.path} before")
        for line in known.get("problems", []):
            say(line)
        return int(known["status"])
    words, problems = source.import_words(config), list[str]()

    def heard(line: str) -> None:
        say(line)
        if not line.startswith(_RESULT):
            problems.append(line)

    status = _import([*words, "--update"] if folder.is_dir() else words, heard)
    with replacing(note) as temporary:
        temporary.write_text(json.dumps({"source": place, "digest": digest, "status": status, "problems": problems}))
    return status


def _data_folder(config: RunConfig) -> Path:
    return Path(config.data.root) / config.data.dataset


def _import(words: Sequence[str], say: Say) -> int:
    """Import, without the advice on how to go on by hand."""
    return data_command(words, lambda line: None if line.startswith("use it: ") else say(line))


def _next_run(config: RunConfig) -> RunConfig:
    """Return the config of the run to begin or to go on with: the first of this name with these data and settings."""
    number, tried = 1, config
    while (ready := continued(tried)).resume and not _fits(ready):
        number += 1
        tried = config.model_copy(update={"name": f"{config.name}-{number}"})
    return ready


def _fits(config: RunConfig) -> bool:
    """Whether the run that lies there has these settings and data."""
    try:
        require_same_data(config, RunFolder.open(config))
    except (ConfigError, DataError):
        return False
    return True


def _how_sure(masks: Path) -> str:
    """Say how sure the masks are, by the index that lies with them."""
    rows = [json.loads(line) for line in (masks / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    sure = sum(row["confidence"] >= SURE for row in rows)
    doubtful = sum(row["confidence"] < DOUBTFUL for row in rows)
    return (
        f"by the model's own estimate {sure} of {len(rows)} are good (confidence {SURE:g} or more) and {doubtful} "
        f"doubtful (below {DOUBTFUL:g}): look at these first, the report shows them"
    )
