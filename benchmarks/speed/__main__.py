"""How fast the parts are, in one command, on a CPU or a GPU: ratios within one run, medians, one JSON.

    python -m benchmarks.speed [--only a b c d e f] [--size lavt_like|tiny] [--batch N] [--repeats N] [--compile]

    a   a training step, against the published way of running the same network and against the machine's bound
    b   prediction: images per second, latency
    c   replies of the language model: a batch against one by one
    d   masks of SAM: a picture encoded once for all its boxes against once for each
    e   labelling: texts per second, and where the time goes
    f   growth with batch, image size and expressions per image; memory

A part is a module with `measure(setup)`, which returns figures for the file; PARTS lists them. What is measured again
replaces that part in `benchmarks/results/speed.json`: the file may hold parts of several runs, each with its commit and
machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.command import add_out, at_least_one, read_results, run_main, write_results
from benchmarks.speed import growth, inference, labelling, prior, proposals, training
from benchmarks.speed.measure import machine
from benchmarks.speed.setup import Setup
from l2l_ray.device import pick_device
from l2l_ray.loop.state.run_folder import git_commit

RESULTS = Path(__file__).resolve().parents[1] / "results" / "speed.json"
PARTS: dict[str, Callable[[Setup], dict[str, Any]]] = {
    "a": training.measure,
    "b": inference.measure,
    "c": prior.measure,
    "d": proposals.measure,
    "e": labelling.measure,
    "f": growth.measure,
}
OF_ONE_SIZE = "ce"  # these measure the embedded models, whatever --size says; c the 4B language model on a GPU


def main(words: list[str] | None = None) -> None:
    """Measure what is asked for, write the file and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help="default: all")
    parser.add_argument("--size", choices=("lavt_like", "tiny"), default="lavt_like", help="tiny: to see that it works")
    parser.add_argument("--batch", type=at_least_one, help="images at once; default: 8 on a GPU, 1 on a CPU")
    parser.add_argument("--repeats", type=at_least_one, help="turns that count; default: 10 on a GPU, 3 on a CPU")
    parser.add_argument("--compile", action="store_true", help="a: also by torch.compile")
    parser.add_argument("--device", default="auto", help="default: a GPU where there is one")
    add_out(parser, RESULTS)
    given = parser.parse_args(words)
    device = pick_device(given.device)
    batch, repeats = (8, 10) if device.type == "cuda" else (1, 3)
    setup = Setup(given.size, device, given.batch or batch, given.repeats or repeats, given.compile)
    read_results(given.out)  # a damaged file is refused before anything is measured
    for name in given.only:
        size = {} if name in OF_ONE_SIZE else {"size": given.size}
        about = {"commit": git_commit(), "machine": machine(device), **size, "repeats": setup.repeats}
        figures = {**about, **PARTS[name](setup)}
        found = {**read_results(given.out), name: figures}
        write_results(given.out, dict(sorted(found.items())))
        print(json.dumps({name: figures}, indent=1), flush=True)


if __name__ == "__main__":
    run_main(main)
