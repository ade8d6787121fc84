"""Read a run folder as far as it goes: what is missing or damaged is named, and the report is made from the rest.

`metrics.jsonl` is an event log. Events of one method and version are joined into one flat *point*, whichever way they
came; later events win, so a round that was run again after a crash counts once. A point's columns:

    method, version, round        version v is published by round v - 1; version 0 is the end of burn-in
    val.mean_iou, val.precision_at.0.5, ...      `evaluation` events (one per split), or `val` of a `round` event
    train.loss, train.loss_labeled, ...          `train` events
    reward.label, reward.cells, ...              same, logged as policy/reward/...
    policy.entropy, ...                          same, logged as policy/...
    labels.num, labels.accepted_frac, ...        same
    quality.val.object_precision, quality.val.labels.mean_iou, ...     the version's selector, measured on val
    hidden_truth.object_precision, hidden_truth.labels.mean_iou, ...   the round's pseudo-labels against hidden truth:
                                                                       masks that evaluation alone reads
    seconds.label, ...                           wall time
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from l2l_ray.config import EMBEDDED, parse_yaml
from l2l_ray.errors import DataError
from l2l_ray.jsonl import read_lines
from l2l_ray.storage import StorePath

Point = dict[str, Any]
UNLABELED = "unlabeled"  # as panels/index.json has it
TESTS = "tests"  # all test splits together, where there are several: val, on which versions are chosen, is none
REGIONS = ("inside", "outside", "boundary")  # of the true object, as in loop/inference/quality.py


@dataclass(frozen=True)
class RunRecord:
    """Everything a report is made from.

    Example: `read_run(Path("~/l2l_runs/refshapes-l2l-s0"))`; `absent` is then e.g. `("selection.json is absent",)`.
    """

    run_dir: Path
    config: dict[str, Any]
    env: dict[str, Any]
    results: dict[str, Any]
    events: tuple[dict[str, Any], ...]
    points: tuple[Point, ...]  # one per (method, version), in that order
    selection: dict[str, Any]
    skips: tuple[dict[str, Any], ...]
    panels: tuple[dict[str, Any], ...]  # what panels/index.json lists
    absent: tuple[str, ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the final table, as in results.json."""
        return [row for row in _list(self.results.get("rows")) if isinstance(row, dict)]

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods in the order of the final table, then those that only have points."""
        named = [str(row.get("method", "?")) for row in self.rows] + [str(point["method"]) for point in self.points]
        return tuple(dict.fromkeys(named))

    @property
    def labels(self) -> dict[str, str]:
        """Method -> the name it is shown under."""
        shown = {str(row.get("method", "?")): str(row.get("label") or row.get("method", "?")) for row in self.rows}
        return {method: shown.get(method, method) for method in self.methods}

    @property
    def main_method(self) -> str:
        """The selector the run was made for; empty when nothing says which."""
        asked = _dict(self.config.get("selector")).get("name") or self.selection.get("method")
        if asked in self.methods:
            return str(asked)
        return self.methods[-1] if self.methods else str(asked or "")

    @property
    def about(self) -> str:
        """What was learned from: data set, labeled share, seed."""
        data, loop = _dict(self.config.get("data")), _dict(self.config.get("loop"))
        parts = []
        if name := self.results.get("dataset", data.get("dataset")):
            split_by = self.results.get("split_by", data.get("split_by"))
            parts.append(f"Data set {name}" + (f" ({split_by} split)" if split_by and not self.own_data else ""))
        if not self.own_data and is_number(frac := self.results.get("labeled_frac", data.get("labeled_frac"))):
            parts.append(f"{100 * frac:g} % labeled")
        if (seed := self.results.get("seed", loop.get("seed"))) is not None:
            parts.append(f"one seed ({seed})")
        return "; ".join(parts)

    @property
    def protocol(self) -> str:
        """The rules that every figure was counted by, and what chose the version."""
        parts = [str(self.results.get("protocol") or "metric protocol not recorded")]
        if chosen := self.results.get("chosen_on"):
            held_out = "the held-out photos" if self.held_out else "val"
            parts.append(f"version chosen on {held_out}" if chosen == "val" else str(chosen))
        return "; ".join(parts)

    @property
    def held_out(self) -> bool:
        """Whether val was held out of the labeled photos, because the data set has none of its own."""
        return self.results.get("val_source") == "labeled"

    @property
    def own_data(self) -> bool:
        """Whether no truth of unlabeled photos is known, as on data that is not a benchmark."""
        root = _dict(self.config.get("data")).get("root")
        return root not in (None, EMBEDDED) and not self.results.get("hidden_truth")

    @property
    def evaluated(self) -> list[dict[str, Any]]:
        """Panels of an evaluation split."""
        return [entry for entry in self.panels if entry.get("split") != UNLABELED]

    @property
    def photos(self) -> list[dict[str, Any]]:
        """Panels of unlabeled photos: labels of the last round, or masks of a version that labels nothing."""
        return [entry for entry in self.panels if entry.get("split") == UNLABELED]

    @property
    def label_source(self) -> str:
        """Where labels are compared with the truth: `hidden_truth` where some of it is known, else `quality.val`."""
        known = any(key.startswith("hidden_truth.") for point in self.points for key in point)
        return "hidden_truth" if known else "quality.val"

    def points_of(self, method: str) -> list[Point]:
        """Points of one method by ascending version."""
        return [point for point in self.points if point["method"] == method]


def read_run(run_dir: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        DataError: There is no such folder. Anything missing or damaged inside is only named, in `absent`.
    """
    return _read(run_dir, whole=True)


def read_glance(run_dir: Path) -> RunRecord:
    """Read of a run folder what a list of runs shows: config, env and results; events only where there are no results.

    Raises:
        DataError: As `read_run`.
    """
    return _read(run_dir, whole=False)


def _read(run_dir: Path, whole: bool) -> RunRecord:
    if not _is_folder(run_dir):
        raise DataError(f"no run folder at {run_dir}; expected the folder that holds config.yaml and metrics.jsonl")
    absent: list[str] = []
    results = _dict(_read_json(run_dir, "results.json", absent))
    events = tuple(_read_jsonl(run_dir, "metrics.jsonl", absent)) if whole or not results else ()
    config, env = _dict(_read_yaml(run_dir, "config.yaml", absent)), _dict(_read_json(run_dir, "env.json", absent))
    if not whole:
        return RunRecord(run_dir, config, env, results, events, tuple(_points(events)), {}, (), (), tuple(absent))
    return RunRecord(
        run_dir=run_dir,
        config=config,
        env=env,
        results=results,
        events=events,
        points=tuple(_points((*events, *_events_of_results(results)))),
        selection=_dict(_read_json(run_dir, "selection.json", absent)),
        skips=tuple(_read_jsonl(run_dir, "skips.jsonl", absent)),
        panels=tuple(e for e in _list(_read_json(run_dir, "panels/index.json", absent)) if isinstance(e, dict)),
        absent=tuple(absent),
    )


@contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """Turn what a disk or a folder refuses inside the block into an error of our own.

    Raises:
        DataError: Something could not be written.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write the report's files in {run_dir}: {error}; free some space or make the folder writable, then "
            f"`{shlex.join(['l2l', 'report', str(run_dir)])}`; a run that has not ended goes on with --resume"
        ) from error


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a finite number (a bool is not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one level with dotted keys: {"val": {"num": 3}} -> {"val.num": 3}."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(item, Mapping):
            flat |= flatten(item, name)
        else:
            flat[name] = item
    return flat


def _points(events: Iterable[dict[str, Any]]) -> Iterator[Point]:
    joined: dict[tuple[str, int], Point] = {}
    order: dict[str, int] = {}
    for event in events:
        version, round_index = event.get("version"), event.get("round")
        if version is None and is_number(round_index):
            version = int(round_index) + 1
        if not isinstance(event.get("method"), str) or not is_number(version):
            continue
        key = (event["method"], int(version))
        order.setdefault(key[0], len(order))
        start = {"method": key[0], "version": key[1], "round": key[1] - 1 if key[1] else None}
        joined.setdefault(key, start).update(_columns(event))
    for key in sorted(joined, key=lambda k: (order[k[0]], k[1])):
        yield joined[key]


def _events_of_results(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What results.json alone knows of a version, as if it had been logged."""
    for method, rounds in _dict(results.get("hidden_truth")).items():
        for index, quality in enumerate(_list(rounds)):
            yield {"event": "hidden_truth", "method": method, "round": index, "hidden_truth": quality}
    for method, versions in _dict(results.get("val_wrong_before")).items():
        for row in filter(lambda row: isinstance(row, dict), _list(versions)):
            figures = {key: value for key, value in row.items() if key != "version"}
            quality = {"val": {"wrong_before": figures}}
            yield {"event": "val", "method": method, "version": row.get("version"), "quality": quality}


def _columns(event: dict[str, Any]) -> dict[str, Any]:
    """An event's figures under the columns of the module docstring."""
    kind = event.get("event")
    rest = {key: value for key, value in event.items() if key not in ("event", "method", "version", "round", "split")}
    if kind == "evaluation":
        split = str(event.get("split", "val"))
        quality = flatten(_dict(rest.pop("quality", None)), f"quality.{split}")
        return {**flatten(rest, split), **quality}
    if kind == "train":
        return {_train_column(key): value for key, value in flatten(rest).items()}
    flat = flatten(rest)
    return {key.removeprefix("quality.") if key.startswith("quality.hidden") else key: v for key, v in flat.items()}


def _train_column(key: str) -> str:
    name = key.replace("/", ".").removeprefix("policy.") if key.startswith("policy/reward") else key.replace("/", ".")
    known = ("reward.", "policy.", "labels.", "seconds.", "train.")
    return name if name.startswith(known) else f"train.{name}"


def _is_folder(run_dir: Path) -> bool:
    try:
        return run_dir.is_dir()
    except OSError:  # a path that cannot even be asked about is none
        return False


def _read_text(run_dir: Path, name: str, absent: list[str]) -> str | None:
    try:
        return (run_dir / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        absent.append(f"{name} is absent")
    except (OSError, UnicodeDecodeError) as error:
        absent.append(f"{name} cannot be read: {error}")
    return None


def _read_json(run_dir: Path, name: str, absent: list[str]) -> Any:
    text = _read_text(run_dir, name, absent)
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        absent.append(f"{name} is not JSON: {error}")
        return None


def _read_yaml(run_dir: Path, name: str, absent: list[str]) -> Any:
    text = _read_text(run_dir, name, absent)
    try:
        return None if text is None else parse_yaml(text)
    except yaml.YAMLError as error:
        absent.append(f"{name} is not YAML: {error}")
        return None


def _lines(run_dir: Path, name: str, absent: list[str]) -> list[bytes]:
    """Return the lines of a file, a torn last one, too; as bytes, so that one that is no text costs no other."""
    path = run_dir / name
    try:
        found = read_lines(path) if isinstance(path, StorePath) else path.read_bytes().split(b"\n")
    except FileNotFoundError:
        found = []
    except OSError as error:
        absent.append(f"{name} cannot be read: {error}")
        return []
    if not found and not path.exists():
        absent.append(f"{name} is absent")
    return found


def _read_jsonl(run_dir: Path, name: str, absent: list[str]) -> Iterator[dict[str, Any]]:
    """Parse line by line; a torn line (a process killed while writing) costs that line alone."""
    for number, line in enumerate(_lines(run_dir, name, absent), 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            yield record
        elif line.strip():
            absent.append(f"{name}: line {number} is damaged and left out")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
