"""What happens to a run on a bad day, seeded: signals, damaged files, a second driver; nothing is lost or done twice.

One run of the main job is left alone. Then runs of the same config are harmed, one harm every few seconds, until all
are spent. The seed fixes their order; what has no victim at the moment waits until it has one:

    kill           SIGKILL to each role in turn: labeler, prior actor, coordinator, train worker, and the driver, which
                   is then started again with `--resume`
    stop           SIGSTOP to each role in turn but the driver
    damage         SIGKILL to the driver, a bit flipped or the second half lost in a file that the run keeps, `--resume`
    second driver  the same command with `--resume` beside the one that runs: it must be refused and name that one

Each run has a root of its own, so that each asks for its priors and trains its burn-in. What is written down: the
harms and how soon the screen spoke of each; per run the shards lost and doubled, and the largest difference of a mean
IoU from the run left alone; damage that no line named. Ends with status 1 where something is lost, doubled, undetected,
let in beside another driver, or differs by more than the tolerance, or the screen spoke of a harm only after a minute.

Usage: python -m benchmarks.chaos [--kills 30] [--stops 10] [--damages 10] [--seed 0] [--out PATH]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil

from benchmarks.command import add_out, run_main, write_results
from l2l_ray.loop.state.digests import Digests
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.processes import started_by
from l2l_ray.randomness import sample_key

ROOT = Path(__file__).resolve().parent.parent
DRIVER, FILE, RUN = "driver", "file", "run"  # victims, beside the roles
ROLES = {  # role -> how its processes' titles begin, and what the screen calls it
    "labeler": ("ray::LabelerActor", r"labeler-\d.* takes its place"),
    "prior actor": ("ray::PriorActor", r"prior-\d.* takes its place"),
    "coordinator": ("ray::Coordinator", "coordinator"),
    "train worker": ("ray::RayTrainWorker", "[Tt]rain.*(again|fail|worker)"),
}
MEAN_IOU_TOLERANCE = 0.005  # as in tests/ray_runs.py, which says why it is not 0
LEAST_GAP_S, MOST_GAP_S = 8.0, 20.0  # what was lost has to be back before more can be
REFUSAL_TIMEOUT_S = 120.0
RUN_TIMEOUT_S = 3600.0
SEEN_WITHIN_S = 60.0
KEPT = (
    "*/labels/*.parquet",
    "ledger.jsonl",
    "data.json",
    "train/[!.]*/*",
    "examples/*.parquet",
    "priors/*.parquet",
    "evals/*/*.parquet",
)

T = TypeVar("T")
Kind = Literal["kill", "stop", "damage", "second driver"]


@dataclass
class Harm:
    """One harm that was done.

    Example: `Harm("harmed-0", "kill", "labeler", 0.4)`
    """

    run: str
    kind: Kind
    what: str  # the role, or the file
    seen_after_s: float | None = None  # until the screen spoke of it; None = its driver ended or was killed before


class Harms:
    """What is still to be done, in a random order that a seed fixes; which process or file it is is random, too."""

    def __init__(self, kills: int, stops: int, damages: int, seed: int) -> None:
        self._seed = seed
        self._left = [
            *_shared_out("kill", kills, (*ROLES, DRIVER)),
            *_shared_out("stop", stops, tuple(ROLES)),
            *_shared_out("damage", damages, (FILE,)),
            *_shared_out("second driver", 1, (RUN,)),
        ]
        self._left.sort(key=lambda harm: sample_key(seed, *harm))
        self.done: list[Harm] = []

    @property
    def left(self) -> int:
        """How many are still to be done."""
        return len(self._left)

    def first(self, victims: Collection[str]) -> tuple[Kind, str] | None:
        """Return the kind and the victim of the next harm that can be done now; None where none can."""
        return next(((kind, victim) for kind, victim, _ in self._left if victim in victims), None)

    def gap_s(self, run: str) -> float:
        """Return how long to wait before the next harm; another time in each run: a victim may not live that long."""
        return LEAST_GAP_S + self._share(f"gap {run}") * (MOST_GAP_S - LEAST_GAP_S)

    def one_of(self, what: str, choices: Sequence[T]) -> T:
        """Return a random one of some choices."""
        return choices[int(self._share(what) * len(choices))]

    def note(self, run: str, kind: Kind, victim: str, what: str) -> Harm:
        """Note that a harm is done."""
        self._left.remove(next(harm for harm in self._left if harm[:2] == (kind, victim)))
        self.done.append(Harm(run, kind, what))
        return self.done[-1]

    def _share(self, what: str) -> float:
        return sample_key(self._seed, what, len(self.done)) % 10_000 / 10_000


def _shared_out(kind: Kind, count: int, victims: Sequence[str]) -> list[tuple[Kind, str, int]]:
    """Give every victim its share of the harms of a kind, each with a number of its own."""
    return [(kind, victims[number % len(victims)], number) for number in range(count)]


class Screen:
    """What the jobs of one measurement print, in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: list[tuple[Harm, float, int]] = []

    def size(self) -> int:
        """Return how much was printed until now, bytes."""
        return self.path.stat().st_size

    def since(self, size: int) -> str:
        """Return what was printed since."""
        return self.path.read_bytes()[size:].decode(errors="replace")

    def expect(self, harm: Harm) -> None:
        """Wait, beside other things, for a line about a harm just done."""
        self._open.append((harm, time.monotonic(), self.size()))

    def forget(self) -> None:
        """Expect nothing more: the driver that would have said it has ended, or was killed."""
        self._open.clear()

    def look(self) -> None:
        """Note which of the expected lines have come."""
        for entry in tuple(self._open):
            harm, since, size = entry
            if re.search(ROLES[harm.what][1], self.since(size)):
                harm.seen_after_s = round(time.monotonic() - since, 1)
                self._open.remove(entry)


class Run:
    """One run of the main job, from its start to its end, however often it is started.

    Example: `Run(folder / "root", "harmed-0", screen).to_its_end(harms)`
    """

    def __init__(self, root: Path, name: str, screen: Screen) -> None:
        self.name = name
        self.path = root / name
        self._root = root
        self._screen = screen
        self.undetected: list[str] = []
        self.let_in = 0  # second drivers that were not refused

    def to_its_end(self, harms: Harms | None = None) -> float:
        """Run, do harm if there is any left, start again where the driver was killed; return the wall time, seconds.

        Raises:
            RuntimeError: The job failed.
            TimeoutError: It did not end.
        """
        begun, damages = time.monotonic(), list[tuple[str, int]]()
        while True:
            size = self._screen.size()
            with self._job() as job:
                try:
                    damaged = self._harm_until_end(job, harms, begun)
                finally:
                    job.kill()
                    self._screen.forget()
            if damaged is None:
                if job.returncode:
                    raise RuntimeError(f"{self.name} ended with status {job.returncode}: {self._screen.since(size)}")
                # The next driver may be killed before it has looked; the one after it names both.
                self.undetected = [file for file, then in damages if not self._named(file, self._screen.since(then))]
                return time.monotonic() - begun
            if damaged:
                damages.append((damaged, self._screen.size()))

    def outcome(self) -> tuple[set[tuple[str, int, int]], int, dict[str, float]]:
        """Return the committed keys, how many lines committed a key once more, and the table of mean IoUs."""
        committed: set[tuple[str, int, int]] = set()
        doubled = 0
        for line in map(json.loads, (self.path / "ledger.jsonl").read_text().splitlines()):
            if "revoked" in line:
                committed.discard(tuple(line["revoked"]))
                continue
            key = line["method"], line["round"], line["shard"]
            doubled += key in committed
            committed.add(key)
        rows = json.loads((self.path / "results.json").read_text())["rows"]
        table = {f"{row['method']} {split}": f["mean_iou"] for row in rows for split, f in row["splits"].items()}
        return committed, doubled, table

    def _job(self) -> subprocess.Popen[bytes]:
        fields = {
            "name": self.name, "run_root": str(self._root), "loop.shard_size": 4, "loop.checkpoint_steps": 2,
            "loop.autocast": False, "loop.rounds": 3, "cluster.heartbeat_timeout_s": 8, "cluster.max_item_retries": 20,
            "cluster.max_train_restarts": 100, "cluster.start_timeout_s": 600,
        }  # fmt: skip
        given = [word for field, value in fields.items() for word in (f"--{field}", str(value))]
        resume = ["--resume"] if (self.path / "config.yaml").exists() else []
        with self._screen.path.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "jobs/selfevolve.py", "--preset", "smoke", *given, *resume],
                cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def _harm_until_end(self, job: subprocess.Popen[bytes], harms: Harms | None, begun: float) -> str | None:
        """Return None when the job has ended by itself, else, its driver killed, the damaged file, "" for none."""
        next_at = time.monotonic() + (harms.gap_s(self.name) if harms else 0)
        while job.poll() is None:
            if time.monotonic() - begun > RUN_TIMEOUT_S:
                raise TimeoutError(f"{self.name} did not end within {RUN_TIMEOUT_S:g} s; see {self._screen.path}")
            time.sleep(0.5)
            self._screen.look()
            if harms is None or not harms.left or time.monotonic() < next_at:
                continue
            if (damaged := self._harm(job, harms)) is not None:
                return damaged
            next_at = time.monotonic() + harms.gap_s(self.name)
        return None

    def _harm(self, job: subprocess.Popen[bytes], harms: Harms) -> str | None:
        """Do the next harm that has a victim; returns as `_harm_until_end` where the driver dies."""
        living = {role: pids for role, pids in _processes(job.pid).items() if pids}
        victims = {*living, DRIVER} if living else set()
        victims |= {RUN} if (self.path / "config.yaml").exists() else set()
        victims |= {FILE} if self._kept() else set()
        if (chosen := harms.first(victims)) is None:
            return None
        kind, victim = chosen
        if victim == FILE:
            return self._damage(job, harms)
        if victim == RUN:
            self._second_driver(job, harms)
            return None
        pid = job.pid if victim == DRIVER else harms.one_of("process", living[victim])
        try:
            os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        except ProcessLookupError:
            return None
        harm = harms.note(self.name, kind, victim, victim)
        if victim == DRIVER:
            job.wait()
            return ""
        self._screen.expect(harm)
        return None

    def _damage(self, job: subprocess.Popen[bytes], harms: Harms) -> str:
        """Kill the driver, damage a file, return the file's name."""
        job.kill()
        job.wait()
        time.sleep(2)  # its actors end with it
        path = harms.one_of("file", self._kept())
        content = bytearray(path.read_bytes())
        half = len(content) // 2
        # What is cut from the ledger's end cannot be told from what was never written; it is labeled again.
        if path.name == "ledger.jsonl" or harms.one_of("way", ["flip", "cut"]) == "flip":
            content[half] ^= 4
        else:
            del content[half:]
        path.write_bytes(content)
        name = self._name(path)
        harms.note(self.name, "damage", FILE, name)
        return name

    def _kept(self) -> list[Path]:
        """Return the files that the run has promised to keep."""
        promised = set(Digests.load(self.path).promised) if self.path.exists() else set()
        promised |= {entry.path for entry in Ledger(self.path / "ledger.jsonl").all_entries()}
        found = sorted(path for pattern in KEPT for path in self.path.glob(pattern))
        always = self.path / "ledger.jsonl"
        return [p for p in found if p.parts[-3] == "train" or p == always or self._name(p) in promised]

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _second_driver(self, job: subprocess.Popen[bytes], harms: Harms) -> None:
        size, since = self._screen.size(), time.monotonic()
        with self._job() as second:
            try:
                status = second.wait(REFUSAL_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                status = 0
            finally:
                second.kill()
        is_refused = status == 1 and f"process {job.pid} on" in self._screen.since(size)
        if not is_refused and job.poll() is not None:
            return  # the first one had ended by itself, so its place was free; had it been taken, it would have failed
        harm = harms.note(self.name, "second driver", RUN, DRIVER)
        if is_refused:
            harm.seen_after_s = round(time.monotonic() - since, 1)
        else:
            self.let_in += 1

    @staticmethod
    def _named(file: str, text: str) -> bool:
        """Whether a line says that a file is damaged: by its name, or by its folder's and its own."""
        folder, _, name = file.rpartition("/")
        lines = [line for line in text.splitlines() if "damaged    " in line]
        return any(
            f"{file}:" in line or f"{file}," in line or (f"{folder}:" in line and name in line) for line in lines
        )


def _processes(job: int) -> dict[str, list[int]]:
    """Return the living processes of each role that a job started."""
    found: dict[str, list[int]] = {role: [] for role in ROLES}
    for pid in sorted(started_by(job)):
        try:
            title = " ".join(psutil.Process(pid).cmdline())
        except psutil.Error:
            continue  # it ended meanwhile
        for role, (begins, _) in ROLES.items():
            if title.startswith(begins):
                found[role].append(pid)
    return found


def main() -> int:
    """Harm runs and write down what came of them; 0 = nothing was lost, doubled, undetected or changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--damages", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    add_out(parser, ROOT / "benchmarks" / "results" / "chaos.json")
    given = parser.parse_args()
    harms = Harms(given.kills, given.stops, given.damages, given.seed)
    runs: list[dict[str, Any]] = []
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        screen = Screen(given.out.with_suffix(".log"))
        screen.path.write_bytes(b"")
        calm = Run(Path(folder, "root-calm"), "calm", screen)
        calm_s = calm.to_its_end()
        keys, _, table = calm.outcome()
        while harms.left:
            run = Run(Path(folder, f"root-{len(runs)}"), f"harmed-{len(runs)}", screen)
            seconds = run.to_its_end(harms)
            found, doubled, figures = run.outcome()
            apart = max(abs(figures[key] - table[key]) for key in table)
            late = sum(h.run == run.name and (h.seen_after_s or 0.0) > SEEN_WITHIN_S for h in harms.done)
            faults = {"lost": len(keys - found), "doubled": doubled, "undetected": run.undetected, "let_in": run.let_in,
                      "seen_late": late}  # fmt: skip
            bad += any(faults.values()) or apart > MEAN_IOU_TOLERANCE
            runs.append({"name": run.name, "wall_s": round(seconds, 1), **faults,
                         "largest_difference_of_mean_iou": round(apart, 6)})  # fmt: skip
            content = {"seed": given.seed, "tolerance": MEAN_IOU_TOLERANCE, "calm_s": round(calm_s, 1),
                       "shards": len(keys), "harms": [asdict(harm) for harm in harms.done], "runs": runs}  # fmt: skip
            write_results(given.out, content)
    sys.stdout.write(f"{len(harms.done)} harms in {len(runs)} runs, {bad} runs with a fault; {given.out}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    run_main(main)
