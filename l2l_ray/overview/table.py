"""A list of runs as text for a terminal and as JSON for programs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from l2l_ray.overview.listing import ListedRun
from l2l_ray.report.figures import NOTHING, interval, percent
from l2l_ray.wording import counted, first_of

_HEAD = ("run", "state", "data", "method", "mean IoU, %", "size", "last change")


def runs_text(runs: Sequence[ListedRun], root: Path, opened: bool) -> str:
    """Return a list of runs as a table, with a line below those of which there is more to say.

    Args:
        runs: As `listing.list_runs` returns them.
        root: Their run root.
        opened: Whether runs of a group are listed one by one, not in one line.
    """
    if not runs:
        return f"there are no runs in {root}; `l2l run` or `l2l label` begins one"
    rows: list[tuple[tuple[str, ...], list[str]]] = []
    groups: list[str] = []
    sizes = Counter(run.group for run in runs if run.group)
    for run in runs:
        if opened or sizes[run.group] < 2:
            rows.append((_cells(run), _notes(run)))
        elif run.group not in groups:  # it stands where the last active of its runs would
            groups.append(run.group)
            rows.append(_group([other for other in runs if other.group == run.group]))
    rows = [(tuple(map(_printable, row)), list(map(_printable, notes))) for row, notes in rows]
    cells = [_HEAD, *(row for row, _ in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(_HEAD))]
    lines = [_line(_HEAD, widths)]
    for row, notes in rows:
        lines += [_line(row, widths), *(f"    {note}" for note in notes)]
    more = f" in {counted(len(groups), 'folder')} are one line each; --all lists them one by one" if groups else ""
    hidden = sum(run.group in groups for run in runs)
    return "\n".join([*lines, f"{counted(len(runs), 'run')} in {root}{f'; {hidden}{more}' if groups else ''}"])


def runs_json(runs: Sequence[ListedRun], root: Path) -> str:
    """Return a list of runs as JSON: {"run_root", "runs": [the fields of `ListedRun`, and "group"]}."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        figure = None if run.figure is None else run.figure._asdict()
        rows.append({**asdict(run), "path": str(run.path), "group": run.group, "figure": figure})
    return json.dumps({"run_root": str(root), "runs": rows}, indent=1)


def size_text(num_bytes: int) -> str:
    """Return e.g. `812 B`, `3.1 MB`, `1.2 GB`."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = next((k for k in range(len(units)) if num_bytes < 999.95 * 1000**k), len(units) - 1)
    return f"{num_bytes / 1000**power:.{min(power, 1)}f} {units[power]}"


def _printable(text: str) -> str:
    """Return text without what would move the cursor of a terminal: names of folders may hold anything."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _cells(run: ListedRun) -> tuple[str, ...]:
    state = str(run.state)
    if run.done is not None and run.state in ("running", "stopped"):
        state += f" at {100 * run.done:.0f} %"
    return (run.name, state, _data(run), _methods(run), _figure(run), size_text(run.num_bytes), _time(run.active))


def _data(run: ListedRun) -> str:
    share = "" if run.labeled_frac is None else f" {100 * run.labeled_frac:g} %"
    return f"{run.dataset}{share}" or NOTHING


def _methods(run: ListedRun) -> str:
    if not run.methods:
        return NOTHING
    *others, main = run.methods
    return f"{main} and {len(others)} more" if others else main


def _figure(run: ListedRun) -> str:
    if run.figure is None:
        return NOTHING
    split, value, low, high, version = run.figure
    ends = interval(low, high)
    sure = "" if ends == NOTHING else f" ({ends})"
    return f"{percent(value)}{sure} {split}" + ("" if version is None else f", version {version} so far")


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else NOTHING


def _notes(run: ListedRun) -> list[str]:
    notes = [run.detail] if run.detail else []
    return [*notes, f"go on: {run.go_on}"] if run.go_on else notes


def _group(runs: Sequence[ListedRun]) -> tuple[tuple[str, ...], list[str]]:
    """Return the line of a folder of runs, and how all of them go on where that is one command."""
    folder = runs[0].group
    states = ", ".join(f"{num} {state}" for state, num in Counter(run.state for run in runs).most_common())
    data = first_of(sorted({_data(run) for run in runs} - {NOTHING})) or NOTHING
    methods = first_of(sorted({run.methods[-1] for run in runs if run.methods})) or NOTHING
    size, active = size_text(sum(run.num_bytes for run in runs)), _time(max(run.active for run in runs))
    commands = {run.go_on for run in runs if run.go_on}
    is_one = len(commands) == 1 and all(run.state != "running" for run in runs)  # that of a sweep
    notes = [f"go on: {commands.pop()}"] if is_one else []
    return (f"{folder}/", f"{counted(len(runs), 'run')}: {states}", data, methods, NOTHING, size, active), notes
