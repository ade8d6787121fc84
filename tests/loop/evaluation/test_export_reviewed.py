"""Exports after a review: what a person did not accept is not written, and what they accepted says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from l2l_ray.cli import main
from l2l_ray.data.masks import encode
from l2l_ray.errors import DataError
from l2l_ray.loop.evaluation.committed import last_round
from l2l_ray.loop.evaluation.export import (
    DECIDED,
    NO_MASK,
    UNPROMISED,
    export_predictions,
    export_pseudo_labels,
)
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.review.journal import Journal

pytestmark = pytest.mark.usefixtures("one_thread")


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "masks.jsonl").read_text().splitlines()]


def _decide(run: RunFolder, decisions: dict[int, str], masks: dict[int, Any] | None = None) -> Journal:
    journal = Journal(run.path)
    for sent_id, action in decisions.items():
        journal.add(sent_id, action, "anna", 0, f"{sent_id} {action}", rle=(masks or {}).get(sent_id))
    return journal


def test_what_a_person_did_not_accept_is_never_written(
    copied: Callable[..., RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(without=())
    before = {row["sent_id"]: row for row in _rows(export_pseudo_labels(run.path, "jsonl", tmp_path / "before",
        keep_unused=True).path)}  # fmt: skip
    accepted, redrawn, rejected, wrong, none = ids = list(before)[:5]
    states = {redrawn: "redrawn", rejected: "rejected", wrong: "wrong object", none: "no such object"}
    actions = ("accept", "redraw", "reject", "wrong_object", "no_object")
    mask = encode(np.ones(before[redrawn]["rle"]["size"], bool))
    journal = _decide(run, dict(zip(ids, actions, strict=True)), {accepted: before[accepted]["rle"], redrawn: mask})
    done = export_pseudo_labels(run.path, "jsonl", tmp_path / "all", keep_unused=True)
    rows = {row["sent_id"]: row for row in _rows(done.path)}
    assert rows.keys() == before.keys() - states.keys()
    made_by = rows[accepted]["provenance"]
    assert made_by["accepted_by"] == "anna" and made_by["accepted_at"].startswith("20")
    rows[accepted]["provenance"] = {k: v for k, v in made_by.items() if not k.startswith("accepted")}
    assert rows == {i: row for i, row in before.items() if i not in states}, "nothing else of the others changes"
    index = json.loads((done.path / "export.json").read_text())
    assert {row["sent_id"]: row["decision"] for row in index["left_out"] if row["reason"] == DECIDED} == states
    assert all(("decision" in row) == (row["reason"] == DECIDED) for row in index["left_out"])
    counts = "1 redrawn, 1 rejected, 1 wrong object, 1 no such object"
    assert set(done.line.partition("left out: 4 decided in a review (")[2].partition(")")[0].split(", ")) == set(
        counts.split(", ")
    )
    assert f"brought home by `l2l data import review {run.path} --root " in done.line
    for words in (["--split", "unlabeled"], ["--round", "0", "--all"], []):
        out = tmp_path / "_".join(("out", *words))
        assert main(["export", str(run.path), "--format", "jsonl", "--out", str(out), *words]) == 0
        assert not states.keys() & {row["sent_id"] for row in _rows(out)}
        assert "left out: 4 decided in a review (" in capsys.readouterr().out.replace(f"{done.num}", "")
    journal.add(rejected, "undo", "anna", journal.last_number(rejected), "back")
    again = export_pseudo_labels(run.path, "jsonl", tmp_path / "undone", keep_unused=True)
    assert rejected in {row["sent_id"] for row in _rows(again.path)}


def test_only_the_very_mask_that_was_accepted_says_so(copied: Callable[..., RunFolder], tmp_path: Path) -> None:
    run = copied(without=())
    rows = [
        _rows(export_pseudo_labels(run.path, "jsonl", tmp_path / f"r{n}", n, keep_unused=True).path) for n in (0, 1)
    ]
    first, last = ({row["sent_id"]: row["rle"] for row in found} for found in rows)
    (changed, *_), (same, *_) = ([i for i in last if (first[i] == last[i]) is kind] for kind in (False, True))
    _decide(run, {changed: "accept", same: "accept"}, last)
    done = export_pseudo_labels(run.path, "jsonl", tmp_path / "marked", 0, keep_unused=True)
    assert {row["sent_id"] for row in _rows(done.path) if "accepted_by" in row["provenance"]} == {same}


def test_where_everything_is_decided_the_remedy_is_to_bring_it_home(
    copied: Callable[..., RunFolder], tmp_path: Path
) -> None:
    run = copied(without=())
    _decide(run, dict.fromkeys([label.sent_id for label in last_round(run.path).labels()], "reject"))
    for export in (
        lambda: export_pseudo_labels(run.path, "png", tmp_path / "out", keep_unused=True),
        lambda: export_predictions(run.path, "png", tmp_path / "out", "unlabeled"),
    ):
        with pytest.raises(DataError, match=r"decided in a review \(\d+ rejected\); `l2l data import review` brings"):
            export()


def test_a_guarantee_is_about_all_that_confidence_chose_whatever_a_review_takes_away(
    copied: Callable[..., RunFolder], tmp_path: Path
) -> None:
    run, promise = copied(without=()), "iou>=0.1 for 10% at 60%"
    whole = export_pseudo_labels(run.path, "jsonl", tmp_path / "whole", guarantee=promise)
    chosen = [row["sent_id"] for row in _rows(whole.path)]
    by_chance = whole.line.partition("10 % are promised")[2]
    assert len(chosen) > 2 and by_chance
    others = [item.example.sent_id for item in whole.left_out if item.reason in (UNPROMISED, NO_MASK)]
    _decide(run, {chosen[0]: "reject", chosen[1]: "redraw", **dict.fromkeys(others, "reject")})
    done = export_pseudo_labels(run.path, "jsonl", tmp_path / "out", guarantee=promise)
    assert [row["sent_id"] for row in _rows(done.path)] == chosen[2:], "no other label takes the place of one"
    before, after = (
        json.loads((folder / "export.json").read_text())["guarantee"] for folder in (whole.path, done.path)
    )
    assert (before["num_chosen"], before["num_decided"]) == (len(chosen), 0)
    assert after == {**before, "num_decided": 2}
    assert f"the guarantee is about all {len(chosen)} labels that it chose, 2 of them decided in a review" in done.line
    assert by_chance.partition(";")[0] in done.line, "the photos of what it chose count"
