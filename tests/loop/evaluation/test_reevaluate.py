"""A finished run evaluated again: the same figures under its own protocol, LAVT's under LAVT's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from l2l_ray.cli import main
from l2l_ray.errors import CheckpointError, ConfigError, DataError
from l2l_ray.loop.evaluation.evaluate import figures_of, meter_of
from l2l_ray.loop.evaluation.reevaluate import Reevaluation, reevaluate
from l2l_ray.loop.state.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")


def _reported(run: RunFolder, split: str) -> dict[str, object]:
    rows = json.loads((run.path / "results.json").read_text())["rows"]
    (own,) = (row for row in rows if row["method"] == "l2l")
    return own["splits"][split]


def test_its_own_protocol_gives_the_reported_figures(whole_run: RunFolder) -> None:
    for split in ("val", "testA"):
        found, reported = reevaluate(whole_run.path, split), _reported(whole_run, split)
        assert found.figures["mean_iou"] == pytest.approx(reported["mean_iou"], abs=1e-12)
        assert found.figures["overall_iou"] == pytest.approx(reported["overall_iou"], abs=1e-12)
        assert found.figures["num"] == reported["num"] == len(found.rows)


def test_another_protocol_counts_otherwise_and_says_so(
    whole_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.parquet"
    words = ["evaluate", str(whole_run.path), "--split", "testA", "--protocol", "lavt480", "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = pd.read_parquet(out)
    figures = meter_of(rows).summary()
    assert printed[0].endswith(
        f"on testA, {len(rows)} sentences, protocol lavt480: " + printed[0].partition("lavt480: ")[2]
    )
    assert "480 x 480" in printed[0] and printed[-1] == str(out)
    assert printed[1].split()[:2] == ["oIoU", f"{100 * figures['overall_iou']:.1f}"]
    assert printed[2].split()[:2] == ["mIoU", f"{100 * figures['mean_iou']:.1f}"]
    assert set(rows["protocol"]) == {"lavt480"} and (rows["union"] <= 480 * 480).all()
    assert not rows["union"].equals(reevaluate(whole_run.path, "testA").rows["union"])


def test_mistakes_are_named(whole_run: RunFolder, copied: Callable[..., RunFolder], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no evaluation split 'testC'; it has val, testA, testB"):
        reevaluate(whole_run.path, "testC")
    with pytest.raises(ConfigError, match="no evaluation protocol 'coco'; use one of native, lavt480"):
        reevaluate(whole_run.path, "val", "coco")
    with pytest.raises(ConfigError):
        reevaluate(tmp_path, "val")
    with pytest.raises(CheckpointError, match="has chosen no version yet"):
        reevaluate(copied(without=("FINISHED", "selection.json")).path, "val")


def test_figures_without_an_interval_are_printed_without_one() -> None:
    ids = list(range(10))
    rows = pd.DataFrame({"sent_id": ids, "image_id": ids, "intersection": 0, "union": 50, "predicted_px": 20})
    lines = Reevaluation(rows, figures_of(meter_of(rows)), "run l2l version 0 on val", "native: ...").lines()
    assert lines[1] == "  oIoU     0.0  (–)" and lines[2] == "  mIoU     0.0  (–)", "no width is no certainty"
    rows = pd.DataFrame({"sent_id": [1, 2], "image_id": [1, 2], "intersection": 0, "union": 0, "predicted_px": 0})
    lines = Reevaluation(rows, figures_of(meter_of(rows)), "run l2l version 0 on val", "native: ...").lines()
    assert lines[1] == "  oIoU   100.0  (–)" and lines[2] == "  mIoU   100.0  (–)"
    assert "  n_acc        100.0" in lines


def test_a_truth_that_a_squash_removes_is_no_missing_target() -> None:
    rows = pd.DataFrame({"sent_id": [1], "image_id": [1], "intersection": 0, "union": 0, "predicted_px": 0})
    assert "no_target" in figures_of(meter_of(rows)) and "no_target" not in figures_of(meter_of(rows), no_target=False)


def test_a_file_that_cannot_be_written_is_one_line(whole_run: RunFolder, tmp_path: Path) -> None:
    found = reevaluate(whole_run.path, "testA")
    found.save(tmp_path / "new" / "rows.parquet")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written: File exists; choose another place"):
        found.save(tmp_path / "file" / "rows.parquet")


def test_what_is_there_is_never_replaced(
    whole_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("a,b")
    assert main(["evaluate", str(whole_run.path), "--out", str(mine)]) == 1
    said = capsys.readouterr()
    assert not said.out and said.err.endswith(f"{mine} is there already; choose another --out\n")
    with pytest.raises(DataError, match="it was made meanwhile"):
        reevaluate(whole_run.path, "testA").save(mine)
    assert mine.read_text() == "a,b"
