"""What optional augmentation does to supervised training: crops, pastes of labeled objects, rewording, one at a time.

Supervised steps alone, so that no selector stands between an augmentation and its effect; each run has a burn-in of
its own, because augmentation changes it, too. Runs that are there are not made again.

Usage: python -m benchmarks.augment [--seeds 0 1] [--processes 2] [--out FILE] [config words ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.command import add_out, at_least_one, run_main, write_results
from l2l_ray.config import load_config

SETTINGS = {"none": [], **{name: [f"--augment.{name}_prob", "0.5"] for name in ("crop", "paste", "reword")}}


def run(name: str, seed: int, words: list[str]) -> dict[str, Any]:
    """Make one run, or find it; return the row of supervised training."""
    own = ["--name", f"augment-{name}-s{seed}", "--loop.seed", str(seed), "--selector.name", "supervised", *words]
    config = load_config([*own, *SETTINGS[name]])
    if not (config.run_dir / "FINISHED").exists():
        command = [sys.executable, "-m", "l2l_ray.cli", "run", *own, *SETTINGS[name]]
        command += ["--resume"] if config.run_dir.exists() else []
        env = {**os.environ, "OMP_NUM_THREADS": "1"}  # runs share the cores
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    rows = json.loads((config.run_dir / "results.json").read_text())["rows"]
    (row,) = (row for row in rows if row["method"] == "supervised")
    return {split: scores["mean_iou"] for split, scores in row["splits"].items()}


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--processes", type=at_least_one, default=2)
    add_out(parser, Path(__file__).parent / "results" / "augment.json")
    given, words = parser.parse_known_args()
    jobs = [(name, seed) for seed in given.seeds for name in SETTINGS]
    with ThreadPoolExecutor(given.processes) as pool:
        found = dict(zip(jobs, pool.map(lambda job: run(*job, words), jobs), strict=True))
    rows = {name: {seed: found[name, seed] for seed in given.seeds} for name in SETTINGS}
    write_results(given.out, {"probability": 0.5, "mean_iou": rows})
    for name, seeds in rows.items():
        print(name, {split: [round(100 * seeds[s][split], 1) for s in given.seeds] for split in seeds[given.seeds[0]]})


if __name__ == "__main__":
    run_main(main)
