"""Whatever is wrong with the input is a clear error or a counted skip, and what is right runs through."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from l2l_ray.cli import main
from l2l_ray.loop.local import run_local
from l2l_ray.loop.state.candidates import data_root
from l2l_ray.loop.state.example_files import read_examples, read_priors
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.report.left_out import LEFT_OUT, STAYS
from l2l_ray.types import Example
from tests.whole_run import changed

pytestmark = pytest.mark.usefixtures("one_thread")


class Broken:
    """A copy of the whole run's data set with something wrong in every place."""

    def __init__(self, whole_run: RunFolder, root: Path) -> None:
        shutil.copytree(data_root(whole_run.config), root)
        self.root, self.folder = root, root / "refshapes"
        self.refs: list[dict[str, Any]] = pickle.loads((self.folder / "refs(l2l).p").read_bytes())
        self.instances = json.loads((self.folder / "instances.json").read_text())
        self._sets = {name: read_examples(whole_run.examples_path(name)) for name in ("labeled", "unlabeled", "val")}

    def image(self, name: str, number: int) -> tuple[Path, list[Example]]:
        """Return the file of an image of a set, and the examples that show it."""
        rows = self._sets[name]
        image_id = list(dict.fromkeys(row.image_id for row in rows))[number]
        shown = [row for row in rows if row.image_id == image_id]
        return self.root / "images" / "refshapes" / Path(shown[0].image_path).name, shown

    def sentences(self, name: str, image_number: int) -> list[dict[str, Any]]:
        """Return the sentences of the first ref of an image of a set; they may be changed."""
        ref_id = self.image(name, image_number)[1][0].ref_id
        sentences: list[dict[str, Any]] = next(ref for ref in self.refs if ref["ref_id"] == ref_id)["sentences"]
        return sentences

    def annotation(self, name: str, image_number: int) -> dict[str, Any]:
        """Return the annotation of the first ref of an image of a set; it may be changed."""
        ref_id = self.image(name, image_number)[1][0].ref_id
        ann_id = next(ref for ref in self.refs if ref["ref_id"] == ref_id)["ann_id"]
        annotations: list[dict[str, Any]] = self.instances["annotations"]
        return next(item for item in annotations if item["id"] == ann_id)

    def save(self) -> None:
        """Write what was changed."""
        (self.folder / "refs(l2l).p").write_bytes(pickle.dumps(self.refs))
        (self.folder / "instances.json").write_text(json.dumps(self.instances))


def test_a_run_over_broken_data_ends_and_lists_what_it_left_out(whole_run: RunFolder, tmp_path: Path) -> None:
    data = Broken(whole_run, tmp_path / "data")
    missing, missing_rows = data.image("unlabeled", 0)
    missing.unlink()
    truncated, truncated_rows = data.image("labeled", 0)
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    empty = data.sentences("unlabeled", 1)
    for sentence in empty:
        sentence["sent"] = "   "
    long = data.sentences("val", 0)[0]
    long["sent"] = "the very " * 250 + "red circle"
    outside = data.annotation("val", 1)
    outside["segmentation"] = [[1000, 1000, 1100, 1000, 1100, 1100]]
    num_outside = len(data.sentences("val", 1))
    data.save()
    config = changed(
        whole_run.config,
        run_root=str(tmp_path / "runs"),
        compare=(),
        data={"root": str(data.root)},
        prior={"max_new_tokens": 8},  # every reply breaks off before its JSON is whole
        selector={"name": "agreement"},  # it believes nothing that has no prior: the loop runs on labeled images alone
        loop={"rounds": 1, "burn_in_steps": 1, "round_steps": 1},
    )
    run = run_local(config)

    kinds = Counter(skip.kind for skip in run.skips())
    num_truncated = len(truncated_rows)
    assert kinds == {
        "missing_image": len(missing_rows),
        "truncated_image": num_truncated,
        "empty_expression": len(empty),
        "long_expression_cut": 1,
        "long_expression_tokens": 1,
        "mask_outside_image": num_outside,
    }
    page = (run.path / "report.html").read_text()
    assert all({**LEFT_OUT, **STAYS}[kind] in page for kind in kinds)
    results = json.loads((run.path / "results.json").read_text())
    assert [row["method"] for row in results["rows"]] == ["prior_only", "agreement"]
    val = read_examples(run.examples_path("val"))
    assert (
        results["rows"][1]["splits"]["val"]["num"]
        == len(val)
        == len(read_examples(whole_run.examples_path("val"))) - num_outside
    )
    assert max(len(row.expression.split()) for row in val) == config.data.max_words

    for event in run.events():
        if event["event"] == "priors":
            assert sum(event["failures"].values()) == event["num"] > 0  # counted, never silent, never a crash
    priors = read_priors(run.priors_path("unlabeled")).values()
    assert all(prior.failure and prior.reply and not prior.boxes_xyxy_frac for prior in priors)
    assert results["rows"][0]["splits"]["val"]["overall_iou"] == 0.0
    entries = Ledger(run.ledger_path).entries("agreement", 0)
    assert sum(entry.num for entry in entries) == len(read_examples(run.examples_path("unlabeled")))
    assert sum(entry.num_gated_on for entry in entries) == 0


def _command(tmp_path: Path, *words: str) -> list[str]:
    small = ["--data.num_train_refs", "12", "--data.num_eval_refs", "4"]
    return ["run", "--preset", "smoke", "--run_root", str(tmp_path / "runs"), *small, *words]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.labeled_frac", "0.1"], "labeled_frac gives 0 labeled images: 0.1 of 4 train images is below 1"),
        (["--data.labeled_frac", "1.5"], "data.labeled_frac"),
        (["--loop.roundz", "3"], "roundz"),
        (["--data.root", "nowhere"], "does not exist; check root"),
        (["--data.dataset", "refcoco"], "data.dataset is 'refcoco', but data.root is 'embedded'"),
        (
            ["--prior.model", "nowhere/at/all", "--data.labeled_frac", "0.5"],
            "prior.model 'nowhere/at/all' cannot be loaded",
        ),
    ],
)
def test_a_mistake_in_the_command_is_named_and_nothing_is_left_running(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_command(tmp_path, *words)) == 1
    assert said in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "runs").glob("*")} <= {"cache"}
