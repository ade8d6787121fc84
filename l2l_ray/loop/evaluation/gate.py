"""How often a learned selector uses a label: on the unlabeled images of a round, and on labeled ones it learns from.

A selector learns what a label is worth on labeled images. Where it uses a larger share of the unlabeled ones, it lets
through what it would not have used where the truth was known, or has met other images than it learned from.
"""

from __future__ import annotations

from typing import Any

from l2l_ray.config import RunConfig
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.staleness import label_version

UNLABELED, LABELED = "labels/used_frac", "policy/open_rate_labeled"  # as training logs them


def gate_open_rates(config: RunConfig, run: RunFolder) -> dict[str, list[dict[str, Any]]]:
    """Return, per selector that learns, one row per round.

    Returns:
        Rows {"round", "version": whose selector labeled the round, "unlabeled", "labeled": shares of labels used,
        "gap": unlabeled minus labeled}; rounds for which one of them was not logged are left out.
    """
    logged: dict[tuple[str, int], dict[str, Any]] = {}
    for event in run.events():
        if event.get("event") == "train":
            logged[event["method"], event["version"]] = event  # a version that was made again counts once
    return {method: rows for method in run.methods if (rows := _rows(config, logged, method))}


def _rows(config: RunConfig, logged: dict[tuple[str, int], dict[str, Any]], method: str) -> list[dict[str, Any]]:
    rows = []
    for round_index in range(config.loop.rounds):
        version = label_version(round_index, config.loop.lag)
        unlabeled = logged.get((method, round_index + 1), {}).get(UNLABELED)
        labeled = logged.get((method, version), {}).get(LABELED)
        if unlabeled is not None and labeled is not None:
            row = {"round": round_index, "version": version, "unlabeled": unlabeled, "labeled": labeled}
            rows.append({**row, "gap": unlabeled - labeled})
    return rows
