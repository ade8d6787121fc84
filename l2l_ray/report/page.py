"""`report.html`: one file with everything a run has to show; no server, no script, no request to anywhere.

Pictures are inside as base64. Curves are there twice, and the page's colour scheme picks one. Every text from the run
folder is escaped: expressions are data, not markup. A part without content is left out, or is one sentence; files that
are absent or damaged are named at the end, and the words that the page uses are explained there.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from PIL import Image

from l2l_ray.files import replacing
from l2l_ray.report import plots
from l2l_ray.report.board import write_tensorboard
from l2l_ray.report.canvas import FigureItem, data_uri, drawn
from l2l_ray.report.details import breakdown_table, intervals_table, no_target_table
from l2l_ray.report.figures import splits_of
from l2l_ray.report.glossary import occurring
from l2l_ray.report.label_tables import (
    expected_table,
    gate_table,
    labels_table,
    regions_table,
    rounds_table,
    sources_table,
)
from l2l_ray.report.left_out import left_out
from l2l_ray.report.next_steps import next_steps
from l2l_ray.report.outcome import outcome
from l2l_ray.report.panels import (
    ACCEPTED,
    ACCEPTED_RGB,
    CAPTIONS,
    FAILURE_IOU,
    TILES,
    is_failure,
    score_text,
    tiles,
    worst_first,
)
from l2l_ray.report.record import RunRecord, flatten, is_number, read_run, writing
from l2l_ray.report.reviewed import decided, decision_on, reviewed, who_looked
from l2l_ray.report.summary import headline, model_answers, quality_sentence, stats, toy_notice, used_labels
from l2l_ray.report.tables import (
    differences_table,
    metrics_frame,
    priors_table,
    results_table,
)
from l2l_ray.review.journal import Journal, journal_of
from l2l_ray.review.journal_lines import Action

FOLDER = Path(__file__).parent
MAX_EXAMPLES = 40  # about 60 kB each
_JPEG_QUALITY = 88
_PHOTO_TILES = {"prior": "language model's box", "final": "label", "accepted": "accepted of it"}


def write_report(run_dir: Path) -> Path:
    """Write a run's `report.html`, `metrics.parquet`, `metrics.csv` and `tensorboard/` from what its folder holds.

    Returns:
        The path of report.html.
    Raises:
        DataError: There is no such folder, or a file cannot be written. Missing or damaged files inside it are named
            in the report instead.
    """
    metrics_frame(run_dir)
    write_tensorboard(run_dir)
    record = read_run(run_dir)
    path = record.run_dir / "report.html"
    page = render(record)
    with writing(record.run_dir), replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render(record: RunRecord) -> str:
    """Return the whole page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    template = environment.get_template("page.html.j2")
    content = _content(record)
    # Rendered twice: the glossary holds the words that the rest of the page uses.
    terms = occurring(_visible(template.render(**content, config="", env=[], glossary=[])))
    return template.render(
        **content,
        config=yaml.safe_dump(record.config, sort_keys=False) if record.config else "",
        env=list(flatten(record.env).items()),
        glossary=terms,
    )


def _content(record: RunRecord) -> dict[str, Any]:
    has_figures = any(map(splits_of, record.rows))
    own_splits = has_figures and not record.held_out
    journal = journal_of(record.run_dir)
    return {
        "name": record.config.get("name") or record.run_dir.name,
        "headline": headline(record),
        "outcome": outcome(record, decided(journal)),
        "about": record.about.rstrip("."),
        "protocol": record.protocol.rstrip(".") if has_figures else "",
        "missing_splits": [str(s) for s in record.results.get("missing_splits") or []] if own_splits else [],
        "note": record.results.get("note") or "",
        "toy": toy_notice(record),
        "own_data": record.own_data,
        "held_out": record.held_out,
        "val_name": "the held-out photos" if record.held_out else "val",
        "main_label": record.labels.get(record.main_method, record.main_method) or "an unnamed selector",
        "stats": stats(record),
        "photo_groups": _photo_groups(record, journal),
        "used_labels": used_labels(record),
        "who_looked": who_looked(record, journal),
        "reviewed": reviewed(record, journal),
        "left_out": left_out(record.skips, _dataset(record)),
        "notices": [str(notice) for notice in record.results.get("notices") or []],
        "steps": next_steps(record) if record.rows else [],
        "quality": quality_sentence(record),
        "results": results_table(record.rows) if has_figures else None,
        "intervals": intervals_table(record),
        "no_target": no_target_table(record),
        "differences": differences_table(record),
        "breakdown": breakdown_table(record),
        "validation_figures": _validation_figures(record),
        "training_figures": _training_figures(record),
        "label_figures": _label_figures(record),
        "has_hidden_truth": record.label_source == "hidden_truth",
        "label_tables": _label_tables(record),
        "expected": expected_table(record),
        "gate": gate_table(record),
        "sources": sources_table(record),
        "regions": regions_table(record),
        "selection_of": _selection_of(record),
        "examples": [_example(record, entry) for entry in worst_first(record.evaluated)[:MAX_EXAMPLES]],
        "failure_percent": f"{100 * FAILURE_IOU:g}",
        "legend": [
            (text, "#{:02x}{:02x}{:02x}".format(*rgb)) for text, rgb in zip(ACCEPTED, ACCEPTED_RGB, strict=True)
        ],
        "answers": model_answers(record),
        "priors": priors_table(record),
        "absent": record.absent,
    }


def _dataset(record: RunRecord) -> str:
    data = record.config.get("data")
    return str(data.get("dataset", "")) if isinstance(data, Mapping) else ""


def _visible(html: str) -> str:
    """Return the words of a page that are ours: without markup, commands, and what data sets say."""
    return re.sub(r"<(style|q|pre)\b.*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)


def _validation_figures(record: RunRecord) -> list[FigureItem]:
    return drawn(
        ("Mean IoU", "", plots.validation_curves(record, "mean_iou")),
        ("Overall IoU", "", plots.validation_curves(record, "overall_iou")),
    )


def _training_figures(record: RunRecord) -> list[FigureItem]:
    return drawn(
        ("Reward terms", "", plots.reward_terms(record)),
        ("Losses", "", plots.losses(record)),
        ("Wall time", "by phase", plots.seconds_by_phase(record)),
        ("Policy", "on labeled images", plots.policy_terms(record)),
    )


def _label_figures(record: RunRecord) -> list[FigureItem]:
    main = f"of {record.labels.get(record.main_method, record.main_method)}"
    return drawn(
        ("Mean IoU of the used labels", "", plots.label_iou(record)),
        ("What became of the labels", main, plots.label_makeup(record)),
        ("Are the surest labels the right ones?", f"{main}, last round", plots.risk_coverage(record)),
        ("Does a confidence say what the IoU is?", f"{main}, last round", plots.reliability(record)),
        ("Accepted cells", "", plots.accepted_share(record)),
    )


def _label_tables(record: RunRecord) -> list[tuple[str, Any, str]]:
    """Title, table and what its rows are."""
    main = record.labels.get(record.main_method, record.main_method)
    val = "the held-out photos" if record.held_out else "val"
    found = [
        ("Labels of the last round", labels_table(record, "hidden_truth"), "Against hidden truth"),
        (f"Labels of {main}, round by round", rounds_table(record), "Against hidden truth"),
        (f"Labels for {val}", labels_table(record, "quality.val"), f"By each method's last version, on {val}"),
    ]
    return [(title, table, rows) for title, table, rows in found if table is not None]


def _photo_groups(record: RunRecord, journal: Journal | None) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Unlabeled photos as title, note and cards: used labels, others, and masks where a run makes no labels.

    Of each, those that a person has decided about come last.
    """

    def order(entry: Mapping[str, Any]) -> tuple[bool, float]:
        confidence = entry.get("confidence")
        return decision_on(entry, journal) is not None, confidence if is_number(confidence) else 0.0

    groups = [
        (True, "Used for training", "The least sure come first."),
        (False, "Not used for training", "From unsure to sure."),
        (None, "Masks of the last version", "This run makes no labels; these are its own masks of some photos."),
    ]
    found = []
    for used, title, note in groups:
        entries = sorted((entry for entry in record.photos if entry.get("used") is used), key=order)
        if entries:
            cards = [_photo(record, entry, decision_on(entry, journal)) for entry in entries[:MAX_EXAMPLES]]
            found.append((title, note, cards))
    return found


def _photo(record: RunRecord, entry: Mapping[str, Any], decision: Action | None) -> dict[str, Any]:
    shown = dict(zip(TILES, tiles(record.run_dir, entry), strict=True))
    captions = _PHOTO_TILES if entry.get("used") is not None else {**_PHOTO_TILES, "final": "mask"}
    if entry.get("prior_source") == "user":
        captions = {**captions, "prior": "box given by a person"}
    if decision is not None and decision.action != "accept":
        captions = {**captions, "final": "the run's label"}
    details = [str(entry.get("file") or ""), score_text(entry), str(entry.get("why_unused") or "")]
    return {
        "expression": str(entry.get("expression", "")),
        "decision": "" if decision is None else f"{decision.reviewer}: {decision.state}",
        "detail": ", ".join(part for part in details if part),
        "tiles": [(caption, _jpeg(shown[name])) for name, caption in captions.items()],
    }


def _selection_of(record: RunRecord) -> str:
    method = str(record.selection.get("method", record.main_method))
    version = record.selection.get("version")
    return f"{record.labels.get(method, method)}" + ("" if version is None else f", version {version}")


def _example(record: RunRecord, entry: Mapping[str, Any]) -> dict[str, Any]:
    confidence = f", confidence {100 * entry['confidence']:.1f} %" if is_number(entry.get("confidence")) else ""
    return {
        "expression": str(entry.get("expression", "")),
        "detail": f"{entry.get('split', '?')}, text {entry.get('sent_id', '?')}, {score_text(entry)}"
        + (confidence if is_number(entry.get("iou")) else ""),
        "failure": is_failure(entry),
        "tiles": list(zip(CAPTIONS, map(_jpeg, tiles(record.run_dir, entry)), strict=True)),
    }


def _jpeg(tile: Image.Image | None) -> str:
    if tile is None:
        return ""
    buffer = io.BytesIO()
    tile.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return data_uri(buffer.getvalue(), "jpeg")
