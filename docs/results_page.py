"""Writes the measured part of docs/results.md anew, and its drawings, from files in benchmarks/results.

python docs/results_page.py

The page's own words lie outside of the two marks and are left alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.compare.rows import CURVE_ROWS, ROWS  # noqa: E402
from benchmarks.compare.tables import (  # noqa: E402
    biased_table,
    curve_table,
    label_table,
    main_table,
    markdown,
    origin_note,
    recovered_text,
    title,
)
from l2l_ray.report.canvas import svg  # noqa: E402
from l2l_ray.selector.registry import label_of, style_of  # noqa: E402

PAGE = ROOT / "docs" / "results.md"
SOURCE = ROOT / "benchmarks" / "results" / "compare.json"
BEGIN, END = "<!-- written by docs/results_page.py: begin -->", "<!-- written by docs/results_page.py: end -->"
CHOICE = ROOT / "benchmarks" / "results" / "label-choice.json"
WHERE = ROOT / "benchmarks" / "results" / "where.json"
NOT_YET = "`make compare` has written no `benchmarks/results/compare.json` yet."
_QUALITY = {"right": ("right_frac", "#139a80"), "poor outline": ("poor_outline_frac", "#b8901c"),
            "wrong object": ("wrong_object_frac", "#e4572e")}  # fmt: skip
SHARES = "results-shares.svg"
_ROW_LABELS = {row.name: row.label for row in ROWS}
_CURVES = ("l2l", "accept_all", "supervised", "confidence_gate", "scorer", "sample_oracle", "true_masks")


def page(text: str, source: Path = SOURCE) -> str:
    """Return the page's text with the measured part made anew.

    Args:
        text: The page; both marks are in it.
        source: The summary, `compare.json`.
    """
    summary = json.loads(source.read_text()) if source.exists() else None
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    parts = [choice_part(json.loads(CHOICE.read_text()))] if CHOICE.exists() else []
    parts.append(measured(summary) if summary else NOT_YET)
    parts += [where_part(json.loads(WHERE.read_text()))] if WHERE.exists() else []
    return "\n\n".join([f"{before}{BEGIN}", *parts, f"{END}{after}"])


def choice_part(found: dict[str, Any]) -> str:
    """Return the table of `benchmarks/label_choice.py`, a part per share of labeled images."""
    columns = {"right_at_coverage": "right at 40 %", "iou_at_coverage": "IoU at 40 %", "auc": "AUC", "used": "used",
               "right_of_used": "right of used", "other_label": "other label"}  # fmt: skip
    lines = [
        "## Which labels are taken, before any round",
        "Learned selectors decide on whole labels, as by default. *Pixel by pixel* they also say which cells of a "
        "label to keep, a wrong one at the price of three right ones; a label of which none is kept is left out.",
    ]
    for frac, part in found["by_frac"].items():
        lines.append(f"{100 * float(frac):g} % labeled, {len(part['by_seed'])} seeds:")
        table = [["", *columns.values(), "L2L minus this, right at 40 %"], ["---"] * (len(columns) + 2)]
        for name, row in part["rows"].items():
            ends = row.get("l2l_minus_this", {}).get("right_at_coverage")
            using, of = row["num_using"], len(part["by_seed"])
            told = name if using == of else f"{name} (uses labels in {using} of {of} seeds)"
            table.append([told, *(f"{100 * row[key]:.1f}" if key in row else "" for key in columns), _with_ends(ends)])
        lines.append(markdown(table))
    return "\n\n".join(lines)


def where_part(found: dict[str, Any]) -> str:
    """Return the tables and the picture of `benchmarks/where.py`."""
    seeds = found["seeds"]
    lines = [
        "## Where L2L is right, and where it fails",
        f"{found['dataset']}, {found['schedule']}, {len(seeds)} seeds, last version and round; means over seeds, in "
        'percent. A text names *looks* alone ("dotted yellow star"), also a *place* ("top left star"), an *extreme* '
        '("leftmost", "largest"), an *order* ("second star from left") or *another object* ("star above the ring"); '
        "sizes are shares of the image. Texts are per seed.",
        "Mean IoU on val; rows with * see hidden truth:",
        *(_where_students(part) for part in found["students"].values()),
        "Labels of unlabeled texts against hidden truth; *right* is of all labels of L2L, used or not:",
        *(_where_labels(part) for part in found["labels"].values()),
        f"Labels of L2L in the last round, seed {seeds[0]}, drawn at random from what becomes of them; pink: the "
        "label, green: the truth, which nobody saw. The share is of all labels.",
        "![Labels of L2L that are right or wrong, used or left out](results-labels.jpg)",
    ]
    return "\n\n".join(lines)


def _where_students(part: dict[str, Any]) -> str:
    rows = list(next(iter(part.values()))["mean_iou"])
    lines = [["", "texts", *(_ROW_LABELS[row] for row in rows), "L2L minus accept all"]]
    lines.append(["---"] * len(lines[0]))
    for name, group in part.items():
        ious = (f"{100 * group['mean_iou'][row]:.1f}" for row in rows)
        lines.append([name, f"{group['num']:,}", *ious, _with_ends(group["l2l_minus_accept_all"])])
    return markdown(lines)


def _with_ends(found: dict[str, float] | None) -> str:
    """Return a difference with its interval, in percent; "" where there is none."""
    if found is None:
        return ""
    return f"{100 * found['mean']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"


def _where_labels(part: dict[str, Any]) -> str:
    shown = ("confidence_gate", "scorer", "l2l")
    heads = [f"{_ROW_LABELS[row]}: {what}" for row in shown for what in ("used", "right of these")]
    lines = [["", "texts", "right", *heads], ["---"] * (3 + len(heads))]
    for name, group in part.items():
        shares = [group["rows"][row][what] for row in shown for what in ("used", "right_of_used")]
        told = ("" if share is None else f"{100 * share:.1f}" for share in (group["rows"]["l2l"]["right"], *shares))
        lines.append([name, f"{group['num']:,}", *told])
    return markdown(lines)


def measured(summary: dict[str, Any]) -> str:
    """Return tables and links to pictures, data set by data set."""
    protocol = (
        f"Protocol: {summary['protocol']}. Rows with * see hidden truth. Percent; ± is over seeds. *Time*: seconds of "
        "the method's rounds (reading data, labels, training, selector), of the processor or, on a GPU, of the clock, "
        "as a multiple of the row it is compared with, on the same seeds and processors; burn-in, priors and "
        "evaluation are the same for all rows and left out."
    )
    parts = ["## Whole runs", protocol]
    for table in summary["tables"]:
        parts += [f"### {title(table)}", main_table(table, ("main", "selectors", "ceilings")), recovered_text(table)]
        parts.append(origin_note(table))
        if len(finished(table)) > 1:
            for what, words in (("labels", "What each selector takes"), ("curves", "mIoU on val by version")):
                parts.append(f"![{words}: {title(table)}]({picture_name(table, what)})")
        parts += ["Labels against hidden truth, first → last round:", label_table(table)]
        if any(row["group"] == "ablations" for row in table["rows"]):
            parts += ["Parts left out or added, one at a time:", main_table(table, ("ablations",))]
        if biased := biased_table(table):
            parts += ["Priors moved on purpose:", biased]
        if any(row["group"] == "cost" for row in table["rows"]):
            parts += ["At equal cost:", main_table(table, ("main", "cost"))]
    if curve := curve_table(summary):
        parts += ["### By share of labeled images", curve, f"![mIoU by share of labeled images]({SHARES})"]
    return "\n\n".join(parts)


def pictures(summary: dict[str, Any]) -> dict[str, str]:
    """Return file name -> SVG of every picture the page links."""
    found = {}
    for table in summary["tables"]:
        if len(rows := finished(table)) > 1:
            found[picture_name(table, "labels")] = labels_svg(rows)
            found[picture_name(table, "curves")] = curves_svg(rows)
    if curve_table(summary):
        found[SHARES] = shares_svg(summary["tables"])
    return found


def finished(table: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that have all seeds of their table: means of other seeds are not drawn beside theirs."""
    return [row for row in table["rows"] if row["seeds"] == table["seeds"]]


def picture_name(table: dict[str, Any], what: str) -> str:
    """Return the file name of a table's picture, beside the page."""
    return f"results-{table['dataset'].replace('+', 'plus')}-{table['schedule'].replace('.', '_')}-{what}.svg"


def labels_svg(rows: Sequence[dict[str, Any]]) -> str:
    """Draw, per row with labels, which share of all labels it uses in the last round, and what these are."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row["rounds"] and row["group"] in ("main", "selectors", "ceilings")]
    figure = Figure(figsize=(7, 0.9 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    last = [row["rounds"][-1]["labels"] for row in shown]
    left = [0.0] * len(shown)
    for name, (key, color) in _QUALITY.items():
        width = [100 * part["used_frac"] * (part[key] or 0.0) for part in last]
        axes.barh(range(len(shown)), width, left=left, color=color, label=name)
        left = [a + b for a, b in zip(left, width, strict=True)]
    axes.set_yticks(range(len(shown)), [row["label"] for row in shown])
    axes.invert_yaxis()
    axes.set_xlabel("% of all unlabeled texts, last round")
    figure.legend(loc="outside upper right", ncols=len(_QUALITY), fontsize=8, frameon=False)
    return svg(figure, text="none")


def curves_svg(rows: Sequence[dict[str, Any]]) -> str:
    """Draw mIoU on val by version for the rows that tell the story."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        if row["row"] in _CURVES:
            color, marker = style_of(row["row"]) or (None, ".")
            values = [100 * value for value in row["val_by_version"]]
            axes.plot(range(1, len(values) + 1), values, color=color, marker=marker, label=row["label"])
            axes.set_xticks(range(1, len(values) + 1))
    axes.set_xlabel("version")
    axes.set_ylabel("mIoU on val, %")
    axes.legend(fontsize=8)
    return svg(figure, text="none")


def shares_svg(tables: Sequence[dict[str, Any]]) -> str:
    """Draw mIoU over all splits by the share of labeled images, a line per data set and row of the label curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    dashes = dict(zip(dict.fromkeys(table["dataset"] for table in tables), ("-", "--", ":"), strict=False))
    for dataset, dash in dashes.items():
        for name in CURVE_ROWS:
            found = {
                100 * table["labeled_frac"]: row["all"]["mean_iou"]
                for table in tables
                for row in table["rows"]
                if (table["dataset"], row["row"]) == (dataset, name)
            }
            shares, color = sorted(found), (style_of(name) or (None, ""))[0]
            mean, std = ([100 * (found[share][key] or 0.0) for share in shares] for key in ("mean", "std"))
            label = f"{label_of(name)}, {dataset}" if len(dashes) > 1 else label_of(name)
            axes.errorbar(shares, mean, std, color=color, linestyle=dash, marker=".", capsize=2, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("% of the images labeled")
    axes.set_ylabel("mIoU, %")
    axes.legend(fontsize=8)
    return svg(figure, text="none")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    if SOURCE.exists():
        for name, svg in pictures(json.loads(SOURCE.read_text())).items():
            (PAGE.parent / name).write_text(svg)
