"""Open rates beside each other: the round's unlabeled images, and the labeled ones of the version that labeled it."""

from __future__ import annotations

import pytest

from l2l_ray.config import RunConfig
from l2l_ray.loop.evaluation.gate import gate_open_rates
from l2l_ray.loop.state.run_folder import RunFolder
from tests.whole_run import changed


def _log(run: RunFolder, version: int, labeled: float | None, unlabeled: float | None, method: str = "l2l") -> None:
    figures = {"policy/open_rate_labeled": labeled, "labels/used_frac": unlabeled}
    kept = {name: value for name, value in figures.items() if value is not None}
    run.log_event({"event": "train", "method": method, "version": version, **kept})


@pytest.mark.parametrize(("lag", "second"), [(0, (1, 0.3)), (1, (0, 0.2))])
def test_a_round_is_held_against_the_version_that_labeled_it(
    smoke: RunConfig, lag: int, second: tuple[int, float]
) -> None:
    config = changed(smoke, loop={"rounds": 2, "lag": lag})
    run = RunFolder.open(config).create()
    _log(run, 0, 0.2, None)
    _log(run, 1, 0.9, 0.9)
    _log(run, 1, 0.3, 0.25)  # made again after a crash: this one counts
    _log(run, 2, 0.4, 0.75)
    _log(run, 1, None, 1.0, method="accept_all")
    version, labeled = second
    assert gate_open_rates(config, run) == {
        "l2l": [
            {"round": 0, "version": 0, "unlabeled": 0.25, "labeled": 0.2, "gap": pytest.approx(0.05)},
            {
                "round": 1,
                "version": version,
                "unlabeled": 0.75,
                "labeled": labeled,
                "gap": pytest.approx(0.75 - labeled),
            },
        ]
    }


def test_a_run_that_logged_no_such_rates_has_no_rows(smoke: RunConfig) -> None:
    run = RunFolder.open(smoke).create()
    _log(run, 1, None, 0.5)
    assert gate_open_rates(smoke, run) == {}


def test_a_whole_run_has_a_row_per_round_of_what_learns(whole_run: RunFolder) -> None:
    found = gate_open_rates(whole_run.config, whole_run)
    assert list(found) == ["l2l"]
    assert [row["round"] for row in found["l2l"]] == list(range(whole_run.config.loop.rounds))
    assert all(0 <= row["labeled"] <= 1 for row in found["l2l"])
