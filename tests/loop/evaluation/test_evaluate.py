"""From parts to figures: groups close once, versions are chosen on val, tests are read once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from l2l_ray.config import RunConfig
from l2l_ray.data.masks import encode, mask_area_px
from l2l_ray.errors import DataError
from l2l_ray.intervals import MIN_IMAGES
from l2l_ray.loop.evaluation.evaluate import Evaluations, figures_of, meter_of, protocol_of, results
from l2l_ray.loop.inference.engine import EvalPart
from l2l_ray.loop.inference.quality import Quality
from l2l_ray.loop.state.example_files import read_examples
from l2l_ray.loop.state.plan import EvalItem, Plan
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.types import LabeledExample

GROUP = ("l2l", 1, "val")
ITEM = EvalItem(*GROUP, 0, 2)


def _row(sent_id: int, intersection: int, union: int) -> dict[str, float]:
    return {"sent_id": sent_id, "image_id": sent_id // 2, "intersection": intersection, "union": union}


def _quality(right: int) -> Quality:
    regions, classes = np.array([[right, 4, 8], [8, 8, 8], [0, 0, 8]]), np.array([[right, 6, 8], [8, 8, 16]])
    labels, wrong = np.array([[1.0, right / 4, 0.5, 1.0, right / 4]]), {right: encode(np.eye(4, dtype=bool))}
    return Quality(regions, classes, labels, {}, wrong)


@pytest.fixture
def run(smoke: RunConfig) -> RunFolder:
    return RunFolder.open(smoke).create()


def _close(run: RunFolder, group: tuple[str, int, str] = GROUP, iou_px: int = 30) -> dict[str, Any]:
    evaluations, first = Evaluations(run), {"val": 0, "testB": 200}.get(group[2], 100)  # no sentence is in two splits
    evaluations.add(EvalItem(*group, 2, 3), EvalPart([_row(first + 9, 0, 0)], _quality(3)))
    rows = [_row(first + 4, 90, 100), _row(first + 7, iou_px, 60)]
    evaluations.add(EvalItem(*group, 0, 2), EvalPart(rows, _quality(1)))
    return evaluations.close(group)


def test_figures_of_a_group_by_hand(run: RunFolder) -> None:
    summary = _close(run)
    assert summary["num"] == 3
    assert summary["mean_iou"] == pytest.approx((0.9 + 0.5 + 1.0) / 3)  # both empty counts as right
    assert summary["overall_iou"] == pytest.approx(120 / 160)
    assert summary["precision_at"][0.5] == 1.0 and summary["precision_at"][0.6] == pytest.approx(2 / 3)
    quality = Evaluations(run).quality("l2l", 1)
    assert quality is not None
    figures = quality["summary"]
    assert figures["accuracy_by_true_region"] == {"inside": 0.5, "outside": 1.0, "boundary": None, "all": 20 / 24}
    assert (figures["object_precision"], figures["object_recall"]) == (4 / 12, 4 / 16)
    assert (figures["labels"]["num_used"], figures["labels"]["mean_iou"]) == (2, 0.5)


def test_wrong_labels_on_val_are_held_against_the_version_before(run: RunFolder) -> None:
    for version in (0, 1, 3):
        _close(run, ("l2l", version, "val"))
    expected = {"version": 1, "num": 2, "again_frac": 1.0, "same_mask_frac": 1.0}
    assert Evaluations(run).wrong_on_val("l2l", 3) == [expected]  # version 2 was not measured
    assert Evaluations(run).wrong_on_val("accept_all", 3) == []


def test_a_closed_group_is_read_back_the_same(run: RunFolder) -> None:
    summary = _close(run)
    again = Evaluations(run)
    assert again.mean_ious() == {GROUP: summary["mean_iou"]}
    assert again.meter(GROUP).summary() == summary
    assert [row["sent_id"] for row in again.meter(GROUP).rows()] == [4, 7, 9]
    assert again.quality("l2l", 0) is None


def test_files_name_their_protocol_and_older_ones_are_native(run: RunFolder) -> None:
    rows = [{**_row(4, 0, 0), "predicted_px": 0, "protocol": "lavt480"}, {**_row(6, 1, 2), "predicted_px": 2}]
    frame = pd.DataFrame(rows[:1])
    assert (protocol_of(frame).name, meter_of(frame).summary()["mean_iou"]) == ("lavt480", 0.0)
    old = pd.DataFrame([_row(4, 0, 0)])
    assert (protocol_of(old).name, meter_of(old).summary()["mean_iou"]) == ("native", 1.0)
    with pytest.raises(DataError, match=r"under one protocol, got \['lavt480', 'native'\]"):
        protocol_of(pd.DataFrame([rows[0], {**rows[1], "protocol": "native"}]))


def test_figures_say_where_they_have_no_interval_and_what_is_empty(run: RunFolder) -> None:
    _close(run)
    plain = figures_of(Evaluations(run).meter(GROUP))
    assert plain["interval"]["mean_iou"] == {"low": None, "high": None}, "of two images"
    assert "no_target" not in plain
    group = ("l2l", 1, "testB")
    evaluations = Evaluations(run)
    rows = [{**_row(4, 90, 100), "predicted_px": 95}, {**_row(7, 0, 0), "predicted_px": 0}]
    evaluations.add(EvalItem(*group, 0, 2), EvalPart(rows, None))
    evaluations.close(group)
    found = figures_of(evaluations.meter(group))["no_target"]
    assert (found["n_acc"], found["t_acc"], found["gres_ciou"]) == (1.0, 1.0, 0.9)
    assert found["interval"]["gres_giou"] == {"low": None, "high": None}


def test_methods_with_a_threshold_in_their_name_are_read_back(run: RunFolder) -> None:
    _close(run, ("fixed_threshold@0.8", 12, "testA"))
    assert list(Evaluations(run).mean_ious()) == [("fixed_threshold@0.8", 12, "testA")]


def test_closing_logs_one_event(run: RunFolder) -> None:
    summary = _close(run)
    (event,) = run.events()
    assert (event["event"], event["method"], event["version"], event["split"]) == ("evaluation", *GROUP)
    assert event["mean_iou"] == summary["mean_iou"]
    assert event["quality"]["accepted_by_true_region"]["inside"] == 0.5


def test_a_group_cut_off_before_its_file_is_there_is_evaluated_again(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def dies(source: Path, target: Path) -> None:
        if target.suffix == ".parquet":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            _close(run)
    assert Evaluations(run).mean_ious() == {}
    _close(run)
    events = [(event["version"], event["mean_iou"]) for event in run.events()]
    assert len(events) == 2 and len(set(events)) == 1  # logged twice, alike; lost never


def test_a_full_disk_leaves_no_group_behind(
    run: RunFolder, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    with full_disk(600), pytest.raises(DataError, match=r"cannot write .*val.*free some space .*--resume"):
        _close(run)
    assert Evaluations(run).mean_ious() == {}
    assert _close(run)["num"] == 3


def _finished_plan(splits: dict[str, int], scores: dict[int, float]) -> Plan:
    plan = Plan(["l2l"], 2, 0, 0, splits, 512)
    for version in (0, 1, 2):
        plan.publish("l2l", version)
    for version, score in scores.items():
        plan.record("l2l", version, "val", score)
    return plan


def test_the_final_table_takes_the_version_that_is_best_on_val(run: RunFolder) -> None:
    for group, px in ((("l2l", 1, "val"), 50), (("l2l", 2, "val"), 30), (("l2l", 1, "testA"), 10)):
        _close(run, group, px)
    for split in ("val", "testA"):
        _close(run, ("prior_only", 0, split), 5)
    # Version 0 is the burn-in: even when it is best, the row shows what the rounds made of it.
    plan = _finished_plan({"val": 3, "testA": 3}, {0: 0.99, 1: 0.8, 2: 0.7})
    table = results(run.config, run, plan, Evaluations(run))
    prior, main = table["rows"]
    assert (prior["method"], prior["version"], prior["steps"]) == ("prior_only", 0, 0)
    assert (main["method"], main["version"]) == ("l2l", 1)
    loop = run.config.loop
    assert main["steps"] == loop.burn_in_steps + loop.round_steps, "of the version that was chosen"
    assert table["steps_of_every_method"] == loop.burn_in_steps + loop.rounds * loop.round_steps
    assert main["splits"]["testA"]["mean_iou"] == pytest.approx((0.9 + 10 / 60 + 1) / 3)
    assert table["chosen_on"] == "val" and table["missing_splits"] == ["testB"]
    assert table["breakdown"] == []  # these rows do not say what they are


def test_without_val_the_last_version_is_taken_and_said(run: RunFolder) -> None:
    _close(run, ("l2l", 2, "test"))
    _close(run, ("prior_only", 0, "test"))
    table = results(run.config, run, _finished_plan({"test": 3}, {}), Evaluations(run))
    assert table["rows"][1]["version"] == 2
    assert table["chosen_on"] == "last version (no val split)" and table["missing_splits"] == ["val"]


def test_a_difference_is_of_the_tests_and_of_val_only_where_there_is_none(run: RunFolder) -> None:
    # One of the three sentences of a split differs, of 60 px: by all of them on val, a quarter on testA, half on testB.
    for split, ours, theirs in (("val", 60, 0), ("testA", 30, 15), ("testB", 30, 0)):
        _close(run, ("l2l", 1, split), ours)
        _close(run, ("prior_only", 0, split), theirs)
    found = {}
    for splits in (("val", "testA", "testB"), ("val", "testA"), ("val",)):
        plan = _finished_plan(dict.fromkeys(splits, 3), {0: 0.1, 1: 0.8, 2: 0.7})
        (item,) = results(run.config, run, plan, Evaluations(run))["differences"]
        found[item["split"]] = item["diff"]
    assert found == pytest.approx({"tests": 0.75 / 6, "testA": 0.25 / 3, "val": 1 / 3})


def test_without_any_evaluation_split_there_are_labels_and_no_figures(run: RunFolder) -> None:
    table = results(run.config, run, _finished_plan({}, {}), Evaluations(run))
    assert [(row["version"], row["splits"]) for row in table["rows"]] == [(0, {}), (2, {})]
    assert table["differences"] == [] and table["missing_splits"] == ["val", "testA", "testB"]


def test_a_whole_run_has_every_figure_and_read_the_tests_once(whole_run: RunFolder) -> None:
    table = json.loads((whole_run.path / "results.json").read_text())
    assert [row["method"] for row in table["rows"]] == ["prior_only", "supervised", "l2l"]
    assert table["missing_splits"] == [] and table["seed"] == 0 and table["labeled_frac"] == 0.34
    assert table["val_source"] == "split"
    for row in table["rows"]:
        assert set(row["splits"]) == {"val", "testA", "testB"}
        for split, figures in row["splits"].items():
            assert figures["num"] == len(pd.read_parquet(whole_run.examples_path(split)))
            ends = figures["interval"]["mean_iou"]
            if pd.read_parquet(whole_run.examples_path(split))["image_id"].nunique() < MIN_IMAGES:
                assert ends == {"low": None, "high": None}
            else:
                assert 0 <= ends["low"] <= figures["mean_iou"] <= ends["high"] <= 1
            for kind in ("category", "size", "length"):
                of = {"method": row["method"], "version": row["version"], "split": split, "by": kind}
                parts = [part for part in table["breakdown"] if of.items() <= part.items()]
                assert sum(part["num"] for part in parts) == figures["num"]
            assert set(figures["precision_at"]) == {"0.5", "0.6", "0.7", "0.8", "0.9"}
    for row in table["rows"][1:]:
        folders = {path.parent.name for path in whole_run.path.glob(f"evals/{row['method']}-v*/testA.parquet")}
        assert folders == {f"{row['method']}-v{row['version']:04d}"}
        val = {v: _mean_iou(whole_run, row["method"], v) for v in (1, 2)}
        assert val[row["version"]] == max(val.values()) == row["splits"]["val"]["mean_iou"]


def test_sentences_of_a_whole_run_say_what_they_are(whole_run: RunFolder) -> None:
    frame = Evaluations(whole_run).frame(("prior_only", 0, "val"))
    rows = {
        row.sent_id: row for row in read_examples(whole_run.examples_path("val")) if isinstance(row, LabeledExample)
    }
    for line in frame.to_dict("records"):
        example = rows[line["sent_id"]]
        assert line["target_px"] == mask_area_px(example.mask_rle) > 0
        assert line["union"] == line["target_px"] + line["predicted_px"] - line["intersection"]
        assert line["area_frac"] == pytest.approx(line["target_px"] / example.width_px / example.height_px)
        assert (line["category"], line["num_words"]) == (example.category, len(example.expression.split()))
        assert line["protocol"] == "native"
    assert "by category" in (whole_run.path / "report.html").read_text()


def _mean_iou(run: RunFolder, method: str, version: int) -> float:
    return float(Evaluations(run).mean_ious()[method, version, "val"])


def test_a_whole_run_ends_with_its_report(whole_run: RunFolder) -> None:
    selection = json.loads((whole_run.path / "selection.json").read_text())
    quality = Evaluations(whole_run).quality("l2l", selection["version"])
    assert selection == {"method": "l2l", "version": selection["version"], **(quality or {})} and quality
    assert whole_run.finished
    page = (whole_run.path / "report.html").read_text()
    assert "L2L (RPLE)" in page and "supervised, with guidance" in page
    assert Path(whole_run.path / "metrics.parquet").exists()
