"""Is a reviewer's time better spent on the most doubtful labels than on any? The whole way, with a scripted reviewer.

For each seed RefShapes becomes a data set of one's own: the masks of 5 % of the photos and those of val are in it, the
others are known to the reviewer alone. L2L is run on it, `COUNT` of its labels are looked at as on the review page, the
decisions are brought back (`l2l data import review --update`), and the run is made again with them:

doubtful    labels of the lowest confidence, where the page begins
random      labels drawn by the seed

Of one object one label is looked at. The reviewer accepts what overlaps the truth by `RIGHT` or more, and redraws the
rest with the true mask. Figures are the mean IoU on val of the last version, which no choice looked at. Runs that are
there are not made again; a file of other options is refused.

    python -m benchmarks.corrections --seeds 0 1 2

Writes benchmarks/results/corrections.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.command import add_out, at_least_one, run_main
from benchmarks.next_labels import val_iou
from benchmarks.seed_file import SeedFile, changed_settings
from l2l_ray import cli
from l2l_ray.config import RunConfig, load_config
from l2l_ray.data.masks import mask_area_px
from l2l_ray.errors import DataError
from l2l_ray.intervals import seed_interval
from l2l_ray.loop.state.candidates import find_candidates, open_dataset
from l2l_ray.loop.state.run_folder import continued
from l2l_ray.randomness import numpy_generator
from l2l_ray.review.item import Items, mask_iou
from l2l_ray.review.journal import Journal
from l2l_ray.review.labels import Labels
from l2l_ray.types import Example, Rle

RESULTS = Path(__file__).parent / "results" / "corrections.json"
WORDS = ["--preset", "5pct"]
WAYS = ("doubtful", "random")
RIGHT = 0.7  # IoU from which the reviewer accepts a mask
Truth = dict[tuple[str, str], Rle]  # by name of the photo and expression


def own_data(config: RunConfig, root: Path, name: str) -> Truth:
    """Make the data set unless it is there; return the true masks of the rest."""
    dataset = open_dataset(config)
    found = find_candidates(config, dataset)
    known = {example.sent_id for example in found.labeled}
    train, _ = dataset.labeled_examples("train", max_words=config.data.max_words)
    hidden = [example for example in train if example.sent_id not in known]
    if not (root / name).exists():
        rows = [_row(example, "train", example.mask_rle) for example in found.labeled]
        rows += [_row(example, "train") for example in found.unlabeled]
        rows += [_row(example, "val", example.mask_rle) for example in found.splits["val"]]
        root.mkdir(parents=True, exist_ok=True)
        table = root / f"{name}.jsonl"
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        _import("rows", str(table), "--images", str(Path(train[0].image_path).parent), root=root, name=name)
    return {(Path(example.image_path).name, example.expression): example.mask_rle for example in hidden}


def _row(example: Example, split: str, rle: Rle | None = None) -> dict[str, Any]:
    row = {"image": Path(example.image_path).name, "expression": example.expression, "split": split}
    return {**row, "id": f"{split} {example.ref_id}", **({"rle": rle} if rle else {})}


def _import(*words: str, root: Path, name: str) -> None:
    if cli.main(["data", "import", *words, "--root", str(root), "--dataset", name]):
        raise DataError(f"l2l data import {' '.join(words)} failed; see above")


def to_look_at(labels: Labels, way: str, count: int, seed: int) -> list[int]:
    """Return the sentences whose labels are looked at, one of each object."""
    by_confidence = [int(labels.sent_ids[at]) for at in np.argsort(labels.confidence, kind="stable")]
    order = by_confidence if way == "doubtful" else numpy_generator(seed).permutation(sorted(by_confidence)).tolist()
    items, objects = Items(labels), dict[int, int]()
    for sent_id in order:
        objects.setdefault(items.photo(sent_id).ref_id, sent_id)
        if len(objects) == count:
            break
    return list(objects.values())


def review(run_dir: Path, way: str, count: int, seed: int, truth: Truth) -> dict[str, int]:
    """Decide on labels of a run as a person would; return how many were accepted and redrawn."""
    labels, journal = Labels(run_dir), Journal(run_dir)
    items, made = Items(labels), dict.fromkeys(("accept", "redraw"), 0)
    for sent_id in to_look_at(labels, way, count, seed):
        record, mask = items.record(sent_id)
        true = truth[Path(str(record["image"])).name, str(record["expression"])]
        iou = round(mask_iou(true, mask), 4)
        is_right = iou >= RIGHT and mask_area_px(mask) > 0
        action, rle = ("accept", mask) if is_right else ("redraw", true)
        shown = record if is_right else {**record, "rle": mask}
        journal.add(sent_id, action, "script", 0, f"{way} {sent_id}", shown, rle, None if is_right else iou)
        made[action] += 1
    return made


def reviewed(config: RunConfig, way: str, count: int, truth: Truth) -> dict[str, Any]:
    """Review a copy of the run, bring the decisions back, run again; return what was decided, and the figure."""
    root, name = Path(config.data.root), f"{config.data.dataset}-{way}"
    if not (root / name).exists():
        first = continued(config).run_dir
        looked_at = first.with_name(f"{first.name}-looked-at-{way}")
        shutil.rmtree(looked_at, ignore_errors=True)
        shutil.copytree(first, looked_at)
        made = review(looked_at, way, count, config.loop.seed, truth)
        partial = root / f"{name}-partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(root / config.data.dataset, partial)
        images = root / "images" / partial.name
        if not images.is_symlink():
            images.symlink_to(root / "images" / config.data.dataset, target_is_directory=True)
        _import("review", str(looked_at), "--update", root=root, name=partial.name)
        (partial / "decided.json").write_text(json.dumps(made))
        images.rename(root / "images" / name)
        partial.rename(root / name)
    again = config.with_values({"name": f"{config.name}-{way}-{count}", "data.dataset": name})
    return {"mean_iou": val_iou(again), **json.loads((root / name / "decided.json").read_text())}


def summarize(by_seed: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of each way, and the difference of both with the 95 % t-interval over seeds."""
    seeds = list(by_seed.values())
    rows: dict[str, Any] = {"before": sum(one["before"] for one in seeds) / len(seeds)}
    rows |= {way: sum(one[way]["mean_iou"] for one in seeds) / len(seeds) for way in WAYS}
    if len(seeds) > 1:
        differences = [one["doubtful"]["mean_iou"] - one["random"]["mean_iou"] for one in seeds]
        rows["doubtful_minus_random"] = seed_interval(differences)._asdict()
    return rows


def main() -> None:
    """Run the seeds that are missing and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=at_least_one, default=50, help="labels that are looked at")
    add_out(parser, RESULTS)
    given, words = parser.parse_known_args()
    torch.set_num_threads(1)
    base = load_config([*WORDS, *words])
    file = SeedFile(given.out, {"count": given.count, "settings": changed_settings(WORDS, words)})

    def measure(seed: int) -> dict[str, Any]:
        changes = {"name": f"corrections-s{seed}", "data.split_seed": seed, "loop.seed": seed}
        benchmark = base.with_values(changes)
        root, name = benchmark.cache_dir / "own", f"shapes-s{seed}"
        truth = own_data(benchmark, root, name)
        first = benchmark.with_values({"data.root": str(root), "data.dataset": name, "data.split_by": "own"})
        return {"before": val_iou(first)} | {way: reviewed(first, way, given.count, truth) for way in WAYS}

    for seed, found in file.complete(given.seeds, measure, summarize):
        print(f"seed {seed}: {found}", flush=True)


if __name__ == "__main__":
    run_main(main)
