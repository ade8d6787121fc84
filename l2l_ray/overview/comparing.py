"""`l2l compare`: how far runs are apart on the same sentences, and in which settings they differ.

Differences are paired: sentence by sentence, images resampled (`metrics.compare_figures`). So the sentences, their
texts and their true masks must be the same in both; where they are not, nothing is compared. Figures are those of the
version that each run chose. They are about trained models: runs of several seeds are never summed up here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from l2l_ray.config import PLACES, dump_without
from l2l_ray.config.differences import differences
from l2l_ray.errors import HEALS, ConfigError, DataError
from l2l_ray.intervals import BootstrapInterval, verdict
from l2l_ray.loop.evaluation.evaluate import Evaluations, meter_of, protocol_of
from l2l_ray.loop.state.example_files import ExampleTable
from l2l_ray.loop.state.plan import VAL
from l2l_ray.loop.state.run_folder import RunFolder, open_run
from l2l_ray.metrics import IouMeter, compare_figures
from l2l_ray.report.figures import float_keys, percent, points_interval
from l2l_ray.report.record import TESTS, RunRecord, flatten, read_glance
from l2l_ray.report.tables import metric_name
from l2l_ray.types import LabeledExample
from l2l_ray.wording import counted, first_of

FIGURES = ("mean_iou", "overall_iou", "precision_at.0.5")
# Of data without a val split: each run draws its own from the photos that have a mask (`loop/state/enough.py`).
_HELD_OUT = (
    "the runs held out other photos, which are drawn anew once photos with masks are added or removed, or by another "
    "data.split_seed or data.val_from_labeled"
)
_KEEP_VAL = (
    "so that later runs are measured on the same photos, import them as a new data set (another --dataset, of `l2l "
    "label` another --name) with a val split: a folder `val`, or the column `split` of a table (docs/data.md)"
)
_HEAD = ("split", "texts", "figure", "first", "other", "first - other", "95 % interval", "the first is")


@dataclass(frozen=True)
class ComparedRun:
    """One run's model: its chosen version of one method.

    Example: `ComparedRun.open(Path("runs/demo"), None).version`
    """

    run: RunFolder
    record: RunRecord
    method: str
    version: int
    label: str
    splits: tuple[str, ...]

    @classmethod
    def open(cls, path: Path, method: str | None) -> ComparedRun:
        """Open a finished run.

        Args:
            path: Its folder.
            method: A selector of its table; None = its main one.
        Raises:
            ConfigError: There is no run, its settings are of another version of the code, or it has no such method.
            DataError: Its figures are lost or damaged.
            CheckpointError: It has not ended.
        """
        run = open_run(path)
        chosen, _ = run.chosen_version()
        record = read_glance(path)
        if damage := next((line for line in record.absent if line.startswith("results.json")), None):
            raise DataError(f"{path}: {' '.join(damage.split())}; {HEALS}")
        row = next((row for row in record.rows if row.get("method") == (method or chosen)), None)
        if not record.rows or (row is not None and "version" not in row):
            raise DataError(f"{path}: results.json has no table, or no version in it; {HEALS}")
        if row is None:
            known = ", ".join(str(row.get("method")) for row in record.rows) or "none"
            raise ConfigError(f"{path} has no figures of {method or chosen!r}; it has {known}: choose one by --method")
        splits = row.get("splits") or {}
        return cls(run, record, str(row["method"]), int(row["version"]), str(row["label"]), tuple(splits))

    def frame(self, split: str) -> pd.DataFrame:
        """Return the rows of a split, one per sentence, with its text as `expression` and its true mask as `truth`.

        Raises:
            DataError: They cannot be read.
        """
        frame = Evaluations(self.run).frame((self.method, self.version, split))
        rows = list(ExampleTable(self.run.examples_path(split)))
        texts = {row.sent_id: row.expression for row in rows}
        truths = {
            row.sent_id: f"{row.mask_rle['size']} {row.mask_rle['counts']!r}"
            for row in rows
            if isinstance(row, LabeledExample)
        }
        frame = frame.assign(expression=frame["sent_id"].map(texts), truth=frame["sent_id"].map(truths))
        return frame.sort_values("sent_id", ignore_index=True)


def comparison(
    paths: Sequence[Path], split: str | None = None, method: str | None = None, common: bool = False
) -> list[str]:
    """Return, as lines of text, how the first run differs from each of the others.

    Args:
        paths: Two finished runs or more.
        split: The split to compare on; None = each one that both have, and the tests together.
        method: A selector of their tables; None = each run's main one.
        common: Where the splits hold different sentences, take those that both have.
    Raises:
        ConfigError: As `ComparedRun.open`.
        CheckpointError: As `ComparedRun.open`.
        DataError: They were not measured on the same sentences in the same way.
    """
    first, *others = (ComparedRun.open(path, method) for path in paths)
    lines: list[str] = []
    for other in others:
        lines += [*_pair(first, other, split, common), ""]
    lines.append(
        "Ahead or behind: the interval, over images, excludes 0. It is about these trained models; other seeds may say "
        "otherwise."
    )
    if len({run.run.config.loop.seed for run in (first, *others)}) > 1:
        lines.append("Seeds differ and are not pooled: `make compare` compares methods over seeds.")
    return lines


def _pair(first: ComparedRun, other: ComparedRun, split: str | None, common: bool) -> list[str]:
    _require_same_data(first, other)
    splits = _splits(first, other, split)
    found = [(name, *_meters(first, other, name, common)) for name in splits]
    tests = [(one, two) for name, one, two in found if name != VAL]
    if len(tests) > 1:
        found.append((TESTS, _joined([one for one, _ in tests]), _joined([two for _, two in tests])))
    rows: list[tuple[str, ...]] = [_HEAD]
    for name, one, two in found:
        gaps, values = compare_figures(one, two), [flatten(float_keys(meter.summary())) for meter in (one, two)]
        for metric in FIGURES:
            head = (name, str(len(one))) if metric == FIGURES[0] else ("", "")
            shown = (percent(figures[metric]) for figures in values)
            rows.append((*head, metric_name(metric), *shown, *_gap(gaps[metric])))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"first  {first.label}, version {first.version}, {first.run.path}",
        f"other  {other.label}, version {other.version}, {other.run.path}",
        *_fewer(first, other, found),
        *(["note   val: the versions were chosen on it"] if VAL in splits else []),
        *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
        *_settings(first, other),
    ]


def _require_same_data(first: ComparedRun, other: ComparedRun) -> None:
    for field in ("dataset", "split_by", "mask_rule"):
        one, two = (getattr(run.run.config.data, field) for run in (first, other))
        if one != two:
            raise DataError(
                f"{first.run.path} and {other.run.path} were not measured on the same data: data.{field} is {one!r} in "
                f"the first and {two!r} in the other; compare runs on one data set"
            )


def _splits(first: ComparedRun, other: ComparedRun, split: str | None) -> list[str]:
    for run in (first, other):
        if split is not None and split not in run.splits:
            raise DataError(
                f"{run.run.path} has no figures of {run.method} on {split!r}; it has "
                f"{', '.join(run.splits) or 'none'}: choose one by --split"
            )
    shared = [split] if split else [name for name in first.splits if name in other.splits]
    if not shared:
        has = [f"{run.run.path} has {', '.join(run.splits) or 'none'}" for run in (first, other)]
        raise DataError(f"no split was measured in both runs: {'; '.join(has)}; compare runs on one data set")
    return shared


def _meters(first: ComparedRun, other: ComparedRun, split: str, common: bool) -> tuple[IouMeter, IouMeter]:
    """Return the meters of a split of both runs, over the same sentences.

    Raises:
        DataError: Rules, sentences, texts or true masks differ.
    """
    one, two = first.frame(split), other.frame(split)
    what = f"{split} of {first.run.path} and {other.run.path} cannot be compared"
    rules = [protocol_of(frame).name for frame in (one, two)]
    if rules[0] != rules[1]:
        raise DataError(f"{what}: the protocol is {rules[0]} in the first and {rules[1]} in the other")
    ids = set(one["sent_id"]) & set(two["sent_id"])
    if not ids or not (common or len(one) == len(two) == len(ids)):
        apart = split == VAL and all(run.record.held_out for run in (first, other))
        why = f"{_HELD_OUT}; " if apart else ""
        remedy = _KEEP_VAL if apart else "compare runs on one data set"
        raise DataError(
            f"{what}: {why}the first has {counted(len(one), 'sentence')}, the other {len(two)}, and {len(ids)} "
            f"{'is' if len(ids) == 1 else 'are'} in both; " + ("--common compares on these" if ids else remedy)
        )
    one, two = (frame[frame["sent_id"].isin(ids)].reset_index(drop=True) for frame in (one, two))
    same = ("image_id", "expression", "truth")
    differs = (one[[*same]] != two[[*same]]).any(axis=1)
    if differs.any():
        raise DataError(
            f"{what}: {int(differs.sum())} of {counted(len(one), 'sentence')} have another image, text or true mask "
            f"(first sent_ids: {first_of(map(str, one['sent_id'][differs]))}); compare runs on the same data"
        )
    return meter_of(one), meter_of(two)


def _joined(meters: Sequence[IouMeter]) -> IouMeter:
    total = IouMeter()
    for meter in meters:
        total.merge(meter)
    return total


def _gap(found: BootstrapInterval) -> tuple[str, str, str]:
    ends = points_interval(found.low, found.high)
    return f"{100 * found.diff:+.1f}", ends, verdict(found.low, found.high)


def _fewer(first: ComparedRun, other: ComparedRun, found: Sequence[tuple[str, IouMeter, IouMeter]]) -> list[str]:
    """Say where only a part of a split was compared."""
    lines = []
    for name, meter, _ in found:
        sizes = [len(ExampleTable(run.run.examples_path(name))) for run in (first, other)] if name != TESTS else []
        if any(size != len(meter) for size in sizes):
            lines.append(f"note   {name}: the {len(meter)} sentences that both have, of {sizes[0]} and {sizes[1]}")
    return lines


def _settings(first: ComparedRun, other: ComparedRun) -> list[str]:
    before, after = ({**_config(run), **_code(run), **_sizes(run)} for run in (first, other))
    found = list(differences(before, after))
    if not found:
        return ["no setting differs"]
    width = max(len(path) for path, _, _ in found)
    return ["what differs:", *(f"  {path:<{width}}  {one!r} | {two!r}" for path, one, two in found)]


def _config(run: ComparedRun) -> dict[str, Any]:
    return dump_without(run.run.config, PLACES)


def _sizes(run: ComparedRun) -> dict[str, Any]:
    """Return how many texts and images each set of the run has, as results.json has it."""
    return {"sets": run.record.results.get("sets")}


def _code(run: ComparedRun) -> dict[str, Any]:
    """Return what the run was made with, as env.json has it."""
    return {"git": run.record.env.get("git"), "versions": run.record.env.get("versions")}
