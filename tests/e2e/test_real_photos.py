"""The same job on real photos: real sizes, RLE masks and odd sentences run through; missing splits are named.

Set L2L_REAL_DATA to the folder that holds `refer/`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from l2l_ray.config import smoke_config
from l2l_ray.loop.local import run_local
from l2l_ray.loop.state.example_files import read_examples, read_priors
from l2l_ray.loop.state.ledger import Ledger, read_shard
from tests.whole_run import changed

REAL = os.environ.get("L2L_REAL_DATA", "")
pytestmark = [
    pytest.mark.skipif(not REAL, reason="L2L_REAL_DATA is not set: no real photos to run on"),
    pytest.mark.usefixtures("one_thread"),
]


def test_a_run_on_real_photos(tmp_path: Path) -> None:
    config = changed(
        smoke_config(),
        run_root=str(tmp_path),
        name="real",
        data={"root": str(Path(REAL) / "refer"), "dataset": "refcoco", "split_by": "smoke", "labeled_frac": 0.2},
        selector={"warmup_updates": 1, "round_updates": 1, "max_unlabeled": 8},
        loop={"rounds": 1, "burn_in_steps": 2, "fold_steps": 1, "round_steps": 2, "autocast": False},
    )
    run = run_local(config)
    table = json.loads((run.path / "results.json").read_text())
    assert table["missing_splits"] == ["testA", "testB"]
    assert [row["method"] for row in table["rows"]] == ["prior_only", "l2l"]
    val = read_examples(run.examples_path("val"))
    for row in table["rows"]:
        assert set(row["splits"]) == {"val"}
        assert row["splits"]["val"]["num"] == len(val) > 20
        assert 0 <= row["splits"]["val"]["overall_iou"] <= 1
    assert len({(row.width_px, row.height_px) for row in val}) > 3
    unlabeled = read_examples(run.examples_path("unlabeled"))
    labels = [
        label for entry in Ledger(run.ledger_path).entries("l2l", 0) for label in read_shard(run.path / entry.path)
    ]
    assert [label.sent_id for label in labels] == [row.sent_id for row in unlabeled]
    assert len(read_priors(run.priors_path("unlabeled"))) == len(unlabeled) > 30
    assert table["hidden_truth"]["l2l"][0]["labels"]["num"] == len(unlabeled)
    assert all("long" in skip.kind for skip in run.skips())  # nothing of these photos is left out
    page = (run.path / "report.html").read_text()
    assert "testA" in page and "testB" in page
