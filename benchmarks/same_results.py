"""Did a change change results? Compares two runs: results.json value by value, pseudo-labels column by column.

Prints every difference, and ends with status 1 when there is one that `--but` does not name. Runs of two versions of
the code can be compared as long as both wrote results.json and Parquet shards; keys and columns that one of them lacks
are listed as such.

Usage: python benchmarks/same_results.py RUN RUN [--but KEY ...]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd


def differences(first: Any, second: Any, place: str = "results") -> Iterator[str]:
    """Yield where two JSON values differ; lists are compared item by item, rows of methods by their method."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in dict.fromkeys((*first, *second)):
            if key not in first or key not in second:
                yield f"{place}.{key}: only in the {'second' if key in second else 'first'}"
            else:
                yield from differences(first[key], second[key], f"{place}.{key}")
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            yield from differences(one, other, f"{place}.{number}")
    elif first != second:
        yield f"{place}: {first!r} and {second!r}"


def label_differences(first: Path, second: Path) -> Iterator[str]:
    """Yield the columns of pseudo-label shards that differ."""
    names = sorted({str(path.relative_to(run)) for run in (first, second) for path in run.glob("*/labels/*.parquet")})
    for name in names:
        if not ((first / name).exists() and (second / name).exists()):
            yield f"{name}: only in one run"
            continue
        one, other = (pd.read_parquet(run / name) for run in (first, second))
        for column in dict.fromkeys((*one, *other)):
            if column not in one or column not in other:
                yield f"{name} {column}: only in one run"
            elif not one[column].equals(other[column]):
                yield f"{name} {column}: differs"


def main() -> int:
    """Compare two runs; 0 = the same but for what was named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2, metavar="RUN")
    parser.add_argument("--but", nargs="*", default=[], metavar="KEY", help="keys or columns that may differ")
    given = parser.parse_args()
    found = [json.loads((run / "results.json").read_text()) for run in given.runs]
    every = [*differences(*found), *label_differences(*given.runs)]
    expected = [line for line in every if any(key in line.partition(":")[0] for key in given.but)]
    other = [line for line in every if line not in expected]
    shards = len(list(given.runs[0].glob("*/labels/*.parquet")))
    sys.stdout.write("\n".join([*other, f"{len(other)} differences, {len(expected)} that were named; {shards} shards"]))
    sys.stdout.write("\n")
    return 1 if other else 0


if __name__ == "__main__":
    sys.exit(main())
