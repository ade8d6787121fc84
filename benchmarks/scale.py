"""How a run grows: rounds with one and two labelers, Ray against one process, handing out work, a labeler's inputs.

    a   a round at the demo's size on Ray, with one labeler and with two
    b   a round in one process and on Ray as a run is by default: what Ray adds to it
    c   driver and coordinator while a round of 10^2 ... 10^5 shards is handed out (`scale_stand_ins`)
    d   what a labeler holds and how long it loads, for 10^4 ... 10^6 expressions

Each part can run alone; the figures of the others stay in the file. a and b want a machine with nothing else to do;
they take turns, so that a machine that gets slower is no advantage of the first.

Usage: python -m benchmarks.scale [--only a b c d] [--out benchmarks/results/scale.json]
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
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.command import add_out, at_least_one, read_results, run_main, write_results
from benchmarks.scale_stand_ins import resident_mb, shared_mb
from l2l_ray.actors.environment import ENV_DEFAULTS
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.types import Example, Prior

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 2
PARTS = ("round", "labels")  # what is compared: a round, and from a version to its last labels
# (shards, waiting ranks, stand-in labelers, simulated nodes)
HANDED_OUT = [
    *((10**power, 4, 4, 1) for power in (2, 3, 4, 5)),
    *((3000, 4, actors, 4) for actors in (8, 40)),
    *((10**power, 0, 4, 1) for power in (2, 3, 4, 5)),
]
EXPRESSIONS = (10**4, 10**5, 10**6)
SHARDS_READ = 20
EXPRESSIONS_PER_IMAGE = 7  # as in RefCOCO; an image's rows lie far apart, the worst case


def python(*words: str) -> str:
    """Run this interpreter in the checkout; return what it printed."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**ENV_DEFAULTS, **os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def rounds(root: Path, turn: int, labelers: int) -> dict[str, Any]:
    """Run the demo's size and return the seconds between its versions; 0 labelers = in one process.

    Priors and burn-in are shared by all runs under the root, so only the first one pays for them.
    """
    name = f"turn{turn}-labelers{labelers}"
    fields = {"name": name, "run_root": str(root), "loop.rounds": ROUNDS, "cluster.num_labelers": max(1, labelers)}
    words = [word for field, value in fields.items() for word in (f"--{field}", str(value))]
    load = os.getloadavg()[0]
    python(*(["jobs/selfevolve.py"] if labelers else ["-m", "l2l_ray.cli", "run"]), *words)
    return {"load_at_start": round(load, 1), **timings(root / name)}


def timings(run: Path) -> dict[str, Any]:
    """Return, of each round of a finished run, how long it took, when its last labels came, and the work; seconds.

    The work is the sum over shards, also of labelers that work side by side; what is left of their time they wait.
    """
    made = [_written(run / "train" / f"l2l-v{version:04d}" / "metrics.json") for version in range(ROUNDS + 1)]
    labeled = [max(map(_written, run.glob(f"l2l/labels/r{number:03d}-*.parquet"))) for number in range(ROUNDS)]
    took = [round(after - before, 1) for before, after in zip(made, made[1:], strict=False)]
    labels = [round(last - before, 1) for before, last in zip(made, labeled, strict=False)]
    entries = [entry for entry in Ledger(run / "ledger.jsonl").all_entries() if entry.method == "l2l"]
    work = [round(sum(e.seconds for e in entries if e.round == number), 1) for number in range(ROUNDS)]
    spent = {"round_s": took, "labels_s": labels, "work_s": work}
    return {**spent, **{f"mean_{name}": round(sum(each) / ROUNDS, 1) for name, each in spent.items()}}


def _written(file: Path) -> float:
    return file.stat().st_mtime


def measure_rounds(root: Path, which: Sequence[int], num_turns: int) -> Iterator[dict[str, Any]]:
    """Give the rounds of some numbers of labelers, in turn, and how the mean of the first compares with the last's."""
    turns = [[rounds(root, turn, labelers) for labelers in which] for turn in range(num_turns)]
    names = [("one process", "1 labeler", "2 labelers")[labelers] for labelers in which]
    found = {name: list(of_name) for name, of_name in zip(names, zip(*turns, strict=True), strict=True)}
    means = {part: [sum(turn[f"mean_{part}_s"] for turn in found[name]) for name in names] for part in PARTS}
    yield {**found, **{f"first_over_last_{part}": round(mean[0] / mean[-1], 2) for part, mean in means.items()}}


def measure_two_labelers(root: Path, num_turns: int) -> Iterator[dict[str, Any]]:
    """Give the rounds with one labeler and with two, and what two processes can do here at all."""
    for found in measure_rounds(root, (1, 2), num_turns):
        yield {**found, "two_processes_over_one": processes_over_one(2)}


def processes_over_one(count: int) -> float:
    """Return how much more some processes get done than one, in a labeler's work that they share nothing of."""
    (alone,), together = _passes_per_s(1), _passes_per_s(count)
    return round(sum(together) / alone, 2)


def _passes_per_s(count: int) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.scale", "--passes"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) for _ in range(count)]
    return [float(process.communicate()[0]) for process in running]


def passes_per_s(seconds: float = 20.0) -> float:
    """Return how often this process, with one thread, predicts a batch of the demo's images in a second."""
    import torch

    from l2l_ray.config import RunConfig
    from l2l_ray.segmenter.model import Segmenter

    torch.set_num_threads(1)
    config = RunConfig()
    segmenter = Segmenter(config.segmenter).eval()
    batch, side = config.loop.eval_batch, config.segmenter.image_size
    images, proposal = torch.rand(batch, 3, side, side), torch.rand(batch, segmenter.grid, segmenter.grid)
    given = proposal, torch.rand(batch), torch.ones(batch, dtype=torch.bool)
    passes, since = 0, time.monotonic()
    with torch.inference_mode():
        while time.monotonic() - since < seconds:
            segmenter(images, ["the red circle"] * batch, *given)
            passes += 1
    return passes / (time.monotonic() - since)


def measure_handing_out() -> Iterator[list[dict[str, Any]]]:
    """Give what driver and coordinator cost, size by size, each in processes of its own."""
    found: list[dict[str, Any]] = []
    for shards, ranks, actors, nodes in HANDED_OUT:
        numbers = {"shards": shards, "ranks": ranks, "actors": actors, "nodes": nodes}
        words = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
        found.append(json.loads(python("-m", "benchmarks.scale_stand_ins", *words).splitlines()[-1]))
        yield found


def measure_all_inputs() -> Iterator[list[dict[str, Any]]]:
    """Give what a labeler holds, size by size."""
    found: list[dict[str, Any]] = []
    for num in EXPRESSIONS:
        found.append(measure_inputs(num))
        yield found
    return found


def expressions(num: int, image_dir: Path) -> Iterator[Example]:
    """Give made-up expressions."""
    num_images = num // EXPRESSIONS_PER_IMAGE + 1
    for row in range(num):
        image = row % num_images
        text = f"the man in the red shirt who stands on the left, number {row}"
        yield Example(row, row // 3, image, str(image_dir / f"{image % 64}.png"), 640, 480, text)


def priors(num: int) -> Iterator[tuple[int, Prior]]:
    """Give a made-up prior for each of them."""
    for row in range(num):
        box = (0.1, 0.2, 0.5, 0.25 + row / (2 * num))
        reply = '[{"bbox_2d": [100, 200, 500, 600], "label": "the man in the red shirt"}]'
        yield row, Prior(f"{row:064x}", (box,), (0.83,), (), "man in the red shirt", 0.83, "", reply)


class _Sized(Sequence[Example]):
    """Expressions that are made when they are asked for: a million need not fit into memory to be written."""

    def __init__(self, num: int, image_dir: Path) -> None:
        self._num, self._make = num, partial(expressions, num, image_dir)

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[Example]:
        return self._make()

    def __getitem__(self, index: Any) -> Any:
        raise TypeError("these are only written, one after the other")


def measure_inputs(num: int) -> dict[str, Any]:
    """Write tables of so many expressions; let a fresh process read some shards of them, as a labeler does."""
    from PIL import Image

    from l2l_ray.config import smoke_config
    from l2l_ray.loop.state.example_files import write_examples, write_priors
    from l2l_ray.loop.state.run_folder import RunFolder

    with tempfile.TemporaryDirectory(prefix="l2l-scale-", dir="/tmp") as folder:
        size = 256
        run = RunFolder(Path(folder), smoke_config())
        for image in range(64):
            Image.new("RGB", (640, 480), (image, 2 * image, 3 * image)).save(Path(folder) / f"{image}.png")
        load, since = os.getloadavg()[0], time.monotonic()
        write_examples(run.examples_path("unlabeled"), _Sized(num, Path(folder)), size)
        write_priors(run.priors_path("unlabeled"), priors(num), size)
        write_priors(run.priors_path("labeled"), priors(1000), size)
        written_s = time.monotonic() - since
        megabytes = sum(path.stat().st_size for path in Path(folder).glob("*/*.parquet")) / 1e6
        found = json.loads(python("-m", "benchmarks.scale", "--read", folder, "--shard-size", str(size)))
        about = {"load_at_start": round(load, 1), "written_s": round(written_s, 1), "files_mb": round(megabytes, 1)}
        return {"expressions": num, **about, **found}


def read_as_a_labeler(folder: Path, size: int) -> dict[str, Any]:
    """Open the inputs of a run and read some shards, spread over the set, with the rivals of each batch."""
    import l2l_ray.actors.labelers  # noqa: F401  # and with it Ray: the process holds what a labeler's holds
    from l2l_ray.config import smoke_config
    from l2l_ray.loop.inference.engine import InferenceEngine
    from l2l_ray.loop.inference.inputs import ExampleSets
    from l2l_ray.loop.state.run_folder import RunFolder

    config, me = smoke_config(), os.getpid()
    InferenceEngine(config, folder, "cpu")
    before, since = resident_mb(me), time.monotonic()
    run = RunFolder(folder, config)
    unlabeled = ExampleSets(config, run, run.priors_path)["unlabeled"]
    unlabeled.inputs([0]), unlabeled.rivals([0])
    ready_s, since = time.monotonic() - since, time.monotonic()
    num_shards = len(unlabeled) // size
    for number in range(SHARDS_READ):
        first = (number * num_shards // SHARDS_READ) * size
        for start in range(first, first + size, config.loop.eval_batch):
            batch = range(start, start + config.loop.eval_batch)
            unlabeled.inputs(batch), unlabeled.rivals(batch)
    return {
        "ready_s": round(ready_s, 2),
        "ms_per_expression": round(1000 * (time.monotonic() - since) / (SHARDS_READ * size), 2),
        "resident_mb": round(resident_mb(me)),
        "of_it_before_reading_mb": round(before),
        "of_it_libraries_shared_mb": round(shared_mb(me)),
    }


def main() -> None:
    """Measure the parts asked for and write them into the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["a", "b", "c", "d"], default=["a", "b", "c", "d"])
    add_out(parser, ROOT / "benchmarks" / "results" / "scale.json")
    parser.add_argument("--turns", type=at_least_one, default=2, help="a and b: of each way; default: %(default)s")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shard-size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--passes", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.passes:
        sys.stdout.write(str(passes_per_s()))
        return
    if given.read is not None:
        sys.stdout.write(json.dumps(read_as_a_labeler(given.read, given.shard_size)))
        return
    from l2l_ray.config import RunConfig

    found = read_results(given.out)
    found["machine"] = {"cores": os.cpu_count(), "python": platform.python_version()}
    with tempfile.TemporaryDirectory(prefix="l2l-scale-") as root:
        parts = {
            "a": ("two_labelers", partial(measure_two_labelers, Path(root) / "a", given.turns)),
            "b": (
                "against_one_process",
                partial(measure_rounds, Path(root) / "b", (0, RunConfig().cluster.num_labelers), given.turns),
            ),
            "c": ("handing_out", measure_handing_out),
            "d": ("inputs", measure_all_inputs),
        }
        for part in given.only:
            name, measure = parts[part]
            for found[name] in measure():  # written at once: the larger sizes take long
                write_results(given.out, found)
    sys.stdout.write(given.out.read_text())


if __name__ == "__main__":
    run_main(main)
