"""From evaluation parts to the run's figures: summaries per split, the selector's quality, the final table.

Every number carries its protocol (`data.protocols`): by default masks at native image size, every sentence, mean_iou
per sentence. The version of a row is chosen on val alone and the tests are read once, for that version. Files of older
runs, which counted fewer things per sentence, are read as far as they go.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from l2l_ray.config import RunConfig
from l2l_ray.data.protocols import NATIVE, Protocol, protocol_named
from l2l_ray.errors import HEALS, DataError, run_remedy
from l2l_ray.files import replacing
from l2l_ray.loop.evaluation.breakdown import breakdown
from l2l_ray.loop.evaluation.doubtful import label_doubt
from l2l_ray.loop.evaluation.gate import gate_open_rates
from l2l_ray.loop.evaluation.hidden_truth import pseudo_label_quality
from l2l_ray.loop.evaluation.panels import example_panels, label_panels
from l2l_ray.loop.evaluation.trust import expected_quality
from l2l_ray.loop.inference.engine import EvalPart, InferenceEngine
from l2l_ray.loop.inference.quality import Quality, wrong_again
from l2l_ray.loop.state.example_files import read_examples
from l2l_ray.loop.state.plan import VAL, EvalItem, Plan
from l2l_ray.loop.state.position import Position
from l2l_ray.loop.state.prepare import missing_splits, read_facts
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.metrics import IouMeter, compare_figures
from l2l_ray.report.page import write_report
from l2l_ray.report.panels import write_examples
from l2l_ray.report.record import TESTS, UNLABELED
from l2l_ray.selector.registry import PRIOR_ONLY, label_of
from l2l_ray.storage import local_copy

logger = logging.getLogger(__name__)

Group = tuple[str, int, str]


class Evaluations:
    """Per-sentence results of every (method, version, split), complete groups on disk."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._parts: dict[Group, list[EvalPart]] = defaultdict(list)

    def add(self, item: EvalItem, part: EvalPart) -> None:
        """Keep one part until its group is complete."""
        self._parts[item.group].append(part)

    def close(self, group: Group) -> dict[str, Any]:
        """Join a complete group, write it, log it; return its summary.

        Raises:
            DataError: A file could not be written; the group then does not count as evaluated.
        """
        parts = self._parts.pop(group)
        rows = sorted((row for part in parts for row in part.rows), key=lambda row: row["sent_id"])
        qualities = [part.quality for part in parts if part.quality is not None]
        quality = sum(qualities[1:], qualities[0]) if qualities else None
        frame = pd.DataFrame(rows)
        summary = meter_of(frame).summary()
        event: dict[str, Any] = {"event": "evaluation", "method": group[0], "version": group[1], "split": group[2]}
        event |= {**summary, **({"quality": quality.summary()} if quality else {})}
        path = self._path(group)
        try:
            self._write(path, frame, quality, event)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error}; {run_remedy(error)}") from error
        return summary

    def _write(self, path: Path, frame: pd.DataFrame, quality: Quality | None, event: dict[str, Any]) -> None:
        """Write the parquet file last: it alone says that a group is complete."""
        beside = {} if quality is None else {"quality": {"summary": quality.summary()}, "wrong": quality.wrong}
        for name, content in beside.items():
            file = path.with_name(f"{path.stem}-{name}.json")
            with replacing(file, durable=True) as temporary:
                temporary.write_text(json.dumps(content))
            self._run.promise(file)
        with replacing(path, durable=True) as temporary:
            frame.to_parquet(temporary)
            self._run.log_event(event)
        self._run.promise(path)

    def groups(self) -> list[Group]:
        """Return the complete groups on disk."""
        paths = sorted(self._run.path.glob("evals/*/*.parquet"))
        places = [(Position.named(path.parent.name), path.stem) for path in paths]
        return [(str(place.method), place.version, split) for place, split in places if place is not None]

    def mean_ious(self) -> dict[Group, float]:
        """Return the mean_iou of all groups on disk."""
        return {group: float(self.meter(group).summary()["mean_iou"]) for group in self.groups()}

    def meter(self, group: Group) -> IouMeter:
        """Return the meter holding a complete group's rows."""
        return meter_of(self.frame(group))

    def frame(self, group: Group) -> pd.DataFrame:
        """Return a complete group's rows, one per sentence; columns as in `inference.engine.EvalPart`.

        Raises:
            DataError: They cannot be read.
        """
        try:
            return pd.read_parquet(local_copy(self._path(group)))
        except (OSError, ValueError) as error:  # Arrow's errors are of these
            raise DataError(f"{self._path(group)} cannot be read: {error}; {HEALS}") from error

    def joined(self, method: str, version: int, splits: Iterable[str]) -> IouMeter:
        """Return one meter over several splits; their sentences and images are disjoint."""
        meter = IouMeter()
        for split in splits:
            meter.merge(self.meter((method, version, split)))
        return meter

    def quality(self, method: str, version: int) -> dict[str, Any] | None:
        """Return the selector's quality on val, where it was measured."""
        path = self._path((method, version, VAL)).with_name(f"{VAL}-quality.json")
        return json.loads(path.read_text()) if path.exists() else None

    def wrong_on_val(self, method: str, versions: int) -> list[dict[str, Any]]:
        """Return, per version up to the given one, how many of the version before's wrong labels on val are so again.

        Returns:
            Rows {"version", ...} with the figures of `wrong_again`; versions that were not measured are left out.
        """
        paths = [self._path((method, version, VAL)).with_name(f"{VAL}-wrong.json") for version in range(versions + 1)]
        found = [json.loads(path.read_text()) if path.exists() else None for path in paths]
        return [
            {"version": version, **wrong_again(before, after)}
            for version, (before, after) in enumerate(itertools.pairwise(found), 1)
            if before is not None and after is not None
        ]

    def _path(self, group: Group) -> Path:
        method, version, split = group
        return self._run.path / "evals" / Position(method, version).folder_name / f"{split}.parquet"


def protocol_of(frame: pd.DataFrame) -> Protocol:
    """Return the protocol that rows of one file were counted under; native where an older file does not say.

    Raises:
        DataError: The rows were counted under several.
    """
    names = frame["protocol"].unique().tolist() if "protocol" in frame else [NATIVE.name]
    if len(names) != 1:
        raise DataError(f"rows of one evaluation must be counted under one protocol, got {names}; evaluate them again")
    return protocol_named(names[0])


def meter_of(frame: pd.DataFrame) -> IouMeter:
    """Return the meter that holds the rows of a per-sentence file."""
    meter = IouMeter(protocol_of(frame).empty_union_iou)
    known = [name for name in ("sent_id", "image_id", "intersection", "union", "predicted_px") if name in frame]
    for row in zip(*(frame[name].tolist() for name in known), strict=True):
        meter.add(*row)
    return meter


def figures_of(meter: IouMeter, no_target: bool = True) -> dict[str, Any]:
    """Return a meter's summary with 95 % intervals and, where some sentences refer to nothing, the figures of GRES.

    Those are for native counts: a squashed truth may lose its last pixel, and would then count as no target.
    """
    figures = {**meter.summary(), "interval": meter.intervals()}
    if no_target and meter.has_no_target():
        figures["no_target"] = {**meter.no_target_summary(), "interval": meter.no_target_intervals()}
    return figures


def results(config: RunConfig, run: RunFolder, plan: Plan, evaluations: Evaluations) -> dict[str, Any]:
    """Return the final table as data: one row per method, the version chosen on val, all splits."""
    rows: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    main, facts = run.methods[-1], read_facts(run)
    for method in (PRIOR_ONLY, *run.methods):
        version = plan.best_version(method)
        frames = {split: evaluations.frame((method, version, split)) for split in plan.split_sizes}
        splits = {split: figures_of(meter_of(frame)) for split, frame in frames.items()}
        parts += [
            {"method": method, "version": version, "split": split, **part}
            for split, frame in frames.items()
            for part in breakdown(frame, meter_of)
        ]
        rows.append(
            {
                "method": method,
                "label": label_of(method),
                "version": version,
                "steps": 0 if method == PRIOR_ONLY else config.loop.burn_in_steps + version * config.loop.round_steps,
                "splits": splits,
            }
        )
    return {
        "protocol": NATIVE.description,
        "dataset": config.data.dataset,
        "split_by": config.data.split_by,
        "mask_rule": config.data.mask_rule,
        "labeled_frac": facts.labeled_frac,
        "seed": config.loop.seed,
        "steps_of_every_method": config.loop.burn_in_steps + config.loop.rounds * config.loop.round_steps,
        "chosen_on": VAL if VAL in plan.split_sizes else "last version (no val split)",
        "val_source": facts.val_source,
        "notices": list(facts.notices),
        "missing_splits": list(missing_splits(plan.split_sizes)),
        "rows": rows,
        "differences": [
            {"method": main, "versus": method, **_difference(plan, evaluations, main, method)}
            for method in (PRIOR_ONLY, *run.methods[:-1])
            if plan.split_sizes
        ],
        "breakdown": parts,
        "gate_open": gate_open_rates(config, run),
        "doubt": label_doubt(run, main),
        "val_wrong_before": {
            method: versions
            for method in run.methods
            if (versions := evaluations.wrong_on_val(method, config.loop.rounds))
        },
        "sets": {name: found for name in ("labeled", "unlabeled", *plan.split_sizes) if (found := _size(run, name))},
    }


def _size(run: RunFolder, name: str) -> dict[str, int] | None:
    """Return how many texts and images a set of examples has; None where its file is not there."""
    path = run.examples_path(name)
    if not path.exists():
        return None
    rows = read_examples(path)
    return {"texts": len(rows), "images": len({row.image_id for row in rows})}


def _difference(plan: Plan, evaluations: Evaluations, method: str, versus: str) -> dict[str, Any]:
    """Return the paired difference of mean_iou on the tests together, images resampled, with its 95 % interval.

    It is of val, on which the versions were chosen, only where there is no test.
    """
    splits = [split for split in plan.split_sizes if split != VAL] or [VAL]
    first, second = (evaluations.joined(name, plan.best_version(name), splits) for name in (method, versus))
    found = compare_figures(first, second)["mean_iou"]
    return {"split": splits[0] if len(splits) == 1 else TESTS, "diff": found.diff, "low": found.low, "high": found.high}


def finish(
    config: RunConfig, run: RunFolder, plan: Plan, evaluations: Evaluations, engine: InferenceEngine | None = None
) -> dict[str, Any]:
    """Write results.json, selection.json, example panels and the report; mark the run as finished.

    Returns:
        The content of results.json.
    Raises:
        DataError: A file could not be written; `--resume` writes them all again.
    """
    figures = results(config, run, plan, evaluations)
    figures["expected"] = expected_quality(config, run)
    figures["hidden_truth"] = pseudo_label_quality(config, run)
    try:
        _write_outputs(config, run, plan, evaluations, figures, engine)
        run.mark_finished()
    except OSError as error:
        raise DataError(f"cannot write {run.path}: {error}; {run_remedy(error)}") from error
    return figures


def _write_kept(run: RunFolder, name: str, content: dict[str, Any]) -> None:
    path = run.path / name
    with replacing(path, durable=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    run.promise(path)


def _write_outputs(
    config: RunConfig,
    run: RunFolder,
    plan: Plan,
    evaluations: Evaluations,
    figures: dict[str, Any],
    engine: InferenceEngine | None,
) -> None:
    _write_kept(run, "results.json", figures)
    main = run.methods[-1]
    best = plan.best_version(main)
    quality = evaluations.quality(main, best)
    _write_kept(run, "selection.json", {"method": main, "version": best, **(quality or {})})
    split = VAL if VAL in plan.split_sizes else next(iter(plan.split_sizes), "")
    meter = evaluations.meter((main, best, split)) if split else None
    panels = label_panels(run, main)
    if split or not panels:
        engine = engine or InferenceEngine(config, run.path)
        panels += example_panels(run, engine, meter, main, best, split or UNLABELED)
    write_examples(run.path, panels)
    write_report(run.path)
