"""The comparison's table: verdicts over seeds, figures by hand, and what a run without label figures says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.accuracy import THRESHOLDS, job_config, rows_of, summarize, text_table, verdict
from l2l_ray.config import RunConfig
from l2l_ray.errors import DataError

IOUS = {"prior_only": 0.2, "accept_all": 0.5, "l2l": 0.6, **{f"fixed_threshold@{t}": 0.4 for t in THRESHOLDS}}


@pytest.mark.parametrize(
    ("by_seed", "expected"),
    [
        ([0.005, 0.003, 0.004], "L2L ahead"),
        ([-0.005, -0.003, -0.004], "L2L behind"),
        ([0.0053092, 0.0024606, 0.0031779], "undecided"),  # every seed above 0, the interval is not: -0.0000 to 0.0073
        ([0.02, -0.01, 0.01], "undecided"),
        ([0.05], "undecided"),  # one seed has no spread
    ],
)
def test_verdicts_come_from_the_interval_over_seeds(by_seed: list[float], expected: str) -> None:
    assert verdict(by_seed) == expected


def _labels(mean_iou: float | None) -> dict[str, Any]:
    labels = {"num": 10, "num_used": 4, "used_frac": 0.4, "mean_iou": mean_iou, "wrong_object_frac": 0.1}
    return {"object_precision": 0.7, "object_recall": 0.3, "labels": labels}


def _write_run(folder: Path, ious: dict[str, float], shift: float, hidden: dict[str, Any]) -> None:
    rows = []
    for method, iou in ious.items():
        pixels = round(1000 * (iou + (shift if method == "l2l" else 0)))
        figures = {"overall_iou": iou, "mean_iou": iou, "precision_at": {"0.5": 1.0}}
        rows.append({"method": method, "version": 2, "splits": dict.fromkeys(("val", "testA", "testB"), figures)})
        for first, split in enumerate(("val", "testA", "testB")):
            frame = pd.DataFrame(
                {"sent_id": [2 * first, 2 * first + 1], "image_id": first, "intersection": pixels, "union": 1000}
            )
            path = folder / "evals" / f"{method}-v0002" / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            frame.to_parquet(path)
    (folder / "results.json").write_text(json.dumps({"rows": rows, "hidden_truth": hidden}))


@pytest.fixture
def base(tmp_path: Path) -> RunConfig:
    """A comparison of two seeds: L2L is 0.11 and 0.12 above accept_all."""
    config = RunConfig().model_copy(update={"run_root": str(tmp_path)})
    for seed, shift in ((0, 0.01), (1, 0.02)):
        hidden = {"l2l": [_labels(0.1), _labels(0.6 + shift)], "accept_all": [_labels(None)], "prior_only": []}
        _write_run(job_config(config, "all", seed).run_dir, IOUS, shift, hidden)
        _write_run(job_config(config, "plain", seed).run_dir, {"supervised": 0.3}, 0.0, {"supervised": []})
        _write_run(job_config(config, "oracle", seed).run_dir, {"accept_all": 0.6}, 0.0, {"accept_all": [_labels(0.9)]})
    return config


def test_the_table_by_hand(base: RunConfig) -> None:
    result = summarize({seed: rows_of(base, seed) for seed in (0, 1)}, base)
    rows = {row["method"]: row for row in result["rows"]}
    found = rows["accept_all"]["l2l_minus_this"]
    assert found["diff"] == pytest.approx(0.115) and found["by_seed"] == pytest.approx([0.11, 0.12])
    # Standard error 0.005, times 12.706 for one degree of freedom.
    assert found["over_seeds"] == pytest.approx({"low": 0.115 - 0.0635310, "high": 0.115 + 0.0635310})
    assert found["over_images"] == pytest.approx({"low": 0.115, "high": 0.115})  # all images alike
    assert found["verdict"] == "L2L ahead"
    assert rows["oracle"]["l2l_minus_this"]["verdict"] == "undecided"
    assert rows["l2l"]["labels"]["mean_iou"] == pytest.approx({"mean": 0.615, "std": 0.0070711}, abs=1e-6)  # last round
    assert rows["accept_all"]["labels"]["mean_iou"] == {"mean": None, "std": None}
    assert "labels" not in rows["supervised_plain"]

    lines = {line.split(" | ")[0].lstrip("| "): line for line in text_table(result).splitlines()}
    assert lines["accept all"].endswith(
        "| 50.0 ± 0.0 | +11.5 | +5.1 to +17.9 | +11.5 to +11.5 | L2L ahead | 70.0 ± 0.0 | 30.0 ± 0.0 |  | 40.0 ± 0.0 |"
    )
    assert "accepts the teacher's right cells (sees hidden truth)" in lines
    assert len({line.count("|") for line in lines.values()}) == 1


def test_one_seed_has_figures_and_no_verdict(base: RunConfig) -> None:
    result = summarize({0: rows_of(base, 0)}, base)
    assert {row["l2l_minus_this"]["verdict"] for row in result["rows"] if row["method"] != "l2l"} == {"undecided"}
    assert "| +11.0 | one seed | +11.0 to +11.0 | undecided |" in text_table(result)


def test_runs_without_the_label_figures_are_named(base: RunConfig) -> None:
    path = job_config(base, "all", 1).run_dir / "results.json"
    content = json.loads(path.read_text())
    content["hidden_truth"]["l2l"] = [{"num": 10, "precision": {}, "coverage": {}}]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="has no object_precision"):
        summarize({seed: rows_of(base, seed) for seed in (0, 1)}, base)
