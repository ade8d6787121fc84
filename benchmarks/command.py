"""What the benchmarks' commands share: where results go, how they are written, and errors in one line.

A measurement takes minutes to hours, so what would lose it is looked for first: `add_out` makes the folder and tries
it before anything is measured. A file is replaced as a whole (`write_results`), so a kill leaves the earlier one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from l2l_ray.errors import DataError, L2LError, one_line
from l2l_ray.files import replacing, saying_why, temporary_path
from l2l_ray.storage import at_home


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """End with what a command returns; an error that is meant for people is one line and exit status 1."""
    try:
        status = main()
    except L2LError as error:
        sys.exit(one_line(error))
    sys.exit(status or 0)


def add_out(parser: argparse.ArgumentParser, default: Path) -> None:
    """Add `--out`, the file of results; a place that cannot be written is refused before anything is measured."""
    parser.add_argument("--out", type=_place, default=str(default), metavar="FILE", help="default: %(default)s")


def at_least_one(text: str) -> int:
    """Read a number that must be 1 or more, for `add_argument(type=...)`."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number of at least 1")
    return number


def _place(text: str) -> Path:
    try:
        path = at_home(Path(text)).absolute()
        try_place(path)
    except L2LError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path


def try_place(path: Path) -> None:
    """Make the folder of a file, and see that the file can be written; a file that is there stays as it is.

    Raises:
        DataError: It cannot.
    """
    with saying_why(path):
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder", str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        tried = temporary_path(path)
        tried.touch()
        tried.unlink()


def read_results(path: Path) -> dict[str, Any]:
    """Return what a file of results holds; nothing where there is none.

    Raises:
        DataError: The file is damaged.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
    except ValueError as error:
        raise DataError(
            f"{path} is no file of results: {error}; expected JSON as this command writes it: give another --out, or "
            "move the file away, and all is measured anew"
        ) from error
    return content


def write_results(path: Path, content: dict[str, Any]) -> None:
    """Write a file of results, whole or not at all.

    Raises:
        DataError: It cannot be written.
    """
    with saying_why(path), replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
