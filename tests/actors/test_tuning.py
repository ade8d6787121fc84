"""Search spaces against the config, and how many trials fit."""

from __future__ import annotations

import importlib

import pandas as pd
import pytest
from ray import tune

from l2l_ray.actors.tuning import METRIC, as_table, check_space, extremes, max_concurrent, set_field, val_figures
from l2l_ray.config import RunConfig, smoke_config
from l2l_ray.errors import ClusterError, ConfigError
from l2l_ray.loop.state.run_folder import RunFolder


def test_a_field_is_set_by_its_path_and_checked() -> None:
    assert set_field(RunConfig(), "selector.reward.coverage", 0.3).selector.reward.coverage == 0.3
    assert set_field(RunConfig(), "name", "x").name == "x"
    with pytest.raises(ConfigError, match=r"field 'selector.reword.coverage' does not exist"):
        set_field(RunConfig(), "selector.reword.coverage", 0.3)
    with pytest.raises(ConfigError, match=r"data.labeled_frac does not fit"):
        set_field(RunConfig(), "data.labeled_frac", 1.5)


@pytest.mark.parametrize(
    ("domain", "ends"),
    [
        (tune.grid_search([3, 1, 2]), [3, 1, 2]),
        (tune.choice(["a", "b"]), ["a", "b"]),
        (tune.uniform(0.1, 0.5), [0.1, 0.5]),
        (tune.randint(1, 4), [1, 3]),
        (7, [7]),
    ],
)
def test_the_ends_of_a_domain(domain: object, ends: list[object]) -> None:
    assert extremes(domain) == ends


def test_a_domain_without_ends_is_refused() -> None:
    with pytest.raises(ConfigError, match="grid_search, choice, uniform or randint"):
        extremes(tune.sample_from(lambda _: 1))


@pytest.mark.parametrize("name", ["label_ratio", "reward_weights"])
def test_the_shipped_spaces_fit_the_config(name: str) -> None:
    check_space(RunConfig(), importlib.import_module(f"tune_spaces.{name}").space())


def test_how_many_trials_fit_is_what_one_run_needs_into_each_node() -> None:
    config = RunConfig()  # 2 labelers x 0.25 + 1 worker x 0.5 = 1 CPU
    assert max_concurrent(config, [{"CPU": 2.0}]) == 2
    assert max_concurrent(config, [{"CPU": 1.5}, {"CPU": 2.5}]) == 3
    with_gpu = set_field(config, "cluster.worker_resources", {"CPU": 1.0, "GPU": 1.0})
    assert max_concurrent(with_gpu, [{"CPU": 64.0, "GPU": 2.0}, {"CPU": 64.0}]) == 2


def test_a_cluster_too_small_for_one_trial_is_refused_at_once() -> None:
    with pytest.raises(ClusterError, match=r"need 1 CPU \(1 trial x 1\), have 0.5"):
        max_concurrent(RunConfig(), [{"CPU": 0.5}])


def test_a_trial_reports_the_val_figures_of_its_own_method(smoke: RunConfig) -> None:
    folder = RunFolder.open(smoke).create()
    for method, version, split in [
        ("prior_only", 0, "val"), ("supervised", 1, "val"), ("l2l", 0, "val"), ("l2l", 1, "val"), ("l2l", 1, "testA")
    ]:  # fmt: skip
        event = {"event": "evaluation", "method": method, "version": version, "split": split}
        folder.log_event({**event, "mean_iou": 0.1 * version, "overall_iou": 0.2})
    assert val_figures(folder) == [{METRIC: 0.1, "val_overall_iou": 0.2, "version": 1}]


def test_the_table_is_sorted_and_names_the_swept_fields() -> None:
    frame = pd.DataFrame(
        {
            "config/data.labeled_frac": [0.05, 0.1], METRIC: [0.3, 0.4], "val_overall_iou": [0.2, 0.3],
            "version": [2, 2], "time_total_s": [9.0, 8.0], "trial_id": ["a", "b"], "pid": [1, 2],
        }
    )  # fmt: skip
    table = as_table(frame, ["data.labeled_frac"])
    assert list(table.columns) == ["data.labeled_frac", METRIC, "val_overall_iou", "version", "seconds", "trial"]
    assert table["trial"].tolist() == ["b", "a"]


def test_no_figure_at_all_is_an_error() -> None:
    with pytest.raises(ClusterError, match="no trial reported a figure"):
        as_table(pd.DataFrame({"trial_id": ["a"]}), [])


def test_the_smoke_preset_can_be_swept() -> None:
    check_space(smoke_config(), {"selector.name": tune.grid_search(["supervised", "l2l"])})
