"""The time that a run would take: counts by hand, and a trial that leaves nothing behind."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.loop.estimate import ALONE, LABEL, MIXED, QUESTION, UPDATE, Estimate, Part, estimate
from l2l_ray.loop.state.prepare import prepare
from l2l_ray.loop.state.run_folder import RunFolder
from tests.whole_run import changed, tiny_config


def test_an_estimate_adds_up_and_says_its_parts() -> None:
    found = Estimate(20.0, (Part("step", 100, 0.5), Part("question", 30, 2.0), Part("trifle", 1, 0.1)))
    assert found.seconds == pytest.approx(20 + 50 + 60 + 0.1)
    assert found.line == (
        "about 2m10s on this machine, by a trial with a few items (100 x step in 50s, 30 x question in 1m00s)"
    )


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_a_first_photo_with_many_texts_does_not_end_the_trial(smoke: RunConfig) -> None:
    data = prepare(smoke, RunFolder.open(smoke))
    first = data.labeled[0]
    many = [replace(first, sent_id=10_000 + n, ref_id=10_000 + n) for n in range(9)]
    assert estimate(smoke, replace(data, labeled=[*many, *data.labeled])).seconds > 0


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_every_kind_of_work_is_counted_and_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trials").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "trials"))
    config = tiny_config(tmp_path / "runs")
    data = prepare(config, RunFolder.open(config))
    found = {part.what: part for part in estimate(config, data).parts}
    labeled, unlabeled = len(data.labeled), len(data.unlabeled)
    measured = sum(len(rows) for rows in data.splits.values())
    loop, selector = config.loop, config.selector
    assert {what: part.num for what, part in found.items()} == {
        QUESTION: labeled + unlabeled + measured,
        ALONE: loop.burn_in_steps + 2 * loop.fold_steps,  # two folds
        MIXED: 2 * loop.rounds * loop.round_steps,  # two methods
        # one method labels, and its selector looks at the labeled set once and at some unlabeled ones per version
        LABEL: loop.rounds * unlabeled
        + labeled
        + (loop.rounds + 1) * min(selector.max_unlabeled, unlabeled)
        + 2 * (loop.rounds + 1) * measured,
        UPDATE: selector.warmup_updates + loop.rounds * selector.round_updates,
    }
    assert all(part.seconds_each > 0 for part in found.values())
    assert list((tmp_path / "trials").iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("methods", [("supervised",), ("accept_all", "supervised")])
def test_predictions_take_time_also_where_the_main_selector_stores_no_labels(
    tmp_path: Path, methods: tuple[str, ...]
) -> None:
    config = changed(tiny_config(tmp_path), compare=methods[:-1], selector={"name": methods[-1]})
    parts = estimate(config, prepare(config, RunFolder.open(config))).parts
    prediction = next(part for part in parts if part.what == LABEL)
    assert prediction.num > 0 and prediction.seconds_each > 0
