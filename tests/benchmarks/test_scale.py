"""The benchmark of scale, as far as it reads finished runs."""

from __future__ import annotations

import pytest

from benchmarks import scale
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.loop.state.run_folder import RunFolder


def test_the_work_of_each_round_is_that_of_its_shards(whole_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = whole_run.config.loop.rounds
    monkeypatch.setattr(scale, "ROUNDS", rounds)
    found = scale.timings(whole_run.path)
    work = [0.0] * rounds
    for entry in Ledger(whole_run.path / "ledger.jsonl").all_entries():
        if entry.method == "l2l":
            work[entry.round] += entry.seconds
    assert all(work) and found["work_s"] == pytest.approx(work, abs=0.06)
    assert found["mean_work_s"] == pytest.approx(sum(work) / rounds, abs=0.11)
