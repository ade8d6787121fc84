"""Writes docs/examples.png from a finished run: six of its val examples, from the best to the worst.

python docs/examples.py RUN_DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

from l2l_ray.report.panels import example_sheet, worst_first
from l2l_ray.report.record import read_run

PICTURE = Path(__file__).resolve().parent / "examples.png"
NUM_ROWS = 6


def main(run_dir: Path) -> None:
    """Draw evenly spaced ranks of the examples that the run's report shows."""
    found = worst_first(read_run(run_dir).evaluated)[::-1]
    ranks = [round(row * (len(found) - 1) / (NUM_ROWS - 1)) for row in range(NUM_ROWS)]
    example_sheet(run_dir, [found[rank] for rank in ranks]).save(PICTURE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
