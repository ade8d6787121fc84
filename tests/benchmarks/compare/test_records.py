"""Records come back as they were, to five digits; a digest covers what a result depends on and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.compare.records import digest_of, load_record, save_record
from benchmarks.compare.rows import Task
from l2l_ray.config import RunConfig
from l2l_ray.errors import DataError
from tests.benchmarks.compare.records_by_hand import labels, record

TASK = Task("refshapes+", "0.5pct", 10, "fixed_threshold_0.7")  # dots and a plus in the name


def test_a_record_comes_back(tmp_path: Path) -> None:
    made = record(TASK, (1.0, 0.5), biased_prior={"kind": "same_class"})
    save_record(tmp_path, TASK.name, made)
    assert load_record(tmp_path, TASK.name) == made
    assert (tmp_path / "refshapes+" / "0.5pct-seed10-fixed_threshold_0.7.json").exists()
    save_record(tmp_path, TASK.name, replace(made, val_by_version=[0.123456789]))
    again = load_record(tmp_path, TASK.name)
    assert again is not None and again.val_by_version == [0.12346]


def test_what_is_not_there_is_none_and_what_is_damaged_is_named(tmp_path: Path) -> None:
    assert load_record(tmp_path, TASK.name) is None
    save_record(tmp_path, TASK.name, record(TASK, (1.0, 0.5)))
    path = tmp_path / f"{TASK.name}.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(DataError, match="is no record: .*; delete it, and the row runs again"):
        load_record(tmp_path, TASK.name)
    whole = record(TASK, (1.0, 0.5))
    for splits in ({}, {"val": replace(whole.splits["val"], iou_sums=(1.0,))}):
        save_record(tmp_path, TASK.name, replace(whole, splits=splits))
        with pytest.raises(DataError, match="is no record: expected the figures of every image of at least one split"):
            load_record(tmp_path, TASK.name)


def test_the_digest_is_of_settings_not_of_places() -> None:
    config = RunConfig()
    digest = digest_of(config, "", False)
    moved = config.with_values({"name": "x", "run_root": "/elsewhere", "cluster.num_labelers": 7})
    assert digest_of(moved, "", False) == digest
    others = [
        digest_of(config.with_values({"loop.seed": 1}), "", False),
        digest_of(config, "sample", False),
        digest_of(config, "", True),
    ]
    assert len({digest, *others}) == 4


def test_the_share_used_is_the_mean_over_rounds() -> None:
    assert record(TASK, (1.0, 0.5), rounds=[labels(used=0.1), labels(used=0.5)]).mean_used_frac() == pytest.approx(0.3)
