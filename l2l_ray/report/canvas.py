"""What all figures of a page share: size, colours for a light and a dark page, axes, and the way to PNG bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

DPI = 190
SIZE_IN = (4.6, 3.2)  # small, so that its text is still readable at the width of a phone


@dataclass(frozen=True)
class Theme:
    """Colours of a figure around its curves.

    Example: `LIGHT`
    """

    name: str
    card: str
    ink: str
    muted: str
    line: str


LIGHT = Theme("light", "#ffffff", "#1c2230", "#5d6779", "#e4e8ef")
DARK = Theme("dark", "#171c26", "#e8ecf4", "#98a3b8", "#2b3342")


def new_figure(theme: Theme, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """Return a figure of the usual size with one pair of axes, named."""
    figure = Figure(SIZE_IN, dpi=DPI, facecolor=theme.card, layout="constrained")
    axes = figure.subplots()
    dress(axes, theme)
    axes.set_xlabel(x_label, color=theme.muted, fontsize=9.5)
    axes.set_ylabel(y_label, color=theme.muted, fontsize=9.5)
    return figure, axes


def dress(axes: Axes, theme: Theme) -> None:
    """Give axes the look of the page: horizontal lines alone, whole numbers below."""
    axes.set_facecolor(theme.card)
    axes.grid(True, axis="y", color=theme.line, linewidth=0.9)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.muted, labelsize=9, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.line)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def widen(axes: Axes, span: float) -> None:
    """Let a vertical axis of percent show at least `span`, around what is drawn and within 0 to 100."""
    low, high = axes.get_ylim()
    if high - low < span:
        bottom = max((low + high - span) / 2, min(low, 0.0))
        top = min(bottom + span, max(high, 100.0))
        axes.set_ylim(top - span, top)


def png(figure: Figure, axes: Axes, theme: Theme) -> bytes:
    """Return a figure with the legend of its axes below it."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(
            handles, labels, loc="outside lower left", ncols=min(2, len(labels)), frameon=False,
            fontsize=8.5, labelcolor=theme.ink, handlelength=1.6, columnspacing=1.2,
        )  # fmt: skip
    return png_bytes(figure)


def png_bytes(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    # No metadata: the same run gives the same bytes.
    figure.savefig(buffer, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


@dataclass(frozen=True)
class FigureItem:
    """One curve of a page, as addresses that hold the picture.

    Example: `drawn(("Mean IoU", "", lambda theme: curve(theme)))[0].light`
    """

    title: str
    note: str
    light: str
    dark: str


def drawn(*curves: tuple[str, str, Callable[[Theme], bytes | None]]) -> list[FigureItem]:
    """Return the curves that something is there for, from title, note and what draws them."""
    items = []
    for title, note, draw in curves:
        light, dark = (data_uri(draw(theme), "png") for theme in (LIGHT, DARK))
        if light:
            items.append(FigureItem(title, note, light, dark))
    return items


def data_uri(data: bytes | None, kind: str) -> str:
    """Return a picture's bytes as an address that holds them; "" where there are none."""
    return "" if data is None else f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
