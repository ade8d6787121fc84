"""Figures of results.json, read and put into text: shares in percent with one decimal, a dash where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from l2l_ray.intervals import has_width
from l2l_ray.report.record import flatten, is_number

NOTHING = "–"


def percent(value: Any) -> str:
    """Return a share in percent with one decimal, or a dash where there is none."""
    return f"{100 * value:.1f}" if is_number(value) else NOTHING


def interval(low: Any, high: Any) -> str:
    """Return the ends of an interval in percent; a dash where it is absent or has no width.

    Drawing one image again and again, or images that all score alike, gives no width: that is no certainty.
    """
    return f"{percent(low)} to {percent(high)}" if _is_interval(low, high) else NOTHING


def points_interval(low: Any, high: Any) -> str:
    """Return the ends of an interval of a difference, in points with their signs; a dash as in `interval`."""
    return f"{100 * low:+.1f} to {100 * high:+.1f}" if _is_interval(low, high) else NOTHING


def _is_interval(low: Any, high: Any) -> bool:
    return is_number(low) and is_number(high) and has_width(low, high)


def splits_of(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return split -> scores of one row of results.json; what is no dict is left out."""
    splits = row.get("splits")
    return {k: v for k, v in splits.items() if isinstance(v, dict)} if isinstance(splits, dict) else {}


def float_keys(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores with text keys: in memory `precision_at` has floats; "0.50" and 0.5 are the same threshold."""
    thresholds = scores.get("precision_at")
    if not isinstance(thresholds, Mapping):
        return dict(scores)
    return {**scores, "precision_at": {f"{float(key):g}": value for key, value in thresholds.items()}}


def ends_of(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ends of the intervals of a split's figures, as `mean_iou.low`; empty where there are none."""
    found = scores.get("interval")
    return flatten(float_keys(found)) if isinstance(found, Mapping) else {}
