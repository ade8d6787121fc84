"""What overlap of labelling and training brings: the same run on Ray with lag 0 and lag 1, wall time and figures.

With lag 0 the labelers of a round wait for its version and training waits for its labels; with lag 1 a round is labeled
by the version before, while that one is still trained. Each run has a private cluster and a root of its own, so that
none finds priors or a burn-in of another. For each seed the other lag comes first, because a machine gets busier or
idler; the load before each run is written down, and where it differs, so do times.

Usage: python -m benchmarks.overlap [--seeds 0 1] [--rounds 4] [--out benchmarks/results/overlap.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.command import add_out, at_least_one, run_main, write_results

ROOT = Path(__file__).resolve().parent.parent


def one_run(root: Path, lag: int, seed: int, rounds: int) -> dict[str, Any]:
    """Run the smoke preset on a private cluster; return its wall time and the figures of its last row."""
    name = f"lag{lag}-seed{seed}"
    root, load = root / name, os.getloadavg()[0]
    fields = {
        "name": name, "run_root": str(root), "loop.lag": lag, "loop.seed": seed, "loop.rounds": rounds,
        "loop.round_steps": 20, "data.num_train_refs": 256, "cluster.num_labelers": 1, "cluster.start_timeout_s": 600,
    }  # fmt: skip
    words = [word for field, value in fields.items() for word in (f"--{field}", str(value))]
    begun = time.monotonic()
    subprocess.run(
        [sys.executable, "jobs/selfevolve.py", "--preset", "smoke", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    seconds = time.monotonic() - begun
    versions = [(root / name / "train" / f"l2l-v{v:04d}" / "version.json").stat().st_mtime for v in (0, rounds)]
    row = json.loads((root / name / "results.json").read_text())["rows"][-1]
    return {
        "lag": lag,
        "seed": seed,
        "load_at_start": round(load, 1),
        "wall_s": round(seconds, 1),
        "rounds_s": round(versions[1] - versions[0], 1),  # from version 0 to the last
        "mean_iou": {split: round(figures["mean_iou"], 4) for split, figures in row["splits"].items()},
    }


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=at_least_one, default=4)
    add_out(parser, ROOT / "benchmarks" / "results" / "overlap.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        runs = [
            one_run(Path(root), lag, seed, given.rounds)
            for seed in given.seeds
            for lag in ((0, 1) if seed % 2 == 0 else (1, 0))
        ]
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    write_results(given.out, {"machine": machine, "rounds": given.rounds, "runs": runs})
    sys.stdout.write(given.out.read_text())


if __name__ == "__main__":
    run_main(main)
