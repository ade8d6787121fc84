"""One row of one seed, in a process of its own: the run, its last version on every split, and the record.

It may be killed at any time: the same call goes on where it was. Two workers never work on one row: the second waits
for the first, finds its record and ends.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.compare.biased_prior import prepare_biased
from benchmarks.compare.cost import Cost, CostConsole
from benchmarks.compare.oracles import ORACLES
from benchmarks.compare.records import Record, SplitFigures, digest_of, load_record, processor, save_record
from benchmarks.compare.rows import Records, Task
from l2l_ray.config import RunConfig
from l2l_ray.device import pick_device
from l2l_ray.errors import ConfigError
from l2l_ray.files import locked
from l2l_ray.loop.evaluation.evaluate import meter_of
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.inference.priors import LocalMllm, fill_all_priors
from l2l_ray.loop.local import run_local
from l2l_ray.loop.state.candidates import EVAL_SPLITS
from l2l_ray.loop.state.example_files import ExampleTable
from l2l_ray.loop.state.position import Position
from l2l_ray.loop.state.prepare import prepare
from l2l_ray.loop.state.run_folder import RunFolder, continued
from l2l_ray.types import Candidate

# Of each round's labels: what the tables and pictures show.
_LABEL_FIGURES = (
    *("labels", "object_precision", "object_recall", "object_missed", "accepted_by_true_region"),
    *("accuracy_by_true_region", "wrong_before", "reliability"),
)


def work(task: Task, records: Records, folder: Path, run_root: str | None, keep: bool = False) -> None:
    """Run one task to its end and write its record.

    Args:
        task: What to run.
        records: Those that the row needs.
        folder: Of all records.
        run_root: Where runs are.
        keep: Whether the run's weights stay; they are large, and no figure needs them again.
    """
    config = task.config(records, run_root)
    digest = digest_of(config, task.spec.oracle, task.spec.is_biased)
    with locked(_beside(config, "lock")):
        found = load_record(folder, task.name)
        if found is not None and (found.digest, found.processor) == (digest, processor()):
            return
        if pick_device().type == "cpu":
            torch.set_num_threads(1)  # the cores are shared by workers
        run, cost = _run(task, config, digest)
        save_record(folder, task.name, _record(task, run, digest, cost))
        if not keep:
            shutil.rmtree(run.train_dir)


def _run(task: Task, config: RunConfig, digest: str) -> tuple[RunFolder, Cost]:
    remove_foreign(config, digest)
    run = RunFolder.open(continued(config))
    cost = Cost(_beside(config, "cost.json"))
    cost.begin("priors")
    data = prepare(run.config, run)
    mllm = LocalMllm(config.prior)
    prepare_biased(config, run, data, mllm) if task.spec.is_biased else fill_all_priors(config, run, data, mllm)
    cost.begin("loading")
    engine = ORACLES[task.spec.oracle] if task.spec.oracle else InferenceEngine
    finished = run_local(continued(config), engine, CostConsole(config, cost))
    cost.begin("evaluation")
    return finished, cost


def remove_foreign(config: RunConfig, digest: str) -> None:
    """Remove a run that cannot become the row: other settings, code, models or another kind of processor began it.

    What is begun here next is noted beside it.
    """
    stamp, own = _beside(config, "stamp"), f"{processor()}\n{digest}\n"
    if _is_of_no_use(config) or (config.run_dir.exists() and not _says(stamp, own)):
        shutil.rmtree(config.run_dir)
        _beside(config, "cost.json").unlink(missing_ok=True)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(own)


def _is_of_no_use(config: RunConfig) -> bool:
    """Whether a run lies there that was begun with other settings, or whose weights were removed with its record."""
    if not (config.run_dir / "config.yaml").exists():
        return False
    try:
        run = RunFolder.open(continued(config))
    except ConfigError:
        return True
    return run.finished and not run.train_dir.exists()


def _says(file: Path, text: str) -> bool:
    return file.exists() and file.read_text() == text


def _beside(config: RunConfig, ending: str) -> Path:
    return config.run_dir.parent / f"{config.run_dir.name}.{ending}"


def _record(task: Task, run: RunFolder, digest: str, cost: Cost) -> Record:
    config, method = run.config, run.config.selector.name
    version = config.loop.rounds
    results = json.loads((run.path / "results.json").read_text())
    names = [name for name in EVAL_SPLITS if run.examples_path(name).exists()]
    splits = {name: _split_figures(last_version_rows(run, method, version, name)) for name in names}
    val = [meter_of(pd.read_parquet(_eval_path(run, method, v, "val"))).summary() for v in range(1, version + 1)]
    stamp = run.path / "biased_prior.json"
    environment = json.loads((run.path / "env.json").read_text())
    cost.begin("done")
    cost.save()
    return Record(
        dataset=task.dataset,
        schedule=task.schedule,
        seed=task.seed,
        row=task.row,
        digest=digest,
        package=environment["versions"]["l2l-ray"],
        commit=environment["git"],
        device=pick_device().type,
        sees_truth=bool(task.spec.oracle),
        biased_prior=json.loads(stamp.read_text()) if stamp.exists() else None,
        labeled_frac=results["labeled_frac"],
        steps=results["steps_of_every_method"],
        version=version,
        splits=splits,
        val_by_version=[figures["mean_iou"] for figures in val],
        rounds=[_label_figures(found) for found in (results["hidden_truth"] or {}).get(method, [])],
        gate_open=results["gate_open"].get(method, []),
        cpu_s=cost.cpu_s,
        wall_s=cost.wall_s,
        processor=processor(),
    )


def last_version_rows(run: RunFolder, method: str, version: int, split: str) -> pd.DataFrame:
    """Return a version's per-sentence figures on a split; the run measured tests for the version that val chose."""
    path = _eval_path(run, method, version, split)
    if path.exists():
        return pd.read_parquet(path)
    engine, num = InferenceEngine(run.config, run.path), len(ExampleTable(run.examples_path(split)))
    return pd.DataFrame(engine.evaluate(method, version, split, 0, num).rows)


def _eval_path(run: RunFolder, method: str, version: int, split: str) -> Path:
    return run.path / "evals" / Position(method, version).folder_name / f"{split}.parquet"


def _split_figures(rows: pd.DataFrame) -> SplitFigures:
    """Sum up a split's sentences per image, images by id."""
    meter = meter_of(rows)
    summary = meter.summary()
    by_image = pd.DataFrame(meter.rows()).groupby("image_id")["iou"].agg(["size", "sum"]).sort_index()
    ids = hashlib.sha256(json.dumps([int(i) for i in by_image.index]).encode()).hexdigest()[:12]
    figures = {name: summary[name] for name in ("overall_iou", "mean_iou", "precision_at")}
    return SplitFigures(figures, ids, tuple(map(int, by_image["size"])), tuple(map(float, by_image["sum"])))


def _label_figures(found: dict[str, Any]) -> dict[str, Any]:
    """Return a round's figures without the curves, whose area stays."""
    scores = {
        name: {key: found["ordering"][name][key] for key in ("auc", "area", "relative_excess")}
        for name in ("gate", "confidence")
    }
    unused = {"num_used": 0, "used_frac": 0.0, "right_frac": None}
    sources = {c.name.lower(): found["sources"].get(c.name.lower(), unused) for c in Candidate}
    return {name: found[name] for name in _LABEL_FIGURES if name in found} | {"ordering": scores, "sources": sources}
