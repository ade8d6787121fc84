"""`report.html`: one file with everything a run has to show; no server, no script, no request to anywhere.

Pictures are inside as base64. Curves are there twice, and the page's colour scheme picks one. Every text from the run
folder is escaped: expressions are data, not markup. What the folder lacks is named where it would stand.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from PIL import Image

from l2l_ray.files import replacing
from l2l_ray.report import plots
from l2l_ray.report.board import write_tensorboard
from l2l_ray.report.details import breakdown_table, intervals_table, no_target_table
from l2l_ray.report.panels import (
    ACCEPTED,
    ACCEPTED_RGB,
    CAPTIONS,
    FAILURE_IOU,
    is_failure,
    tiles,
    worst_first,
)
from l2l_ray.report.record import RunRecord, flatten, is_number, read_run
from l2l_ray.report.tables import (
    differences_table,
    equal_counts_table,
    labels_table,
    metrics_frame,
    percent,
    priors_table,
    regions_table,
    results_table,
    rounds_table,
    skips_table,
    splits_of,
)

TEMPLATE = Path(__file__).with_name("page.html.j2")
MAX_EXAMPLES = 40  # about 60 kB each
_JPEG_QUALITY = 88


@dataclass(frozen=True)
class _FigureItem:
    """One curve of the page; `light` is empty when there is nothing to draw."""

    title: str
    note: str
    light: str
    dark: str
    absent: str


def write_report(run_dir: Path) -> Path:
    """Write a run's `report.html`, `metrics.parquet`, `metrics.csv` and `tensorboard/` from what its folder holds.

    Returns:
        The path of report.html.
    Raises:
        DataError: There is no such folder. Missing or damaged files inside it are named in the report instead.
    """
    metrics_frame(run_dir)
    write_tensorboard(run_dir)
    record = read_run(run_dir)
    path = record.run_dir / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(render(record), encoding="utf-8")
    return path


def render(record: RunRecord) -> str:
    """Return the whole page as text."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        name=record.config.get("name") or record.run_dir.name,
        protocol=record.protocol.rstrip("."),
        missing_splits=[str(split) for split in record.results.get("missing_splits") or []],
        note=record.results.get("note") or "",
        main_label=record.labels.get(record.main_method, record.main_method) or "an unnamed selector",
        stats=_stats(record),
        results=results_table(record.rows) if any(map(splits_of, record.rows)) else None,
        intervals=intervals_table(record),
        no_target=no_target_table(record),
        differences=differences_table(record),
        breakdown=breakdown_table(record),
        validation_figures=_validation_figures(record),
        training_figures=_training_figures(record),
        label_figures=_label_figures(record),
        has_hidden_truth=record.label_source == "hidden_truth",
        label_tables=_label_tables(record),
        regions=regions_table(record),
        equal_counts=equal_counts_table(record),
        selection_of=_selection_of(record),
        examples=[_example(record, entry) for entry in worst_first(record.examples)[:MAX_EXAMPLES]],
        known_iou=any(is_number(entry.get("iou")) for entry in record.examples),
        failure_percent=f"{100 * FAILURE_IOU:g}",
        legend=[(text, "#{:02x}{:02x}{:02x}".format(*rgb)) for text, rgb in zip(ACCEPTED, ACCEPTED_RGB, strict=True)],
        priors=priors_table(record),
        skips=skips_table(record.skips),
        env=list(flatten(record.env).items()),
        config=yaml.safe_dump(record.config, sort_keys=False) if record.config else "",
        absent=record.absent,
    )


def _stats(record: RunRecord) -> list[tuple[str, str]]:
    """The few figures to see first: the main method's, from the final table and of its last round's pseudo-labels."""
    row: Mapping[str, Any] = next((r for r in record.rows if r.get("method") == record.main_method), {})
    splits = splits_of(row)
    split = "val" if "val" in splits else next(iter(splits), "")
    scores = splits.get(split, {})
    label = record.labels.get(record.main_method, "")
    figures = [(scores.get(key), f"{name}, {split}, {label}") for key, name in _STATS]
    last = {key: value for point in record.points_of(record.main_method) for key, value in point.items()}
    used, num = last.get("labels.used_frac"), last.get("labels.num")
    if is_number(used) and is_number(num):
        figures.append((used, f"of the pseudo-labels used: {round(used * num)} of {round(num)}, last round"))
    figures.append((last.get("hidden_truth.labels.mean_iou"), "mean IoU of the used pseudo-labels with the true masks"))
    figures.append((last.get("hidden_truth.labels.wrong_object_frac"), "of the used pseudo-labels on a wrong object"))
    return [(f"{percent(value)} %", text) for value, text in figures if is_number(value)]


_STATS = (("mean_iou", "mean IoU"), ("overall_iou", "overall IoU"))


def _validation_figures(record: RunRecord) -> list[_FigureItem]:
    no_val = "val" in (record.results.get("missing_splits") or [])
    lacking = "the data set has no val split." if no_val else "metrics.jsonl holds no evaluation on val."
    return [
        _figure("Mean IoU", "on val, per sentence", lacking, lambda t: plots.validation_curves(record, "mean_iou", t)),
        _figure("Overall IoU", "on val", lacking, lambda t: plots.validation_curves(record, "overall_iou", t)),
    ]


def _training_figures(record: RunRecord) -> list[_FigureItem]:
    return [
        _figure("Reward terms", "", "this selector logged no reward.", lambda t: plots.reward_terms(record, t)),
        _figure("Losses", "", "metrics.jsonl holds no training loss.", lambda t: plots.losses(record, t)),
        _figure("Wall time", "by phase", "no phase was timed.", lambda t: plots.seconds_by_phase(record, t)),
        _figure(
            "Policy", "on cross-fitted labeled images", "this selector has no policy.",
            lambda t: plots.policy_terms(record, t),
        ),
    ]  # fmt: skip


def _label_figures(record: RunRecord) -> list[_FigureItem]:
    lacking = "no label was compared with a true mask."
    main = f"of {record.labels.get(record.main_method, record.main_method)}"
    return [
        _figure("Mean IoU of the used labels", "", lacking, lambda t: plots.label_iou(record, t)),
        _figure("Labels and their object cells", main, lacking, lambda t: plots.label_quality(record, t)),
        _figure("Accepted cells", "", "no pseudo-labels were counted.", lambda t: plots.accepted_share(record, t)),
    ]


def _label_tables(record: RunRecord) -> list[tuple[str, Any, str]]:
    """Title, table and what its rows are."""
    main = record.labels.get(record.main_method, record.main_method)
    found = [
        ("Pseudo-labels of the last round", labels_table(record, "hidden_truth"), "Against hidden truth"),
        (f"Pseudo-labels of {main}, round by round", rounds_table(record), "Against hidden truth"),
        ("Labels for val images", labels_table(record, "quality.val"), "By each method's last version, on val"),
    ]
    return [(title, table, rows) for title, table, rows in found if table is not None]


def _selection_of(record: RunRecord) -> str:
    method = str(record.selection.get("method", record.main_method))
    version = record.selection.get("version")
    return f"{record.labels.get(method, method)}" + ("" if version is None else f", version {version}")


def _example(record: RunRecord, entry: Mapping[str, Any]) -> dict[str, Any]:
    iou = f"IoU {percent(entry.get('iou'))} %" if is_number(entry.get("iou")) else "IoU unknown"
    return {
        "expression": str(entry.get("expression", "")),
        "detail": f"{entry.get('split', '?')}, sentence {entry.get('sent_id', '?')}, {iou}",
        "failure": is_failure(entry),
        "tiles": list(zip(CAPTIONS, map(_jpeg, tiles(record.run_dir, entry)), strict=True)),
    }


def _figure(title: str, note: str, absent: str, draw: Callable[[plots.Theme], bytes | None]) -> _FigureItem:
    light, dark = (_data_uri(draw(theme), "png") for theme in (plots.LIGHT, plots.DARK))
    return _FigureItem(title, note, light, dark, absent)


def _jpeg(tile: Image.Image | None) -> str:
    if tile is None:
        return ""
    buffer = io.BytesIO()
    tile.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return _data_uri(buffer.getvalue(), "jpeg")


def _data_uri(data: bytes | None, kind: str) -> str:
    return "" if data is None else f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
