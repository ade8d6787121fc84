"""`l2l label`: from photos with texts to masks in one command: import, run, masks as files. The same command goes on.

<run root>/data/<name>/    the data set made of the source; a source that changed since is merged into it
<run root>/<name>/         the run; <name>-2, <name>-3, ... once the data or the settings are others
<run root>/<name>/masks/   the masks that the best version predicts, named after their photos, and index.jsonl
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import isfile  # says no, as Path.is_file does not, to a text that no file can be named
from pathlib import Path
from typing import Any

from l2l_ray.config import RunConfig, load_config
from l2l_ray.config.places import SHARED
from l2l_ray.data.layout import ALL_PICTURES, PROBLEMS_FILE, plain_name
from l2l_ray.datatools.commands import data_command
from l2l_ray.datatools.export import index_of, is_as_written, require_place
from l2l_ray.datatools.label_studio import read_label_studio
from l2l_ray.datatools.left_behind import Given, given_by, left_behind
from l2l_ray.datatools.row_files import TABLES, read_json, read_rows
from l2l_ray.doubt import Doubt
from l2l_ray.errors import ConfigError, DataError, L2LError
from l2l_ray.files import replacing
from l2l_ray.jsonl import read_lines
from l2l_ray.loop.estimate import estimate
from l2l_ray.loop.evaluation.export import export_predictions
from l2l_ray.loop.local import run_local
from l2l_ray.loop.progress import Console
from l2l_ray.loop.state.example_files import ExampleTable
from l2l_ray.loop.state.opening import opening_text
from l2l_ray.loop.state.prepare import prepare, require_same_data
from l2l_ray.loop.state.run_folder import RunFolder, continued
from l2l_ray.loop.state.version_record import weights_sha256
from l2l_ray.wording import Say

_RESULT = ("wrote ", "updated ", "it has ", "a split file ")  # how an import begins a line that is no problem
_ADVICE = ("use it: ", "if you made a split file")  # for who goes on by hand


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
            if images is not None:
                raise DataError(
                    f"--images is the folder of a table's photos; {path} is a folder of photos: leave it out"
                )
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
        """Hash names, sizes and times of change of the files that the source is made of.

        Raises:
            DataError: The table cannot be read.
        """
        if self.kind == "folder":
            files = {path for place in (self.path, self.images) for path in place.rglob("*") if path.is_file()}
        else:  # what else lies beside a table may be anything
            files = {self.path, *(self.images / text for text in self._texts() if isfile(self.images / text))}
        facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _texts(self) -> Iterator[str]:
        """Yield the texts of a table, among them the names of its photos and mask pictures."""
        rows: Iterable[tuple[str, Any]]
        if self.kind == "coco":
            content = read_json(self.path)
            images = content.get("images") if isinstance(content, Mapping) else None
            rows = [("", row) for row in images] if isinstance(images, list) else []
        else:
            rows = read_rows(self.path) if self.kind == "rows" else read_label_studio(self.path)
        for _, row in rows:
            if isinstance(row, Mapping):
                yield from (value for value in row.values() if isinstance(value, str))

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
    taken_from = source.path.resolve()
    if source.kind == "folder" and root.is_relative_to(taken_from):
        raise ConfigError(f"the run root {root} lies in {taken_from}, whose photos are to be labeled; choose another")
    own_name = taken_from.name if source.kind == "folder" else taken_from.stem
    own_name = re.sub(r"[^A-Za-z0-9_+-]+", "-", own_name).strip("-")
    name = plain_name("--name", name if name is not None else _usual_name(own_name))
    own = {"--data.root": str(root / "data"), "--data.dataset": name, "--data.split_by": "own"}
    if taken := [option for word in words if (option := word.partition("=")[0]) in (*own, "--data")]:
        raise ConfigError(f"{taken[0]} is what `l2l label` makes of the photos; leave it out, or give it to `l2l run`")
    own |= {"--name": name, "--run_root": str(root)}
    return load_config([*words, *(word for pair in own.items() for word in pair)], "run")


def label(source: Source, config: RunConfig, out: Path | None, say: Say, force: bool = False) -> int:
    """Make a mask for every object that has none; what is done already is not done again.

    Masks that this version wrote stay as they are, whatever was done to them since. Those of another one are replaced,
    unless something in their folder was changed.

    Args:
        source: The photos and texts.
        config: From `config_of`.
        out: Folder of the masks; None = `masks` in the run's folder.
        say: Takes each line of output.
        force: Write the masks again, whatever lies in their folder.
    Returns:
        Exit status: 1 when some items could not be used; each is named.
    Raises:
        ConfigError: The masks would lie among the photos, where the next call would take them for photos.
        DataError: Their folder holds something that would be lost.
        L2LError: What ends an import or a run.
    """
    if out and source.kind == "folder" and out.resolve().is_relative_to(source.path.resolve()):
        raise ConfigError(
            f"--out must lie outside of the photos, got {out} in {source.path}; its masks would be taken for photos by "
            "the next call: choose another folder"
        )
    status = _bring_in(source, config, say)
    ready = _next_run(config, config, say)
    place = out or ready.run_dir / "masks"
    if not RunFolder(ready.run_dir, ready).finished:
        _require_replaceable(place, force)  # now, not after hours of work
    with Console(ready).with_warnings() as console:
        run = run_local(ready, console=console)
    if not len(ExampleTable(run.examples_path("unlabeled"))):
        say("every text has a mask already: there is nothing to label; `l2l predict` takes other photos")
        return status
    if not force and _is_written(place, run):
        changed = "" if is_as_written(place) else ", and changed since, which stays"
        say(f"masks      {place}: written by this version before{changed}; --force writes them again")
        return status
    _require_replaceable(place, force)
    done = export_predictions(run.path, "png", place, "unlabeled", force=True)
    say(f"masks      {done.line}")
    say(f"           {_how_sure(place)}")
    say("           masks that you gave or accepted are not among them; `l2l review` shows what training used")
    return status


def _usual_name(own_name: str) -> str:
    return "photos" if own_name in ("", ALL_PICTURES, *SHARED) else own_name


def _is_written(place: Path, run: RunFolder) -> bool:
    """Whether a folder holds the masks of a run's chosen version."""
    method, version = run.chosen_version()
    found, weights = index_of(place), weights_sha256(run.version_dir(method, version))
    wanted = {"format": "png", "split": "unlabeled", "min_confidence": 0.0, "method": method, "model_version": version}
    wanted |= {"run_dir": str(run.path.absolute()), "weights_sha256": weights}
    # Of an earlier version of the code, which did not note the weights, what was changed since stays as it is.
    is_kept = found and "weights_sha256" not in found and not is_as_written(place)
    return wanted.items() <= (found | ({"weights_sha256": weights} if is_kept else {})).items()


def _require_replaceable(place: Path, force: bool) -> None:
    """Refuse a folder of masks that holds anything else than an export left as it was written."""
    require_place("png", place, force=True)
    if place.exists() and not force and not is_as_written(place):
        why = "files that differ from what was written there"
        if "files_sha256" not in index_of(place):
            why = "masks of an earlier version of this program, and nothing says whether they were changed since"
        raise DataError(f"{place} holds {why}; keep them by another --out, or replace them all with --force")


def dry_run(source: Source, config: RunConfig, say: Say) -> int:
    """Say what `label` would do and how long it would take; nothing is kept.

    Returns:
        Exit status, as `label`.
    """
    with tempfile.TemporaryDirectory(prefix="l2l-dry-") as place:
        trial = config.model_copy(
            update={"run_root": place, "data": config.data.model_copy(update={"root": f"{place}/data"})}
        )
        try:
            return _tried(source, config, trial, lambda line: say(_meant(line, place, str(config.root))))
        except L2LError as error:  # its paths would be gone when somebody reads it
            error.args = tuple(_meant(a, place, str(config.root)) if isinstance(a, str) else a for a in error.args)
            raise


def _tried(source: Source, config: RunConfig, trial: RunConfig, say: Say) -> int:
    """Import and prepare a run in the folders of a trial; arguments as in `dry_run`."""
    _copy_data_set(config, trial)
    status = _bring_in(source, trial, say)
    ready = _next_run(config, trial, say)
    if RunFolder(ready.run_dir, ready).finished:
        say(f"nothing would be done: {ready.run_dir} is finished and nothing has changed since")
        return status
    run = RunFolder(trial.run_dir, trial)
    if not (Path(config.data.root) / config.data.dataset / PROBLEMS_FILE).exists():
        (Path(trial.data.root) / trial.data.dataset / PROBLEMS_FILE).unlink(missing_ok=True)  # said above
    data = prepare(trial, run)
    say(opening_text(trial, data, run.skips()))
    say(f"would take {estimate(trial, data).line}; less where the language model was asked the same before")
    say(f"would write {ready.run_dir}; nothing was kept: leave --dry-run out to begin")
    return status


def _meant(line: str, tried: str, real: str) -> str:
    """Return a line about what was tried below another folder as the real one would say it."""
    verbs = {f"wrote {tried}": f"would write {real}", f"updated {tried}": f"would update {real}", tried: real}
    for found, said in verbs.items():
        line = line.replace(found, said)
    return line


def _bring_in(source: Source, config: RunConfig, say: Say) -> int:
    """Import the source, or what changed of it since; what was wrong with it is said each time.

    Raises:
        ConfigError: The data set of this name was made of something else.
    """
    folder = Path(config.data.root) / config.data.dataset
    note, digest, path = _note(folder), source.digest(), str(source.path.resolve())
    known = json.loads(note.read_text()) if folder.is_dir() and note.is_file() else {}
    if known.get("source", path) != path:
        raise ConfigError(
            f"the data set {folder} was made of {known['source']}, got {path}; choose another --name, or merge the "
            "two by `l2l data import ... --update`"
        )
    if known.get("digest") == digest:
        say(f"data set   {folder}, made of {source.path} before")
        for line in known["said"]:
            say(line)
        return int(known["status"])
    said: list[str] = []

    def tell(line: str) -> None:
        if not line.startswith(_ADVICE):
            say(line)
        if not line.startswith((*_ADVICE, *_RESULT)):
            said.append(line)

    words = source.import_words(config)
    is_new = not folder.is_dir()
    status = data_command(words if is_new else [*words, "--update"], tell)
    given: list[Given] | None = known.get("given") if known else []  # None: the note is of an earlier version
    given = given_by(folder) if is_new else _compare(source, config, folder, given, tell)
    kept, ended = folder / PROBLEMS_FILE, {*known.get("said", ())} - {*said}
    if ended and kept.is_file():  # runs tell of what it says
        lines = [line for line in map(bytes.decode, read_lines(kept)) if line not in ended]
        with replacing(kept) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with replacing(note) as temporary:
        temporary.write_text(
            json.dumps({"source": path, "digest": digest, "status": status, "said": said, "given": given})
        )
    return status


def _note(folder: Path) -> Path:
    """Return where it is kept what a data set was made of."""
    return folder.with_name(f"{folder.name}.source.json")


def _compare(
    source: Source, config: RunConfig, folder: Path, given: list[Given] | None, say: Say
) -> list[Given] | None:
    """Say what of the data set its source once gave and no longer has; return all that it gave until now, if known.

    Args:
        source: As it is now.
        config: Of the run.
        folder: The data set.
        given: What the source gave before, None where that is not known.
        say: Takes each line.
    """
    with tempfile.TemporaryDirectory(prefix="l2l-source-") as place:
        now = config.model_copy(update={"data": config.data.model_copy(update={"root": place})})
        data_command(source.import_words(now), lambda line: None)
        fresh = Path(place) / folder.name
        for line in left_behind(folder, fresh, source.path, source.kind, given):
            say(line)
        known = {json.dumps(one): one for one in (*(given or ()), *given_by(fresh))}
    return None if given is None else [*known.values()]


def _copy_data_set(config: RunConfig, trial: RunConfig) -> None:
    """Give a trial the data set that lies there, so that it sees corrections too; pictures as links to the same."""
    name, root, copied = config.data.dataset, Path(config.data.root), Path(trial.data.root)
    if not (root / name).is_dir():
        return
    shutil.copytree(root / name, copied / name)
    if _note(root / name).is_file():
        shutil.copy(_note(root / name), _note(copied / name))
    for picture in sorted(path for path in (root / "images" / name).rglob("*") if path.is_file()):
        link = copied / picture.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(picture.resolve())


def _next_run(config: RunConfig, looked_at: RunConfig, say: Say) -> RunConfig:
    """Return the config of the run to begin or to go on with: the first of this name with these data and settings.

    Args:
        config: The run's config.
        looked_at: The same, with the data to compare with those of a run that lies there.
        say: Told why a run that lies there is not gone on with.
    """
    number, tried = 1, config
    while (ready := continued(tried)).resume and (why := _why_not(ready, looked_at)):
        number += 1
        tried = config.model_copy(update={"name": f"{config.name}-{number}"})
        say(f"another run, {tried.name}: {why}")
    return ready


def _why_not(config: RunConfig, looked_at: RunConfig) -> str:
    """Return why the run that lies there cannot be gone on with; "" = it can."""
    try:
        require_same_data(looked_at, RunFolder.open(config))
    except (ConfigError, DataError) as error:
        return str(error)
    return ""


def _how_sure(masks: Path) -> str:
    """Say how sure the masks are, by the index that lies with them."""
    rows = map(json.loads, read_lines(masks / "index.jsonl"))
    return f"by their confidence {Doubt.of(row['confidence'] for row in rows).words('masks')}"
