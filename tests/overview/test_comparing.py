"""Two runs side by side: paired differences, the settings that differ, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from l2l_ray import cli
from l2l_ray.config import config_yaml
from l2l_ray.data.masks import decode, encode
from l2l_ray.errors import CheckpointError, ConfigError, DataError
from l2l_ray.intervals import verdict
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.overview.comparing import ComparedRun, comparison
from l2l_ray.report.figures import points_interval

Copy = Callable[..., RunFolder]


@pytest.fixture
def supervised(copied: Copy) -> RunFolder:
    """A copy of the finished run that was made for another of its methods."""
    run = copied(without=(), name="supervised", compare=("l2l",), selector={"name": "supervised"})
    (run.path / "config.yaml").write_text(config_yaml(run.config))
    results = json.loads((run.path / "results.json").read_text())
    row = next(row for row in results["rows"] if row["method"] == "supervised")
    (run.path / "selection.json").write_text(json.dumps({"method": "supervised", "version": row["version"]}))
    return run


def evaluated(run: RunFolder, split: str) -> Path:
    """Return the file of the chosen version's rows."""
    method, version = run.chosen_version()
    return run.path / "evals" / f"{method}-v{version:04d}" / f"{split}.parquet"


def rewrite(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(path)).to_parquet(path)


def cells(line: str) -> list[str]:
    return [cell for cell in line.split("  ") if cell.strip()]


def test_differences_are_those_that_the_run_itself_reports(whole_run: RunFolder, supervised: RunFolder) -> None:
    lines = comparison([whole_run.path, supervised.path])
    assert lines[0].startswith("first  L2L (RPLE), version ") and lines[0].endswith(str(whole_run.path))
    assert lines[1].startswith("other  supervised, with guidance, version ")
    assert lines[2] == "note   val: the versions were chosen on it"
    results = json.loads((whole_run.path / "results.json").read_text())
    known = next(item for item in results["differences"] if item["versus"] == "supervised")
    (row,) = (cells(line) for line in lines if line.startswith("tests "))
    assert row[2].strip() == "mean IoU" and row[5].strip() == f"{100 * known['diff']:+.1f}"
    assert row[6].strip() == points_interval(known["low"], known["high"])
    assert row[7].strip() == verdict(known["low"], known["high"])
    assert [line.split()[0] for line in lines if line[:1] in "vta" and "mean IoU" in line] == [
        *("val", "testA", "testB", "tests")
    ]
    differing = lines[lines.index("what differs:") + 1 : lines.index("")]
    assert [line.split()[0] for line in differing] == ["compare", "selector.name"]
    assert differing[1].split()[1:] == ["'l2l'", "|", "'supervised'"]
    assert lines[-1].startswith("Ahead or behind: the interval, over images, excludes 0.")


def test_a_run_does_not_differ_from_itself(whole_run: RunFolder) -> None:
    lines = comparison([whole_run.path, whole_run.path], split="val", method="supervised")
    assert "no setting differs" in lines and not any(word in "\n".join(lines[:-1]) for word in ("ahead", "behind"))
    assert sum(line.startswith(("val", "test")) for line in lines) == 1


def test_seeds_are_named_and_never_pooled(whole_run: RunFolder, copied: Copy) -> None:
    others = [copied(without=(), name=f"seed{seed}", loop={"seed": seed}) for seed in (1, 2)]
    for run in others:
        (run.path / "config.yaml").write_text(config_yaml(run.config))
    lines = comparison([whole_run.path, *(run.path for run in others)], split="val")
    assert sum(line.startswith("val ") for line in lines) == 2, "the first against each of the others"
    assert lines[-1].startswith("Seeds differ and are not pooled")
    assert "  loop.seed  0 | 1" in lines and "  loop.seed  0 | 2" in lines


def test_code_that_differs_is_named(whole_run: RunFolder, copied: Copy) -> None:
    run = copied(without=(), name="later")
    env = json.loads((run.path / "env.json").read_text())
    (run.path / "env.json").write_text(json.dumps({**env, "git": "abc", "command": "x"}))
    assert any(line.endswith("| 'abc'") for line in comparison([whole_run.path, run.path], split="val"))


def test_other_sentences_are_refused_and_the_common_ones_compared_on_request(
    whole_run: RunFolder, supervised: RunFolder
) -> None:
    num = len(pd.read_parquet(evaluated(supervised, "val")))
    rewrite(evaluated(supervised, "val"), lambda frame: frame.iloc[2:])
    with pytest.raises(
        DataError, match=rf"the first has {num} sentences, the other {num - 2}, and {num - 2} are in both; --common"
    ):
        comparison([whole_run.path, supervised.path])
    lines = comparison([whole_run.path, supervised.path], split="val", common=True)
    assert f"note   val: the {num - 2} sentences that both have, of {num} and {num}" in lines
    rewrite(evaluated(supervised, "val"), lambda frame: frame.assign(sent_id=frame["sent_id"] + 10**6))
    for common in (False, True):
        with pytest.raises(DataError, match="and 0 are in both; compare runs on one data set"):
            comparison([whole_run.path, supervised.path], common=common)


def test_other_photos_that_were_held_out_are_named_with_what_keeps_them(
    whole_run: RunFolder, supervised: RunFolder, copied: Copy
) -> None:
    first = copied(without=(), name="first")
    for run in (first, supervised):
        results = json.loads((run.path / "results.json").read_text())
        (run.path / "results.json").write_text(json.dumps({**results, "val_source": "labeled"}))
    rewrite(evaluated(supervised, "val"), lambda frame: frame.assign(sent_id=frame["sent_id"] + 10**6))
    with pytest.raises(
        DataError, match="the runs held out other photos, .* 0 are in both; .* with a val split"
    ) as told:
        comparison([first.path, supervised.path], split="val")
    assert "on one data set" not in str(told.value), "it is one"
    with pytest.raises(DataError, match="and 0 are in both; compare runs on one data set"):
        comparison([whole_run.path, supervised.path], split="val")
    shared = evaluated(first, "val")
    ids = pd.read_parquet(shared)["sent_id"].to_list()
    rewrite(evaluated(supervised, "val"), lambda frame: frame.assign(sent_id=[ids[0], *frame["sent_id"][1:]]))
    with pytest.raises(DataError, match="held out other photos, .* and 1 is in both; --common compares on these"):
        comparison([first.path, supervised.path], split="val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "lavt480"}, "the protocol is native in the first and lavt480 in the other"),
        ({"image_id": -1}, "have another image, text or true mask"),
    ],
)
def test_other_rules_or_truth_are_refused(
    whole_run: RunFolder, supervised: RunFolder, change: dict[str, Any], message: str
) -> None:
    rewrite(evaluated(supervised, "testA"), lambda frame: frame.assign(**change))
    with pytest.raises(DataError, match=f"testA of .* cannot be compared: .*{message}"):
        comparison([whole_run.path, supervised.path])
    assert comparison([whole_run.path, supervised.path], split="val"), "the other splits can be"


def test_a_true_mask_that_was_moved_is_refused(whole_run: RunFolder, supervised: RunFolder) -> None:
    def moved(frame: pd.DataFrame) -> pd.DataFrame:
        masks = [np.roll(decode(json.loads(text)), 1, axis=1) for text in frame["mask_rle"]]  # as large as before
        return frame.assign(mask_rle=[json.dumps(encode(mask)) for mask in masks])

    rewrite(supervised.examples_path("val"), moved)
    with pytest.raises(DataError, match="another image, text or true mask"):
        comparison([whole_run.path, supervised.path], split="val")


def test_other_texts_are_refused(whole_run: RunFolder, supervised: RunFolder) -> None:
    path = supervised.examples_path("val")
    rewrite(path, lambda frame: frame.assign(expression=frame["expression"] + "!"))
    with pytest.raises(
        DataError, match="another image, text or true mask .first sent_ids: .*compare runs on the same data"
    ):
        comparison([whole_run.path, supervised.path], split="val")


@pytest.mark.parametrize("field", ["split_by", "mask_rule"])
def test_other_data_are_refused_by_the_field_that_differs(
    whole_run: RunFolder, supervised: RunFolder, field: str
) -> None:
    text = (supervised.path / "config.yaml").read_text()
    now = {"split_by": "split_by: l2l", "mask_rule": "mask_rule: union"}[field]
    other = {"split_by": "split_by: own", "mask_rule": "mask_rule: lavt"}[field]
    text = text.replace(now, other).replace("root: embedded", "root: /data")
    (supervised.path / "config.yaml").write_text(text)
    with pytest.raises(DataError, match=rf"were not measured on the same data: data\.{field} is "):
        comparison([whole_run.path, supervised.path])


def test_what_a_run_lacks_is_named(whole_run: RunFolder, copied: Copy, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="has no figures of l2l on 'test'; it has val, testA, testB: choose one by --split"
    ):
        comparison([whole_run.path, whole_run.path], split="test")
    with pytest.raises(ConfigError, match="has no figures of 'pwa'; it has prior_only, supervised, l2l: choose one by"):
        comparison([whole_run.path, whole_run.path], method="pwa")
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read: there is none"):
        ComparedRun.open(tmp_path, None)
    unfinished = copied(without=("FINISHED", "selection.json"))
    with pytest.raises(CheckpointError, match="has chosen no version yet: the run has not ended"):
        comparison([whole_run.path, unfinished.path])


@pytest.mark.parametrize("content", ["[]", "{}", '{"methods": [{"method": "l2l", "label": "L2L", "splits": {}}]}'])
def test_a_table_without_rows_or_versions_is_damaged(copied: Copy, content: str) -> None:
    run = copied(without=())
    (run.path / "results.json").write_text(content)
    with pytest.raises(DataError, match=r"results\.json.*; start again with --resume"):
        ComparedRun.open(run.path, "l2l")


def test_lost_figures_are_named_with_what_makes_them_again(whole_run: RunFolder, copied: Copy) -> None:
    damaged = copied()
    (damaged.path / "results.json").write_text('{"rows": [')
    with pytest.raises(DataError, match=r"results\.json is not JSON.*; start again with --resume"):
        comparison([whole_run.path, damaged.path])


def test_one_run_is_not_enough(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", "one"])
    assert ended.value.code == 2 and capsys.readouterr().err.endswith("got one run, one; give two or more\n")


def test_the_command_prints_what_was_compared(
    whole_run: RunFolder, supervised: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", str(whole_run.path), str(supervised.path), "--split", "val"]) == 0
    assert capsys.readouterr().out.startswith("first  L2L (RPLE), version ")
    assert cli.main(["compare", str(whole_run.path), str(supervised.path), "--split", "x"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
