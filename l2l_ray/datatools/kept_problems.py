"""What imports named as wrong with a data set, kept beside it: each line, and the sources that it is about.

An import names all that is wrong with its sources, so what an earlier one named about the same sources ends with it;
lines about other sources stay. `import-problems.txt` holds the lines, which runs tell, `import-problems.json` the
sources by line. A line without sources, of an earlier version, is about what it begins with: the name of a source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from l2l_ray.data.layout import PROBLEMS_FILE
from l2l_ray.jsonl import read_lines

SOURCES_FILE = "import-problems.json"
FILES = (PROBLEMS_FILE, SOURCES_FILE)

Kept = dict[str, list[str]]  # the resolved paths of the sources that a line is about, by line


def kept_problems(folder: Path) -> Kept:
    """Return the lines that are kept in a data set's folder."""
    lines = [line.decode(errors="backslashreplace") for line in read_lines(folder / PROBLEMS_FILE)]
    try:
        sources = json.loads((folder / SOURCES_FILE).read_bytes())
        return {line: [str(source) for source in sources.get(line, ())] for line in lines}
    except (OSError, ValueError, AttributeError, TypeError):  # a person may have written it
        return {line: [] for line in lines}


def without_sources(kept: Kept, sources: Sequence[Path]) -> Kept:
    """Return the lines that are about other sources than these, or about others, too."""
    seen = {str(source) for source in sources}
    return {
        line: about
        for line, about in kept.items()
        if (not seen.issuperset(about) if about else not _begun(line, sources))
    }


def sources_of(line: str, sources: Sequence[Path]) -> list[str]:
    """Return which of the sources of an import a line of it is about: all where it names none of them."""
    return sorted(str(source) for source in _begun(line, sources) or sources)


def write_problems(folder: Path, told: Mapping[str, Sequence[str]]) -> None:
    """Write the lines into a folder that has none."""
    if told:
        (folder / PROBLEMS_FILE).write_text("".join(f"{line}\n" for line in told), encoding="utf-8")
        (folder / SOURCES_FILE).write_text(json.dumps(told), encoding="utf-8")


def _begun(line: str, sources: Sequence[Path]) -> list[Path]:
    """Return the sources with whose name a line begins, before a file below it or a place in it."""
    return [source for source in sources if line.startswith(tuple(f"{_shown(source.name)}{end}" for end in "/ :"))]


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
