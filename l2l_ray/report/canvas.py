"""What all figures of a page share: size, axes, and the way to SVG for a light and for a dark page."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, fields
from typing import Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

SIZE_IN = (4.6, 3.2)  # small, so that its text is still readable at the width of a phone


@dataclass(frozen=True)
class Theme:
    """Colours of a figure around its curves.

    Example: `LIGHT`
    """

    card: str
    ink: str
    muted: str
    line: str


LIGHT = Theme("#ffffff", "#1c2230", "#5d6779", "#e4e8ef")  # what figures are drawn in
DARK = Theme("#171c26", "#e8ecf4", "#98a3b8", "#2b3342")
_DARK_OF = {getattr(LIGHT, field.name): getattr(DARK, field.name) for field in fields(Theme)}


def new_figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """Return a figure of the usual size with one pair of axes, named."""
    figure = blank(SIZE_IN[1])
    axes = figure.subplots()
    dress(axes)
    axes.set_xlabel(x_label, color=LIGHT.muted, fontsize=9.5)
    axes.set_ylabel(y_label, color=LIGHT.muted, fontsize=9.5)
    return figure, axes


def blank(height_in: float) -> Figure:
    """Return a figure of the usual width without axes."""
    return Figure((SIZE_IN[0], height_in), facecolor=LIGHT.card, layout="constrained")


def dress(axes: Axes) -> None:
    """Give axes the look of the page: horizontal lines alone, whole numbers below."""
    axes.set_facecolor(LIGHT.card)
    axes.grid(True, axis="y", color=LIGHT.line, linewidth=0.9)
    axes.set_axisbelow(True)
    axes.tick_params(colors=LIGHT.muted, labelsize=9, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LIGHT.line)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def widen(axes: Axes, span: float) -> None:
    """Let a vertical axis of percent show at least `span`, around what is drawn and within 0 to 100."""
    low, high = axes.get_ylim()
    if high - low < span:
        bottom = max((low + high - span) / 2, min(low, 0.0))
        top = min(bottom + span, max(high, 100.0))
        axes.set_ylim(top - span, top)


def with_legend(figure: Figure, axes: Axes) -> Figure:
    """Return a figure with the legend of its axes below it."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(
            handles, labels, loc="outside lower left", ncols=min(2, len(labels)), frameon=False,
            fontsize=8.5, labelcolor=LIGHT.ink, handlelength=1.6, columnspacing=1.2,
        )  # fmt: skip
    return figure


def svg(figure: Figure, text: Literal["path", "none"] = "path") -> str:
    """Return a figure as SVG, the same text for the same figures.

    Args:
        figure: What to draw.
        text: Its words as outlines, which look the same everywhere ("path"), or as words ("none").
    """
    made = io.StringIO()
    with rc_context({"svg.hashsalt": "l2l", "svg.fonttype": text}):
        figure.savefig(made, format="svg", facecolor=figure.get_facecolor(), metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in made.getvalue().splitlines()) + "\n"


def darkened(drawing: str) -> str:
    """Return an SVG with the colours of a dark page in place of those of a light one."""
    return re.sub("|".join(_DARK_OF), lambda found: _DARK_OF[found.group()], drawing)


@dataclass(frozen=True)
class FigureItem:
    """One curve of a page, as addresses that hold the picture.

    Example: `drawn(("Mean IoU", "", curve))[0].light`
    """

    title: str
    note: str
    light: str
    dark: str


def drawn(*curves: tuple[str, str, Figure | None]) -> list[FigureItem]:
    """Return the curves that there are, from title, note and figure."""
    items = []
    for title, note, figure in curves:
        if figure is not None:
            light = svg(figure)
            items.append(
                FigureItem(title, note, *(data_uri(one.encode(), "svg+xml") for one in (light, darkened(light))))
            )
    return items


def data_uri(data: bytes, kind: str) -> str:
    """Return a picture's bytes as an address that holds them."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
