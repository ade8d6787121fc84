"""The units in which models write coordinates, each with its name: what `prior.coordinates` may say.

A number means nothing without its unit, and a wrong one looks right: thousandths read as pixels of a 900 px photo give
boxes that are nearly where they should be. So the unit is part of every `PromptFormat`, and `l2l prior check` reads
the same replies in each of them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Coordinates:
    """One unit.

    Args:
        words: What it is, for people.
        span: The number at the right or lower border; None = the side in pixels.
        num_bins: Location tokens `0..num_bins-1` stand for numbers; 0 = plain numbers.
        offset: Where in its bin a location token points, as a share of the bin.
        y_first: Whether y is written before x.
        of_photo: Whether pixels are those of the photo itself, not of the resized image that the model saw.
    """

    words: str
    span: float | None = None
    num_bins: int = 0
    offset: float = 0.0
    y_first: bool = False
    of_photo: bool = False

    def scale(self, width_px: int, height_px: int) -> tuple[float, float]:
        """Return the numbers at the right and at the lower border of an image."""
        return (float(width_px), float(height_px)) if self.span is None else (self.span, self.span)


COORDINATES = {
    "thousandths": Coordinates("0 to 1000 across and down", 1000.0),
    "thousandths-yx": Coordinates("0 to 1000, y before x", 1000.0, y_first=True),
    "pixels": Coordinates("pixels of the resized image that the model saw"),
    "photo-pixels": Coordinates("pixels of the photo itself", of_photo=True),
    "percent": Coordinates("0 to 100 across and down", 100.0),
    "fractions": Coordinates("0 to 1 across and down", 1.0),
    "bins": Coordinates("1000 location tokens, each for the middle of its bin", 1000.0, num_bins=1000, offset=0.5),
    "bins-yx": Coordinates("1024 location tokens, y before x, each for the start of its bin", 1024.0, 1024, 0.0, True),
}
BY_HAND = ("thousandths", "thousandths-yx", "pixels", "photo-pixels", "percent", "fractions")
