"""The figures of `compare.json` as Markdown: what the terminal prints and what docs/results.md holds.

Percent throughout; `±` is the standard deviation over seeds. What a reader must know of a table stands beneath it
(`table_notes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.compare.table_notes import biased_notes, by_commits, main_notes, named

Figures = dict[str, Any]
SPLITS = ("val", "testA", "testB")


def text_tables(summary: Figures) -> str:
    """Return every table of the summary, under headings."""
    parts = [f"({summary['protocol']})"]
    for table in summary["tables"]:
        parts += [f"\n## {title(table)}\n", main_table(table), "", recovered_text(table)]
        parts += ["", origin_note(table), "\nLabels, first and last round\n", label_table(table)]
        if biased := biased_table(table):
            parts += ["\nBiased prior\n", biased]
    if len(curve := curve_table(summary)) > 0:
        parts += ["\n## Label curve\n", curve]
    return "\n".join(parts)


def title(table: Figures) -> str:
    """Return what a table is of."""
    seeds = len(table["seeds"])
    plural = "" if seeds == 1 else "s"
    return f"{table['dataset']}, {table['labeled_frac']:.1%} labeled ({table['schedule']}), {seeds} seed{plural}"


def main_table(table: Figures, groups: Sequence[str] | None = None) -> str:
    """Return mIoU per split, the difference to L2L with both intervals, and the cost, a line per row; notes beneath.

    A row that is compared with another one than L2L names it.

    Args:
        table: One of the summary's.
        groups: Groups of rows to show; None = all.
    """
    head = ["", "seeds", *SPLITS, "all", "P@0.5", "L2L minus this"]
    head += ["over seeds", "over both", "p (Holm)", "", "steps", "time"]
    others = {row["row"]: row["label"] for row in table["rows"] if row["row"] != "l2l"}
    lines = [head, ["---"] * len(head)]
    rows = [row for row in table["rows"] if groups is None or row["group"] in groups]
    for row in rows:
        shown = [spread(row["splits"].get(split, {}).get("mean_iou")) for split in SPLITS]
        precision = [split["precision_at"]["0.5"]["mean"] for split in row["splits"].values()]
        lines.append(
            [
                _bold(row["label"], row["row"] == "l2l"), str(len(row["seeds"])), *shown,
                spread(row["all"]["mean_iou"]), percent(sum(precision) / len(precision)),
                *difference_cells(row.get("versus_minus_this"), len(row["seeds"]), others.get(row.get("versus"))),
                f"{row['steps']:.0f}", _time(row),
            ]
        )  # fmt: skip
    return "\n\n".join([markdown(lines), *main_notes(rows)])


def _time(row: Figures) -> str:
    """Return what the method's rounds took, as a multiple of the row it is compared with; without one, in seconds."""
    ratio = row.get("cost")
    return f"{row['cost_s']['method']['mean']:.0f} s" if ratio is None else f"{ratio:.2f}×"


def label_table(table: Figures) -> str:
    """Return how good each row's labels were in the first and the last round, against hidden truth."""
    head = ["", "used", "IoU of the used", "right", "wrong object", "object precision", "object recall"]
    head += ["other than guided", "AUC", "open gap", "wrong again", "calibration error"]
    lines = [head, ["---"] * len(head)]
    for row in table["rows"]:
        if rounds := row["rounds"]:
            columns = [_label_cells(rounds[number], row["gate_open"], number) for number in (0, len(rounds) - 1)]
            pairs = zip(*columns, strict=True)
            cells = [" → ".join(pair) if any(pair) else "" for pair in pairs]
            lines.append([_bold(row["label"], row["row"] == "l2l"), *cells])
    return markdown(lines)


def _label_cells(found: Figures, gate_open: Sequence[Figures], number: int) -> list[str]:
    labels = found["labels"]
    names = ("used_frac", "mean_iou", "right_frac", "wrong_object_frac")
    gap = gate_open[number]["gap"] if number < len(gate_open) else None
    return [
        *(percent(labels[name]) for name in names),
        percent(found["object_precision"]),
        percent(found["object_recall"]),
        percent(_share_of_others(found["sources"])),
        percent(found["ordering"]["gate"]["auc"]),
        percent(gap),
        percent((found.get("wrong_before") or {}).get("again_frac")),
        percent(found["reliability"]["ece"]),
    ]


def _share_of_others(sources: Figures) -> float | None:
    """Return which share of the used labels is another candidate than the guided one; None where none is used."""
    known = {name: part["used_frac"] for name, part in sources.items() if part["used_frac"] is not None}
    return 1 - known["guided"] if sum(known.values()) else None


def biased_table(table: Figures) -> str:
    """Return what a biased prior costs each method and how L2L then stands, notes beneath; "" where no such row ran."""
    head = ["", "all", "loses", "over seeds", "L2L, biased, minus this", "over seeds"]
    lines = [head, ["---"] * len(head)]
    rows = [row for row in table["rows"] if row["group"] == "biased"]
    for row in rows:
        cells = [
            cell
            for found in (row.get("loss_by_bias"), row.get("versus_minus_this"))
            for cell in _biased_cells(found, len(row["seeds"]))
        ]
        lines.append([row["label"], spread(row["all"]["mean_iou"]), *cells])
    return "\n\n".join([markdown(lines), *biased_notes(rows, table["biased_priors"])]) if rows else ""


def _biased_cells(found: Figures | None, num_seeds: int) -> list[str]:
    if not found:
        return ["", ""]
    shared = len(found["seeds"])
    return [points(found["diff"]), ends(found["over_seeds"]) + ("" if shared == num_seeds else _by(shared, num_seeds))]


def _by(shared: int, num_seeds: int) -> str:
    return f" (by {shared} of {num_seeds} seeds)"


def curve_table(summary: Figures) -> str:
    """Return mIoU by share of labeled images; "" where there are fewer than two shares of one data set."""
    parts = []
    for dataset in dict.fromkeys(table["dataset"] for table in summary["tables"]):
        tables = [t for t in summary["tables"] if t["dataset"] == dataset and t["schedule"] != "smoke"]
        shares = sorted({table["labeled_frac"]: table for table in tables}.items())
        if len(shares) > 1:
            lines = [[dataset, *(f"{share:.1%}" for share, _ in shares)], ["---"] * (len(shares) + 1)]
            for name in ("supervised", "accept_all", "l2l"):
                found = [next((row for row in table["rows"] if row["row"] == name), None) for _, table in shares]
                if known := [row for row in found if row]:
                    cells = [spread(row["all"]["mean_iou"]) if row else "" for row in found]
                    lines.append([known[0]["label"], *cells])
            parts.append(markdown(lines))
    return "\n\n".join(parts)


def origin_note(table: Figures) -> str:
    """Say which commits and kinds of processor made a table; where these are several, what that does to it."""
    commits, kinds, unnamed = table["commits"], table["processors"], table["seeds_without_processor"]
    by = f"Made by {named('commit', commits)}" + (f" on {named('processor', kinds)}" if kinds else "")
    if len(commits) > 1 or len(kinds) > 1:
        by += ": what these change, if only rounding, is part of the spread over seeds"
    if not unnamed:
        return f"{by}."
    what = f"Records of {named('seed', unnamed)} do not name their kind of processor"
    return f"{by}. {what}; that all rows of a seed had one is taken on trust."


def recovered_text(table: Figures) -> str:
    """Say how much of what perfect selection gives L2L gets."""
    found = table["recovered"]
    if not found:
        return "Recovered share: no seed has all three rows that it needs, computed by one kind of processor."
    span = f"right labels alone minus accept all: {points(found['span'])} ({ends(found['span_over_both'])})"
    mixed = (
        "" if not found["commits"] else f" Its three rows come from several commits: {by_commits(found['commits'])}."
    )
    if found["share"] is None:
        return f"L2L recovers no share: {span}.{mixed}"
    none = "no interval" if found["span_over_both"] is None else "no interval, the span may be 0"
    sure = none if found["low"] is None else f"{found['low']:.0%} to {found['high']:.0%}"
    of_seeds = f"by seed {found['seeds'][0]} alone" if len(found["seeds"]) == 1 else f"{len(found['seeds'])} seeds"
    return f"L2L recovers {found['share']:.0%} ({sure}) of {span}; {of_seeds}.{mixed}"


def difference_cells(found: Figures | None, num_seeds: int, other: str | None) -> list[str]:
    """Return difference, both intervals, corrected p-value and verdict.

    Args:
        found: Of the row; None = it has none.
        num_seeds: Of the row; where the difference is over fewer, the verdict says so.
        other: Label of the row it is compared with; None = L2L.
    """
    if not found:
        return [""] * 5
    p = found.get("p_holm")
    shown = "" if p is None else f"{p:.3f}"
    shared = len(found["seeds"])
    said = found["verdict"] + ("" if shared == num_seeds else _by(shared, num_seeds))
    diff = points(found["diff"]) + (f" ({other} minus this)" if other else "")
    return [diff, ends(found["over_seeds"]), ends(found["over_both"]), shown, said]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a Markdown table."""
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def percent(value: float | None) -> str:
    """Return a share in percent, "" where there is none."""
    return "" if value is None else f"{100 * value:.1f}"


def points(value: float) -> str:
    """Return a difference in points, with its sign."""
    return f"{100 * value:+.2f}"


def spread(found: Figures | None) -> str:
    """Return mean ± deviation in percent."""
    if not found:
        return ""
    return percent(found["mean"]) + ("" if found["std"] is None else f" ± {percent(found['std'])}")


def ends(interval: Figures | None) -> str:
    """Return an interval in points."""
    return "too few seeds" if interval is None else f"{points(interval['low'])} to {points(interval['high'])}"


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text
