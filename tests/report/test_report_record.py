import json
from pathlib import Path

import pytest

from l2l_ray.errors import DataError
from l2l_ray.report.record import flatten, is_number, read_glance, read_run


def log(folder: Path, *events: dict) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def test_a_full_folder_has_nothing_absent(run_dir: Path) -> None:
    record = read_run(run_dir)
    assert record.absent == ()
    assert record.main_method == "l2l" and record.methods[0] == "prior_only"
    assert record.about == "Data set refshapes (l2l split); 5 % labeled; one seed (0)"
    assert record.protocol.startswith("native image size") and record.protocol.endswith("version chosen on val")
    assert len(record.evaluated) == 3 and len(record.photos) == 3 and not record.own_data


def test_an_empty_folder_names_all_that_is_absent(tmp_path: Path) -> None:
    record = read_run(tmp_path)
    names = ("config.yaml", "env.json", "results.json", "metrics.jsonl", "selection.json", "skips.jsonl")
    assert all(f"{name} is absent" in record.absent for name in (*names, "panels/index.json"))
    assert record.methods == () and record.points == () and record.protocol == "metric protocol not recorded"


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run folder at"):
        read_run(tmp_path / "nowhere")


def test_events_of_a_version_are_joined_and_later_ones_win(tmp_path: Path) -> None:
    log(
        tmp_path,
        {"event": "train", "method": "l2l", "version": 1, "loss": 9.0},
        {"event": "train", "method": "l2l", "version": 1, "loss": 0.5, "policy/reward/label": 0.2, "policy/loss": 0.01,
         "labels/accepted_frac": 0.7},
        {"event": "evaluation", "method": "l2l", "version": 1, "split": "val", "mean_iou": 0.4, "num": 7,
         "precision_at": {"0.5": 0.3}, "quality": {"object_precision": 0.6}},
        {"event": "train", "method": "l2l", "version": 0},
    )  # fmt: skip
    start, end = read_run(tmp_path).points
    assert start == {"method": "l2l", "version": 0, "round": None}
    assert end == {
        "method": "l2l", "version": 1, "round": 0, "train.loss": 0.5, "reward.label": 0.2, "policy.loss": 0.01,
        "labels.accepted_frac": 0.7, "val.mean_iou": 0.4, "val.num": 7, "val.precision_at.0.5": 0.3,
        "quality.val.object_precision": 0.6,
    }  # fmt: skip


def test_one_event_per_round_gives_the_same_columns(tmp_path: Path) -> None:
    quality = {"val": {"object_precision": 0.7}, "hidden_truth": {"labels": {"mean_iou": 0.2}}}
    log(
        tmp_path,
        {"event": "round", "method": "l2l", "round": 2, "version": 3, "val": {"mean_iou": 0.4}, "train": {"loss": 1.5},
         "reward": {"agreement": 0.1}, "seconds": {"label": 3.0}, "quality": quality},
    )  # fmt: skip
    (point,) = read_run(tmp_path).points
    assert (point["version"], point["round"], point["val.mean_iou"], point["train.loss"]) == (3, 2, 0.4, 1.5)
    assert (point["reward.agreement"], point["seconds.label"]) == (0.1, 3.0)
    assert (point["quality.val.object_precision"], point["hidden_truth.labels.mean_iou"]) == (0.7, 0.2)


def test_hidden_truth_of_the_results_joins_the_version_its_round_made(run_dir: Path) -> None:
    points = read_run(run_dir).points_of("l2l")
    assert "hidden_truth.labels.num" not in points[0]
    assert points[1]["hidden_truth.object_precision"] == pytest.approx(0.67)


def test_wrong_labels_on_val_join_their_version(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    rows = [{"version": 2, "num": 9, "again_frac": 0.5}, "damaged"]
    (run_dir / "results.json").write_text(json.dumps({**results, "val_wrong_before": {"l2l": rows}}))
    points = read_run(run_dir).points_of("l2l")
    assert [point.get("quality.val.wrong_before.again_frac") for point in points] == [None, None, 0.5, None, None]


def test_labels_are_judged_by_hidden_truth_where_it_is_known(run_dir: Path) -> None:
    assert read_run(run_dir).label_source == "hidden_truth"
    (run_dir / "results.json").write_text('{"hidden_truth": null}')
    assert read_run(run_dir).label_source == "quality.val"


def test_damaged_files_cost_only_themselves(run_dir: Path) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "meth')
    (run_dir / "results.json").write_text("[1, 2")
    (run_dir / "config.yaml").write_text("a: [b")
    (run_dir / "selection.json").write_bytes(b"\xff\xfe\x00")
    record = read_run(run_dir)
    text = "\n".join(record.absent)
    assert "metrics.jsonl: line" in text and "results.json is not JSON" in text and "config.yaml is not YAML" in text
    assert "selection.json cannot be read" in text
    assert len(record.points) == 26 and record.rows == []


def test_a_byte_that_is_no_text_costs_its_line_alone(run_dir: Path) -> None:
    points, lines = read_run(run_dir).points, (run_dir / "metrics.jsonl").read_bytes()
    (run_dir / "metrics.jsonl").write_bytes(b'\xff\xfe torn\n{"event": "n\xc3"}\n' + lines)
    record = read_run(run_dir)
    assert record.points == points
    assert record.absent == tuple(f"metrics.jsonl: line {n} is damaged and left out" for n in (1, 2))
    (run_dir / "metrics.jsonl").unlink()
    assert read_run(run_dir).absent == ("metrics.jsonl is absent",)


def test_values_of_the_wrong_type_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"rows": "none", "hidden_truth": 3}')
    (tmp_path / "config.yaml").write_text("- a\n- b\n")
    log(tmp_path, {"event": "train", "method": 3, "version": 1}, {"event": "train", "method": "l2l", "version": "x"})
    record = read_run(tmp_path)
    assert record.rows == [] and record.points == () and record.config == {}


def test_small_helpers() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": [3]}) == {"a.b": 1, "a.c.d": 2, "e": [3]}
    assert [is_number(v) for v in (1, 0.5, True, float("nan"), None, "1")] == [True, True, False, False, False, False]


def test_a_glance_reads_events_only_where_there_are_no_results(run_dir: Path) -> None:
    whole, glance = read_run(run_dir), read_glance(run_dir)
    assert (glance.config, glance.results, glance.main_method) == (whole.config, whole.results, "l2l")
    assert glance.absent == glance.events == glance.points == glance.panels == ()
    (run_dir / "results.json").unlink()
    glance = read_glance(run_dir)
    assert glance.absent == ("results.json is absent",) and glance.points_of("l2l")[-1]["val.mean_iou"] > 0
    with pytest.raises(DataError, match="no run folder at"):
        read_glance(run_dir / "nowhere")
