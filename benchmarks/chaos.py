"""Random SIGKILLs and SIGSTOPs, seeded, on runs of the main job: nothing is lost, nothing done twice, the same table.

One run is left alone; then runs of the same config are harmed, one signal every few seconds at a random role (labeler,
prior actor, coordinator, train worker, and by SIGKILL the driver, which is then started again with `--resume`), until
all signals are spent. Each run has a root of its own, so that each asks for its priors and trains its burn-in. What is
written down of each: signals, shards lost and doubled, the largest difference of a mean
IoU from the unharmed run's. Ends with status 1 where something is lost, doubled, or differs by more than the tolerance.

Usage: python -m benchmarks.chaos [--kills 30] [--stops 10] [--seed 0] [--out benchmarks/results/chaos.json]
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

from l2l_ray.actors.head import started_by
from l2l_ray.randomness import sample_key

ROOT = Path(__file__).resolve().parent.parent
ROLES = {
    "labeler": "ray::LabelerActor", "prior actor": "ray::PriorActor", "coordinator": "ray::Coordinator",
    "train worker": "ray::RayTrainWorker",
}  # fmt: skip
DRIVER = "driver"
MEAN_IOU_TOLERANCE = 0.005  # as in tests/ray_runs.py, which says why it is not 0
LEAST_GAP_S, MOST_GAP_S = 8.0, 20.0  # what was lost has to be back before more can be
RUN_TIMEOUT_S = 3600.0


def words(root: Path, name: str) -> list[str]:
    """Return the command of a run: the smoke preset in small shards, with low limits and many tries."""
    fields = {
        "name": name, "run_root": str(root), "loop.shard_size": 4, "loop.checkpoint_steps": 2, "loop.autocast": False,
        "loop.rounds": 3, "cluster.heartbeat_timeout_s": 8, "cluster.max_item_retries": 20,
        "cluster.max_train_restarts": 100, "cluster.start_timeout_s": 600,
    }  # fmt: skip
    given = [word for field, value in fields.items() for word in (f"--{field}", str(value))]
    return [sys.executable, "jobs/selfevolve.py", "--preset", "smoke", *given]


def processes(job: int) -> dict[str, list[int]]:
    """Return the living processes of each role that a job started."""
    found: dict[str, list[int]] = {role: [] for role in ROLES}
    for pid in sorted(started_by(job)):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        for role, begins in ROLES.items():
            if title.startswith(begins):
                found[role].append(pid)
    return found


class Harm:
    """Signals that are still to be sent, in a random order that a seed fixes; which process gets one is random, too."""

    def __init__(self, kills: int, stops: int, seed: int) -> None:
        signals = [signal.SIGKILL] * kills + [signal.SIGSTOP] * stops
        self._seed = seed
        self._left = sorted(enumerate(signals), key=lambda pair: sample_key(seed, "order", pair[0]))
        self.sent: list[dict[str, Any]] = []

    @property
    def is_spent(self) -> bool:
        """Whether every signal was sent."""
        return not self._left

    def gap_s(self) -> float:
        """Return how long to wait before the next signal."""
        share = sample_key(self._seed, "gap", len(self.sent)) % 1000 / 1000
        return LEAST_GAP_S + share * (MOST_GAP_S - LEAST_GAP_S)

    def send(self, job: int, run: str) -> bool:
        """Send the next signal to a random role that lives; True when it killed the driver."""
        number = self._left[0][1]
        living = {role: pids for role, pids in processes(job).items() if pids}
        roles = [*living, *([DRIVER] if number == signal.SIGKILL and living else [])]
        if not roles:
            return False
        role = roles[sample_key(self._seed, "role", len(self.sent)) % len(roles)]
        pids = [job] if role == DRIVER else living[role]
        pid = pids[sample_key(self._seed, "process", len(self.sent)) % len(pids)]
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        self._left.pop(0)
        self.sent.append({"run": run, "signal": number.name, "role": role})
        return role == DRIVER


def run_to_its_end(root: Path, name: str, harm: Harm | None, log: Path) -> float:
    """Run a job, harming it, and start it again where its driver was killed; return its wall time, seconds."""
    begun, resume = time.monotonic(), False
    while True:
        with log.open("ab") as out:
            job = subprocess.Popen(
                words(root, name) + (["--resume"] if resume else []),
                cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
            killed = False
            while job.poll() is None and not killed:
                if time.monotonic() - begun > RUN_TIMEOUT_S:
                    job.kill()
                    raise TimeoutError(f"{name} did not end within {RUN_TIMEOUT_S:g} s; its output is in {log}")
                if harm is None or harm.is_spent:
                    time.sleep(0.5)
                    continue
                time.sleep(harm.gap_s())
                killed = job.poll() is None and harm.send(job.pid, name)
            status = job.wait()
        if not killed:
            if status:
                raise RuntimeError(f"{name} ended with status {status}: {log.read_text()[-2000:]}")
            return time.monotonic() - begun
        resume = (root / name / "config.yaml").exists()


def outcome(root: Path, name: str) -> tuple[list[tuple[str, int, int]], dict[str, float]]:
    """Return the keys of a run's ledger, repeated ones included, and its table of mean IoUs."""
    lines = [json.loads(line) for line in (root / name / "ledger.jsonl").read_text().splitlines()]
    rows = json.loads((root / name / "results.json").read_text())["rows"]
    table = {f"{row['method']} {split}": f["mean_iou"] for row in rows for split, f in row["splits"].items()}
    return [(line["method"], line["round"], line["shard"]) for line in lines], table


def main() -> int:
    """Harm runs and write down what came of them; 0 = nothing was lost, doubled or changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "chaos.json")
    given = parser.parse_args()
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        log = given.out.with_suffix(".log")
        calm_s = run_to_its_end(Path(folder, "root-calm"), "calm", None, log)
        keys, table = outcome(Path(folder, "root-calm"), "calm")
        harm = Harm(given.kills, given.stops, given.seed)
        while not harm.is_spent:
            name = f"harmed-{len(runs)}"
            root = Path(folder, f"root-{name}")
            seconds = run_to_its_end(root, name, harm, log)
            found, figures = outcome(root, name)
            apart = max((abs(figures[key] - table[key]) for key in table), default=0.0)
            lost, doubled = len(set(keys) - set(found)), len(found) - len(set(found))
            runs.append({"name": name, "wall_s": round(seconds, 1), "lost": lost, "doubled": doubled,
                         "largest_difference_of_mean_iou": round(apart, 6)})  # fmt: skip
    content = {"seed": given.seed, "tolerance": MEAN_IOU_TOLERANCE, "calm_s": round(calm_s, 1), "shards": len(keys),
               "signals": harm.sent, "runs": runs}  # fmt: skip
    given.out.write_text(json.dumps(content, indent=1) + "\n")
    bad = [r for r in runs if r["lost"] or r["doubled"] or r["largest_difference_of_mean_iou"] > MEAN_IOU_TOLERANCE]
    sys.stdout.write(f"{len(harm.sent)} signals in {len(runs)} runs, {len(bad)} runs with a fault; {given.out}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
