"""Hidden truth cannot matter: with it deleted from disk, a run comes to the very same end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from l2l_ray.data.refer import ReferDataset
from l2l_ray.loop.evaluation import evaluate
from l2l_ray.loop.local import run_local
from l2l_ray.loop.state.candidates import data_root
from l2l_ray.loop.state.example_files import read_examples
from l2l_ray.loop.state.run_folder import RunFolder
from tests.opened_files import opened_files
from tests.whole_run import assert_same, changed, outcome, run_up_to_the_report, weights

pytestmark = pytest.mark.usefixtures("one_thread")
TRUTH = ("segmentation", "bbox", "area", "category_id")


def _without_hidden_truth(whole_run: RunFolder, root: Path) -> int:
    """Copy the run's data set; strip every annotation that no labeled, val or test ref points to. Return how many."""
    shutil.copytree(data_root(whole_run.config), root)
    path = root / "refshapes" / "instances.json"
    content = json.loads(path.read_text())
    known = {
        row.ref_id
        for name in ("labeled", "val", "testA", "testB")
        for row in read_examples(whole_run.examples_path(name))
    }
    refs = ReferDataset.open(root, "refshapes", "l2l").refs()
    kept = {ann_id for ref in refs if ref.ref_id in known for ann_id in ref.ann_ids}
    stripped = {ann_id for ref in refs for ann_id in ref.ann_ids} - kept
    for annotation in content["annotations"]:
        if annotation["id"] not in kept:
            for field in TRUTH:
                del annotation[field]
    path.write_text(json.dumps(content))
    return len(stripped)


def _without_hidden_figures(found: dict[str, Any]) -> dict[str, Any]:
    points = [{k: v for k, v in point.items() if not k.startswith("hidden_truth")} for point in found["points"]]
    return {**found, "points": points}


def test_without_hidden_truth_everything_but_its_figures_is_the_same(whole_run: RunFolder, tmp_path: Path) -> None:
    num_unlabeled_refs = len({row.ref_id for row in read_examples(whole_run.examples_path("unlabeled"))})
    assert _without_hidden_truth(whole_run, tmp_path / "data") == num_unlabeled_refs > 5
    config = changed(
        whole_run.config, run_root=str(tmp_path / "runs"), compare=(), data={"root": str(tmp_path / "data")}
    )
    config.cache_dir.mkdir(parents=True)
    shutil.copyfile(whole_run.config.cache_dir / "priors.sqlite", config.cache_dir / "priors.sqlite")
    run = run_local(config)
    assert {event["asked"] for event in run.events() if event["event"] == "priors"} == {0}

    found, expected = (_without_hidden_figures(outcome(r, "l2l")) for r in (run, whole_run))
    assert_same(found, expected)
    burn_ins = [next((r.config.cache_dir / "burn_in").iterdir()) for r in (run, whole_run)]
    for part in ("base", "fold0", "fold1"):
        assert weights(burn_ins[0] / part) == weights(burn_ins[1] / part), part

    with_truth, without = (json.loads((r.path / "results.json").read_text())["hidden_truth"] for r in (whole_run, run))
    assert without is None
    assert with_truth["l2l"][0]["labels"]["num"] == len(read_examples(run.examples_path("unlabeled")))
    assert "hidden_truth" not in (run.path / "metrics.csv").read_text()


def _holds_truth(path: str) -> bool:
    name = Path(path).name
    return name == "instances.json" or name.startswith("refs(") or path.endswith((".truth", ".refs"))


def test_training_and_labeling_open_no_file_that_holds_hidden_truth(
    copied: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that Python opens is seen; its own example files and weights, opened by libraries in C++, are not."""
    run = copied(without=("FINISHED", "train", "evals", "panels", "ledger.jsonl", "labels"), resume=True)
    columns = set(pq.read_schema(run.examples_path("unlabeled")).names)
    assert "expression" in columns and not columns & {"mask_rle", "segmentation", "bbox", "area", "category"}
    places: list[int] = []
    original = evaluate.pseudo_label_quality

    def marked(*args: Any) -> Any:  # the figures against hidden truth are the first thing after the last round
        places.append(len(opened))
        return original(*args)

    monkeypatch.setattr(evaluate, "pseudo_label_quality", marked)
    with opened_files() as opened:
        run_up_to_the_report(run.config)
    before, after = opened[: places[0]], opened[places[0] :]
    assert any("/images/" in path for path in before)
    assert not [path for path in before if _holds_truth(path)]
    assert [path for path in after if _holds_truth(path)], "the trace sees such files"
