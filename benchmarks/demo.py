"""What `make demo` costs: wall time, also of each phase, and memory, first with nothing there, then again.

The committed state of this checkout is cloned into a temporary folder, so the first run makes its environment and its
caches. Memory is that of all processes that were not there before, sampled every two seconds: PSS counts a page that n
processes share as 1/n, RSS counts it n times. Nothing else should run on the machine.

Phases are those of the train worker, summed over rounds and methods: it waits for labels, trains, updates selectors;
the rest is installs, the cluster, priors, the burn-in, evaluation and the report.

Usage: python -m benchmarks.demo [--once] [--out benchmarks/results/demo.json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks.command import add_out, run_main, write_results
from l2l_ray.loop.state.run_folder import git_commit
from l2l_ray.report.record import read_run

ROOT = Path(__file__).resolve().parent.parent


def memory_gb(ids: set[int]) -> tuple[float, float]:
    """Return (PSS, RSS) of some processes together, GB of 10^9 bytes."""
    pss = rss = 0
    for pid in ids:
        try:
            found = psutil.Process(pid).memory_full_info()
        except psutil.Error:
            continue  # it ended, or is the kernel's
        pss, rss = pss + found.pss, rss + found.rss
    return pss / 1e9, rss / 1e9


def measured(folder: Path, name: str) -> dict[str, Any]:
    """Run `make demo` in a clone; return its time, peak memory, what it left running, and its table."""
    before = set(psutil.pids()) | {os.getpid()}
    peak, done = [0.0, 0.0], threading.Event()

    def sample() -> None:
        while not done.wait(2.0):
            peak[:] = map(max, peak, memory_gb(set(psutil.pids()) - before))

    sampler = threading.Thread(target=sample)
    sampler.start()
    started = time.monotonic()
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        status = subprocess.run(["make", "demo", f"DEMO_NAME={name}"], cwd=folder, stdout=out, stderr=out).returncode
    seconds = time.monotonic() - started
    done.set()
    sampler.join()
    if status:
        raise SystemExit(f"make demo ended with {status}; the end of its output:\n{log.read_text()[-2000:]}")
    left = [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.pid not in before and "ray" in " ".join(process.info["cmdline"] or ())
    ]
    run = folder / "runs" / name
    table = json.loads((run / "results.json").read_text())
    return {
        "seconds": round(seconds, 1),
        "phases": phases(run),
        "peak_pss_gb": round(peak[0], 2),
        "peak_rss_gb": round(peak[1], 2),
        "ray_processes_left": len(left),
        "results": {key: table[key] for key in ("protocol", "rows", "differences", "hidden_truth")},
    }


def phases(run: Path) -> dict[str, float]:
    """Return how long the train worker of a finished run was at what, seconds."""
    record, found = read_run(run), defaultdict[str, float](float)
    for method in record.methods:
        for point in record.points_of(method):
            for name, value in point.items():
                if name.startswith("seconds."):
                    found[name.removeprefix("seconds.")] += float(value)
    return {name: round(value, 1) for name, value in found.items()}


def main() -> None:
    """Clone, measure, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_out(parser, ROOT / "benchmarks" / "results" / "demo.json")
    parser.add_argument("--once", action="store_true", help="the first run alone")
    given = parser.parse_args()
    commit = git_commit().removesuffix("-dirty")  # a clone has what is committed
    with tempfile.TemporaryDirectory(prefix="l2l-demo-") as place:
        folder = Path(place) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        names = ("first",) if given.once else ("first", "second")
        found = {name: measured(folder, name) for name in names}
    write_results(given.out, {"commit": commit, "cores": os.cpu_count(), **found})
    for name, figures in found.items():
        print(name, {key: value for key, value in figures.items() if key != "results"})


if __name__ == "__main__":
    run_main(main)
