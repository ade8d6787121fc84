"""A sweep of 4 label ratios by 2 selectors by 2 seeds on two cores, killed once in the middle and resumed.

The sweep is the README's own, `jobs/sweep.py label_ratio --preset smoke`, with two seeds. It is started as a user would
start it, its driver gets SIGKILL once a part of the trials has finished and another one is at work, and the same
command with `--resume` goes on. The file holds which trial was started and finished before and after the kill, how long
each start took, and the table. It is written only if every trial finished exactly once and no finished one was started
again.

Usage: python -m benchmarks.sweep [--out benchmarks/results/sweep.json]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.command import add_out, run_main, write_results
from l2l_ray.sweep.folder import SweepFolder

ROOT = Path(__file__).resolve().parent.parent
WORDS = ["label_ratio", "--preset", "smoke", "--seeds", "0", "1"]
NUM_TRIALS = 16
KILL_AFTER = 6  # finished trials
WAIT_S = 3600.0
POLL_S = 0.1


def start(root: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start the sweep on a private cluster, its runs below `root`."""
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    env |= {"PYTHONPATH": str(ROOT), "L2L_HOME": str(root)}
    return subprocess.Popen([sys.executable, "jobs/sweep.py", *WORDS, *more], cwd=ROOT, env=env)


def names(events: list[dict[str, Any]], kind: str) -> list[str]:
    """Return the trials that something happened to, in order."""
    return [event["trial"] for event in events if event["event"] == kind]


def in_the_middle(folder: SweepFolder) -> bool:
    """Whether enough trials have finished and another one has published a version."""
    finished = names(folder.events(), "finished")
    at_work = {path.parts[-4] for path in folder.path.glob("*/train/*/version.json")} - set(finished)
    return len(finished) >= KILL_AFTER and bool(at_work)


def measured(root: Path) -> dict[str, Any]:
    """Run the sweep, kill it, resume it, check it; return what the file holds."""
    folder = SweepFolder(root / "sweep-label_ratio")
    begun = time.monotonic()
    with start(root) as job:
        while not in_the_middle(folder):
            if job.poll() is not None or time.monotonic() - begun > WAIT_S:
                raise SystemExit(f"the sweep ended with {job.poll()} before it could be killed; see above")
            time.sleep(POLL_S)
        job.send_signal(signal.SIGKILL)
    seconds, before = [time.monotonic() - begun], folder.events()
    begun = time.monotonic()
    with start(root, "--resume") as job:
        status = job.wait(WAIT_S)
    seconds.append(time.monotonic() - begun)
    after = folder.events()[len(before) :]
    if status:
        raise SystemExit(f"the resumed sweep ended with {status}; see above")
    finished = names(before, "finished") + names(after, "finished")
    if len(finished) != NUM_TRIALS or len(set(finished)) != NUM_TRIALS:
        raise SystemExit(f"expected each of {NUM_TRIALS} trials to finish once, got {sorted(finished)}")
    if again := set(names(before, "finished")) & set(names(after, "started")):
        raise SystemExit(f"trials that were finished before the kill were started again: {sorted(again)}")
    table = pd.read_parquet(folder.path / "sweep.parquet").drop(columns=["folder", "reason"])
    return {
        "command": f"python jobs/sweep.py {' '.join(WORDS)}",
        "cores": os.cpu_count(),
        "seconds_until_the_kill": round(seconds[0], 1),
        "seconds_after_it": round(seconds[1], 1),
        "finished_before": names(before, "finished"),
        "cut_by_the_kill": sorted(set(names(before, "started")) - set(names(before, "finished"))),
        "started_after": names(after, "started"),
        "finished_after": names(after, "finished"),
        "burn_ins": len(list((root / "cache" / "burn_in").glob("*/base"))),
        "trials": json.loads(table.to_json(orient="records")),
    }


def main() -> None:
    """Measure in a temporary folder and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_out(parser, ROOT / "benchmarks" / "results" / "sweep.json")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        content = measured(Path(folder))
    write_results(out, content)
    sys.stdout.write(f"{len(content['trials'])} trials, each finished once; {out}\n")


if __name__ == "__main__":
    run_main(main)
