"""Is it worth asking `l2l suggest` which photos to label next? Against photos at random, and the most doubtful ones.

For each seed: a whole run of L2L at the schedule's share of labeled images; then `COUNT` more images get their true
masks, as a person would draw them, and the run is made again with these among its labeled images:

suggested   those that `l2l suggest` names
doubtful    those of the labels of lowest confidence, which a person who reviews from the top would correct
random      those drawn by the seed

Figures are the mean IoU on val of the last version, which no choice looked at. Runs that are there are not made again;
a file of other options is refused.

    python -m benchmarks.next_labels --seeds 0 1 2

Writes benchmarks/results/next-labels.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import add_out, at_least_one, run_main
from benchmarks.seed_file import SeedFile, changed_settings
from l2l_ray.config import RunConfig, load_config
from l2l_ray.data.split_files import write_split
from l2l_ray.intervals import seed_interval
from l2l_ray.loop.evaluation.committed import last_round
from l2l_ray.loop.evaluation.evaluate import Evaluations
from l2l_ray.loop.evaluation.suggest import suggest
from l2l_ray.loop.local import run_local
from l2l_ray.loop.state.candidates import open_dataset
from l2l_ray.loop.state.example_files import read_examples
from l2l_ray.loop.state.run_folder import RunFolder, continued
from l2l_ray.randomness import numpy_generator

RESULTS = Path(__file__).parent / "results" / "next-labels.json"
WORDS = ["--preset", "5pct"]
WAYS = ("suggested", "doubtful", "random")


def val_iou(config: RunConfig) -> float:
    """Make a run, or take the one that is there; return the mean IoU of its last version on val."""
    run = run_local(continued(config))
    return Evaluations(run).mean_ious()[config.selector.name, config.loop.rounds, "val"]


def images_to_label(run: RunFolder, way: str, count: int, seed: int) -> list[int]:
    """Return the ids of the images that one way of choosing asks for."""
    examples = read_examples(run.examples_path("unlabeled"))
    if way == "suggested":
        id_of = {example.image_path: example.image_id for example in examples}
        return [id_of[one.image] for one in suggest(run.path, count)]
    if way == "random":
        ids = sorted({example.image_id for example in examples})
        return [int(i) for i in numpy_generator(seed).choice(ids, count, replace=False)]
    id_of_text = {example.sent_id: example.image_id for example in examples}
    doubtful = sorted(last_round(run.path).labels(), key=lambda label: (label.confidence, label.sent_id))
    return list(dict.fromkeys(id_of_text[label.sent_id] for label in doubtful))[:count]


def with_more(config: RunConfig, way: str, count: int) -> RunConfig:
    """Return the config of the run that has more labeled images; its split file is written beside the first run."""
    run = RunFolder.open(continued(config))
    dataset = open_dataset(config)
    labeled = {row.image_id for row in read_examples(run.examples_path("labeled"))}
    more = images_to_label(run, way, count, config.loop.seed)
    path = run.path.with_name(f"{run.path.name}-{way}-{count}.txt")
    ids = [i for i in dataset.image_ids("train") if i in labeled.union(more)]
    data = config.data
    write_split(
        path,
        ids,
        len(dataset.image_ids("train")),
        data.dataset,
        data.split_by,
        dataset.digest,
        data.split_seed,
        "keyed",
    )
    return config.with_values({"name": f"{config.name}-{way}-{count}", "data.split_file": str(path)})


def figures(config: RunConfig, count: int) -> dict[str, float]:
    """Return the figures of one seed."""
    found = {"before": val_iou(config)}
    return found | {way: val_iou(with_more(config, way, count)) for way in WAYS}


def summarize(by_seed: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return the mean of each way, and its difference from random with the 95 % t-interval over seeds."""
    seeds = list(by_seed.values())
    rows: dict[str, Any] = {way: sum(one[way] for one in seeds) / len(seeds) for way in ("before", *WAYS)}
    if len(seeds) > 1:
        for way in ("suggested", "doubtful"):
            rows[f"{way}_minus_random"] = seed_interval([one[way] - one["random"] for one in seeds])._asdict()
    return rows


def main() -> None:
    """Run the seeds that are missing and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=at_least_one, default=50, help="images that get masks")
    add_out(parser, RESULTS)
    given, words = parser.parse_known_args()
    torch.set_num_threads(1)
    base = load_config([*WORDS, *words])
    file = SeedFile(given.out, {"count": given.count, "settings": changed_settings(WORDS, words)})

    def measure(seed: int) -> dict[str, float]:
        changes = {"name": f"next-labels-s{seed}", "data.split_seed": seed, "loop.seed": seed}
        return figures(base.with_values(changes), given.count)

    for seed, found in file.complete(given.seeds, measure, summarize):
        print(f"seed {seed}: {found}", flush=True)


if __name__ == "__main__":
    run_main(main)
