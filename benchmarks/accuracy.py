"""`make compare`: selectors from the same burn-in, over several seeds, with verdicts. Resumable; writes one file.

Per seed three jobs run, each in one process without Ray:

    all      L2L and the other built-in selectors (`RULES`): one burn-in, the same number of student steps each
    plain    supervised without guidance
    oracle   a reference: accepts exactly the teacher's right cells, by hidden truth (`benchmarks/oracle.py`)

A job that is finished is not run again; one that was killed continues. Versions and thresholds are chosen on val; the
test splits were read once per job. Differences to L2L are paired per sentence over val + testA + testB. "Ahead" and
"behind" come from the t-interval over seeds of the per-seed differences. The bootstrap interval over images (seeds
averaged, images resampled) is printed beside it: how far the figure depends on the choice of images, for these seeds.

Columns on pseudo-labels are of the last round's, against masks that training never saw
(`l2l_ray/loop/inference/quality.py` defines them).

Usage: python benchmarks/accuracy.py [--seeds 0 1 2] [--processes 2] [--out benchmarks/results/accuracy.json] [fields]
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from l2l_ray.config import RunConfig, load_config
from l2l_ray.errors import DataError
from l2l_ray.intervals import paired_bootstrap, seed_interval
from l2l_ray.selector.registry import label_of, selectors

THRESHOLDS = (0.7, 0.8, 0.9, 0.95)
RULES = tuple(
    method
    for spec in selectors()
    if spec.name != "l2l"
    for method in ([f"{spec.name}@{t}" for t in THRESHOLDS] if spec.name == "fixed_threshold" else [spec.name])
)
JOBS = ("all", "plain", "oracle")
SPLITS = ("val", "testA", "testB")


def job_config(base: RunConfig, job: str, seed: int) -> RunConfig:
    """Return the config of one job of one seed; data, split and training share the seed."""
    loop = base.loop.model_copy(update={"seed": seed})
    data = base.data.model_copy(update={"split_seed": seed})
    change: dict[str, Any] = {"name": f"compare-{job}-s{seed}", "loop": loop, "data": data}
    if job == "all":
        change["compare"] = RULES
    if job == "plain":
        change["segmenter"] = base.segmenter.model_copy(update={"guidance": False})
        change["selector"] = base.selector.model_copy(update={"name": "supervised"})
    if job == "oracle":
        change["selector"] = base.selector.model_copy(update={"name": "accept_all"})
    return base.model_copy(update=change)


def run_job(words: list[str], job: str, seed: int) -> None:
    """Run one job in a process of its own, so that two run side by side on two cores."""
    command = [sys.executable, __file__, "--job", job, "--seeds", str(seed), *words]
    subprocess.run(command, check=True)


def work(config: RunConfig, job: str) -> None:
    """Run one job here."""
    import torch

    from l2l_ray.loop.local import run_local
    from l2l_ray.loop.state.run_folder import continued

    torch.set_num_threads(1)
    config = continued(config)
    if job == "oracle":
        from oracle import OracleEngine

        run_local(config, OracleEngine)
    else:
        run_local(config)


def rows_of(base: RunConfig, seed: int) -> dict[str, dict[str, Any]]:
    """Return method -> its row of results.json (with the run folder), for one seed."""
    rows = {}
    for job in JOBS:
        run = job_config(base, job, seed).run_dir
        for row in json.loads((run / "results.json").read_text())["rows"]:
            name = {"plain": "supervised_plain", "oracle": "oracle"}.get(job, row["method"])
            if job == "all" or row["method"] != "prior_only":
                rows[name] = {**row, "run": run}
    return rows


def sentences(row: dict[str, Any]) -> pd.DataFrame:
    """Return per-sentence IoU of a row over all splits: image_id, sent_id, iou."""
    frames = []
    for split in SPLITS:
        folder = row["run"] / "evals" / f"{row['method']}-v{row['version']:04d}"
        if (path := folder / f"{split}.parquet").exists():
            frames.append(pd.read_parquet(path).assign(split=split))
    frame = pd.concat(frames)
    union = frame["union"].to_numpy()
    iou = np.where(union == 0, 1.0, frame["intersection"] / np.maximum(union, 1))
    return frame.assign(iou=iou, image=frame["split"] + frame["image_id"].astype(str)).set_index("sent_id")


def last_labels(row: dict[str, Any]) -> dict[str, float | None] | None:
    """Return the figures of the last round's pseudo-labels against hidden truth; None for a method without labels.

    Raises:
        DataError: The run was made before these figures existed.
    """
    rounds = (json.loads((row["run"] / "results.json").read_text())["hidden_truth"] or {}).get(row["method"])
    if not rounds:
        return None
    if "object_precision" not in rounds[-1]:
        raise DataError(f"{row['run']} has no object_precision in results.json: an older version made it; run it again")
    figures = {name: rounds[-1][name] for name in ("object_precision", "object_recall")}
    return {**figures, **{name: share for name, share in rounds[-1]["labels"].items() if not name.startswith("num")}}


def tuned_threshold(by_seed: dict[int, dict[str, dict[str, Any]]]) -> str:
    """Return the threshold row with the best val mean_iou, averaged over seeds."""
    names = [f"fixed_threshold@{t}" for t in THRESHOLDS]
    return max(names, key=lambda n: np.mean([rows[n]["splits"]["val"]["mean_iou"] for rows in by_seed.values()]))


def summarize(by_seed: dict[int, dict[str, dict[str, Any]]], config: RunConfig) -> dict[str, Any]:
    """Return what the file holds: mean and spread over seeds per split, and the paired difference to L2L."""
    methods = list(next(iter(by_seed.values())))
    frames = {m: [sentences(rows[m])["iou"] for rows in by_seed.values()] for m in methods}
    images = sentences(next(iter(by_seed.values()))["l2l"])["image"]
    mean = {m: pd.concat(parts, axis=1).mean(axis=1) for m, parts in frames.items()}
    lines = []
    for method in methods:
        row: dict[str, Any] = {"method": method, "label": _label(method), "splits": {}}
        for split in SPLITS:
            found = [rows[method]["splits"][split] for rows in by_seed.values() if split in rows[method]["splits"]]
            row["splits"][split] = {k: _spread([f[k] for f in found]) for k in ("overall_iou", "mean_iou")} | {
                "precision_at": {t: _spread([f["precision_at"][t] for f in found]) for t in found[0]["precision_at"]}
            }
        if method != "l2l":
            diff = paired_bootstrap(mean["l2l"].loc[images.index], mean[method].loc[images.index], images)
            by_seed_diff = [float((a - b).mean()) for a, b in zip(frames["l2l"], frames[method], strict=True)]
            row["l2l_minus_this"] = {
                "diff": diff.diff, "over_seeds": _over_seeds(by_seed_diff), "by_seed": by_seed_diff,
                "over_images": {"low": diff.low, "high": diff.high}, "verdict": verdict(by_seed_diff),
            }  # fmt: skip
        if labels := [found for rows in by_seed.values() if (found := last_labels(rows[method]))]:
            row["labels"] = {name: _spread([part[name] for part in labels]) for name in labels[0]}
        lines.append(row)
    return {
        "protocol": "native size, every sentence; differences paired per sentence; verdict: 95 % t-interval over seeds",
        "seeds": list(by_seed),
        "labeled_frac": config.data.labeled_frac or config.data.benchmark_frac,
        "dataset": config.data.dataset,
        "tuned_threshold": tuned_threshold(by_seed),
        "rows": lines,
    }


def _label(method: str) -> str:
    special = {
        "supervised_plain": "supervised, no guidance",
        "oracle": "accepts the teacher's right cells (sees hidden truth)",
    }
    return special.get(method) or label_of(method)


def _spread(values: list[float | None]) -> dict[str, float | None]:
    """Return mean and standard deviation over the seeds that have the figure; None where too few have it."""
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
    }


def _over_seeds(by_seed: list[float]) -> dict[str, float] | None:
    """Return the 95 % t-interval of the per-seed differences; None for one seed, which has no spread."""
    if len(by_seed) < 2:
        return None
    found = seed_interval(by_seed)
    return {"low": found.low, "high": found.high}


def verdict(by_seed: list[float]) -> str:
    """Return a verdict only where the t-interval over seeds excludes 0.

    Args:
        by_seed: Mean IoU of L2L minus that of the other method, one per seed.
    """
    interval = _over_seeds(by_seed)
    if interval and interval["low"] > 0:
        return "L2L ahead"
    return "L2L behind" if interval and interval["high"] < 0 else "undecided"


COLUMNS = {
    "object_precision": "labels: object precision",
    "object_recall": "labels: object recall",
    "mean_iou": "labels: mean IoU of the used",
    "used_frac": "labels: used",
}


def text_table(result: dict[str, Any]) -> str:
    """Return the result as a Markdown table, in percent: mIoU per split, difference to L2L, the labels' quality."""
    head = ["method", *SPLITS, "L2L minus this", "over seeds", "over images", "verdict", *COLUMNS.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in result["rows"]:
        cells = [row["label"], *(_with_spread(row["splits"][split]["mean_iou"]) for split in SPLITS)]
        if diff := row.get("l2l_minus_this"):
            intervals = (_ends(diff["over_seeds"]), _ends(diff["over_images"]))
            cells += [f"{100 * diff['diff']:+.1f}", *intervals, diff["verdict"]]
        else:
            cells += [""] * 4
        labels = row.get("labels", {})
        cells += [_with_spread(labels[name]) if name in labels else "" for name in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _with_spread(found: dict[str, float | None]) -> str:
    mean, std = found["mean"], found["std"]
    if mean is None:
        return ""
    return f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def _ends(interval: dict[str, float] | None) -> str:
    return f"{100 * interval['low']:+.1f} to {100 * interval['high']:+.1f}" if interval else "one seed"


def main() -> None:
    """Parse, run what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "accuracy.json")
    parser.add_argument("--job", choices=JOBS, help="internal: run this one job here")
    args, words = parser.parse_known_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    base = load_config(words)
    if args.job:
        work(job_config(base, args.job, args.seeds[0]), args.job)
        return
    with ThreadPoolExecutor(args.processes) as pool:
        list(pool.map(lambda j: run_job(words, *j), [(job, seed) for job in JOBS for seed in args.seeds]))
    result = summarize({seed: rows_of(base, seed) for seed in args.seeds}, base)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1))
    print(text_table(result))


if __name__ == "__main__":
    main()
